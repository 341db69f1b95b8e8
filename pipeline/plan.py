"""The size plan alone, without training or data: `python -m pipeline.plan head=average_pool`."""

from __future__ import annotations

from omegaconf import DictConfig
from rich.table import Table

from pipeline import cli
from pipeline.config import Config, to_typed
from pipeline.data import DatasetFacts
from pipeline.heads import size_text
from pipeline.size_probe import PlannedSize


def plan_table(config: Config, facts: DatasetFacts, planned: list[PlannedSize]) -> Table:
    """The plan as a table, a row for each image size."""
    trained = f"trained on {facts.name} at {facts.trained_at} px"
    table = Table(title=f"{config.head.name} on {config.backbone.name}, {trained}")
    for heading in ("image / px", "feature map", "head sees", "verdict", "seen", "parameters*", "why"):
        table.add_column(heading, justify="right" if heading in ("seen", "parameters*") else "left")
    for plan in planned:
        table.add_row(
            size_text(plan.size),
            size_text(plan.map_size) if plan.map_size else "-",
            size_text(plan.collapsed) if plan.collapsed else "-",
            plan.verdict.value,
            f"{plan.seen_fraction:.0%}",
            f"{plan.parameters:,}" if plan.parameters else "-",
            plan.reason,
        )
    table.caption = "* of a model built for images of that size from scratch"
    return table


@cli.command("plan")
def main(composed: DictConfig) -> None:
    """Composes, checks and prints one plan."""
    config = to_typed(composed, Config)
    cli.import_tensorflow()
    from pipeline.size_probe import check_training_sizes, plan_sizes

    facts = config.dataset.describe()
    check_training_sizes(config.backbone, config.head, config.training.sizes or [], facts)
    cli.console().print(plan_table(config, facts, plan_sizes(config.backbone, config.head, config.size_probe, facts)))


if __name__ == "__main__":
    main()
