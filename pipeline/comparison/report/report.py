"""A report on a study: one value, rendered for the terminal, as Markdown and as a web page."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from pipeline.common.errors import UserError
from pipeline.common.names import QUESTION, Param
from pipeline.common.table import Table
from pipeline.comparison.analysis import Group, analyse
from pipeline.comparison.arms import common_value
from pipeline.comparison.contrasts import contrasts
from pipeline.comparison.recorded import asked
from pipeline.comparison.report.answer import answer, control_text, training_size_answer
from pipeline.comparison.report.gallery import FindImages, Gallery, galleries
from pipeline.comparison.report.method import limits
from pipeline.comparison.report.scores import scores_tables
from pipeline.comparison.report.tables import arms_table, comparisons_table, contrasts_table, sizes_table
from pipeline.comparison.report.ways import WayStyle, ways_tables
from pipeline.comparison.settings import About, Asks, Statistics
from pipeline.comparison.shared import without_repeats


@dataclass(frozen=True)
class Section:
    """What the report says of one group.

    Attributes:
        group: Whose.
        conclusion: What it comes to at the training size, in words; None where the report's answer says just that.
        control: What the A/A control says.
        arms: A row an arm.
        headline: The comparisons that the question is about, or those at the training size.
        comparisons: Every comparison.
        sizes: A row for each other image size.
        ways: What other ways to run the models give: the best ways, and a table a mode; none without other ways.
        scores: Scores beside accuracy, by arm and by class; none where the runs recorded none.
        galleries: Test images on which two arms part; none where the images are not within reach.
    """

    group: Group
    conclusion: str | None
    control: str
    arms: Table
    headline: Table
    comparisons: Table
    sizes: Table
    ways: tuple[Table, ...]
    scores: tuple[Table, ...]
    galleries: tuple[Gallery, ...]


@dataclass(frozen=True)
class Report:
    """What there is to say about a study.

    Attributes:
        title: What the study asks.
        answer: What it comes to, in words.
        warnings: What a reader has to know before believing it.
        limits: What the answer depends on.
        contrasts: How leads change with a setting; None where the study does not ask for it.
        sections: One a group.
        statistics: How sure its verdicts are.
        ways: The ways to run trained models that there are, by name.
    """

    title: str
    answer: str
    warnings: tuple[str, ...]
    limits: str
    contrasts: Table | None
    sections: tuple[Section, ...]
    statistics: Statistics
    ways: Mapping[str, WayStyle]

    @property
    def control_failed(self) -> bool:
        return not all(control.holds for section in self.sections for control in section.group.controls)


def make_report(
    runs: pd.DataFrame,
    statistics: Statistics,
    ways: Sequence[WayStyle],
    asks: Asks,
    warnings: Sequence[str] = (),
    find_images: FindImages = lambda dataset, labels, size: None,
) -> Report:
    """Compares the arms of a study, or of several studies.

    Args:
        runs: Finished runs with their answers, see `comparison.analysis`.
        statistics: How sure a verdict has to be.
        ways: The ways to run trained models that there are.
        asks: What the question is about; where it does not say, what the runs have recorded of it.
        warnings: What a reader has to know beside what the runs tell.
        find_images: Finds test images to show; without it, none are shown.

    Raises:
        UserError: There is nothing to compare.
    """
    asks = asked(runs, asks)
    runs, repeats = without_repeats(runs)
    groups = analyse(runs, statistics, asks)
    if not groups:
        raise UserError("There is nothing to compare: every training ended early. Use training.prune=false.")
    found = contrasts(runs, statistics, asks)
    return Report(
        title=common_value(runs, Param.QUESTION.column) or QUESTION,
        answer=answer(groups, found, asks, statistics),
        warnings=(*warnings, *repeats, *_broken_pairings(groups), *(found.left_out if found else ())),
        limits=limits(groups),
        contrasts=contrasts_table(found, statistics) if found is not None and found.found else None,
        sections=tuple(_section(group, asks, statistics, find_images) for group in groups),
        statistics=statistics,
        ways={way.name: way for way in ways},
    )


def _section(group: Group, asks: Asks, statistics: Statistics, find_images: FindImages) -> Section:
    told = asks.about in (About.training_size, About.other_sizes)
    return Section(
        group=group,
        conclusion=None if told else training_size_answer(group, asks, statistics),
        control=_controls_text(group, statistics),
        arms=arms_table(group, statistics),
        headline=comparisons_table(group, statistics, every_condition=asks.about is About.other_sizes),
        comparisons=comparisons_table(group, statistics, every_condition=True),
        sizes=sizes_table(group, statistics),
        ways=tuple(ways_tables(group, statistics)),
        scores=tuple(scores_tables(group, statistics)),
        galleries=tuple(galleries(group, asks, find_images)),
    )


def _broken_pairings(groups: Sequence[Group]) -> list[str]:
    """A sentence for each control whose runs are no pairs, which their accuracies alone would not show."""
    return [
        f"runs of {control.first} and {control.second} with the same seed err no more alike than runs with different "
        "seeds: they did not start from the same, or it means nothing here"
        for group in groups
        for control in group.controls
        if control.agreement.shows is False
    ]


def _controls_text(group: Group, statistics: Statistics) -> str:
    if not group.controls:
        return "No A/A control: the study has no two arms that are the same function at the training size."
    return " ".join(control_text(control, group.trained.in_words, statistics) for control in group.controls)
