"""Test images on which two arms part."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipeline.common.size import Size
from pipeline.comparison.answers import pack, pack_labels
from pipeline.comparison.report.figures import figures
from pipeline.comparison.report.gallery import LARGEST, Gallery
from pipeline.comparison.report.page import web_page
from pipeline.comparison.report.report import Report, make_report
from pipeline.data.kept_images import find_images
from pipeline.other_sizes.ways import WAYS
from tests.comparison.studies import ASKS, IMAGES, STATISTICS, study

LABELS = np.arange(IMAGES) % 4
NAMES = ["cat", "dog", "<cow>", "unicorn"]
PIXELS = np.tile((np.arange(IMAGES) % 251).astype(np.uint8)[:, None, None, None], (1, 8, 8, 1))
"""Each image is of one shade, which tells which it is."""


def _study() -> pd.DataFrame:
    """Flatten is wrong on image 5; average pooling on 100 to 219, on the last 10 of these with two of three seeds."""
    runs = study(seeds=3)
    answers = []
    for head, seed in zip(runs["tags.head"], runs["params.seed"], strict=True):
        right = np.ones(IMAGES, bool)
        if head == "flatten_dense":
            right[5] = False
        if head == "global_average_pool":
            right[:50] = False  # So that the other two differ most.
        if head == "average_pool":
            right[100 : 210 if seed == "0" else 220] = False
        answers.append(pack(right))
    packed = pack_labels(LABELS, NAMES)
    return runs.assign(**{"answers.test": answers, "labels": [packed] * len(runs)})


def _report(runs: pd.DataFrame, images: np.ndarray | None = PIXELS) -> Report:
    def find(dataset: str, labels: np.ndarray, size: Size) -> np.ndarray | None:
        assert (dataset, labels.tolist(), size) == ("digits", LABELS.tolist(), (8, 8))
        return images

    return make_report(runs, STATISTICS, WAYS, ASKS, find_images=find)


def _galleries(report: Report) -> tuple[Gallery, ...]:
    (section,) = report.sections
    return section.galleries


def _shade(source: str) -> int:
    prefix, _, content = source.partition(",")
    assert prefix == "data:image/png;base64"
    picture = np.asarray(Image.open(io.BytesIO(base64.b64decode(content))))
    assert picture.shape == (8, 8)
    return int(picture[0, 0])


def test_both_ways_round_of_the_arms_that_differ_most() -> None:
    first, second = _galleries(_report(_study()))
    assert (first.ahead, first.behind, first.count) == ("flatten_dense", "average_pool", 120)
    # All seeds agree on 100 to 209; the first eight of them are shown.
    assert [_shade(picture.source) for picture in first.pictures] == [*range(100, 108)]
    assert [picture.of for picture in first.pictures] == NAMES * 2
    assert {(picture.ahead, picture.behind, picture.seeds) for picture in first.pictures} == {(3, 0, 3)}
    assert (second.ahead, second.behind, second.count) == ("average_pool", "flatten_dense", 1)
    assert [_shade(picture.source) for picture in second.pictures] == [5]


def test_without_images_or_labels_there_are_none() -> None:
    assert _galleries(_report(_study(), images=None)) == ()
    assert _galleries(_report(_study().drop(columns="labels"))) == ()
    assert _galleries(make_report(_study(), STATISTICS, WAYS, ASKS)) == ()


@pytest.mark.long
def test_the_page_has_them_and_is_small() -> None:
    large = np.random.default_rng(0).integers(0, 256, (IMAGES, 40, 400, 3), np.uint8)
    report = _report(_study(), large)
    picture = Image.open(io.BytesIO(base64.b64decode(_galleries(report)[0].pictures[0].source.partition(",")[2])))
    assert picture.size == (LARGEST, round(LARGEST / 10))
    drawn = [figures(section.group, STATISTICS, report.ways) for section in report.sections]
    page = web_page(report, drawn, None)
    assert page.count('<img src="data:image/png;base64,') == 8 + 1
    assert 'alt="A test image of class &lt;cow&gt;"' in page
    assert "8 of the 120 test images that flatten_dense gets right with more seeds than average_pool" in page


def test_kept_images_are_found_by_their_labels(tmp_path: Path) -> None:
    def keep(name: str, labels: np.ndarray, images: np.ndarray) -> None:
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "labels.npy", labels)
        np.save(tmp_path / name / "images.npy", images)

    keep("my-digits-aa-8x8x1", LABELS[::-1].copy(), PIXELS[::-1].copy())  # Another split.
    keep("my-digits-bb-8x8x1", LABELS, PIXELS)
    keep("my-digits-cc-16x8x1", LABELS, PIXELS)  # Not what its name says.
    found = find_images(tmp_path, "my/digits", LABELS, (8, 8))
    assert found is not None and np.array_equal(found, PIXELS)
    assert find_images(tmp_path, "my/digits", LABELS, (16, 8)) is None
    assert find_images(tmp_path, "my/digits", LABELS[1:], (8, 8)) is None
    assert find_images(tmp_path, "*", LABELS, (8, 8)) is None
    assert find_images(tmp_path / "none", "digits", LABELS, (8, 8)) is None
