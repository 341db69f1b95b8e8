"""What a search tries: settings that Optuna chooses, in an order that the seed decides."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hydra.core.utils import JobReturn, JobStatus
from omegaconf import OmegaConf

from pipeline.common.errors import ConfigError
from pipeline.config.search import NothingFoundError, Search


def _search(directory: Path, arguments: list[str], results: Any, trials: int, jobs: int = 1) -> list[dict[str, str]]:
    """The settings of each trial, in a search whose trainings return what `results` makes of their settings."""
    tried: list[dict[str, str]] = []

    def launch(batch: list[list[str]], initial_job_idx: int) -> list[JobReturn]:
        assert initial_job_idx == len(tried)
        settings = [dict(text.split("=", 1) for text in overrides) for overrides in batch]
        tried.extend(settings)
        values = [results(of_one) for of_one in settings]
        return [
            JobReturn(status=JobStatus.FAILED if value is None else JobStatus.COMPLETED, _return_value=value)
            for value in values
        ]

    search = Search(n_trials=trials, n_jobs=jobs, seed=0, params={"a": "interval(0.0, 1.0)", "given": "7"})
    search.config = OmegaConf.create({"hydra": {"sweep": {"dir": str(directory / "sweep")}}})
    search.hydra_context = SimpleNamespace(config_loader=None)  # type: ignore[assignment]
    search.launcher = SimpleNamespace(launch=launch)  # type: ignore[assignment]
    search.validate_batch_is_legal = lambda batch: None  # type: ignore[method-assign]
    search.sweep(arguments)
    return tried


@pytest.mark.long
def test_it_goes_where_the_numbers_are_large(tmp_path: Path) -> None:
    """1 − (a − 0.7)² has its largest value at 0.7; ten trials are random, then those that were good are followed."""
    tried = _search(tmp_path, ["given=8"], lambda settings: 1 - (float(settings["a"]) - 0.7) ** 2, trials=40)
    assert {settings["given"] for settings in tried} == {"8"}  # The command line wins.
    distances = [abs(float(settings["a"]) - 0.7) for settings in tried[20:]]
    by_chance = (0.7**2 + 0.3**2) / 2  # The mean of |a − 0.7| over [0, 1].
    assert sum(distances) / 20 < by_chance / 2


@pytest.mark.long
def test_the_same_command_asks_for_the_same_settings(tmp_path: Path) -> None:
    space = [
        "b=choice(x,y)",
        "c=tag(log, int(interval(1, 1000)))",
        "d=tag(log, interval(0.001, 0.1))",
        "e=range(2,9,3)",
    ]
    shorter, longer = (
        _search(tmp_path, space, lambda settings: float(settings["a"]), trials=trials) for trials in (3, 6)
    )
    assert longer[:3] == shorter
    assert len({tuple(settings.values()) for settings in longer}) == 6
    for settings in longer:
        assert settings["b"] in ("x", "y") and settings["e"] in ("2", "5", "8")
        assert 1 <= int(settings["c"]) <= 1000
        assert 0.001 <= float(settings["d"]) <= 0.1


@pytest.mark.long
def test_trainings_that_fail_end_no_search_unless_all_do(tmp_path: Path) -> None:
    tried = _search(tmp_path, [], lambda settings: 0.5 if float(settings["a"]) < 0.5 else None, trials=5, jobs=2)
    assert len(tried) == 5
    with pytest.raises(NothingFoundError, match="No run has a validation accuracy"):
        _search(tmp_path, [], lambda settings: float("nan"), trials=2)


def test_numbers_of_trials_are_checked() -> None:
    with pytest.raises(ConfigError, match=r"hydra\.sweeper\.n_trials=0: must be a whole number of at least 1"):
        Search(n_trials=0, n_jobs=1, seed=0, params=None)
