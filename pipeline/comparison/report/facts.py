"""What was compared: data, arms, settings, and when."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from pipeline.common.names import Param, Tag
from pipeline.common.table import Table
from pipeline.comparison.analysis import Group
from pipeline.comparison.arms import Arm, common_value, result_settings
from pipeline.comparison.report.method import OFF
from pipeline.comparison.report.words import listed_text

UNTOLD = (
    *("question", "asks.", "statistics.", "arm", "study", "dataset.name", "head.name", "backbone.name"),
    *("dataset.path", "dataset.data_dir", "backbone.path", "backbone.weights"),
)
"""Settings, or beginnings of their names, that the report tells elsewhere, or that say where somebody's files are."""


def facts(groups: Sequence[Group]) -> list[Table]:
    """Two tables: what each arm is, and what all runs have in common."""
    return [_arms(groups), _common(groups)]


def _arms(groups: Sequence[Group]) -> Table:
    """A row an arm: from the image to the classes, and the settings that it alone has."""
    rows = {}
    for group in groups:
        differing = _differing(group)
        for arm in group.arms:
            of_its_own = [f"{name}={arm.runs[f'params.{name}'].iloc[0]}" for name in differing]
            rows[group.title, arm.name] = (
                arm.name,
                f"{group.trained.in_words} → {group.backbone} → {_function(arm)} → classes",
                ", ".join(of_its_own) or "-",
            )
    return Table(("arm", "from the image to the classes", "settings in which the arms differ"), tuple(rows.values()))


def _differing(group: Group) -> list[str]:
    """Settings of which the arms of a group have different values, but for the head that is told beside them."""
    runs = pd.concat([arm.runs for arm in group.arms])
    return [
        name
        for name in sorted(result_settings(runs))
        if runs[f"params.{name}"].nunique(dropna=False) > 1 and not name.startswith(("head", *UNTOLD))
    ]


def _function(arm: Arm) -> str:
    return common_value(arm.runs, Tag.FUNCTION.column) or arm.head


def _common(groups: Sequence[Group]) -> Table:
    runs = pd.concat([arm.runs for group in groups for arm in group.arms])
    rows = [("data", "; ".join(dict.fromkeys(_data(group) for group in groups)))]
    seeds = sorted({seed for group in groups for arm in group.arms for seed in arm.seeds})
    rows.append(("seeds", ", ".join(map(str, seeds))))
    if "start_time" in runs and (started := runs["start_time"].dropna()).size:
        days = [f"{day:%Y-%m-%d}" for day in (started.min(), started.max())]
        rows.append(("trained", " to ".join(dict.fromkeys(days))))
    if Tag.MADE_WITH.column in runs and (made := runs[Tag.MADE_WITH.column].dropna()).size:
        rows.append(("with", "; ".join(dict.fromkeys(made))))
    shared = {name: common_value(runs, f"params.{name}") for name in sorted(result_settings(runs))}
    told = [
        f"{name}={value}"
        for name, value in shared.items()
        if value is not None and value not in (*OFF, "[]") and "." in name and not name.startswith(UNTOLD)
    ]
    rows.append(("settings of all", ", ".join(told)))
    return Table(("what", "which"), tuple(rows))


def _data(group: Group) -> str:
    """`fashion_mnist 3.0.1: 54,000 training, 6,000 validation and 10,000 test images of 28×28 px`."""
    runs = pd.concat([arm.runs for arm in group.arms])
    version = common_value(runs, "params.dataset.version")
    counted = [
        f"{int(count):,} {part}"
        for part, param in (
            ("training", Param.TRAIN_EXAMPLES),
            ("validation", Param.VALIDATION_EXAMPLES),
            ("test", Param.TEST_EXAMPLES),
        )
        if (count := common_value(runs, param.column)) is not None and count.isdigit()
    ]
    images = f": {listed_text(counted)} images of {group.trained.in_words}" if counted else ""
    return group.dataset + (f" {version}" if version else "") + images
