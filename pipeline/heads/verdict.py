"""What a trained head does with a feature map of some size: the verdicts, and their words."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from enum import StrEnum


class Verdict(StrEnum):
    """What a trained head does with a feature map of some size."""

    NATIVE = "native"
    """The map has the size that the head was trained on, and all of it counts."""
    ADAPTS = "adapts"
    """Another size; all of the map counts."""
    CROPS = "crops"
    """It runs, but part of the map cannot change the logits."""
    REFUSES = "refuses"
    """The trained weights do not fit, or there is nothing left to apply them to."""


LEGEND = (
    "`native`: a feature map of the size of training, all of which counts; `adapts`: one of another size, all of which "
    "counts",
    "`crops`: no error is raised, but part of the feature map cannot change the answer; convert the model, or use a "
    "head that adapts",
    "`refuses`: the trained weights do not fit, so there is no accuracy and curves have a gap",
)
"""What the verdict words mean, in Markdown, a line each."""
_PHRASES = {
    Verdict.NATIVE: "keeps its feature map at",
    Verdict.ADAPTS: "adapts to",
    Verdict.CROPS: "crops",
    Verdict.REFUSES: "refuses",
}


def grouped(verdicts: dict[int, Verdict]) -> list[tuple[Verdict, list[int]]]:
    """Neighbouring sizes with one verdict together; `verdicts` are by height in pixels, ascending."""
    return [
        (verdict, [px for px, _ in group])
        for verdict, group in itertools.groupby(verdicts.items(), key=lambda item: item[1])
    ]


def summarize(verdicts: dict[int, Verdict]) -> str:
    """`refuses (4 px), crops (10–12 px)`: a cell of a table; a lone verdict stands without sizes."""
    if not verdicts:
        return "not probed"
    groups = grouped(verdicts)
    if len(groups) == 1:
        return groups[0][0].value
    return ", ".join(f"{verdict.value} ({span(sizes)})" for verdict, sizes in groups)


def phrase(verdicts: dict[int, Verdict], native: int, told: Callable[[list[int]], str] = lambda heights: "") -> str:
    """`refuses 14–21 px, keeps its feature map at 25 px`: the second half of a sentence about a trained head.

    Args:
        verdicts: By height in pixels, ascending.
        native: Height of the training images in pixels, of which nothing is said unless they are cropped.
        told: What to add about images of some heights.
    """
    own = f"crops the {native} px of training, " if verdicts.get(native) is Verdict.CROPS else ""
    others = {px: verdict for px, verdict in verdicts.items() if px != native}
    if not others:
        return f"{own}no other size was probed"
    # Not across the training size, whose own verdict is left out.
    groups = grouped({px: verdict for px, verdict in others.items() if px < native})
    groups += grouped({px: verdict for px, verdict in others.items() if px > native})
    if len({verdict for verdict, _ in groups}) == 1:
        return f"{own}{_PHRASES[groups[0][0]]} every other size{told(list(others))}"
    return own + ", ".join(f"{_PHRASES[verdict]} {span(sizes)}{told(sizes)}" for verdict, sizes in groups)


def span(sizes: Sequence[int]) -> str:
    """`14–21 px`: heights, ascending, from the first to the last."""
    return f"{sizes[0]}–{sizes[-1]} px" if len(sizes) > 1 else f"{sizes[0]} px"
