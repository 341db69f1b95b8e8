"""The size plan alone, without training or data: `python -m pipeline.plan head=average_pool`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from pipeline.cli.command import command
from pipeline.cli.loading import loading
from pipeline.cli.terminal import console, import_tensorflow
from pipeline.common.size import size_text
from pipeline.common.table import Table, for_terminal
from pipeline.config import Config, to_typed

if TYPE_CHECKING:
    from pipeline.other_sizes.plan import PlannedSize


def plan_table(planned: Sequence[PlannedSize]) -> Table:
    """A row for each image size."""
    rows = [
        (
            size_text(plan.size),
            size_text(plan.map_size) if plan.map_size else "-",
            size_text(plan.collapsed) if plan.collapsed else "-",
            plan.verdict.value,
            f"{plan.seen_fraction:.0%}",
            f"{plan.seen_pixels:.0%}",
            f"{plan.parameters:,}" if plan.parameters else "-",
            plan.reason,
        )
        for plan in planned
    ]
    numbers = (">seen of the map", ">seen of the image", ">parameters*")
    return Table(
        ("image / px", "feature map", "collapsed to", "verdict", *numbers, "why"),
        tuple(rows),
        "* of a model built for images of that size from scratch",
    )


def off_stride_text(moved: Mapping[int, int]) -> str:
    """What to do about heights in pixels at which the strides stop elsewhere than in training."""
    changes = ", ".join(f"{height} to {nearest}" for height, nearest in moved.items())
    return (
        "The strides divide these heights with another remainder than those of training, so that the network looks at "
        f"other places; to resize the images by a pixel or two may help: {changes} px."
    )


@command("plan")
def main(composed: DictConfig) -> None:
    """Composes, checks and prints one plan."""
    config = to_typed(composed, Config)
    with loading():
        import_tensorflow()
        from pipeline.data.source import describe
        from pipeline.other_sizes.plan import SizePlan
        from pipeline.tracking.models import with_weights

    facts = describe(config.dataset)
    backbone = with_weights(config.backbone, config.tracking, config.output_path)
    plan = SizePlan(backbone, config.head, facts)
    plan.check_training(config.training.sizes)
    console().print(f"{plan.backbone_in_words}.", soft_wrap=True)
    planned = plan.sizes(config.size_probe)
    table = plan_table(planned)
    trained = f"trained on {facts.name} at {facts.trained_size} px"
    title = f"{config.head.name} on {config.backbone.name}, {trained}"
    terminal = console()
    terminal.print(for_terminal(table, title, terminal.width))
    if moved := plan.off_stride(planned, config.training.sizes):
        terminal.print(off_stride_text(moved), soft_wrap=True)


if __name__ == "__main__":
    main()
