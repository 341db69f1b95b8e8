"""Trainings that several studies have in common."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import pandas as pd

from pipeline.common.condition import TEST
from pipeline.common.names import ANSWERS, PAIRING_TAGS, Param, Tag
from pipeline.comparison.arms import WEIGHTS_OF_BACKBONE, listed


def together(studies: Sequence[pd.DataFrame]) -> pd.DataFrame:
    """The runs of several studies in one table.

    A setting that one of them did not record yet, as it came later, tells no arms apart. Those of a head are only where
    there is such a head, and those that say where a backbone's weights come from only where it has them.
    """
    everywhere = set.intersection(*(set(runs) for runs in studies))
    runs = pd.concat(studies, ignore_index=True)
    kept = [
        column
        for column in runs
        if column in everywhere
        or not column.startswith("params.")
        or column.startswith(("params.head.", "params.arm"))
        or column in WEIGHTS_OF_BACKBONE
    ]
    # Parquet and MLflow have no value in different ways.
    return runs[kept].astype(object).where(runs[kept].notna(), None).copy()


def without_repeats(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """The runs of several studies, each training once, and a sentence about each two studies that share some.

    A training is the same if it began from the same split, batches and weights with the same head, and gives the same
    answer to every test image.

    Args:
        runs: Finished runs with their answers, see `comparison.analysis`.
    """
    if Tag.STUDY.column not in runs or runs[Tag.STUDY.column].nunique(dropna=False) < 2:
        return runs, []
    of_training = [
        *(tag.column for tag in (Tag.DATASET, Tag.BACKBONE, Tag.HEAD, *PAIRING_TAGS)),
        *(Param.SEED.column, Param.IMAGE_SIZE.column, f"{ANSWERS}{TEST}"),
    ]
    training = runs.groupby(of_training, sort=False, dropna=False).ngroup()
    sentences = []
    names = runs[Tag.STUDY.column].fillna("a sweep")
    for one, other in itertools.combinations(dict.fromkeys(names), 2):
        both = set(training[names == one]) & set(training[names == other])
        if both:
            seeds = {int(seed) for seed in runs.loc[training.isin(both), Param.SEED.column]}
            sentences.append(
                f"{one} and {other} share {len(both)} trainings (seeds {listed(seeds)}): what they say of these is one "
                "finding, not two. Each counts once"
            )
    return runs[~training.duplicated()].reset_index(drop=True), sentences
