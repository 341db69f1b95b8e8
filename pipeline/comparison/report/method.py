"""How a report's numbers came about, and how far they reach."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import pandas as pd

from pipeline.common.names import Param, Tag
from pipeline.comparison.analysis import Group
from pipeline.comparison.arms import common_value
from pipeline.comparison.decisions import FEWEST_SEEDS
from pipeline.comparison.report.words import listed_text, points_text
from pipeline.comparison.settings import Statistics

RECIPE = (
    *("weight_decay", "warmup_epochs", "clip_norm", "label_smoothing", "class_weights", "weight_average", "patience"),
    *("augmentation.", "fine_tuning.epochs", "size_schedule", "batch_counts"),
)
"""Settings of a training, or beginnings of their names, that are off unless somebody switches them on."""
OFF = ("0", "0.0", "False", "None", "none", "uniform", "images")
"""What MLflow has of those that are."""
OF_ANOTHER = {"augmentation.magnitude": "augmentation.operations"}
"""Settings that are never off, but mean nothing where another one is."""


def method(statistics: Statistics) -> list[str]:
    """How the numbers came about, a paragraph each."""
    return [
        "Each arm is trained with each seed. A seed draws the validation images, the order of the batches and the "
        "initial weights, the same for all arms; digests of the split, of the first batch and of the backbone's "
        "initial weights are recorded, and only seeds for which they are equal in all arms are compared. All arms "
        "answer the same test images, which choose nothing.",
        "A difference is the mean over seeds and test images of (A right) − (B right). Its interval, of "
        f"{statistics.confidence:.0%}, is about other seeds and other images. The seeds' part takes Student's t with "
        "one degree of freedom less than there are seeds. The images' part takes the normal distribution, with two "
        "images added on which the arms differ, so that no disagreement is no proof. Half the interval is the root of "
        "the sum of both parts' squares.",
        f"A is better if the interval lies above δ = {points_text(statistics.margin)}. A and B are equivalent if it "
        "lies between −δ and δ (two one-sided tests, Schuirmann 1987). Everything else is undecided, and from fewer "
        f"than {FEWEST_SEEDS} seeds everything is. p values are corrected (Holm 1979) within a family: the comparisons "
        "at the training size are one, those at other sizes another, the ways another, and changes of a lead another. "
        "So a verdict can need more than its own interval shows.",
        "The number of seeds named for an undecided comparison gives an even chance of a verdict if the truth is the "
        "estimate and the variances stay as they are. Decide how many seeds to train before you look: who adds seeds "
        "until a verdict comes out finds differences too often.",
        "A wins: the share of seeds in which the run of A is the more accurate one of the pair, with the interval of "
        "Clopper and Pearson (1934). A better mean does not make every run better.",
        "McNemar's test asks about one pair of trainings, not about two arms: its p value says that these two models "
        "differ on these images, and nothing about other seeds. It is never pooled.",
    ]


def repeats(groups: Sequence[Group]) -> str | None:
    """The command that repeats the study; None where its runs are of several, or of before it was recorded."""
    return common_value(pd.concat([arm.runs for group in groups for arm in group.arms]), Tag.COMMAND.column)


def limits(groups: Sequence[Group]) -> str:
    """What the answer depends on, taken from the runs themselves."""
    runs = pd.concat([arm.runs for group in groups for arm in group.arms])
    datasets = list(dict.fromkeys(group.dataset for group in groups))
    images = sorted({table.shape[1] for group in groups for arm in group.arms for table in arm.answers.values()})
    count = common_value(runs, Param.TRAIN_EXAMPLES.column)
    trained = f"{int(count):,} training and " if count is not None and count.isdigit() else ""
    tested = f", on {trained}{listed_text([f'{count:,}' for count in images])} test images" if images else ""
    sentences = [
        f"This is about {listed_text(datasets)} and {listed_text(_backbone_texts(groups))}{tested}; it says nothing "
        "yet about others."
    ]
    shared = _shared_training_images(runs)
    if shared is not None:
        sentences.append(
            f"Two seeds have {shared:.0%} of their training images in common, so they vary less than new data would."
        )
    epochs = _common(runs, "training.epochs")
    settings = [
        f"{epochs} epoch{'' if epochs == '1' else 's'}",
        f"{_common(runs, 'training.optimizer')}",
        f"a learning rate of {_common(runs, 'training.learning_rate')}",
    ]
    switched_on = _switched_on(runs)
    sizes = runs.get(Param.TRAINING_SIZES.column, pd.Series(dtype=object))
    but = " but for the sizes of their training images" if sizes.fillna("None").nunique() > 1 else ""
    if all("None" not in text for text in settings) and switched_on is not None:
        sentences.append(
            f"All arms were trained alike{but}, for {settings[0]} with {listed_text([*settings[1:], *switched_on])}; "
            "none was tuned, and with more training or another recipe the order can change."
        )
    else:
        sentences.append("The arms' recipes differ; none was tuned beyond what its settings say.")
    return " ".join(sentences)


def _backbone_texts(groups: Sequence[Group]) -> list[str]:
    """`small_fcn (whose cells see 7×7 px and 13×13 px)`; the name alone where a group has no field or several."""
    fields: dict[str, list[str | None]] = defaultdict(list)
    for group in groups:
        field = common_value(pd.concat([arm.runs for arm in group.arms]), Param.RECEPTIVE_FIELD.column)
        # A field is numbers, or words.
        fields[group.backbone].append(field and (f"{field} px" if field[0].isdigit() else f"the {field}"))
    return [
        name if None in found else f"{name} (whose cells see {listed_text(list(dict.fromkeys(filter(None, found))))})"
        for name, found in fields.items()
    ]


def _shared_training_images(runs: pd.DataFrame) -> float | None:
    """Share of one seed's training images that another seed trains on too, in the mean: each image is held out with a
    probability of V / (T + V), independently for each seed."""
    counts = [common_value(runs, param.column) for param in (Param.TRAIN_EXAMPLES, Param.VALIDATION_EXAMPLES)]
    if not all(count is not None and count.isdigit() for count in counts):
        return None
    trained, validated = (int(count or 0) for count in counts)
    return trained / (trained + validated)


def _common(runs: pd.DataFrame, setting: str) -> str | None:
    return common_value(runs, f"params.{setting}")


def _switched_on(runs: pd.DataFrame) -> list[str] | None:
    """What all runs were trained with beyond the default, as `label_smoothing=0.1`; None if it is not the same.

    Runs of before have no value where they had no such setting.
    """
    found: dict[str, str] = {}
    for name in (str(column).removeprefix("params.training.") for column in runs):
        if name.startswith(RECIPE):
            (value, *others) = {_switched_off_as_none(value) for value in runs[f"params.training.{name}"]}
            if others:
                return None
            if value is not None:
                found[name] = value
    return [f"{name}={value}" for name, value in found.items() if OF_ANOTHER.get(name, name) in found]


def _switched_off_as_none(value: object) -> str | None:
    return value if isinstance(value, str) and value not in OFF else None
