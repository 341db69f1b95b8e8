"""From a study's runs to what can be said about its arms: accuracies, paired differences, verdicts, the A/A control.

Works on one table with a row a run: what `mlflow.search_runs` gives, and beside it a column `answers.CONDITION` for
each condition that the run was tested under, which holds a bit for each test image, 1 where it was classified right.
The conditions are `test` (the training size, or natural sizes), `resize_035px`, `canvas_035px` and so on, and of a
model that is run in another way at that size `resize_035px.global_pool`; None where the model refuses.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from pipeline.answers import unpack
from pipeline.data import NATURAL
from pipeline.errors import require, require_at_least
from pipeline.heads import Verdict
from pipeline.inference import Bootstrap, Estimate, Outcome, claim, estimate, holm, seeds_to_settle
from pipeline.tracking.study import PRUNED_TAG, arm_or_head, condition, settings, size_verdicts, varied_params

if TYPE_CHECKING:
    import pandas as pd


@dataclass
class Statistics:
    """How sure a comparison has to be.

    Attributes:
        margin: Smallest difference of interest δ, in accuracy: half a point, about what separates neighbours in tables
            of published results. Arms that differ by less are as good as each other.
        confidence: Of intervals, and of the verdicts of a study together.
        resamples: Of the two-level bootstrap.
    """

    margin: float = 0.005
    confidence: float = 0.95
    resamples: int = 4000

    def __post_init__(self) -> None:
        require(
            0 < self.margin < 1,
            "statistics.margin",
            self.margin,
            "must lie in (0, 1): it is a difference of accuracies",
            "Use for example statistics.margin=0.005 for half a point.",
        )
        require(
            0.5 <= self.confidence < 1,
            "statistics.confidence",
            self.confidence,
            "must lie in [0.5, 1)",
            "Use for example statistics.confidence=0.95.",
        )
        require_at_least(100, "statistics.resamples", self.resamples, 4000)


MODES = {"resize": "image resized", "canvas": "image at its scale on a canvas, or its centre"}
"""Modes of making an image of another size, and how a chart names them."""
TEST = "test"
PAIRING = ("split", "batches", "backbone")
"""Tags `pairing.*` in which two runs must agree for their difference to be that of their arms."""
CONTROL_LEVEL = 0.01
"""p value below which the A/A control has failed: it fails in one of a hundred studies in which all is well."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seed.

    Attributes:
        name: Of the arm, or of its head and what else tells it apart.
        head: Name of its head.
        color: Of its head in charts.
        seeds: Whose runs are compared, ascending.
        runs: These, in the order of `seeds`.
        answers: By condition, bool (seeds, images): right or wrong. Conditions that the head refuses are not there.
        accuracy: By condition; None with a single seed.
        verdicts: By image height in pixels.
    """

    name: str
    head: str
    color: str
    seeds: tuple[int, ...]
    runs: pd.DataFrame
    answers: Mapping[str, np.ndarray]
    accuracy: Mapping[str, Estimate]
    verdicts: Mapping[int, Verdict]

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways other than as it is in which the models were run at other sizes, in the order of their measurement."""
        return tuple(dict.fromkeys(name.partition(".")[2] for name in self.answers if "." in name))

    def curve(self, conditions: Sequence[str], confidence: float) -> tuple[list[float], list[tuple[float, float]]]:
        """Mean accuracy under each condition and how far its interval reaches below and above; NaN where refused."""
        means, errors = [], []
        for name in conditions:
            found = self.accuracy.get(name)
            low, high = found.interval(confidence) if found else (math.nan, math.nan)
            means.append(found.mean if found else math.nan)
            errors.append((means[-1] - low, high - means[-1]))
        return means, errors

    def mean(self, column: str) -> float:
        """Mean of a column of `runs` over the seeds."""
        return float(self.runs[column].mean())


@dataclass(frozen=True)
class Comparison:
    """Two arms under one condition.

    Attributes:
        first: Name of arm A.
        second: Name of arm B.
        condition: `test`, `resize_035px`, ….
        difference: Of the accuracies, A − B.
        outcome: What the difference comes to, once corrected for the number of comparisons.
        claimed: What it comes closest to.
        p_value: Of that claim, after Holm's correction.
        more_seeds: How many more would settle an undecided one, if nothing else changed; None if no number would.
        mcnemar: Of each seed, the exact p value of McNemar's test: about that one pair of trainings, nothing more.
    """

    first: str
    second: str
    condition: str
    difference: Estimate
    outcome: Outcome
    claimed: Outcome
    p_value: float
    more_seeds: int | None
    mcnemar: tuple[float, ...]


@dataclass(frozen=True)
class Control:
    """Two arms that are the same function at the training size.

    Attributes:
        first: Name of one.
        second: Name of the other.
        difference: Of their accuracies: nothing but noise, so its size is the floor below which no difference counts.
        p_value: Against "no difference"; two-sided, after Holm's correction over the controls of the study.
    """

    first: str
    second: str
    difference: Estimate
    p_value: float

    @property
    def holds(self) -> bool:
        return self.p_value >= CONTROL_LEVEL


@dataclass(frozen=True)
class Group:
    """All arms of one dataset, image size and backbone.

    Attributes:
        backbone: Its name.
        dataset: Its name.
        image_size: `28×28`, in pixels, or `natural, about 28×28`.
        arms: In the order of their first runs.
        comparisons: Every pair of arms, as they are, under every condition that both take; none with a single seed.
        controls: Every pair of arms that are the same function at the training size.
        left_out: What is not compared and why, a sentence each.
    """

    backbone: str
    dataset: str
    image_size: str
    arms: tuple[Arm, ...]
    comparisons: tuple[Comparison, ...]
    controls: tuple[Control, ...]
    left_out: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"{self.backbone} on {self.dataset} at {self.image_size} px"

    @property
    def file_name(self) -> str:
        """The title as part of a file's name."""
        name = f"{self.backbone}-{self.dataset}-{self.image_size}"
        return name.replace("/", "-").replace("×", "x").replace(", ", "-").replace(" ", "-")

    @property
    def native(self) -> int:
        """Height of the training images in pixels; with natural sizes, that of the reference."""
        return int(self.image_size.removeprefix(NATURAL).split("×")[0])

    @property
    def test_height(self) -> int | None:
        """Height of the test images in pixels; None with natural sizes."""
        return _test_height(self.image_size)

    @property
    def trained_at(self) -> str:
        """`28 px`, or `natural sizes`."""
        return "natural sizes" if self.test_height is None else f"{self.test_height} px"

    def arm(self, name: str) -> Arm:
        return next(arm for arm in self.arms if arm.name == name)


def condition_of(mode: str, height: int, test_height: int | None, way: str = "") -> str:
    """Name of the condition in which images of a height in pixels are made in one of `MODES`."""
    return TEST if height == test_height else condition(mode, height, way)


def _test_height(image_size: str) -> int | None:
    return None if image_size.startswith(NATURAL) else int(image_size.split("×")[0])


def analyse(runs: pd.DataFrame, statistics: Statistics) -> list[Group]:
    """Compares all arms of a study.

    Args:
        runs: Finished runs with their answers, see the module's docstring.
        statistics: How sure a verdict has to be; Holm's correction is over all comparisons of the study.
    """
    groups = [
        _group(names, of_group, statistics.resamples)
        for names, of_group in runs.groupby(["tags.backbone", "tags.dataset", "params.image_size"], sort=False)
    ]
    groups = [group for group in groups if group.arms]  # All of a search's runs on a dataset may have ended early.
    claims = [[claim(found.difference, statistics.margin) for found in group.comparisons] for group in groups]
    corrected = iter(holm([p_value for of_group in claims for _, p_value in of_group]))
    total = sum(len(of_group) for of_group in claims)
    level = 1 - statistics.confidence
    decided = []
    for group, of_group in zip(groups, claims, strict=True):
        comparisons = []
        for found, (claimed, _) in zip(group.comparisons, of_group, strict=True):
            p_value = next(corrected)
            settled = p_value <= level
            needed = None if settled else seeds_to_settle(found.difference, statistics.margin, level / total)
            comparisons.append(
                replace(
                    found,
                    claimed=claimed,
                    outcome=claimed if settled else Outcome.UNDECIDED,
                    p_value=p_value,
                    more_seeds=None if needed is None else needed - found.difference.seeds,
                )
            )
        decided.append(replace(group, comparisons=tuple(comparisons)))
    return _correct_controls(decided)


def _correct_controls(groups: Sequence[Group]) -> list[Group]:
    """A study of several sizes has as many controls, each with its chance to fail though all is well."""
    corrected = iter(holm([control.p_value for group in groups for control in group.controls]))
    return [
        replace(group, controls=tuple(replace(control, p_value=next(corrected)) for control in group.controls))
        for group in groups
    ]


def split_into_arms(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs that differ in nothing but their seed, under the arm's or head's name and what else tells them apart."""
    labelled = []
    names = arm_or_head(runs)
    heads = runs["tags.head"].groupby(names).nunique()
    for (name, head), of_head in runs.groupby([names.rename("arm"), "tags.head"], sort=False):
        label = [str(name)] if heads[name] == 1 else [str(name), f"head={head}"]
        varied = [f"params.{name}" for name in varied_params(of_head)]
        if not varied:
            labelled.append((" ".join(label), of_head))
            continue
        for values, arm in of_head.groupby(varied, sort=False, dropna=False):
            differences = [
                f"{column.removeprefix('params.')}={value}" for column, value in zip(varied, values, strict=True)
            ]
            labelled.append((" ".join([*label, *differences]), arm))
    return labelled


def _group(names: tuple[str, str, str], runs: pd.DataFrame, resamples: int) -> Group:
    backbone, dataset, image_size = names
    by_arm, left_out = _newest_of_each_seed(split_into_arms(runs))
    seeds, unpaired = _paired_seeds(by_arm)
    left_out += unpaired
    # Without a pair, what each arm did alone is still worth a look.
    shown = {name: arm.loc[list(seeds)] if seeds else arm for name, arm in by_arm.items()}
    answers = {name: _answers(arm, _test_height(image_size)) if seeds else {} for name, arm in shown.items()}
    estimates: dict[str, dict[str, Estimate]] = {name: {} for name in by_arm}
    comparisons: list[Comparison] = []
    if len(seeds) >= 2:
        resampled = _resample(answers, len(seeds), resamples)
        for (name, under), means in resampled.items():
            estimates[name][under] = estimate(answers[name][under], means)
        for under in sorted({under for _, under in resampled if "." not in under}):
            takers = [name for name in by_arm if (name, under) in resampled]
            for first, second in itertools.combinations(takers, 2):
                right, other = answers[first][under], answers[second][under]
                means = resampled[first, under] - resampled[second, under]
                comparisons.append(
                    Comparison(
                        first=first,
                        second=second,
                        condition=under,
                        difference=estimate(right.astype(np.int8) - other.astype(np.int8), means),
                        outcome=Outcome.UNDECIDED,
                        claimed=Outcome.UNDECIDED,
                        p_value=1.0,
                        more_seeds=None,
                        mcnemar=tuple(_mcnemar(*rows) for rows in zip(right, other, strict=True)),
                    )
                )
    elif by_arm:
        left_out.append(
            f"{len(seeds) or 'no'} seed in common: nothing can be said about other trainings; at least 2 are needed"
        )
    arms = tuple(
        Arm(
            name=name,
            head=arm["tags.head"].iloc[0],
            color=arm["tags.mlflow.runColor"].iloc[0],
            seeds=tuple(arm.index),
            runs=arm,
            answers=answers[name],
            accuracy=estimates[name],
            verdicts=size_verdicts(arm.iloc[0]),
        )
        for name, arm in shown.items()
    )
    comparisons.sort(key=lambda found: (found.condition != TEST, found.condition))
    return Group(backbone, dataset, image_size, arms, tuple(comparisons), _controls(arms, comparisons), tuple(left_out))


def _resample(
    answers: Mapping[str, Mapping[str, np.ndarray]], seeds: int, resamples: int
) -> dict[tuple[str, str], np.ndarray]:
    """Bootstrap means by arm and condition; tables of equally many images share their draws."""
    tables = {(name, under): table for name, of_arm in answers.items() for under, table in of_arm.items()}
    found = {}
    for images in {table.shape[1] for table in tables.values()}:
        alike = [key for key, table in tables.items() if table.shape[1] == images]
        means = Bootstrap(seeds, images, resamples).means([tables[key] for key in alike])
        found.update(dict(zip(alike, means, strict=True)))
    return found


def _newest_of_each_seed(arms: Sequence[tuple[str, pd.DataFrame]]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The arms by name, their whole runs by seed; of two runs of one arm and seed, the newer one counts."""
    kept, left_out = {}, []
    for name, runs in arms:
        by_seed = runs.assign(seed=runs["params.seed"].astype(int)).sort_values("start_time").set_index("seed")
        if f"tags.{PRUNED_TAG}" in by_seed and (pruned := by_seed[f"tags.{PRUNED_TAG}"].notna()).any():
            left_out.append(f"{name}: the trainings of seeds {_listed(by_seed.index[pruned])} ended early")
            by_seed = by_seed[~pruned]
        older = by_seed.index.duplicated(keep="last")
        if older.any():
            left_out.append(f"{name}: older runs of seeds {_listed(by_seed.index[older])} do not count")
        if len(by_seed):
            kept[name] = by_seed[~older].sort_index()
    return kept, left_out


def _paired_seeds(arms: Mapping[str, pd.DataFrame]) -> tuple[tuple[int, ...], list[str]]:
    """Seeds that all arms have, with equal recorded facts; and what is wrong with the others."""
    left_out: list[str] = []
    if not arms:
        return (), left_out
    everyones = set.union(*(set(runs.index) for runs in arms.values()))
    common = set.intersection(*(set(runs.index) for runs in arms.values()))
    for name, runs in arms.items():
        if missing := everyones - set(runs.index):
            left_out.append(f"{name}: no finished run with seeds {_listed(missing)}")
    paired = set()
    for seed in common:
        facts = {fact: {runs.loc[seed].get(f"tags.pairing.{fact}") for runs in arms.values()} for fact in PAIRING}
        differing = [
            fact
            for fact, digests in facts.items()
            if len(digests) > 1 or not all(isinstance(digest, str) for digest in digests)
        ]
        if differing:
            left_out.append(f"seed {seed}: the runs did not start from the same {', '.join(differing)}")
        else:
            paired.add(seed)
    return tuple(sorted(paired)), left_out


def _answers(runs: pd.DataFrame, test_height: int | None) -> dict[str, np.ndarray]:
    """By condition, what each run got right, (runs, images); only conditions that all of them took."""
    # What the probe measured at the training size is `test` again, perhaps on fewer images.
    again = [condition(mode, test_height) for mode in MODES] if test_height is not None else []
    found = {}
    for column in runs:
        match = re.fullmatch(r"answers\.(.+)", str(column))
        if match and match.group(1).partition(".")[0] not in again and runs[column].notna().all():
            found[match.group(1)] = np.stack([unpack(packed) for packed in runs[column]])
    return found


def _mcnemar(first: np.ndarray, second: np.ndarray) -> float:
    """Exact two-sided p value (McNemar 1947, Psychometrika 12(2)) against "as many were right for one alone as for the
    other alone"."""
    from scipy.stats import binomtest

    only_first, only_second = int(np.sum(first & ~second)), int(np.sum(second & ~first))
    disagreeing = only_first + only_second
    return float(binomtest(only_first, disagreeing).pvalue) if disagreeing else 1.0


def _controls(arms: Sequence[Arm], comparisons: Sequence[Comparison]) -> tuple[Control, ...]:
    by_name = {arm.name: arm for arm in arms}
    controls = []
    for found in comparisons:
        if found.condition != TEST or not _same_function(by_name[found.first], by_name[found.second]):
            continue
        p_value = 2 * min(found.difference.p_above(0.0), found.difference.p_below(0.0), 0.5)
        controls.append(Control(found.first, found.second, found.difference, p_value))
    return tuple(controls)


def _same_function(first: Arm, second: Arm) -> bool:
    """Whether two arms are one function at the training size: full-window and global pooling, with all else equal."""
    heads = {first.head: first.runs.iloc[0], second.head: second.runs.iloc[0]}
    if set(heads) != {"average_pool", "global_average_pool"}:
        return False
    average, globally = heads["average_pool"], heads["global_average_pool"]
    if (average["params.head.pool_size"], average["params.head.padding"]) != ("full", "valid"):
        return False
    keys = [f"params.{name}" for name in settings(first.runs) if name not in ("head", "head.name", "arm")]
    # A knob that only one of the two heads has is missing in the other's run.
    return all(average[key] == globally[key] for key in keys if average.notna()[key] and globally.notna()[key])


def _listed(seeds: Sequence[int] | set[int]) -> str:
    return ", ".join(str(seed) for seed in sorted(seeds))
