"""Names from outside are shown as they are: no markup, no formulas, no HTML, no columns."""

from __future__ import annotations

import io

import pytest

from pipeline.cli import terminal
from pipeline.comparison.report.figures import figures
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.report.terminal import print_report
from pipeline.other_sizes.ways import WAYS
from tests.comparison.studies import ASKS, STATISTICS, page_of, study

NAMES = [r"[/bold]:smile:$\frac{$<script>alert(1)</script>a|b", "[red]x%d{0}\\nä名\u202e"]
"""Without spaces, at which the terminal breaks lines."""


@pytest.mark.long
@pytest.mark.parametrize("name", [NAMES[0], pytest.param(NAMES[1], marks=pytest.mark.slow)])
def test_an_arm_may_have_any_name(name: str) -> None:
    runs = study(seeds=3)
    runs["params.arm"] = name + " " + runs["tags.head"]
    runs["tags.dataset"] = runs["tags.backbone"] = runs["params.question"] = name
    report = make_report(runs, STATISTICS, WAYS, ASKS)
    shown = io.StringIO()
    console = terminal.console()
    console.file = shown
    print_report(report, console)
    assert name.split()[0] in shown.getvalue()
    assert f"{name} flatten_dense".replace("|", "\\|") in markdown_page(report)
    for section in report.sections:
        for figure in figures(section.group, STATISTICS, report.ways).values():
            figure.savefig(io.BytesIO(), format="svg")
    assert "<script>alert" not in page_of(runs)
