"""The arms of a study: runs that differ in nothing but their seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from pipeline.common.condition import Condition
from pipeline.common.names import ANSWERS, INDIFFERENT, PAIRING_TAGS, Param, Tag, size_of_tag
from pipeline.comparison.answers import unpack
from pipeline.comparison.estimates import Estimate
from pipeline.comparison.params import param_value
from pipeline.heads import HEADS
from pipeline.heads.verdict import Verdict

WEIGHTS_OF_BACKBONE = tuple(f"params.backbone.{name}" for name in ("path", "weights", "fresh_weights"))
"""Columns that say where a backbone's first weights come from."""

PALETTE = (
    *("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00"),
    *("#56B4E9", "#882255", "#332288", "#999933", "#000000"),
)
"""Colours of arms that share a head: those of Okabe and Ito (2008), and of Tol (2021), that stay apart for all eyes."""


@dataclass(frozen=True)
class Arm:
    """Runs that differ in nothing but their seed.

    Attributes:
        name: Of the arm, or of its head and what else tells it apart.
        head: Name of its head.
        color: In charts and in the dashboard, see `colors`.
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
    answers: Mapping[Condition, np.ndarray]
    accuracy: Mapping[Condition, Estimate]
    verdicts: Mapping[int, Verdict]

    @property
    def ways(self) -> tuple[str, ...]:
        """Ways other than as it is in which the models were run at other sizes, in the order of their measurement."""
        return tuple(dict.fromkeys(condition.way for condition in self.answers if condition.way))

    @property
    def training_sizes(self) -> list[int]:
        """Heights in pixels that it was trained at, ascending; none where that is the size of the dataset alone."""
        recorded = self.runs.iloc[0].get(Param.TRAINING_SIZES.column)
        sizes = param_value(recorded) if isinstance(recorded, str) else None
        return sorted(sizes) if isinstance(sizes, list) else []

    def share_right(self, condition: Condition) -> float | None:
        """Mean accuracy under a condition, with a single seed too; None where there is none."""
        found = self.answers.get(condition)
        return None if found is None else float(found.mean())

    def curve(
        self, conditions: Sequence[Condition], confidence: float
    ) -> tuple[list[float], list[tuple[float, float]]]:
        """Mean accuracy under each condition and how far its interval, within 0 and 1, reaches below and above.

        NaN where it is refused.
        """
        means, errors = [], []
        for condition in conditions:
            found = self.accuracy.get(condition)
            low, high = found.interval(confidence) if found else (math.nan, math.nan)
            means.append(found.mean if found else math.nan)
            errors.append((means[-1] - max(low, 0.0), min(high, 1.0) - means[-1]))
        return means, errors

    def mean(self, column: str) -> float:
        """Mean of a column of `runs` over the seeds.

        To twelve decimals, so that a mean of accuracies is the share of right answers, which other tables show: of
        .8974 and .9369 the mean is .9171499999999999, the share .91715, and with four decimals they would differ.
        """
        return round(float(self.runs[column].mean()), 12)


def split_into_arms(runs: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs that differ in nothing but their seed, under the arm's or head's name and what else tells them apart."""
    labelled = []
    names = arm_or_head(runs)
    heads = runs[Tag.HEAD.column].groupby(names).nunique()
    for (name, head), head_runs in runs.groupby([names.rename("arm"), Tag.HEAD.column], sort=False):
        label = [str(name)] if heads[name] == 1 else [str(name), f"head={head}"]
        varied = [f"params.{name}" for name in varied_params(head_runs)]
        if not varied:
            labelled.append((" ".join(label), head_runs))
            continue
        for values, arm in head_runs.groupby(varied, sort=False, dropna=False):
            differences = [
                f"{column.removeprefix('params.')}={value}" for column, value in zip(varied, values, strict=True)
            ]
            labelled.append((" ".join([*label, *differences]), arm))
    return labelled


def colors(arms: Mapping[str, pd.DataFrame]) -> dict[str, str]:
    """Colours of arms by name: of their heads where each has one of its own, else of the palette, by their names.

    What runs have recorded counts for heads that there are no more: a study of arms may have coloured them anew.
    """
    of_heads = {head.name: head.color for head in HEADS}
    found = {
        name: of_heads.get(str(runs[Tag.HEAD.column].iloc[0]), str(runs[Tag.COLOR.column].iloc[0]))
        for name, runs in arms.items()
    }
    if len(set(found.values())) == len(found):
        return found
    return {name: PALETTE[index % len(PALETTE)] for index, name in enumerate(sorted(arms))}


def newest_of_each_seed(arms: Sequence[tuple[str, pd.DataFrame]]) -> tuple[dict[str, pd.DataFrame], list[str]]:
    """The arms by name, their whole runs by seed; of two runs of one arm and seed, the newer one counts."""
    kept, left_out = {}, []
    for name, runs in arms:
        by_seed = runs.assign(seed=runs[Param.SEED.column].astype(int)).sort_values("start_time").set_index("seed")
        if Tag.PRUNED.column in by_seed and (pruned := by_seed[Tag.PRUNED.column].notna()).any():
            left_out.append(f"{name}: the trainings of seeds {listed(by_seed.index[pruned])} ended early")
            by_seed = by_seed[~pruned]
        older = by_seed.index.duplicated(keep="last")
        if older.any():
            left_out.append(f"{name}: older runs of seeds {listed(by_seed.index[older])} do not count")
        if len(by_seed):
            kept[name] = by_seed[~older].sort_index()
    return kept, left_out


def paired_seeds(arms: Mapping[str, pd.DataFrame]) -> tuple[tuple[int, ...], list[str]]:
    """Seeds that all arms have, with equal recorded facts; and what is wrong with the others.

    Arms that differ in where a backbone's weights come from, as a trained one and one from scratch, need not begin with
    the same: that is what they compare.
    """
    left_out: list[str] = []
    if not arms:
        return (), left_out
    everyones = set.union(*(set(runs.index) for runs in arms.values()))
    common = set.intersection(*(set(runs.index) for runs in arms.values()))
    for name, runs in arms.items():
        if missing := everyones - set(runs.index):
            left_out.append(f"{name}: no finished run with seeds {listed(missing)}")
    paired = set()
    for seed in common:
        facts = {
            tag: {(_origin(tag, runs), runs.loc[seed].get(tag.column)) for runs in arms.values()}
            for tag in PAIRING_TAGS
        }
        differing = [
            tag.rpartition(".")[2]
            for tag, digests in facts.items()
            if len(digests) > len({origin for origin, _ in digests})
            or not all(isinstance(digest, str) for _, digest in digests)
        ]
        if differing:
            left_out.append(f"seed {seed}: the runs did not start from the same {', '.join(differing)}")
        else:
            paired.add(seed)
    return tuple(sorted(paired)), left_out


def _origin(tag: Tag, runs: pd.DataFrame) -> tuple[str, ...]:
    """Among arms of one origin a fact has to be equal: of weights, where they come from; all others have one."""
    if tag is not Tag.INITIAL_BACKBONE:
        return ()
    return tuple(str(runs.iloc[0].get(name)) for name in WEIGHTS_OF_BACKBONE)


def answers_by_condition(runs: pd.DataFrame, test_height: int | None) -> dict[Condition, np.ndarray]:
    """By condition, what each run got right, (runs, images); only conditions that all of them took."""
    found = {}
    for column in runs:
        name = str(column)
        condition = Condition.parse(name.removeprefix(ANSWERS)) if name.startswith(ANSWERS) else None
        if condition is None or not runs[column].notna().all():
            continue
        if condition.height == test_height and not _differs_from_as_is(runs, condition):
            continue
        found[condition] = np.stack([unpack(packed) for packed in runs[column]])
    return found


def _differs_from_as_is(runs: pd.DataFrame, condition: Condition) -> bool:
    """Whether the models answer otherwise than as they are, at the training size and run in some way.

    As they are, what the probe measured there is `test` again, perhaps on fewer images.
    """
    as_is = f"{ANSWERS}{Condition(condition.mode, condition.height)}"
    return as_is in runs and not runs[f"{ANSWERS}{condition}"].equals(runs[as_is])


def listed(seeds: Sequence[int] | set[int]) -> str:
    """`0, 1, 2`: seeds in their order."""
    return ", ".join(str(seed) for seed in sorted(seeds))


def size_verdicts(run: pd.Series) -> dict[int, Verdict]:
    """The verdict at each probed height in pixels, ascending, from the tags of a run."""
    found = {}
    for column, value in run.items():
        height = size_of_tag(str(column))
        if height is not None and isinstance(value, str):
            found[height] = Verdict(value)
    return dict(sorted(found.items()))


def common_value(runs: pd.DataFrame, column: str) -> str | None:
    """The value that all runs have in a column of text; None if there is no such value."""
    values = set(runs[column]) if column in runs else set()
    (value,) = values if len(values) == 1 else (None,)
    return value if isinstance(value, str) and value != "None" else None  # As MLflow writes a null.


def arm_or_head(runs: pd.DataFrame) -> pd.Series:
    """The name of each run's arm, or of its head where the study has no arms."""
    heads = runs[Tag.HEAD.column]
    return runs[Param.ARM.column].where(_has_arm(runs), heads) if Param.ARM.column in runs else heads


def _has_arm(runs: pd.DataFrame) -> pd.Series:
    """Whether each run has an arm; MLflow writes a null as a text, and a study without arms may have no value."""
    return runs[Param.ARM.column].notna() & (runs[Param.ARM.column] != "None")


def result_settings(runs: pd.DataFrame) -> list[str]:
    """Names of the params that can change a run's result, other than the seed."""
    names = [str(column).removeprefix("params.") for column in runs if str(column).startswith("params.")]
    return [name for name in names if name != Param.SEED and not name.startswith(INDIFFERENT)]


def varied_params(runs: pd.DataFrame) -> list[str]:
    """Params other than the seed that tell runs of one arm and head apart; settings of the head itself count."""
    alike = [head_runs for _, head_runs in runs.groupby([arm_or_head(runs).rename("arm"), Tag.HEAD.column])]
    return [
        name
        for name in result_settings(runs)
        if any(head_runs[f"params.{name}"].nunique(dropna=False) > 1 for head_runs in alike)
    ]


def arm_params(runs: pd.DataFrame) -> list[str]:
    """Which of the params arm and head it takes to tell the arms of a study apart."""
    named = _has_arm(runs) if Param.ARM.column in runs else runs[Tag.HEAD.column].isna()
    several = runs.groupby(arm_or_head(runs))[Tag.HEAD.column].nunique().max() > 1
    needed = {Param.ARM: bool(named.any()), Param.HEAD: bool(several or not named.all())}
    return [str(param) for param, is_needed in needed.items() if is_needed]
