"""The dashboard's front page as HTML: what was asked, what came out, and the way on."""

from __future__ import annotations

import math
import time
from datetime import datetime
from urllib.parse import urlencode

from jinja2 import Environment, PackageLoader

from pipeline.tracking.overview import Call, Overview, State
from pipeline.tracking.progress import left_text
from pipeline.tracking.publish import MEAN
from pipeline.tracking.queries import sweep_filter
from pipeline.tracking.views import run_link

REFRESH_SECONDS = {True: 5, False: 30}
"""From one look of an open page at the store to the next, while a study runs, and else."""


def front_page(overview: Overview) -> str:
    """The page; all texts in it are escaped.

    Args:
        overview: What there is to see.
    """
    environment = Environment(
        loader=PackageLoader("pipeline.tracking.server", "."), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters |= {"at": _at, "moment": _moment, "accuracy": _accuracy}
    environment.globals |= {"run_link": run_link, "runs_link": _runs_link, "progress": _progress, "MEAN": MEAN}
    is_running = any(call.state in (State.RUNNING, State.COMPARING) for call in overview.calls)
    template = environment.get_template("front_page.html.jinja")
    return template.render(overview=overview, refresh_seconds=REFRESH_SECONDS[is_running])


def _progress(call: Call) -> str:
    """How far a call has come, in words; an empty text where it has ended."""
    whole = f" of {call.asked}" if call.asked else ""
    if call.state is State.COMPARING:
        return f"All {call.asked} runs have ended; they are being compared."
    if call.state is State.STOPPED:
        return f"Stopped after {call.ended}{whole} runs. The same command goes on."
    if call.state is State.ENDED:
        return ""
    number = call.ended + 1 if call.asked is None else min(call.ended + 1, call.asked)
    return ", ".join(filter(None, (f"Run {number}{whole}", left_text(call.seconds_left))))


def _runs_link(call: Call) -> str:
    """Address of MLflow's list of a call's runs."""
    query = urlencode({"workflowType": "machine_learning", "searchFilter": sweep_filter(call.sweep)})
    return f"./#/experiments/{call.experiment_id}/runs?{query}"


def _at(seconds: float) -> str:
    """A time for people, as it is on the server's clock."""
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(seconds))


def _moment(seconds: float) -> str:
    """The same for machines."""
    return datetime.fromtimestamp(seconds).astimezone().isoformat(timespec="seconds")


def _accuracy(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.4f}"
