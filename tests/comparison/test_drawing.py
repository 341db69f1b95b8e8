"""Figures within a page: tooltips, arms, and ids that do not clash."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree

from matplotlib.figure import Figure

from pipeline.comparison.report.drawing import inline_svg, of_arm, told
from tests.comparison.studies import page_of, study

SVG = "{http://www.w3.org/2000/svg}"
TOLD = 'a<b> & "c": 0.9000'


def _figure() -> Figure:
    figure = Figure()
    axis = figure.subplots()
    of_arm(2, axis.errorbar([1, 2], [0.5, 0.9], yerr=0.1))
    told(axis, 2, 0.9, TOLD, 2)
    told(axis, 1, 0.5, "of no arm")
    return figure


def test_a_value_says_what_it_is_and_whose() -> None:
    svg = inline_svg(_figure(), "s0", 'What it "shows"')
    root = ElementTree.fromstring(str(svg).replace("<svg ", '<svg xmlns="http://www.w3.org/2000/svg" ', 1))
    assert (root.get("role"), root.get("aria-label")) == ("img", 'What it "shows"')
    tooltips = {group.findtext(f"{SVG}title"): group.get("class") for group in root.iter(f"{SVG}g")}
    assert tooltips[TOLD] == "told arm-2"
    assert tooltips["of no arm"] == "told"
    # The line, and the bars of its errors.
    assert sum(group.get("class") == "arm-2" for group in root.iter(f"{SVG}g")) == 2


def test_a_figure_is_the_same_each_time_and_shares_no_id_with_another() -> None:
    first, again, other = (inline_svg(_figure(), prefix, "") for prefix in ("s0", "s0", "s1"))
    assert first == again
    ids = [set(re.findall(r'\bid="([^"]*)"', svg)) for svg in (first, other)]
    assert ids[0] and all(name.startswith("s0-") for name in ids[0])
    assert not ids[0] & ids[1]
    used = set(re.findall(r'(?:href="|url\()#([^")]*)', first))
    assert used and used <= ids[0]


def test_a_page_has_what_was_compared_and_nothing_from_elsewhere() -> None:
    page = page_of(study(seeds=3))
    assert page == page_of(study(seeds=3))
    assert page.count('role="img"') == 5  # Accuracy, sizes in two modes, differences, cost.
    assert "<h2>What was compared</h2>" in page
    made = page_of(study(seeds=3).assign(**{"tags.made_with": "Python 3.11.7, 2 cores"}))
    assert "<td>with</td><td>Python 3.11.7, 2 cores</td>" in made
    command = "python -m pipeline.train study=heads 'seed=0,1,<2'"
    typed = study(seeds=3).assign(**{"tags.command": command})
    escaped = command.replace("'", "&#39;").replace("<", "&lt;")
    assert f"<p>This repeats it: <code>{escaped}</code></p>" in page_of(typed)
    typed.loc[0, "tags.command"] = "python -m pipeline.train study=heads"  # Of another call.
    assert "This repeats it" not in page_of(typed)
    assert "<title>average_pool" in page  # Of a point.
    # Names of XML's vocabularies are no addresses that a browser asks.
    asked = re.findall(r'(?:src|href)="(?!#)([^"]*)"', page)
    assert not asked
