"""A report on a study: one value, rendered for the terminal, as Markdown and as a web page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.common.names import QUESTION, Param
from pipeline.comparison.analysis import Group, analyse
from pipeline.comparison.arms import common_value
from pipeline.comparison.report.scores import scores_tables
from pipeline.comparison.report.tables import Table, arms_table, comparisons_table, sizes_table
from pipeline.comparison.report.text import conclusion, control_text
from pipeline.comparison.report.ways import WayStyle, ways_tables
from pipeline.comparison.settings import Statistics


@dataclass(frozen=True)
class Section:
    """What the report says of one group.

    Attributes:
        group: Whose.
        conclusion: The answer in words.
        control: What the A/A control says.
        arms: A row an arm.
        headline: The comparisons at the training size.
        comparisons: Every comparison.
        sizes: A row for each other image size.
        ways: What other ways to run the models give: the best ways, and a table a mode; none without other ways.
        scores: Scores beside accuracy, by arm and by class; none where the runs recorded none.
    """

    group: Group
    conclusion: str
    control: str
    arms: Table
    headline: Table
    comparisons: Table
    sizes: Table
    ways: tuple[Table, ...]
    scores: tuple[Table, ...]

    @property
    def control_failed(self) -> bool:
        return not all(control.holds for control in self.group.controls)


@dataclass(frozen=True)
class Report:
    """What there is to say about a study.

    Attributes:
        title: What the study asks.
        sections: One a group.
        statistics: How sure its verdicts are.
        ways: The ways to run trained models that there are, by name.
    """

    title: str
    sections: tuple[Section, ...]
    statistics: Statistics
    ways: Mapping[str, WayStyle]


def make_report(runs: pd.DataFrame, statistics: Statistics, ways: Sequence[WayStyle]) -> Report:
    """Compares the arms of a study.

    Args:
        runs: Finished runs with their answers, see `comparison.analysis`.
        statistics: How sure a verdict has to be.
        ways: The ways to run trained models that there are.
    """
    return Report(
        title=common_value(runs, Param.QUESTION.column) or QUESTION,
        sections=tuple(_section(group, statistics) for group in analyse(runs, statistics)),
        statistics=statistics,
        ways={way.name: way for way in ways},
    )


def _section(group: Group, statistics: Statistics) -> Section:
    return Section(
        group=group,
        conclusion=conclusion(group, statistics),
        control=control_text(group, statistics),
        arms=arms_table(group, statistics),
        headline=comparisons_table(group, statistics, every_condition=False),
        comparisons=comparisons_table(group, statistics, every_condition=True),
        sizes=sizes_table(group, statistics),
        ways=tuple(ways_tables(group, statistics)),
        scores=tuple(scores_tables(group)),
    )
