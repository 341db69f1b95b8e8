"""What a terminal is told, and a pipe is not."""

from __future__ import annotations

import sys

import pytest

from pipeline.cli import terminal


class BeforeTensorFlowError(Exception):
    """What is asked for comes before TensorFlow is loaded."""


@pytest.mark.parametrize(("is_terminal", "told"), [(True, "Loading TensorFlow …\n"), (False, "")])
def test_a_terminal_is_told_at_once_what_it_waits_for(
    is_terminal: bool, told: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(**settings: bool) -> None:
        raise BeforeTensorFlowError

    monkeypatch.setattr(terminal, "turned_aside", stop)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: is_terminal)
    monkeypatch.setenv("KERAS_BACKEND", "tensorflow")
    monkeypatch.delitem(sys.modules, "tensorflow", raising=False)
    with pytest.raises(BeforeTensorFlowError):
        terminal.import_tensorflow()
    assert capsys.readouterr().out == told
