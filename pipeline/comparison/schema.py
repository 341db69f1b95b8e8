"""What a table of runs may hold: it may come from a file that somebody hands on, or from a server that others write to.

Values are checked here alone; whoever works on the table takes them as they are.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from pipeline.common.condition import TEST, Condition
from pipeline.common.errors import excerpt, printable
from pipeline.common.names import ANSWERS, CALIBRATION, LABELS, PAIRING_TAGS, RECALL, Metric, Param, Tag, size_of_tag
from pipeline.common.settings import is_short, is_side
from pipeline.common.size import recorded_size
from pipeline.comparison.answers import unpack, unpack_labels
from pipeline.comparison.arms import split_into_arms
from pipeline.comparison.params import param_value
from pipeline.comparison.settings import About
from pipeline.heads.verdict import Verdict

MAX_RUNS = 10_000
MAX_TEXT = 8000
"""Characters of a recorded text: MLflow's own limit."""
COMMAND = "python -m pipeline.train"
SHARES = (
    *(Metric.TEST_ACCURACY, Metric.TEST_BALANCED_ACCURACY, Metric.TEST_TOP_5_ACCURACY),
    Metric.TEST_CALIBRATION_ERROR,
)
COSTS = (
    *(Metric.PARAMETERS, Metric.HEAD_PARAMETERS, Metric.FLOPS, Metric.MEMORY_BYTES),
    Metric.MS_PER_IMAGE,
)
FILLED = {
    *("run_id", "start_time", Param.SEED.column, Param.IMAGE_SIZE.column, f"{ANSWERS}{TEST}"),
    Metric.TEST_ACCURACY.column,
    *(tag.column for tag in (Tag.HEAD, Tag.BACKBONE, Tag.DATASET, Tag.COLOR)),
}
"""Columns that every report needs, with a value for each run."""
REQUIRED = FILLED | {each.column for each in (*COSTS, *PAIRING_TAGS)}
"""Columns that every report needs."""


@dataclass(frozen=True)
class Rule:
    """What the values of some columns must satisfy.

    Attributes:
        columns: Their names, a regular expression.
        holds: Whether a value does; missing ones are not asked.
        what: What a value must be.
    """

    columns: str
    holds: Callable[[Any], bool]
    what: str


def _escaped(metrics: Sequence[Metric]) -> Iterator[str]:
    return (re.escape(metric.column) for metric in metrics)


def _is_within(low: float, high: float) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high


def _is_text(value: Any) -> bool:
    return isinstance(value, str) and len(value) <= MAX_TEXT


def _reads(pattern: str) -> Callable[[Any], bool]:
    return lambda value: _is_text(value) and re.fullmatch(pattern, value) is not None


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value) and is_short(value) and printable(value) == value


def _is_size(value: Any) -> bool:
    size = recorded_size({Param.IMAGE_SIZE: value}) if _is_text(value) else None
    return size is not None and all(map(is_side, size.reference))


def _are_answers(value: Any) -> bool:
    try:
        return isinstance(value, bytes) and len(unpack(value)) > 1
    except ValueError:
        return False


def _are_labels(value: Any) -> bool:
    try:
        return isinstance(value, bytes) and all(map(_is_name, unpack_labels(value)[1]))
    except ValueError:
        return False


def _are_heights(value: Any) -> bool:
    sizes = param_value(value) if _is_text(value) else None
    return sizes == "None" or (isinstance(sizes, list) and all(type(size) is int and is_side(size) for size in sizes))


def _are_pairs(value: Any) -> bool:
    pairs = param_value(value) if _is_text(value) else None
    return pairs == "None" or (
        isinstance(pairs, list)
        and all(isinstance(pair, list) and len(pair) == 2 and all(map(_is_name, pair)) for pair in pairs)
    )


def _is_command(value: Any) -> bool:
    """Whether a shell takes a text for a call of this program and for nothing else: people will copy it."""
    if not _is_text(value) or printable(value) != value or not value.startswith(f"{COMMAND} "):
        return False
    try:
        return shlex.join(shlex.split(value)) == value
    except ValueError:
        return False


RULES = (
    Rule("start_time", lambda value: isinstance(value, pd.Timestamp), "a time"),
    Rule(re.escape(Param.SEED.column), _reads("[0-9]{1,10}"), "a whole number as text"),
    Rule(re.escape(Param.IMAGE_SIZE.column), _is_size, "a size such as 28×28"),
    Rule(re.escape(Param.TRAINING_SIZES.column), _are_heights, "None or a list of heights in pixels"),
    Rule(re.escape(Param.ASKS_ABOUT.column), _reads("|".join(("None", *About))), f"None or one of {', '.join(About)}"),
    Rule(re.escape(Param.ASKS_PRIMARY.column), _are_pairs, "None or a list of pairs of arms"),
    Rule(r"run_id|tags\.(head|backbone|dataset|study)|params\.arm", _is_name, "a name"),
    Rule(re.escape(Tag.COLOR.column), _reads("#[0-9a-fA-F]{6}"), "a color such as #0072B2"),
    Rule(re.escape(Tag.COMMAND.column), _is_command, f"a call of {COMMAND}"),
    Rule(r"tags\.size\..*", _reads("|".join(Verdict)), f"one of {', '.join(Verdict)}"),
    Rule(
        "|".join((*_escaped(SHARES), rf"{re.escape(RECALL)}.*", rf"{re.escape(CALIBRATION)}.*")),
        _is_within(0, 1),
        "a number from 0 to 1",
    ),
    Rule("|".join(_escaped(COSTS)), _is_within(0, 1e18), "a number from 0 to 10¹⁸"),
    Rule(r"metrics\..*", _is_within(-math.inf, math.inf), "a number"),
    Rule(LABELS, _are_labels, "the classes of test images"),
    Rule(rf"{re.escape(ANSWERS)}.*", _are_answers, "a bit for each of two test images or more"),
    Rule(r"params\..*|tags\..*|status|experiment_id", _is_text, f"text of at most {MAX_TEXT:,} characters"),
)
"""Of each column, the first whose name fits counts."""


def rule_of(column: Any) -> Rule | None:
    """The rule for a column; None for one that no report knows."""
    if not isinstance(column, str):
        return None
    if column.startswith("tags.size.") and not is_side(size_of_tag(column) or 0):
        return None
    if column.startswith(ANSWERS) and Condition.parse(column.removeprefix(ANSWERS)) is None:
        return None
    return next((rule for rule in RULES if re.fullmatch(rule.columns, column)), None)


def is_numeric(column: str) -> bool:
    """Whether a column of a snapshot holds numbers."""
    return column.startswith(("metrics.", RECALL, CALIBRATION))


def faults(runs: pd.DataFrame) -> Iterator[str]:
    """What is wrong with a table of runs, a part of a sentence each: `has 'x' in params.seed, which must be a seed`."""
    if not 0 < len(runs) <= MAX_RUNS:
        yield f"holds {len(runs):,} runs; there must be 1 to {MAX_RUNS:,}"
        return
    if missing := sorted(REQUIRED - set(runs)):
        yield f"has no {', '.join(missing)}"
        return
    wrong = False
    for column in runs:
        if (rule := rule_of(column)) is None:
            continue
        values = runs[column].dropna()
        if column in FILLED and len(values) < len(runs):
            wrong = True
            yield f"has no value in {column} of some runs"
        for value in values:
            if not rule.holds(value):
                wrong = True
                yield f"has {excerpt(repr(value))} in {excerpt(column)}, which must be {rule.what}"
                break
    if not wrong:
        yield from _differing_counts(runs)


def _differing_counts(runs: pd.DataFrame) -> Iterator[str]:
    """Runs that are compared with each other answered the same images."""
    columns = [column for column in runs if str(column).startswith(ANSWERS)]
    counts = runs[columns].map(lambda answers: len(unpack(answers)) if isinstance(answers, bytes) else None)
    kinds = [Tag.BACKBONE.column, Tag.DATASET.column, Param.IMAGE_SIZE.column]
    alike = [arm.index for _, group in runs.groupby(kinds) for _, arm in split_into_arms(group)]
    # Arms whose backbones' weights come from different places are paired, too.
    paired = [*kinds, Param.SEED.column, Tag.SPLIT.column, Tag.BATCHES.column]
    alike += [pairs.index for _, pairs in runs.groupby(paired)]
    for column in columns:
        if any(counts.loc[index, column].nunique() > 1 for index in alike):
            yield f"has answers to different numbers of images in {column}"
