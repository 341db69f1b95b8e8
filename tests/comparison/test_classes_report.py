"""Where a lead comes from: accuracies and differences by class."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from pipeline.common.table import Table
from pipeline.comparison.analysis import analyse
from pipeline.comparison.answers import pack, pack_labels, unpack_labels
from pipeline.comparison.estimates import estimate
from pipeline.comparison.report.classes import classes_tables
from tests.comparison.studies import ASKS, IMAGES, STATISTICS, page_of, study

LABELS = np.arange(IMAGES) % 4
NAMES = ["cat", "dog", "<cow>", "unicorn", "never"]
"""A fourth of the 2,000 images each, and none of the last."""


def _study() -> pd.DataFrame:
    """Flatten is right on all images, average pooling on all but 100 cats, global average on all but 20 dogs."""
    runs = study(seeds=3)
    right = {head: np.ones(IMAGES, bool) for head in runs["tags.head"].unique()}
    right["average_pool"][np.flatnonzero(LABELS == 0)[:100]] = False
    right["global_average_pool"][np.flatnonzero(LABELS == 1)[:20]] = False
    answers = [pack(right[head]) for head in runs["tags.head"]]
    packed = pack_labels(LABELS, NAMES)
    return runs.assign(**{"answers.test": answers, "labels": [packed] * len(runs)})


def _tables(runs: pd.DataFrame) -> list[Table]:
    (group,) = analyse(runs, STATISTICS, ASKS)
    return list(classes_tables(group, STATISTICS))


def test_the_classes_that_make_the_difference_come_first_with_intervals() -> None:
    accuracies, leads = _tables(_study())
    assert [row[:2] for row in accuracies.rows] == [(name, "500") for name in ("cat", "dog", "<cow>", "unicorn")]
    assert accuracies.columns[2:] == (">flatten_dense", ">average_pool", ">global_average_pool")
    # 400 of 500 cats by average pooling, in all seeds.
    (low, high) = estimate(np.tile(np.arange(500) >= 100, (3, 1))).interval(0.95)
    assert accuracies.rows[0][3] == f"0.8000 [{low:.4f}, {high:.4f}]"
    assert leads.columns[2:] == (">flatten_dense − average_pool", ">flatten_dense − global_average_pool")
    shown = {row[0]: [cell.split(" ")[0] for cell in row[2:]] for row in leads.rows}
    # 100 of 500 cats and 20 of 500 dogs.
    nothing = ["+0.00", "+0.00"]
    assert shown == {"cat": ["+20.00", "+0.00"], "dog": ["+0.00", "+4.00"], "<cow>": nothing, "unicorn": nothing}


def test_unless_all_runs_tell_the_same_classes_nothing_is_told_of_them() -> None:
    runs = _study()
    assert _tables(runs.drop(columns="labels")) == []
    assert _tables(runs.assign(labels=[None, *runs["labels"][1:]])) == []
    assert _tables(runs.assign(labels=[pack_labels(LABELS[::-1], NAMES), *runs["labels"][1:]])) == []
    assert _tables(runs.assign(labels=[pack_labels(LABELS[1:], NAMES)] * len(runs))) == []  # Of other images.
    assert _tables(runs[runs["params.seed"] == "0"]) == []


def test_labels_come_back_or_are_refused() -> None:
    labels, names = unpack_labels(pack_labels(LABELS, NAMES))
    assert (labels.tolist(), names) == (LABELS.tolist(), tuple(NAMES))
    for wrong in (b"", b"[1]\n\0\0", b'["a"]\n', b'["a"]\n\0\1', b'["a"]\n\0', json.dumps("a").encode() + b"\n\0\0"):
        with pytest.raises(ValueError):
            unpack_labels(wrong)


@pytest.mark.long
def test_the_page_shows_them_with_names_as_they_are() -> None:
    page = page_of(_study())
    assert "<td>&lt;cow&gt;</td>" in page
    assert "Lead in points on the test images of each class" in page
