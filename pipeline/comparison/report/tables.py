"""Tables for any medium, and numbers in words."""

from __future__ import annotations

from dataclasses import dataclass

from pipeline.common.condition import TEST, Condition, Mode, at_height
from pipeline.common.names import Metric
from pipeline.comparison.analysis import Comparison, Group
from pipeline.comparison.arms import Arm
from pipeline.comparison.estimates import Estimate, Outcome
from pipeline.comparison.settings import Statistics
from pipeline.heads.verdict import summarize


@dataclass(frozen=True)
class Table:
    """Cells for any medium.

    Attributes:
        columns: Headings; those of numbers begin with `>` and are set to the right.
        rows: Of text, as many cells as there are columns.
        caption: Below it.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    caption: str = ""

    @property
    def headings(self) -> list[tuple[str, bool]]:
        """Each heading, and whether its column is one of numbers."""
        return [(column.removeprefix(">"), column.startswith(">")) for column in self.columns]


def interval_text(difference: Estimate, confidence: float) -> str:
    """`+1.75 [+1.43, +2.04]`, in points."""
    low, high = difference.interval(confidence)
    middle, low, high = (round(100 * value, 2) + 0.0 for value in (difference.mean, low, high))  # No −0.00.
    return f"{middle:+.2f} [{low:+.2f}, {high:+.2f}]"


def accuracy_text(accuracy: Estimate, confidence: float) -> str:
    """`0.9242 [0.9198, 0.9288]`."""
    low, high = accuracy.interval(confidence)
    return f"{accuracy.mean:.4f} [{max(low, 0.0):.4f}, {min(high, 1.0):.4f}]"


def points_text(difference: float) -> str:
    """`1.75 points`: hundredths of accuracy."""
    return f"{100 * difference:.2f} points"


def arms_table(group: Group, statistics: Statistics) -> Table:
    """A row an arm: accuracy with its interval, costs, what happens at other image sizes."""
    front = pareto_front(group) if group.comparisons else set()
    rows = []
    for arm in group.arms:
        below = {px: verdict for px, verdict in arm.verdicts.items() if px < group.trained.height}
        above = {px: verdict for px, verdict in arm.verdicts.items() if px > group.trained.height}
        rows.append(
            (
                arm.name,
                str(len(arm.seeds)),
                _with_interval(arm, TEST, statistics.confidence),
                f"{arm.mean(Metric.PARAMETERS.column):,.0f}" + (" *" if arm.name in front else ""),
                f"{arm.mean(Metric.HEAD_PARAMETERS.column):,.0f}",
                f"{arm.mean(Metric.FLOPS.column) / 1e6:.2f}",
                f"{arm.mean(Metric.MEMORY_BYTES.column) / 2**20:.2f}",
                f"{arm.runs[Metric.MS_PER_IMAGE.column].median():.2f}",
                summarize(below),
                summarize(above),
            )
        )
    return Table(
        (
            "arm",
            ">seeds",
            ">test accuracy",
            ">parameters",
            ">in the head",
            ">MFLOP",
            ">MiB",
            ">ms",
            f"below {group.trained.height} px",
            f"above {group.trained.height} px",
        ),
        tuple(rows),
        f"Mean over the seeds [{statistics.confidence:.0%} interval]. MFLOP, MiB (weights and what is alive at once) "
        "and ms are those of one image. * On the Pareto front of accuracy and parameters.",
    )


def sizes_table(group: Group, statistics: Statistics) -> Table:
    """A row for each image size and way of making it: what each arm does there, and its accuracy with its interval."""
    rows = []
    for mode in Mode:
        for px in group.other_heights:
            condition = at_height(mode, px, group.trained.test_height)
            cells = []
            for arm in group.arms:
                verdict = arm.verdicts[px].value if px in arm.verdicts else "-"
                accurate = (
                    f" {_with_interval(arm, condition, statistics.confidence)}" if condition in arm.accuracy else ""
                )
                cells.append(verdict + accurate)
            rows.append((condition.words(group.trained.in_words), *cells))
    return Table(
        ("images", *(arm.name for arm in group.arms)),
        tuple(rows),
        f"What each arm, trained at {group.trained.in_words}, does with images of another size, and its test accuracy "
        f"[{statistics.confidence:.0%} interval].",
    )


def comparisons_table(group: Group, statistics: Statistics, every_condition: bool) -> Table:
    """A row for each pair of arms, at the training size or under every condition."""
    rows = []
    for found in group.comparisons:
        if not every_condition and found.condition != TEST:
            continue
        rows.append(
            (
                found.first,
                found.second,
                found.condition.words(group.trained.in_words),
                interval_text(found.difference, statistics.confidence),
                f"{found.difference.probability_above_zero():.3f}",
                verdict_text(found, statistics),
                f"{found.p_value:.2g}",
            )
        )
    return Table(
        ("A", "B", "images", ">A − B in points", ">P(A > B)", "verdict", ">p"),
        tuple(rows),
        f"Paired over seeds and test images. Points are hundredths of accuracy, [{statistics.confidence:.0%} interval] "
        f"over other seeds and other images; δ = {points_text(statistics.margin)}; p after Holm's correction "
        "for all comparisons of the study.",
    )


def verdict_text(found: Comparison, statistics: Statistics) -> str:
    """The verdict in words."""
    if found.outcome in (Outcome.A_BETTER, Outcome.B_BETTER):
        better = found.first if found.outcome is Outcome.A_BETTER else found.second
        return f"{better} better by more than {points_text(statistics.margin)}"
    if found.outcome is Outcome.EQUIVALENT:
        return f"equivalent within {points_text(statistics.margin)}"
    if found.more_seeds is None:
        return "undecided; more seeds alone would not settle it"
    return f"undecided; about {found.more_seeds} more seeds would settle it"


def pareto_front(group: Group) -> set[str]:
    """Names of the arms than which no other is better in accuracy or in parameters without being worse in the other.

    Between arms with equally many parameters, a verdict has to say that one is more accurate; a mean does not.
    """
    better = {
        (found.first, found.second) if found.outcome is Outcome.A_BETTER else (found.second, found.first)
        for found in group.comparisons
        if found.condition == TEST and found.outcome in (Outcome.A_BETTER, Outcome.B_BETTER)
    }

    def dominates(other: Arm, arm: Arm) -> bool:
        saved = arm.mean(Metric.PARAMETERS.column) - other.mean(Metric.PARAMETERS.column)
        gained = other.mean(Metric.TEST_ACCURACY.column) - arm.mean(Metric.TEST_ACCURACY.column)
        return (saved > 0 and gained >= 0) or (saved >= 0 and (other.name, arm.name) in better)

    return {arm.name for arm in group.arms if not any(dominates(other, arm) for other in group.arms)}


def _with_interval(arm: Arm, condition: Condition, confidence: float) -> str:
    if condition not in arm.accuracy:
        return f"{arm.mean(Metric.TEST_ACCURACY.column):.4f}"
    return accuracy_text(arm.accuracy[condition], confidence)
