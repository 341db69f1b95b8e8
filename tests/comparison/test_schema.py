"""A table of runs from outside: each works or gets one message, whatever is in it."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from pipeline.common.errors import ConfigError, UserError
from pipeline.comparison.answers import pack
from pipeline.comparison.report.markdown import markdown_page
from pipeline.comparison.report.page import web_page
from pipeline.comparison.report.report import make_report
from pipeline.comparison.schema import RULES, faults, rule_of
from pipeline.comparison.settings import Asks
from pipeline.comparison.snapshot import MAX_BYTES, read_snapshot
from pipeline.other_sizes.ways import WAYS
from tests.comparison.studies import STATISTICS, right_answers, study
from tests.conftest import ROOT

WRONG: list[tuple[str, Any, str]] = [
    # column, value in one of its rows, what a message says
    ("params.seed", "one", "has 'one' in params.seed, which must be a whole number as text"),
    ("params.seed", None, "has no value in params.seed of some runs"),
    ("params.image_size", "x" * 9000, "x… (9,002 characters) in params.image_size, which must be a size such as 28×28"),
    ("params.image_size", "0×8", "has '0×8' in params.image_size"),
    ("params.training.sizes", "[8, [", "has '[8, [' in params.training.sizes, which must be None or a list of heights"),
    ("params.training.sizes", "[" * 5000, "in params.training.sizes"),
    ("params.asks.about", "everything", "which must be None or one of training_size, other_sizes, ways, interaction"),
    ("params.asks.primary", "[a, b]", "has '[a, b]' in params.asks.primary, which must be None or a list of pairs"),
    ("tags.head", "a\nb", r"has 'a\nb' in tags.head, which must be a name"),
    ("tags.dataset", "x" * 201, "in tags.dataset, which must be a name"),
    ("tags.mlflow.runColor", "red; x", "has 'red; x' in tags.mlflow.runColor, which must be a color such as #0072B2"),
    ("tags.command", "python -m pipeline.train x; rm -r .", "which must be a call of python -m pipeline.train"),
    ("tags.command", "python -m pipeline.train 'x", "which must be a call of python -m pipeline.train"),
    ("tags.size.016px", "shrugs", "which must be one of native, adapts, crops, refuses"),
    ("metrics.test/accuracy", 1.5, "has 1.5 in metrics.test/accuracy, which must be a number from 0 to 1"),
    ("metrics.test/accuracy", None, "has no value in metrics.test/accuracy of some runs"),
    ("metrics.cost/flops", float("inf"), "has inf in metrics.cost/flops, which must be a number from 0 to 10¹⁸"),
    ("recall.cat", -0.5, "has -0.5 in recall.cat, which must be a number from 0 to 1"),
    ("answers.test", b"\0\0\0\1\x80", r"has b'\x00\x00\x00\x01\x80' in answers.test, which must be a bit for each of"),
    ("answers.test", pack(right_answers(0.5, 0)[:9]), "has answers to different numbers of images in answers.test"),
    ("params.training.epochs", "x" * 8001, "in params.training.epochs, which must be text of at most 8,000 characters"),
]


@pytest.mark.parametrize(("column", "value", "message"), WRONG, ids=[column for column, _, _ in WRONG])
def test_a_wrong_value_is_named_with_its_column_and_rule(column: str, value: Any, message: str, tmp_path: Path) -> None:
    runs = study(seeds=2)
    values = runs[column].tolist() if column in runs else [None] * len(runs)
    runs[column] = pd.Series([*values[:-1], value], dtype=object if isinstance(value, str | bytes) else None)
    runs.to_parquet(tmp_path / "runs.parquet")
    with pytest.raises(ConfigError) as caught:
        read_snapshot(tmp_path / "runs.parquet")
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"snapshot={tmp_path / 'runs.parquet'}: ")
    assert str(caught.value).endswith(". Name a runs.parquet that python -m pipeline.compare has written.")


@pytest.mark.long
def test_what_no_report_knows_is_left_out_and_what_is_needed_is_missed(tmp_path: Path) -> None:
    runs = study(seeds=1)
    nonsense = {
        "x": 1,
        "tags.size.99999999px": "native",
        f"tags.size.{'9' * 5000}px": "native",
        "answers.some_px": b"x",
    }
    path = tmp_path / "runs.parquet"
    runs.assign(**nonsense).to_parquet(path)
    assert list(read_snapshot(path)) == list(runs)
    assert all(rule_of(column) is None for column in nonsense)
    runs.drop(columns="tags.head").to_parquet(path)
    with pytest.raises(ConfigError, match="has no tags.head. Name a runs.parquet"):
        read_snapshot(path)
    runs.iloc[:0].to_parquet(path)
    with pytest.raises(ConfigError, match="holds 0 runs; there must be 1 to 10,000"):
        read_snapshot(path)
    # A file of a few KB can hold any number of equal rows.
    pd.concat([runs.iloc[:1]] * 10_001).to_parquet(path)
    with pytest.raises(ConfigError, match="cannot be read: it has 10,001 rows and .* MB, and no study has so much"):
        read_snapshot(path)
    assert path.stat().st_size < MAX_BYTES / 1000


def test_numbers_in_another_form_are_read(tmp_path: Path) -> None:
    runs = study(seeds=2)
    runs["metrics.params/total"] = runs["metrics.params/total"].astype(object)
    runs["metrics.cost/ms_per_image"] = 1
    runs.set_index("run_id", drop=False).to_parquet(tmp_path / "runs.parquet")
    read = read_snapshot(tmp_path / "runs.parquet")
    assert read["metrics.params/total"].tolist() == runs["metrics.params/total"].tolist()
    assert {str(read[column].dtype) for column in ("metrics.params/total", "metrics.cost/ms_per_image")} == {"float64"}


def test_trainings_that_all_ended_early_are_nothing_to_compare() -> None:
    with pytest.raises(UserError, match="There is nothing to compare: every training ended early"):
        make_report(study(seeds=2).assign(**{"tags.pruned": "behind"}), STATISTICS, WAYS, Asks())


def test_every_committed_snapshot_keeps_the_rules() -> None:
    for path in (ROOT / "experiments" / "study").glob("*.parquet"):
        whole = pd.read_parquet(path)
        assert list(faults(whole)) == []
        unknown = [column for column in whole if rule_of(column) is None]
        assert unknown == [], path
    assert all(rule.holds(object()) is False for rule in RULES)


VALUES: tuple[Any, ...] = (
    *("", "x", "None", "null", "nan", "[1", "[[a]]", "[[a, b]]", "{a: 1}", "a\0b", "a\nb", "é" * 300, "x" * 100_000),
    *("9" * 5000, "-1", "1e999", "28×28", "0×0", "99999×1", "natural, about 8×8", "adapts", "*a", "!!python/name:x"),
    *(b"", b"\0\0\0\1\xff", b"\xff\xff\xff\xff", b"\0\0\0\0", 0, -1, 7, 10**18, 2**63 - 1, 1.5, 1e308),
    *(float("inf"), float("nan"), None, True, pd.Timestamp("2020-01-01"), [1, 2], {"a": 1}),
)
ADDED = (
    *("tags.size.033px", "answers.resize_033px", "recall.cat", "params.asks.about", "params.asks.over"),
    *("params.asks.primary", "params.training.sizes", "params.arm", "tags.pruned", "tags.function", "params.question"),
    *("params.image_height", "tags.study", "metrics.test/balanced_accuracy", f"tags.size.{'9' * 5000}px"),
    *("answers.resize_99999px", "recall.a\nb", "params.new", "metrics.new", "0"),
)


def _mutant(runs: pd.DataFrame, draw: random.Random) -> pd.DataFrame:
    """The same table with something wrong, or at least strange."""
    runs = runs.copy()
    column, other, value = draw.choice(list(runs)), draw.choice(list(runs)), draw.choice(VALUES)
    match draw.choice(("value", "value", "values", "drop", "rows", "column", "type", "rename", "add")):
        case "value":
            runs[column] = runs[column].astype(object)
            runs.at[draw.randrange(len(runs)), column] = value
        case "values":
            runs[column] = [value] * len(runs)
        case "drop":
            runs = runs.drop(columns=column)
        case "rows":
            runs = draw.choice((runs.iloc[:0], runs.iloc[:1], pd.concat([runs] * 2), runs.sample(frac=0.5)))
        case "column":
            runs[column] = runs[other].to_numpy()
        case "type":
            runs[column] = runs[column].astype(draw.choice(("category", "string", "object")))
        case "rename":
            runs = runs.rename(columns={column: draw.choice(ADDED)})
        case "add":
            runs[draw.choice(ADDED)] = [value] * len(runs)
    return runs


def _work_and_messages(mutants: int, path: Path) -> tuple[int, int]:
    """How many changed copies of a snapshot make a report, and how many are refused in one line."""
    whole = pd.read_parquet(ROOT / "experiments" / "study" / "heads.parquet")
    whole = whole[whole["params.seed"].isin(("0", "1"))].reset_index(drop=True)
    work = messages = 0
    for number in range(mutants):
        draw = random.Random(number)
        try:
            _mutant(whole, draw).to_parquet(path, index=draw.random() < 0.2)
        except (ValueError, TypeError, OverflowError):  # Of Arrow: no such file can be.
            continue
        try:
            report = make_report(read_snapshot(path), STATISTICS, WAYS, Asks())
            assert markdown_page(report)
            assert web_page(report, [{} for _ in report.sections], None)
            work += 1
        except UserError as error:
            assert len(str(error).splitlines()) == 1
            assert len(str(error)) < 2000
            messages += 1
    return work, messages


@pytest.mark.long
def test_changed_snapshots_work_or_are_refused_in_one_line(tmp_path: Path) -> None:
    work, messages = _work_and_messages(20, tmp_path / "runs.parquet")
    assert min(work, messages) > 4


@pytest.mark.slow
def test_many_changed_snapshots_work_or_are_refused_in_one_line(times: int, tmp_path: Path) -> None:
    """`--times 5` changes 300."""
    tried = 60 * times
    work, messages = _work_and_messages(tried, tmp_path / "runs.parquet")
    print(f"of {tried} changed snapshots {work} made a report, and {messages} were refused in one line")
    assert work + messages >= tried * 2 / 3
    assert min(work, messages) > tried / 5
