"""A search for settings as a sweeper of Hydra: Optuna says what is tried next, the launcher runs it.

Hydra's own sweeper for Optuna asks for Optuna below 3, or for a Hydra that is not released. This one asks and tells, no
more: trials are kept in memory, since the sampler has a seed, and the same command asks for the same settings in the
same order, which answer from their records where they are trained already.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from pipeline.common.errors import UserError, require

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution

log = logging.getLogger("pipeline")


class NothingFoundError(UserError):
    """None of a search's trainings has returned a number."""


class Search(Sweeper):
    """Runs trainings for the settings that Optuna's TPE sampler chooses, for the largest number that they return.

    Args:
        n_trials: How many trainings.
        n_jobs: How many are chosen at once, and so know nothing of each other.
        seed: Of the sampler.
        params: Values of settings, as on the command line: `interval(a,b)`, also as `int(…)` and as `tag(log, …)`, and
            `choice(…)`, `range(…)` or `a,b` are searched, others are given to each training. The command line wins.
    """

    def __init__(self, n_trials: int, n_jobs: int, seed: int, params: Mapping[str, Any] | None) -> None:
        for name, number in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            key = f"hydra.sweeper.{name}"
            whole = isinstance(number, int) and number >= 1
            require(whole, key, number, "must be a whole number of at least 1", f"Use for example {key}=4.")
        self._trials, self._jobs, self._seed = n_trials, n_jobs, seed
        self._params = dict(params or {})

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self.hydra_context, self.config = hydra_context, config
        self.launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Runs all trials, a batch of `n_jobs` at a time; trainings that fail do not end it.

        Raises:
            NothingFoundError: All of them have failed, or none had validation images.
        """
        import optuna

        assert self.config is not None and self.launcher is not None and self.hydra_context is not None
        typed = [*(f"{key}={value}" for key, value in self._params.items()), *arguments]
        parsed = OverridesParser.create(self.hydra_context.config_loader).parse_overrides(typed)
        overrides = {override.get_key_element(): override for override in parsed}  # Of two of a key, the later counts.
        space = {key: _distribution(override) for key, override in overrides.items() if override.is_sweep_override()}
        given = [str(override.input_line) for override in overrides.values() if not override.is_sweep_override()]
        directory = Path(self.config.hydra.sweep.dir)
        directory.mkdir(parents=True, exist_ok=True)
        OmegaConf.save(self.config, directory / "multirun.yaml")
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        study = optuna.create_study(direction="maximize", sampler=optuna.samplers.TPESampler(seed=self._seed))
        for first in range(0, self._trials, self._jobs):
            trials = [study.ask(space) for _ in range(min(self._jobs, self._trials - first))]
            batch = [[*given, *(f"{key}={value}" for key, value in trial.params.items())] for trial in trials]
            self.validate_batch_is_legal(batch)
            for trial, ended in zip(trials, self.launcher.launch(batch, initial_job_idx=first), strict=True):
                study.tell(trial, **_told(ended))
        finished = study.get_trials(deepcopy=False, states=[optuna.trial.TrialState.COMPLETE])
        if not finished:
            raise NothingFoundError(
                "No run has a validation accuracy for a search to go by. Use dataset.validation_fraction=0.1."
            )
        settings = " ".join(f"{key}={value}" for key, value in study.best_params.items())
        log.info("Best of %d: validation accuracy %.4f with %s", len(finished), study.best_value, settings)


def _told(ended: JobReturn) -> dict[str, Any]:
    """What Optuna is told of a training: what it returned, or that it failed."""
    from optuna.trial import TrialState

    value = ended.return_value if ended.status is JobStatus.COMPLETED else None
    return {"values": value} if isinstance(value, float) and math.isfinite(value) else {"state": TrialState.FAIL}


def _distribution(override: Override) -> BaseDistribution:
    """What Optuna chooses a setting from: an interval of whole or other numbers, or values as Hydra would sweep."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    swept = override.value()
    if not isinstance(swept, IntervalSweep):
        return CategoricalDistribution(list(override.sweep_string_iterator()))
    low, high, is_log = swept.start, swept.end, "log" in swept.tags
    if isinstance(low, int) and isinstance(high, int):
        return IntDistribution(low, high, log=is_log)
    return FloatDistribution(float(low or 0), float(high or 0), log=is_log)
