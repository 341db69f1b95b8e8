"""A report in sentences: the conclusion, the control, the method."""

from __future__ import annotations

from collections.abc import Sequence

from pipeline.common.condition import TEST
from pipeline.comparison.analysis import Group
from pipeline.comparison.estimates import Outcome
from pipeline.comparison.report.tables import interval_text, points_text
from pipeline.comparison.settings import Statistics
from pipeline.heads.verdict import phrase


def conclusion(group: Group, statistics: Statistics) -> str:
    """The answer in words: which arm is more accurate at the training size, and what each does at other sizes."""
    sentences = [
        f"The control failed: {control.first} and {control.second} are the same function at {group.trained.in_words}, "
        f"and still differ by {points_text(control.difference.mean)} (p = {control.p_value:.2g}). Nothing below can be "
        "trusted."
        for control in group.controls
        if not control.holds
    ]
    sentences.append(_accuracy_sentence(group, statistics))
    does = [f"{arm.name} {phrase(dict(arm.verdicts), group.trained.height)}" for arm in group.arms]
    sentences.append(f"Trained at {group.trained.in_words}, {'; '.join(does)}.")
    return " ".join(sentences)


def _accuracy_sentence(group: Group, statistics: Statistics) -> str:
    compared = [found for found in group.comparisons if found.condition == TEST]
    if not compared:
        return f"At {group.trained.in_words} nothing can be said: two arms with two seeds in common are the least."
    best = max(group.arms, key=lambda arm: arm.accuracy[TEST].mean)
    said: dict[Outcome, list[str]] = {Outcome.A_BETTER: [], Outcome.EQUIVALENT: [], Outcome.UNDECIDED: []}
    for found in compared:
        if best.name not in (found.first, found.second):
            continue
        other = found.second if found.first == best.name else found.first
        outcome = Outcome.A_BETTER if found.outcome is Outcome.B_BETTER else found.outcome
        low, high = sorted(map(abs, found.difference.interval(statistics.confidence)))
        interval = f"{points_text(abs(found.difference.mean))}, {100 * low:.2f} to {100 * high:.2f}"
        said[outcome].append(f"{other} ({interval})" if outcome is Outcome.A_BETTER else other)
    parts = []
    if said[Outcome.A_BETTER]:
        parts.append(f"is more accurate than {_list(said[Outcome.A_BETTER])}")
    if said[Outcome.EQUIVALENT]:
        parts.append(f"is as accurate as {_list(said[Outcome.EQUIVALENT])} to within {points_text(statistics.margin)}")
    if said[Outcome.UNDECIDED]:
        parts.append(f"has the highest mean, undecided against {_list(said[Outcome.UNDECIDED])}")
    return f"At {group.trained.in_words}, {best.name} {_list(parts)}."


def control_text(group: Group, statistics: Statistics) -> str:
    """What the A/A control says."""
    if not group.controls:
        return "No A/A control: the study has no two arms that are the same function at the training size."
    texts = []
    for control in group.controls:
        ends = "holds, and this is the noise of the study" if control.holds else "FAILED; trust nothing here"
        difference = interval_text(control.difference, statistics.confidence)
        texts.append(
            f"{control.first} and {control.second} are the same function at {group.trained.in_words}. Their accuracies "
            f"differ by {difference} points, p = {control.p_value:.2g}: the control {ends}."
        )
    return " ".join(texts)


def method(statistics: Statistics) -> list[str]:
    """How the numbers came about, a paragraph each."""
    return [
        "Each arm is trained with each seed. A seed draws the validation images, the order of the batches and the "
        "initial weights, the same for all arms; digests of the split, of the first batch and of the backbone's "
        "initial weights are recorded, and only seeds for which they are equal in all arms are compared. All arms "
        "answer the same test images, which choose nothing.",
        "A difference is the mean over seeds and test images of (A right) − (B right). Its interval is about other "
        "seeds and other images: the two-level bootstrap (Owen 2007) gives its shape, scaled to the standard error of "
        "the two-way layout of seeds and images with Satterthwaite's degrees of freedom, because with few seeds the "
        f"bootstrap alone is too narrow (Hesterberg 2015). {statistics.resamples:,} resamples, "
        f"{statistics.confidence:.0%}.",
        f"A is better if the difference is above δ = {points_text(statistics.margin)}, two-sided; A and B are "
        "equivalent if it lies between −δ and δ (two one-sided tests, Schuirmann 1987); everything else is undecided. "
        "p values are corrected for all comparisons of the study (Holm 1979). The number of seeds that would settle a "
        "comparison supposes that mean and variances stay as they are.",
        "McNemar's test asks about one pair of trainings, not about two arms: its p value says that these two models "
        "differ on these images, and nothing about other seeds. It is never pooled.",
    ]


def _list(items: Sequence[str]) -> str:
    return f"{', '.join(items[:-1])} and {items[-1]}" if len(items) > 1 else items[0]
