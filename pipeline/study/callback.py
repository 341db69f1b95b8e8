"""What Hydra calls when a sweep begins and when the last of its runs has ended."""

from __future__ import annotations

import functools
import traceback
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from pipeline.cli.ending import Ending
from pipeline.cli.messages import explain
from pipeline.cli.session import EXIT_MISTAKE, SESSION, sweep_command, sweep_name_of
from pipeline.cli.workers import ENDS_ITS_WORKERS
from pipeline.common.errors import UserError
from pipeline.comparison.settings import Asks, Statistics
from pipeline.config import absolute
from pipeline.tracking.settings import Tracking


class ConcludeStudy(Callback):
    """Compares the runs of a sweep. Hydra makes it for each command, so what it needs is imported when it is needed."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Tries the store: a wrong address shows before hours of training, and later on its silence does no harm."""
        try:
            tracking = _tracking(config)
            tracking.require_place(absolute(config.output_dir))
            if tracking.uri is not None:
                from pipeline.tracking.store import open_store

                open_store(tracking, absolute(config.output_dir))
        except UserError as error:
            Ending(str(error), EXIT_MISTAKE).leave()
        if config.hydra.runtime.choices["hydra/launcher"] in ENDS_ITS_WORKERS:
            SESSION.if_stopped.append(functools.partial(_end_open_runs, config))

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        finished = None
        try:
            finished = _conclude(config)
        except Exception as error:  # Of a callback, Hydra would make a warning, and the command end in success.
            SESSION.fail_at_end(f"The runs could not be compared: {explain(error)}")
            if not isinstance(error, UserError):
                traceback.print_exc()
        SESSION.tell_failures(Path(config.hydra.sweep.dir), finished)


def _conclude(config: DictConfig) -> int:
    """Returns how many runs there are to compare."""
    from pipeline.study.conclude import conclude, finished
    from pipeline.study.gather import gathered
    from pipeline.tracking.queries import record_command, runs_of_sweep
    from pipeline.tracking.store import open_store

    statistics = Statistics(**{key: config.statistics[key] for key in config.statistics})
    tracking, output_path = _tracking(config), absolute(config.output_dir)
    open_store(tracking.recorded, output_path)
    sweep = sweep_name_of(config.hydra.sweep.dir)
    record_command(runs_of_sweep(sweep), sweep, sweep_command(config))
    runs = runs_of_sweep(sweep)
    tracking, _ = gathered(runs, tracking, output_path)
    if tracking.is_server:
        runs = runs_of_sweep(sweep)  # As they are there.
    runs = finished(runs)
    if not runs.empty:
        conclude(runs, statistics, Asks(), tracking, output_path)
    return len(runs)


def _end_open_runs(config: DictConfig, reason: str) -> None:
    from pipeline.tracking.queries import runs_of_sweep
    from pipeline.tracking.resume import end_open_runs
    from pipeline.tracking.store import open_store

    open_store(_tracking(config).recorded, absolute(config.output_dir))
    end_open_runs(runs_of_sweep(sweep_name_of(config.hydra.sweep.dir)), reason)


def _tracking(config: DictConfig) -> Tracking:
    return Tracking(**{key: config.tracking[key] for key in config.tracking})
