"""What the running command learns on its way and has to know at its end."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf

from pipeline.cli import failures

EXIT_FAILED = 1
EXIT_MISTAKE = 2


@dataclass
class Session:
    """The command that this process runs.

    Attributes:
        composed: Whether a configuration was composed: what fails from then on may be a bug.
        output_dir: Where the program writes to, as typed.
        sweep_dir: Hydra's directory of the sweep; None for a single run.
        sweeps_over: Settings and groups with several values in the sweep.
        failure: What a single run failed with.
        failures_at_end: Messages with which the command ends once all else is done, and their exit codes.
        if_stopped: What is done, given the reason, if the command is stopped before its end.
    """

    composed: bool = False
    output_dir: str = "."
    sweep_dir: Path | None = None
    sweeps_over: frozenset[str] = frozenset()
    failure: Exception | None = None
    failures_at_end: list[tuple[str, int]] = field(default_factory=list)
    if_stopped: list[Callable[[str], None]] = field(default_factory=list)

    def begin(self) -> None:
        """Forgets the command before, in a process that runs several."""
        vars(self).update(vars(Session()))

    def stop(self, reason: str) -> None:
        """Does what is to be done when the command is stopped."""
        for action in self.if_stopped:
            action(reason)

    def fail_at_end(self, message: str, code: int = EXIT_FAILED) -> None:
        """Makes the command end with a message on standard error and an exit code, once all else is done."""
        self.failures_at_end.append((message, code))

    def tell_failures(self, sweep_dir: Path, finished: int | None) -> None:
        """Makes the command end with what failed in a sweep, if anything did.

        Args:
            sweep_dir: Hydra's directory of the sweep.
            finished: How many of its runs finished; None if that is not known.
        """
        failed = failures.sweep_failures(sweep_dir)
        if finished == 0 and len({failure.message for failure in failed}) == 1 and failed[0].is_mistake:
            self.fail_at_end(f"Error: {failed[0].message}", EXIT_MISTAKE)  # A mistake in what all runs share.
        elif failed:
            self.fail_at_end(failures.summary(failed))

    def image_sizes_vary(self) -> bool:
        """Whether the runs of this process, a sweep, may differ in how many pixels they compute in a step."""
        sized = re.compile(r"dataset(\..*)?|training(\.(batch_size|sizes))?|arm")
        return any(map(sized.fullmatch, self.sweeps_over))


SESSION = Session()
"""Of this process."""


class SweepInfo(Callback):
    """Learns from Hydra, before Hydra itself writes anything, where the program writes to, and what it sweeps over."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        SESSION.output_dir = config.output_dir

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        self.on_run_start(config)
        SESSION.sweep_dir = Path(config.hydra.sweep.dir)
        from_study = _assignments(config.hydra.sweeper.get("params"))
        overrides = OverridesParser.create().parse_overrides([*from_study, *config.hydra.overrides.task])
        SESSION.sweeps_over = frozenset(each.key_or_group for each in overrides if each.is_sweep_override())


def command_line() -> str:
    """What to type to run just this job again, also if it was one of a sweep."""
    hydra_config = HydraConfig.get()
    overrides = [text for text in hydra_config.overrides.task if not text.startswith("hydra.")]
    if hydra_config.runtime.choices.get("study") not in (None, "null"):
        overrides.append("hydra.mode=RUN")  # A study would start all of its runs.
    return shlex.join(["python", "-m", "pipeline.train", *overrides])


ELSEWHERE = ("tracking", "output_dir", "launch", "dataset.data_dir", "rerun")
"""Settings and groups, or beginnings of their names, that say where a sweep is computed and kept, not what it is."""
FILES = ("dataset.path", "backbone.path", "backbone.weights")
"""Settings that name files of the user's."""
FOLDERS = re.compile(r"""[^,'"\[\]]*/(?=[^,'"\[\]])""")
"""Before the name of a file, also in a list or in quotes."""


def sweep_command(config: DictConfig) -> str:
    """What to type to repeat a whole sweep on another machine: without where results go, or files' folders.

    Args:
        config: That of Hydra's callbacks.
    """
    overrides = config.hydra.overrides
    typed = [text for text in overrides.hydra if text.startswith(("hydra/sweeper", "hydra.sweeper"))]
    typed += [text for text in overrides.task if not text.lstrip("+~").startswith(ELSEWHERE)]
    has_study = config.hydra.runtime.choices.get("study") not in (None, "null")
    flag = [] if has_study else ["--multirun"]  # A study's file says itself that it is one.
    return shlex.join(["python", "-m", "pipeline.train", *flag, *map(_without_folders, typed)])


def _without_folders(override: str) -> str:
    key, _, value = override.partition("=")
    if key.lstrip("+") not in FILES or ":/" in value:
        return override
    return f"{key}={FOLDERS.sub('', value)}"


def sweep_name() -> str | None:
    """Name of the running sweep, the same for all of its runs and for no other; None outside of one."""
    hydra_config = HydraConfig.get()
    return sweep_name_of(hydra_config.sweep.dir) if hydra_config.mode is RunMode.MULTIRUN else None


def sweep_size() -> int | None:
    """How many runs the running sweep asks for, in any process that computes one of them.

    Returns:
        The number; None outside of a sweep, and where Hydra's file of the sweep does not say it.
    """
    if sweep_name() is None:
        return None
    hydra_config = HydraConfig.get()
    if trials := hydra_config.sweeper.get("n_trials"):
        return int(trials)
    with suppress(Exception):  # It is shown, and no more: a training does without.
        sweep = OmegaConf.load(Path(hydra_config.sweep.dir) / "multirun.yaml").hydra
        return _grid_size([*_assignments(sweep.sweeper.get("params")), *sweep.overrides.task])
    return None


def _assignments(params: Mapping[str, Any] | None) -> list[str]:
    return [f"{key}={value}" for key, value in (params or {}).items()]


def _grid_size(overrides: Sequence[str]) -> int:
    """How many combinations there are of the values of a sweep; of two overrides of one setting, the later counts."""
    parsed = OverridesParser.create().parse_overrides(list(overrides))
    values = {
        each.get_key_element(): len(list(each.sweep_string_iterator())) if each.is_sweep_override() else 1
        for each in parsed
    }
    return math.prod(values.values())


def sweep_name_of(sweep_dir: str) -> str:
    """Name of the sweep that writes into a directory."""
    return Path(sweep_dir).name
