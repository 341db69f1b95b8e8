"""The verdicts in words."""

from __future__ import annotations

import pytest

from pipeline.heads.verdict import LEGEND, Verdict, phrase, summarize

NATIVE, ADAPTS, CROPS, REFUSES = Verdict.NATIVE, Verdict.ADAPTS, Verdict.CROPS, Verdict.REFUSES


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ({}, "not probed"),
        ({4: REFUSES, 6: REFUSES}, "refuses"),
        ({4: REFUSES, 6: NATIVE, 7: NATIVE}, "refuses (4 px), native (6–7 px)"),
        ({10: CROPS, 12: CROPS, 14: REFUSES}, "crops (10–12 px), refuses (14 px)"),
    ],
)
def test_neighbours_with_one_verdict_are_told_together(verdicts: dict[int, Verdict], text: str) -> None:
    assert summarize(verdicts) == text


@pytest.mark.parametrize(
    ("verdicts", "text"),
    [
        ({8: NATIVE}, "no other size was probed"),
        ({4: REFUSES, 8: NATIVE, 16: REFUSES}, "refuses every other size"),
        ({4: ADAPTS, 8: NATIVE, 16: ADAPTS}, "adapts to every other size"),
        ({4: REFUSES, 7: NATIVE, 8: NATIVE}, "refuses 4 px, keeps its feature map at 7 px"),
        ({7: NATIVE, 8: CROPS, 9: REFUSES}, "crops the 8 px of training, keeps its feature map at 7 px, refuses 9 px"),
        ({4: REFUSES, 8: NATIVE, 10: CROPS, 12: CROPS, 16: REFUSES}, "refuses 4 px, crops 10–12 px, refuses 16 px"),
    ],
)
def test_a_phrase_leaves_the_training_size_out(verdicts: dict[int, Verdict], text: str) -> None:
    assert phrase(verdicts, native=8) == text


def test_the_legend_explains_every_verdict_in_three_lines() -> None:
    assert len(LEGEND) == 3
    assert all(f"`{verdict}`" in "".join(LEGEND) for verdict in Verdict)
