"""Figures within a web page: what a point says when the mouse is over it, and which arm it belongs to.

Matplotlib writes the id of an artist (gid) into the SVG. Here that id carries both; the page makes a tooltip and a
class of it, so that a list of arms can show and hide them without a server.
"""

from __future__ import annotations

import html
import io
import re
from collections.abc import Iterable

import matplotlib
from markupsafe import Markup
from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.container import Container
from matplotlib.figure import Figure

REACH = 14
"""Diameter in points of the circle around a value in which the mouse finds it."""
LONGEST_NAME = 40
_ARM = re.compile(r'id="arm-(\d+)"')
_TOLD = re.compile(r'<g id="told-(\d*)-([0-9a-f]*)">')


def shortened(name: str) -> str:
    """A name as far as a chart has room for it beside what is drawn; tables have all of it."""
    return name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"


def of_arm(index: int, artists: Iterable[Artist | Container | None] | Container) -> None:
    """Marks what is drawn as that of an arm, given its place among the arms."""
    for artist in artists:
        if isinstance(artist, Artist):
            artist.set_gid(f"arm-{index}")
        elif artist is not None:
            of_arm(index, artist)


def told(axis: Axes, x: float, y: float, text: str, arm: int | None = None) -> None:
    """Makes a value say what it is; invisible, and in pictures that are no part of a page without effect."""
    gid = f"told-{'' if arm is None else arm}-{text.encode().hex()}"
    axis.plot([x], [y], "o", markersize=REACH, alpha=0, zorder=10, gid=gid, label="_nolegend_")


def inline_svg(figure: Figure, prefix: str, description: str) -> Markup:
    """A figure as an element of a page.

    Args:
        figure: Whose size in inches is its largest on the page.
        prefix: Of all ids in it, different for each figure of a page.
        description: For those who cannot see it.
    """
    file = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": prefix}):  # The same figure gives the same text.
        figure.savefig(file, format="svg", metadata={"Date": None})
    svg = file.getvalue()
    svg = svg[svg.index("<svg") :]
    head, body = svg.split(">", 1)
    width = figure.get_size_inches()[0] * 96
    box = re.search(r'viewBox="[^"]*"', head)
    assert box is not None
    # One figure's ids are another's too.
    body = re.sub(r'\bid="(?!arm-|told-)', f'id="{prefix}-', body)
    body = re.sub(r"url\(#", f"url(#{prefix}-", body)
    body = re.sub(r'href="#', f'href="#{prefix}-', body)
    body = _ARM.sub(r'class="arm-\1"', body)
    body = _TOLD.sub(_tooltip, body)
    label = html.escape(description, quote=True)
    return Markup(  # Matplotlib escapes what it writes, and `_tooltip` what it adds.
        f'<svg xmlns:xlink="http://www.w3.org/1999/xlink" {box.group()} role="img" aria-label="{label}" '
        f'style="max-width:{width:.0f}px">{body}'
    )


def _tooltip(found: re.Match[str]) -> str:
    arm, text = found.group(1), bytes.fromhex(found.group(2)).decode()
    return f'<g class="told{f" arm-{arm}" if arm else ""}"><title>{html.escape(text)}</title>'
