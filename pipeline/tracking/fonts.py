"""Fonts for names in any script: Matplotlib's own has no Chinese, Japanese or Korean, and draws empty boxes for it."""

from __future__ import annotations

import functools
from collections.abc import Iterable, Sequence

from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font

NO_FONT = "Last Resort"
"""Begins the name of a font that has a box for each character of each script, and no character."""


def families_for(names: Iterable[str]) -> list[str]:
    """Families for Matplotlib's `font.family`: its own, and of the installed ones those that have what it lacks."""
    return [*FontProperties().get_family(), *_others(_special(names))[0]]


def drawable(names: Sequence[str]) -> list[str]:
    """The names, and `class 3` in place of one that no installed font can draw."""
    missing = _others(_special(names))[1]
    return [f"class {label}" if missing.intersection(name) else name for label, name in enumerate(names)]


def _special(names: Iterable[str]) -> frozenset[str]:
    return frozenset(character for name in names for character in name if not character.isascii())


@functools.lru_cache(maxsize=4)
def _others(characters: frozenset[str]) -> tuple[list[str], frozenset[str]]:
    """Families that have what Matplotlib's own font lacks of some characters, and which no font has."""
    missing, families = characters, list[str]()
    if missing:
        missing -= _characters(findfont(FontProperties()))
    for entry in fontManager.ttflist:
        if not missing:
            break
        if not entry.name.startswith(NO_FONT) and (found := missing & _characters(entry.fname)):
            families.append(entry.name)
            missing -= found
    return families, missing


def _characters(path: str) -> frozenset[str]:
    try:
        return frozenset(map(chr, get_font(path).get_charmap()))
    except (OSError, RuntimeError):  # It was removed, or FreeType cannot read it.
        return frozenset()
