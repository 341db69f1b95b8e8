"""Differences of differences: whether the lead of one arm over another depends on a swept setting."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from pipeline.common.condition import TEST
from pipeline.common.names import ANSWERS, Tag
from pipeline.comparison.answers import unpack
from pipeline.comparison.arms import listed, newest_of_each_seed, paired_seeds, split_into_arms
from pipeline.comparison.decisions import Decision, decide
from pipeline.comparison.estimates import Estimate, estimate
from pipeline.comparison.levels import by_level, level_number, varies
from pipeline.comparison.settings import About, Asks, Statistics


@dataclass(frozen=True)
class Contrast:
    """How the lead of arm A over arm B at the training size changes with a setting.

    Attributes:
        dataset: On which.
        first: Name of arm A.
        second: Name of arm B; None where there is one arm, and it is its accuracy that changes.
        levels: Values of the setting: two of an interaction, all of a trend.
        leads: The lead at each, A − B.
        change: From the first level to the second; of a trend, for each doubling of the setting.
        decision: What the change comes to, corrected for the others of its family.
        is_widest: Whether it is from the first to the last value of the setting.
    """

    dataset: str
    first: str
    second: str | None
    levels: tuple[str, ...]
    leads: tuple[Estimate, ...]
    change: Estimate
    decision: Decision
    is_widest: bool = True


@dataclass(frozen=True)
class Contrasts:
    """What can be said of a setting's influence on the leads.

    Attributes:
        over: The setting.
        found: All contrasts.
        left_out: What could not be told and why, a sentence each.
    """

    over: str
    found: tuple[Contrast, ...] = ()
    left_out: tuple[str, ...] = ()


def contrasts(runs: pd.DataFrame, statistics: Statistics, asks: Asks) -> Contrasts | None:
    """The contrasts that a study asks for; None where it asks for something else.

    Args:
        runs: Finished runs with their answers, see `comparison.analysis`.
        statistics: How sure a verdict has to be; the contrasts are families of their own.
        asks: What the study's question is about.
    """
    if asks.over is None:
        return None
    if not varies(runs, asks.over):
        return Contrasts(asks.over, left_out=(f"{asks.over} has fewer than two values in these runs",))
    found: list[Contrast] = []
    left_out: list[str] = []
    for dataset, of_dataset in runs.groupby(Tag.DATASET.column, sort=False):
        levels, missing = _levels(of_dataset, asks.over)
        left_out += [f"{dataset}: {line}" for line in missing]
        numbers = [level_number(level) for level in levels]
        if asks.about is About.trend and not all(number is not None and number > 0 for number in numbers):
            left_out.append(f"{dataset}: {asks.over} is no number above 0, which a trend needs")
            continue
        names = list(next(iter(levels.values()), {}))
        pairs: list[tuple[str, str | None]] = [*itertools.combinations(names, 2)] or [(name, None) for name in names]
        for first, second in pairs:
            leads = {level: _lead(tables, first, second) for level, tables in levels.items()}
            found += _of_pair(str(dataset), first, second, leads, asks)
    return Contrasts(asks.over, tuple(_decided(found, statistics, asks)), tuple(left_out))


def _levels(runs: pd.DataFrame, over: str) -> tuple[dict[str, dict[str, np.ndarray]], list[str]]:
    """By value of the setting, and by arm: the answers of the same seeds to the same images, bool (S, N)."""
    arms_of: dict[str, dict[str, pd.DataFrame]] = {}
    left_out: list[str] = []
    for level, of_level in by_level(runs, over):
        arms, older = newest_of_each_seed(split_into_arms(of_level))
        seeds, unpaired = paired_seeds(arms)
        left_out += [f"{level}: {line}" for line in (*older, *unpaired)]
        arms_of[level] = {name: arm.loc[list(seeds)] for name, arm in arms.items()}
    names = [name for name in next(iter(arms_of.values())) if all(name in arms for arms in arms_of.values())]
    tables = {level: {name: arms[name] for name in names} for level, arms in arms_of.items()}
    seeds_of = [set(arm.index) for arms in tables.values() for arm in arms.values()]
    common = sorted(set.intersection(*seeds_of)) if seeds_of else []
    # What a seed draws beside the split may depend on the setting; which images are trained on must not.
    split = [
        seed
        for seed in common
        if len({arm.loc[seed, Tag.SPLIT.column] for arms in tables.values() for arm in arms.values()}) == 1
    ]
    if set(common) - set(split):
        left_out.append(f"seeds {listed(set(common) - set(split))}: not trained on the same images at every value")
    if len(split) < 2:
        left_out.append("fewer than two seeds in common to all values")
        return {}, left_out
    return {
        level: {
            name: np.stack([unpack(packed) for packed in arm.loc[split, f"{ANSWERS}{TEST}"]])
            for name, arm in arms.items()
        }
        for level, arms in tables.items()
    }, left_out


def _lead(tables: Mapping[str, np.ndarray], first: str, second: str | None) -> np.ndarray:
    right = tables[first].astype(np.int8)
    return right if second is None else right - tables[second].astype(np.int8)


def _of_pair(dataset: str, first: str, second: str | None, leads: dict[str, np.ndarray], asks: Asks) -> list[Contrast]:
    undecided = Decision.none()
    if asks.about is About.trend:
        steps = np.array([math.log2(level_number(level) or 1.0) for level in leads])
        weights = (steps - steps.mean()) / np.sum((steps - steps.mean()) ** 2)  # Of the least squares line.
        table = np.tensordot(weights, np.stack(list(leads.values())), axes=1)
        change = estimate(table, squared_weights=float(np.sum(weights**2)))
        estimates = tuple(estimate(lead) for lead in leads.values())
        return [Contrast(dataset, first, second, tuple(leads), estimates, change, undecided)]
    return [
        Contrast(
            dataset,
            first,
            second,
            (low, high),
            (estimate(leads[low]), estimate(leads[high])),
            estimate(leads[high] - leads[low], squared_weights=2.0),
            undecided,
            is_widest=(low, high) == (next(iter(leads)), next(reversed(leads))),
        )
        for low, high in itertools.combinations(leads, 2)
    ]


def _decided(found: Sequence[Contrast], statistics: Statistics, asks: Asks) -> list[Contrast]:
    decided = list(found)
    for primary in (True, False):
        family = [
            index
            for index, contrast in enumerate(found)
            if (contrast.second is None or asks.is_primary(contrast.first, contrast.second)) is primary
        ]
        decisions = decide([found[index].change for index in family], statistics)
        for index, decision in zip(family, decisions, strict=True):
            decided[index] = replace(found[index], decision=decision)
    return decided
