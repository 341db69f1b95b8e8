"""Names in any script are drawn, or replaced by the class's number."""

from __future__ import annotations

import io
import warnings

import matplotlib
from matplotlib.figure import Figure
from matplotlib.font_manager import findfont, fontManager, get_font

from pipeline.tracking.fonts import drawable, families_for

NOWHERE = "\U000effff"
"""No character at all, so that no font has it."""


def _only_in_stix() -> str:
    """A character that Matplotlib's own font lacks, and another font that comes with Matplotlib has."""
    own = set(get_font(findfont("DejaVu Sans")).get_charmap())
    (path,) = {entry.fname for entry in fontManager.ttflist if entry.fname.endswith("STIXNonUni.ttf")}
    return chr(min(set(get_font(path).get_charmap()) - own))


def test_what_the_own_font_lacks_comes_from_another() -> None:
    own = matplotlib.rcParams["font.family"]
    assert families_for(["shirt", "Größe", "Кот"]) == own  # Latin and Cyrillic it has.
    name = f"cat {_only_in_stix()}"
    (first, other) = families_for(["shirt", name])
    assert [first] == own
    assert any(
        ord(name[-1]) in get_font(entry.fname).get_charmap() for entry in fontManager.ttflist if entry.name == other
    )
    assert drawable(["shirt", name]) == ["shirt", name]
    with matplotlib.rc_context({"font.family": [first, other]}):
        figure = Figure()
        figure.text(0, 0, name)
    with warnings.catch_warnings(action="error"):  # Such as of a missing glyph.
        figure.savefig(io.BytesIO(), format="png")


def test_what_no_font_has_becomes_a_number() -> None:
    names = ["shirt", f"cat {NOWHERE}", "dog"]
    assert drawable(names) == ["shirt", "class 1", "dog"]
    assert families_for(names) == matplotlib.rcParams["font.family"]
