"""Tables for any medium."""

from __future__ import annotations

from pipeline.common.condition import TEST, Condition, Mode
from pipeline.common.names import Metric
from pipeline.common.table import Table
from pipeline.comparison.analysis import Group
from pipeline.comparison.arms import Arm
from pipeline.comparison.contrasts import Contrasts
from pipeline.comparison.decisions import Decision, Outcome
from pipeline.comparison.levels import level_text
from pipeline.comparison.report.words import accuracy_text, interval_text, p_text, points_text, wins_text
from pipeline.comparison.settings import Statistics
from pipeline.heads.verdict import summarize

P_HEADING = ">p of the verdict, or of the nearest"


def arms_table(group: Group, statistics: Statistics) -> Table:
    """A row an arm: accuracy with its interval, costs, what happens at other image sizes.

    Milliseconds are left out where the runs of one arm differ in them as much as the arms do.
    """
    front = pareto_front(group) if group.comparisons else set()
    timed = _times_tell(group)
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
                *([f"{arm.runs[Metric.MS_PER_IMAGE.column].median():.2f}"] if timed else []),
                summarize(below),
                summarize(above),
            )
        )
    return Table(
        (
            *("arm", ">seeds", ">test accuracy", ">parameters", ">in the head", ">MFLOP", ">MiB"),
            *([">ms"] if timed else []),
            *(f"below {group.trained.height} px", f"above {group.trained.height} px"),
        ),
        tuple(rows),
        f"Mean over the seeds [{statistics.confidence:.0%} interval]. MFLOP{', ms' if timed else ''} and MiB (weights "
        "and what is alive at once) are those of one image. * On the Pareto front of accuracy and parameters.",
    )


def _times_tell(group: Group) -> bool:
    """Whether arms differ more in their milliseconds for an image than the runs of any one of them."""
    times = [arm.runs[Metric.MS_PER_IMAGE.column] for arm in group.arms]
    medians = [float(of_arm.median()) for of_arm in times]
    return max(float(of_arm.max() - of_arm.min()) for of_arm in times) < max(medians) - min(medians)


def sizes_table(group: Group, statistics: Statistics) -> Table:
    """A row for each image size and way of making it: what each arm does there, and its accuracy with its interval."""
    rows = []
    for mode in Mode:
        for px in group.other_heights:
            condition = group.condition(mode, px)
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
        f"What each arm does with images of another size than {group.trained.in_words}, and its test accuracy "
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
                wins_text(found.wins),
                verdict_text(found.decision, found.first, found.second, found.difference.seeds, statistics),
                p_text(found.decision.p_value),
            )
        )
    return Table(
        ("A", "B", "images", ">A − B in points", ">A wins", "verdict", P_HEADING),
        tuple(rows),
        f"Paired over seeds and test images. Points are hundredths of accuracy, [{statistics.confidence:.0%} interval] "
        f"over other seeds and other images; δ = {points_text(statistics.margin)}. A wins: share of the seeds in which "
        "the run of A is more accurate than that of B. p after Holm's correction, over the comparisons at the training "
        "size and over those at other sizes apart.",
        names=2,
    )


def verdict_text(decision: Decision, first: str, second: str, seeds: int, statistics: Statistics) -> str:
    """The verdict in words; `seeds` is how many there are."""
    names = {Outcome.A_BETTER: first, Outcome.B_BETTER: second}
    if decision.outcome in names:
        return f"{names[decision.outcome]} better by more than {points_text(statistics.margin)}"
    if decision.outcome is Outcome.EQUIVALENT:
        return f"equivalent within {points_text(statistics.margin)}"
    nearest = f"{names[decision.claimed]} better" if decision.claimed in names else "equivalent"
    return _undecided_text(nearest, decision, seeds)


def _undecided_text(nearest: str, decision: Decision, seeds: int) -> str:
    """An undecided comparison: what it comes closest to, and how many more seeds have an even chance to decide it."""
    text = f"undecided, nearest to {nearest}"
    if isinstance(decision.advice, int):
        return (
            f"{text}; an even chance with about {decision.advice - seeds} more seeds, if the truth is near the estimate"
        )
    return f"{text}; {decision.advice.value}" if decision.advice is not None else text


def _change_verdict(decision: Decision, seeds: int, statistics: Statistics) -> str:
    """The verdict on a change of A − B."""
    if decision.outcome in (Outcome.A_BETTER, Outcome.B_BETTER):
        way = "grows" if decision.outcome is Outcome.A_BETTER else "falls"
        return f"{way} by more than {points_text(statistics.margin)}"
    if decision.outcome is Outcome.EQUIVALENT:
        return f"changes by less than {points_text(statistics.margin)}"
    nearest = {Outcome.A_BETTER: "a rise", Outcome.B_BETTER: "a fall"}.get(decision.claimed, "no change")
    return _undecided_text(nearest, decision, seeds)


def contrasts_table(contrasts: Contrasts, statistics: Statistics) -> Table:
    """A row for each pair of arms and of values of a setting: how the lead changes."""
    rows = []
    for found in contrasts.found:
        leads = ", ".join(
            f"{interval_text(lead, statistics.confidence)} at {level_text(level)}"
            for level, lead in zip(found.levels, found.leads, strict=True)
        )
        arms = found.first if found.second is None else f"{found.first} − {found.second}"
        rows.append(
            (
                found.dataset,
                arms,
                leads,
                interval_text(found.change, statistics.confidence),
                _change_verdict(found.decision, found.change.seeds, statistics),
                p_text(found.decision.p_value),
            )
        )
    return Table(
        ("dataset", "A − B", f"by {contrasts.over}, in points", ">change in points", "verdict", P_HEADING),
        tuple(rows),
        "A change is a difference of differences of accuracy at the training size, paired over seeds and test images "
        f"[{statistics.confidence:.0%} interval]; p after Holm's correction for all changes.",
    )


def pareto_front(group: Group) -> set[str]:
    """Names of the arms than which no other is better in accuracy or in parameters without being worse in the other.

    Between arms with equally many parameters, a verdict has to say that one is more accurate; a mean does not.
    """
    better = {
        (found.first, found.second) if found.decision.outcome is Outcome.A_BETTER else (found.second, found.first)
        for found in group.comparisons
        if found.condition == TEST and found.decision.outcome in (Outcome.A_BETTER, Outcome.B_BETTER)
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
