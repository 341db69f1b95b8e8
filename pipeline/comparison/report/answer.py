"""The answer to the question that a study asks, in sentences."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

from pipeline.common.condition import TEST, Mode, way_text
from pipeline.comparison.analysis import Comparison, Group
from pipeline.comparison.arms import Arm
from pipeline.comparison.best_ways import Choice
from pipeline.comparison.contrasts import Contrast, Contrasts
from pipeline.comparison.controls import Control
from pipeline.comparison.decisions import FEWEST_SEEDS, Outcome
from pipeline.comparison.levels import level_text
from pipeline.comparison.report.words import (
    heights_text,
    listed_text,
    points_text,
    range_text,
    span_text,
)
from pipeline.comparison.settings import About, Asks, Statistics
from pipeline.heads.verdict import phrase, span


def answer(groups: Sequence[Group], found: Contrasts | None, asks: Asks, statistics: Statistics) -> str:
    """What answers the study's question, over all of its groups; first of all, whether it can be trusted.

    Args:
        groups: All there are.
        found: The contrasts, where the study asks for these.
        asks: What the question is about.
        statistics: How sure a verdict is.
    """
    sentences = failed_controls(groups)
    if found is not None:
        sentences += _contrasts_answer(found, asks, statistics)
    for group in groups:
        where = f"{group.title}: " if len(groups) > 1 else ""
        if asks.about is About.other_sizes:
            text = other_sizes_answer(group, asks, statistics)
        elif asks.about is About.ways:
            text = ways_answer(group)
        elif found is None:
            text = training_size_answer(group, asks, statistics)
        else:
            continue
        sentences.append(where + text)
    return " ".join(sentences)


def failed_controls(groups: Sequence[Group]) -> list[str]:
    """A sentence for each control that has failed."""
    return [
        f"The control failed: {control.first} and {control.second} are the same function at {group.trained.in_words}, "
        f"and still differ by {points_text(control.difference.mean)} (p = {control.p_value:.2g}). Nothing below can be "
        "trusted."
        for group in groups
        for control in group.controls
        if not control.holds
    ]


def training_size_answer(group: Group, asks: Asks, statistics: Statistics) -> str:
    """Which arm is more accurate at the training size, and what each does at other sizes."""
    return f"{accuracy_sentence(group, asks, statistics)} {sizes_sentence(group)}"


def accuracy_sentence(group: Group, asks: Asks, statistics: Statistics) -> str:
    """Which arm is more accurate at the training size."""
    compared = [found for found in group.comparisons if found.condition == TEST]
    at = f"At {group.trained.in_words}"
    if not compared:
        return f"{at} nothing can be said: two arms with two seeds in common are the least."
    if asks.primary is not None:
        compared = [found for found in compared if asks.is_primary(found.first, found.second)] or compared
        return f"{at}, {'; '.join(_pair_text(found, statistics) for found in compared)}."
    top = max(arm.accuracy[TEST].mean for arm in group.arms)
    highest = [arm.name for arm in group.arms if arm.accuracy[TEST].mean == top]
    if len(highest) > 1:
        return f"{at}, {listed_text(highest)} have the same mean accuracy, the highest{_tie_text(compared, highest)}."
    return f"{at}, {_best_text(highest[0], compared, statistics)}{_few_seeds(compared)}."


def _few_seeds(compared: Sequence[Comparison]) -> str:
    seeds = compared[0].difference.seeds
    return f"; from {seeds} seeds there is no verdict, it takes {FEWEST_SEEDS}" if seeds < FEWEST_SEEDS else ""


def _tie_text(compared: Sequence[Comparison], highest: Sequence[str]) -> str:
    outcomes = {found.decision.outcome for found in compared if found.first in highest and found.second in highest}
    return ": they are equivalent" if outcomes == {Outcome.EQUIVALENT} else "; between them it is undecided"


def _pair_text(found: Comparison, statistics: Statistics) -> str:
    """`A is more accurate than B (1.75 points, 1.43 to 2.04)`."""
    ahead, behind = (found.first, found.second) if found.difference.mean >= 0 else (found.second, found.first)
    told = range_text(found.difference, statistics.confidence)
    if found.decision.outcome is Outcome.EQUIVALENT:
        return f"{found.first} is as accurate as {found.second} to within {points_text(statistics.margin)} ({told})"
    if found.decision.outcome is Outcome.UNDECIDED:
        return f"between {ahead} and {behind} it is undecided ({told})"
    return f"{ahead} is more accurate than {behind} ({told})"


def _best_text(best: str, compared: Sequence[Comparison], statistics: Statistics) -> str:
    said: dict[Outcome, list[str]] = defaultdict(list)
    for found in compared:
        if best not in (found.first, found.second):
            continue
        other = found.second if found.first == best else found.first
        outcome = Outcome.A_BETTER if found.decision.outcome is Outcome.B_BETTER else found.decision.outcome
        told = f" ({range_text(found.difference, statistics.confidence)})"
        said[outcome].append(other + told * (outcome is Outcome.A_BETTER))
    parts = []
    if said[Outcome.A_BETTER]:
        parts.append(f"is more accurate than {listed_text(said[Outcome.A_BETTER])}")
    if said[Outcome.EQUIVALENT]:
        parts.append(
            f"is as accurate as {listed_text(said[Outcome.EQUIVALENT])} to within {points_text(statistics.margin)}"
        )
    if said[Outcome.UNDECIDED]:
        parts.append(f"has the highest mean, undecided against {listed_text(said[Outcome.UNDECIDED])}")
    return f"{best} {listed_text(parts)}"


def sizes_sentence(group: Group) -> str:
    """What each arm does at other sizes, and how accurate it is there."""
    if not group.other_heights:
        return "No other size was probed."
    told = "; ".join(f"{_trained_text(arm)} {_does_text(group, arm)}" for arm in group.arms)
    return f"Other sizes: {told}."


def _trained_text(arm: Arm) -> str:
    """The arm, and the sizes that it was trained at if these are several."""
    sizes = arm.training_sizes
    return f"{arm.name} (trained at {span(sizes)})" if sizes else arm.name


def _does_text(group: Group, arm: Arm) -> str:
    test_accuracy = arm.share_right(TEST)

    def told(heights: list[int]) -> str:
        by_mode = []
        for mode in Mode:
            found = [share for px in heights if (share := arm.share_right(group.condition(mode, px))) is not None]
            if found:
                by_mode.append(f"{span_text(found)} {mode.short}")
        if not by_mode or test_accuracy is None:
            return ""
        return f" (accuracy {', '.join(by_mode)}, instead of {test_accuracy:.2f})"

    return phrase(dict(arm.verdicts), group.trained.height, told)


def other_sizes_answer(group: Group, asks: Asks, statistics: Statistics) -> str:
    """Which arm is more accurate at other sizes, what that costs at the training size, and what each arm does."""
    sentences = []
    for mode in Mode:
        by_pair: dict[tuple[str, str], list[Comparison]] = defaultdict(list)
        for found in group.comparisons:
            if found.condition.mode is mode and asks.is_primary(found.first, found.second):
                by_pair[found.first, found.second].append(found)
        told = [text for pair in by_pair.values() for text in _over_sizes(pair, statistics)]
        if told:
            sentences.append(f"On images of other sizes, {mode.short}: {'; '.join(told)}.")
    if not sentences:
        sentences.append("Nothing can be said of other sizes: no two arms take the same ones.")
    return " ".join([*sentences, accuracy_sentence(group, asks, statistics), sizes_sentence(group)])


def _over_sizes(compared: Sequence[Comparison], statistics: Statistics) -> list[str]:
    """What two arms are to each other over the sizes of one mode."""
    by_outcome: dict[Outcome, list[Comparison]] = defaultdict(list)
    for found in compared:
        by_outcome[found.decision.outcome].append(found)
    first, second = compared[0].first, compared[0].second
    told = []
    for outcome, ahead, behind in (
        (Outcome.A_BETTER, first, second),
        (Outcome.B_BETTER, second, first),
    ):
        if by_outcome[outcome]:
            sizes = [
                f"{found.condition.height} px ({range_text(found.difference, statistics.confidence)})"
                for found in by_outcome[outcome]
            ]
            told.append(f"{ahead} is more accurate than {behind} at {listed_text(sizes)}")
    if by_outcome[Outcome.EQUIVALENT]:
        heights = heights_text([found.condition.height for found in by_outcome[Outcome.EQUIVALENT]])
        told.append(f"{first} is as accurate as {second} to within {points_text(statistics.margin)} at {heights}")
    if by_outcome[Outcome.UNDECIDED]:
        heights = heights_text([found.condition.height for found in by_outcome[Outcome.UNDECIDED]])
        told.append(f"between {first} and {second} it is undecided at {heights}")
    return told


def ways_answer(group: Group) -> str:
    """Which way to run the trained models at other sizes is the best."""
    if not any(choice.next_best for choice in group.choices):
        return "No two ways to run the trained models were measured with two seeds or more."
    sentences = []
    for mode in Mode:
        for larger in (False, True):
            side = [
                choice
                for choice in group.choices
                if choice.mode is mode and (choice.heights[0] > group.trained.height) is larger
            ]
            if side:
                sentences.append(
                    f"Images of {span(side[0].heights)}, {mode.short}: {'; '.join(map(_choice_text, side))}."
                )
    return f"The best way to run each trained model, by mean accuracy. {' '.join(sentences)}"


def _choice_text(choice: Choice) -> str:
    text = f"{choice.arm} {way_text(choice.best)} ({choice.accuracy.mean:.2f}"
    if choice.next_best is None:
        return f"{text}, the only one)"
    if choice.rivals:
        return f"{text}, undecided against {listed_text([way_text(way) for way in choice.rivals])})"
    assert choice.difference is not None
    return f"{text}, {points_text(choice.difference.mean)} ahead of {way_text(choice.next_best)})"


def _contrasts_answer(found: Contrasts, asks: Asks, statistics: Statistics) -> list[str]:
    if not found.found:
        return [f"Nothing can be said of {found.over}: {'; '.join(found.left_out) or 'there is no pair of arms'}."]
    outcomes = {contrast.decision.outcome for contrast in found.found}
    if outcomes & {Outcome.A_BETTER, Outcome.B_BETTER}:
        depends = "Yes, it depends on"
    elif outcomes == {Outcome.EQUIVALENT}:
        depends = f"No: to within {points_text(statistics.margin)} it does not depend on"
    else:
        depends = "It is not shown to depend on"
    widest = [contrast for contrast in found.found if contrast.is_widest]
    return [f"{depends} {found.over}.", *(f"{contrast_text(contrast, asks, statistics)}." for contrast in widest)]


def contrast_text(contrast: Contrast, asks: Asks, statistics: Statistics) -> str:
    """How a lead changes: `The lead of A over B is 0.62 points at 14×14 and 2.02 points at 28×28: it grows by …`."""
    ahead, behind, sign = contrast.first, contrast.second, 1
    if behind is not None and contrast.leads[-1].mean < 0:
        ahead, behind, sign = behind, ahead, -1
    what = f"accuracy of {ahead}" if behind is None else f"lead of {ahead} over {behind}"
    values = [
        f"{points_text(sign * lead.mean) if behind else f'{lead.mean:.4f}'} at {level_text(level)}"
        for level, lead in zip(contrast.levels, contrast.leads, strict=True)
    ]
    each = " for each doubling" if asks.about is About.trend else ""
    told = range_text(contrast.change, statistics.confidence)
    if contrast.decision.outcome is Outcome.EQUIVALENT:
        said = f"it does not change by more than {points_text(statistics.margin)}{each} ({told})"
    elif contrast.decision.outcome is Outcome.UNDECIDED:
        said = f"whether it changes{each} is undecided ({told})"
    else:
        said = f"it {'grows' if sign * contrast.change.mean > 0 else 'shrinks'} by {told}{each}"
    return f"The {what} is {listed_text(values)}: {said}"


def control_text(control: Control, at: str, statistics: Statistics) -> str:
    """What the A/A control says, and what it could have said."""
    difference = range_text(control.difference, statistics.confidence)
    ends = (
        f"holds, and this is the noise of the study. A bias of about {points_text(control.detectable)} or more it "
        "would have found in four of five such studies"
        if control.holds
        else "FAILED; trust nothing here"
    )
    found = control.agreement
    shows = {
        True: "so the pairing shows",
        False: "so the pairing does not show: they err as if they had nothing in common",
        None: "with so few seeds, that may be chance",
    }[found.shows]
    return (
        f"{control.first} and {control.second} are the same function at {at}. Their accuracies differ by {difference}, "
        f"p = {control.p_value:.2g}: the control {ends}. Their runs with the same seed disagree on "
        f"{found.same_seed:.1%} of the images, those with different seeds on {found.other_seed:.1%}, {shows} (p = "
        f"{found.p_value:.2g})."
    )
