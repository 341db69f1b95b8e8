"""From a run's configuration to what tells it apart from all others."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from omegaconf import DictConfig, OmegaConf

from pipeline.common.names import Param, Tag
from pipeline.config.schema import Config
from pipeline.tracking.identity import RunIdentity, made_with, run_key, run_name

if TYPE_CHECKING:
    from pipeline.data.batches import Data
    from pipeline.other_sizes.plan import SizePlan


def identify(
    config: Config, data: Data, plan: SizePlan, sweep: str | None, sweep_runs: int | None = None
) -> RunIdentity:
    """The identity of the run that a configuration describes.

    Args:
        config: The typed configuration.
        data: What it trains and tests on.
        plan: Of its head on its backbone.
        sweep: What all runs of one call of a study have in common, to tell them from those of another call.
        sweep_runs: How many runs that call asked for; None where that is not known.
    """
    facts, head, backbone = data.facts, plan.head, plan.backbone
    settings = dict(_leaves(OmegaConf.structured(config)))
    key = run_key(settings, backbone.file, data)
    tags = {
        Tag.HEAD: head.name,
        Tag.DATASET: facts.name,
        Tag.BACKBONE: backbone.name,
        Tag.RUN_KEY: key,
        Tag.FUNCTION: head.function(None if facts.natural else plan.native_map),
        Tag.MADE_WITH: made_with(),
        Tag.COLOR: head.color,
    }
    if config.study is not None:
        tags[Tag.STUDY] = config.study
    params = {
        # Where a run was computed does not tell it apart from others.
        **{name: value for name, value in settings.items() if not name.startswith("launch.")},
        Param.HEAD: head.name,
        Param.DATASET: facts.name,
        Param.BACKBONE: backbone.name,
        **facts.trained_size.params(),
        Param.TRAIN_EXAMPLES: len(data.train_indices),
        Param.VALIDATION_EXAMPLES: len(data.validation_indices),
        Param.TEST_EXAMPLES: len(data.test_split),
    }
    if (field := plan.geometry.receptive_field) is not None:
        params |= {Param.RECEPTIVE_FIELD: field.size_text, Param.TOTAL_STRIDE: field.stride_text}
    return RunIdentity(
        key=key,
        name=run_name(config.arm or head.name, config.seed),
        study=config.study,
        arm=config.arm,
        sweep=sweep,
        sweep_runs=sweep_runs,
        experiment=config.tracking.experiment or facts.name,
        tags={str(tag): value for tag, value in tags.items()},
        params={str(param): value for param, value in params.items()},
        rerun=config.rerun,
        tracking=config.tracking,
        output_path=config.output_path,
    )


def _leaves(node: DictConfig, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every leaf of a configuration under its dotted name; lists stay whole."""
    for key, value in node.items():
        name = prefix + str(key)
        if isinstance(value, DictConfig):
            yield from _leaves(value, f"{name}.")
        else:
            yield name, getattr(value, "value", value)
