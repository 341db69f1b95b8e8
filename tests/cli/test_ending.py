"""One pure function from an error to its message and exit code."""

from __future__ import annotations

import errno
from concurrent.futures import BrokenExecutor
from pathlib import Path

import pytest

from pipeline.cli.ending import Ending, ending_of
from pipeline.cli.messages import explain
from pipeline.common.errors import ConfigError
from tests.conftest import composed


def test_a_mistake_has_a_message_and_code_2(tmp_path: Path) -> None:
    mistake = ConfigError("seed", -1, "must lie in [0, 2³²)", "Use for example seed=0.")
    expected = Ending("seed=-1: must lie in [0, 2³²). Use for example seed=0.", 2)
    for after in (False, True):
        assert ending_of(mistake, after, tmp_path) == expected
    memory = ending_of(MemoryError("Unable to allocate 5 GiB"), True, tmp_path)
    assert memory is not None
    assert memory.message.startswith(
        "There is not enough memory: Unable to allocate 5 GiB. Use a smaller training.batc"
    )
    denied = ending_of(PermissionError(errno.EACCES, "Permission denied", "/a"), True, tmp_path)
    assert denied == Ending(
        "/a: Permission denied. Use an output_dir that can be written to, with room in it: output_dir=PATH.", 2
    )


def test_a_bug_keeps_its_stack_trace_once_a_configuration_is_composed(tmp_path: Path) -> None:
    assert ending_of(KeyError("head"), True, tmp_path) is None
    early = ending_of(ValueError("what Hydra says of the command line"), False, tmp_path)
    assert early is not None
    assert early.code == 2


def test_a_full_disk_and_a_lost_worker_are_no_mistakes(tmp_path: Path) -> None:
    full = ending_of(OSError(errno.ENOSPC, "No space left on device"), True, tmp_path)
    assert full is not None
    assert (full.code, full.message.startswith("The disk is full: ")) == (1, True)
    assert str(tmp_path) in full.message
    assert full.ends_all
    # SQLite says this of a quota that is used up, too; here there is room.
    assert ending_of(Exception("disk I/O error"), True, tmp_path / "not_there_yet") is None
    lost = ending_of(BrokenExecutor("a process died"), True, tmp_path)
    assert lost == Ending(
        "a worker process was killed, by hand or because memory ran out, and the others with it. What was begun goes "
        "on, and the rest runs, with the same command.",
        1,
    )


def test_leaving_says_it_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Ending("It is so.", 2).leave()
    assert (caught.value.code, capsys.readouterr().err) == (2, "\nError: It is so.\n")


def test_a_setting_of_a_group_without_an_option_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments = ["model=x", "size_probe.batch_size=4", "dataset.cache=none"]
    monkeypatch.setattr("sys.argv", ["probe", *arguments])
    with pytest.raises(AssertionError) as caught:
        composed(*arguments, command="probe")
    expected = "dataset.cache=none: no dataset is chosen, so that it has no settings. Add dataset=NAME."
    assert explain(caught.value) == expected
