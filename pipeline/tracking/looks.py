"""Which calls of a study were looked at: a report on them was made."""

from __future__ import annotations

import mlflow
import pandas as pd

from pipeline.common.names import Param, Tag, sweep_tag
from pipeline.comparison.arms import common_value, listed

MOST_LOOKS = 100
"""Newest calls whose names are kept; a tag holds some thousand characters."""


def report_name(runs: pd.DataFrame) -> str:
    """The name of the report on these runs: that of their study."""
    return common_value(runs, Tag.STUDY.column) or "sweep"


def remember_look(run_id: str, earlier: str, sweep: str) -> None:
    """Adds a call of a study to those that the run of its report names as looked at.

    Args:
        run_id: Of the run that is the report.
        earlier: What it names already, or nothing.
        sweep: Name of the call.
    """
    names = [name for name in earlier.split(",") if name and name != sweep]
    mlflow.MlflowClient().set_tag(run_id, Tag.LOOKS, ",".join([*names, sweep][-MOST_LOOKS:]))


def seeds_added_after_a_look(runs: pd.DataFrame) -> list[str]:
    """A sentence if some of these runs were compared before, with fewer seeds: who adds seeds until a verdict comes out
    finds one too often.

    Args:
        runs: Finished runs of one call of a study, as `queries.runs_of_sweep` gives them.
    """
    found = []
    for experiment_id, compared in runs.groupby("experiment_id"):
        name = report_name(compared)
        seeds = set(compared[Param.SEED.column].astype(int))
        reports = mlflow.MlflowClient().search_runs(
            [str(experiment_id)], f"tags.{Tag.REPORT} = '{name}'", max_results=1
        )
        looked_at = reports[0].data.tags.get(Tag.LOOKS, "").split(",") if reports else []
        for sweep in looked_at:
            column = f"tags.{sweep_tag(sweep)}"
            if column not in compared:
                continue
            before = set(compared.loc[compared[column].notna(), Param.SEED.column].astype(int))
            if before and before < seeds:
                found.append(
                    f"these seeds were compared before without {listed(seeds - before)}: who adds seeds after a look "
                    "finds a verdict too often. The p values are too small; decide the number before the first look"
                )
                break
    return found
