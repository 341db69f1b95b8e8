"""What a run's page says and shows."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from matplotlib.patches import Rectangle

from pipeline.common.condition import Mode
from pipeline.data.facts import DatasetFacts
from pipeline.heads.verdict import Verdict
from pipeline.models.cost import Cost
from pipeline.models.scores import Scores
from pipeline.other_sizes.measure import MeasuredSize, Predictions
from pipeline.tracking.run_page import (
    MAX_RECALLS,
    MISTAKES,
    confusion_figure,
    describe,
    mistakes_figure,
    most_confident_mistakes,
    size_figure,
)

FACTS = DatasetFacts("fashion_mnist", "3.0.1", (28, 28, 1), ("shirt", "shoe", "bag"))


BACKBONE = "small_fcn: a cell of the map sees 13×13 of the 28×28 px; cells lie 4 px apart; 65,000 parameters"
SCORES = Scores(0.9212, 0.3, None, 0.0123, np.array([1.0, 0.5, math.nan]), np.array([3, 2, 0]))


def _answers(resize: float, canvas: float) -> Predictions:
    return Predictions(accuracies={Mode.RESIZE: resize, Mode.CANVAS: canvas})


def _ways(*accuracies: float) -> dict[str, Predictions]:
    return {"resize_input": _answers(*accuracies[:2]), "dense_to_conv": _answers(*accuracies[2:])}


MEASURED = [
    MeasuredSize((24, 24), (6, 6), Verdict.REFUSES, 0.0, 0.0, "", Predictions(), _ways(0.8, 0.4, math.nan, math.nan)),
    MeasuredSize(
        (28, 28), (7, 7), Verdict.NATIVE, 1.0, 1.0, "", _answers(0.921, 0.921), _ways(0.921, 0.921, 0.921, 0.921)
    ),
    MeasuredSize((40, 40), (10, 10), Verdict.CROPS, 0.49, 0.7225, "", _answers(0.61, 0.35), _ways(0.9, 0.5, 0.7, 0.6)),
]


def test_the_description_begins_with_the_conclusion() -> None:
    cost = Cost(96_362, 65_000, 31_362, 15_000_000, 600_000, 0.8)
    text = describe(
        FACTS, BACKBONE, cost, SCORES, MEASURED, (), "python -m pipeline.train seed=3", lambda name: f"at/{name}"
    )
    assert text.splitlines()[0] == ("**96,362 parameters, 0.921 test accuracy at 28 px; refuses 24 px, crops 40 px.**")
    assert text.splitlines()[2] == f"{BACKBONE}."
    assert "| verdict | seen of the map | seen of the image |" in text
    assert "| 24×24 | 6×6 | `refuses`_ | 0%_ | 0%_ | -_ | -_ |".replace("_", "\u2003") in text
    assert "| 40×40 | 10×10 | `crops`_ | 49%_ | 72%_ | 0.6100_ | 0.3500_ |".replace("_", "\u2003") in text
    assert text.index("| 24×24 |") < text.index("![Accuracy by image size]")  # MLflow shows the beginning alone.
    assert "| image / px, resized / on a canvas | resize_input | dense_to_conv |" in text
    assert "| 24×24 | 0.8000 / 0.4000 | - / - |" in text
    assert "| 40×40 | 0.9000 / 0.5000 | 0.7000 / 0.6000 |" in text
    # Three classes have no top-5 accuracy, and the last of them no test image.
    assert "Test images: balanced accuracy 0.7500, calibration error 0.0123\n" in text
    assert "| recall |\n|---|---:|---:|\n| shoe | 2 | 0.5000 |\n| shirt | 3 | 1.0000 |\n\n!" in text
    assert "![Accuracy by image size](at/size_behavior.png)" in text
    assert text.endswith("```\npython -m pipeline.train seed=3\n```\n")
    assert "Run it again" not in describe(FACTS, BACKBONE, cost, SCORES, MEASURED, (), None, str)


def test_the_description_has_the_pictures_that_there_are() -> None:
    def text(*drawn: str) -> str:
        cost = Cost(1, 1, 0, 1, 1, 0.8)
        return describe(FACTS, BACKBONE, cost, SCORES, MEASURED, drawn, None, lambda name: f"at/{name}")

    assert "No class activation map: " in text()
    assert "ignored.png" not in text()
    both = text("ignored.png", "class_activation.png")
    assert "![ignored.png](at/ignored.png)\n" in both
    assert "![class_activation.png](at/class_activation.png)\n" in both
    assert "No class activation map" not in both


def test_names_that_no_font_can_draw_have_a_key() -> None:
    facts = dataclasses.replace(FACTS, class_names=("shirt", "cat \U000effff", "bag"))
    text = describe(facts, BACKBONE, Cost(1, 1, 0, 1, 1, 0.8), SCORES, MEASURED, (), None, str)
    assert "\nNames that no font here can draw: class 1 is cat \U000effff.\n" in text


def test_of_many_classes_the_hardest_are_described() -> None:
    facts = DatasetFacts("many", "1.0.0", (28, 28, 1), tuple(f"class {label}" for label in range(MAX_RECALLS + 1)))
    recalls = np.linspace(1, 0, MAX_RECALLS + 1)  # The last class is never recognised, the first one always.
    scores = Scores(0.5, 0.3, 0.875, 0.0123, recalls, np.ones(MAX_RECALLS + 1, int))
    text = describe(facts, BACKBONE, Cost(1, 1, 0, 1, 1, 0.8), scores, MEASURED, (), None, str)
    assert "balanced accuracy 0.5000, top-5 accuracy 0.8750, calibration error 0.0123\n" in text
    assert "|---:|---:|\n| class 12 | 1 | 0.0000 |\n| class 11 | 1 | 0.0833 |\n" in text  # 1 / 12
    assert "| class 0 |" not in text
    assert "All 13 classes are in recall_by_class.json." in text


def test_refused_sizes_are_shaded_and_cropped_ones_hatched() -> None:
    top, bottom = size_figure(MEASURED).axes
    refused, cropped = top.patches
    assert isinstance(refused, Rectangle)
    assert isinstance(cropped, Rectangle)
    # Halfway to the neighbours, and at the edges as far out as in: 24 ± 2 and 40 ± 6.
    assert (refused.get_x(), refused.get_x() + refused.get_width()) == (22, 26)
    assert (cropped.get_x(), cropped.get_x() + cropped.get_width()) == (34, 46)
    hatches: list[str | None] = [refused.get_hatch(), cropped.get_hatch()]
    assert hatches == [None, "///"]
    resized, canvas = (line.get_ydata() for line in top.lines)
    assert resized == pytest.approx([math.nan, 0.921, 0.61], nan_ok=True)
    assert canvas == pytest.approx([math.nan, 0.921, 0.35], nan_ok=True)
    seen = {line.get_label(): np.asarray(line.get_ydata()).tolist() for line in bottom.lines}
    assert seen == {"seen of the map": [0.0, 1.0, 0.49], "seen of the image": [0.0, 1.0, 0.7225]}
    legend = top.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == [
        "refused",
        "map cropped",
        "image resized",
        "on a canvas",
    ]


def test_mistakes_come_most_confident_first() -> None:
    logits = np.array([[5.0, 0, 0], [0, 1, 0], [9, 0, 0], [0, 0, 2]], np.float32)
    labels = np.array([0, 0, 1, 1])  # The first is right; the others have 0.58, 1.00 and 0.79 for a wrong class.
    assert most_confident_mistakes(logits, labels).tolist() == [2, 3, 1]
    assert most_confident_mistakes(logits, logits.argmax(axis=1)).tolist() == []
    many = np.tile(logits[1:2], (50, 1))
    assert len(most_confident_mistakes(many, np.zeros(50, int))) == MISTAKES
    order, images = [2, 3, 1], [np.zeros((28, width, 1), np.uint8) for width in (28, 28, 14)]
    figure = mistakes_figure(images, logits[order], labels[order], FACTS.class_names)
    # e⁹ / (e⁹ + 2) = 0.9998; e² / (e² + 2) = 0.787; e / (e + 2) = 0.576
    (axis,) = figure.axes
    assert [text.get_text() for text in axis.texts] == [
        "shirt 100%\nis shoe",
        "bag 79%\nis shoe",
        "shoe 58%\nis shirt",
    ]
    # Each a unit wide with 5 % between; 1.4 down for its words. An image of 28×14 px is half as wide.
    assert [image.get_extent() for image in axis.images] == [
        pytest.approx((column + 0.5 - width / 2, column + 0.5 + width / 2, 1.4, 0.45))
        for column, width in enumerate((0.95, 0.95, 0.475))
    ]
    assert (axis.get_xlim(), axis.get_ylim(), axis.get_aspect()) == ((0, 6), (1.4, 0), 1)


def test_a_perfect_model_has_an_empty_picture() -> None:
    figure = mistakes_figure([], np.zeros((0, 3)), np.zeros(0, int), FACTS.class_names)
    assert figure.axes[0].get_title() == "no test image was misclassified"


@pytest.mark.parametrize("classes", [3, 40])
def test_the_confusion_matrix_counts_test_images(classes: int) -> None:
    labels, predicted = np.array([0, 0, 1, 2]), np.array([0, 1, 1, 2])
    figure = confusion_figure(labels, predicted, [f"class {number}" for number in range(classes)])
    axis = figure.axes[0]
    counts = np.asarray(axis.images[0].get_array())
    assert counts.shape == (classes, classes)
    assert counts[:3, :3].tolist() == [[1, 1, 0], [0, 1, 0], [0, 0, 1]]
    assert (axis.get_xlabel(), axis.get_ylabel()) == ("predicted class", "true class")
    assert len(axis.texts) == (9 if classes == 3 else 0)
