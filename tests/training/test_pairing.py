"""What two runs share, and what tells them apart."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from pipeline.data import source
from pipeline.data.settings import Dataset
from pipeline.heads.base import Head
from pipeline.heads.flatten import FlattenDense
from pipeline.heads.global_pools import GlobalAveragePool
from pipeline.models.backbones.small import SmallFcn
from pipeline.models.build import build_model
from pipeline.training.pairing import Pairing, pairing_of


def pairing(head: Head, tmp_path: Path, seed: int = 0, batch_size: int = 32, filters: int = 4) -> Pairing:
    dataset = Dataset(name="digits")
    backbone = SmallFcn(filters=[filters], strides=[2])
    model = build_model(backbone, head, (8, 8, 1), 10, seed)
    return pairing_of(source.load(dataset, seed, tmp_path), model, batch_size)


@pytest.mark.long
def test_runs_that_differ_in_their_head_alone_start_from_the_same(tmp_path: Path) -> None:
    flatten = pairing(FlattenDense(hidden_units=[8], dropout=0.5), tmp_path)
    assert flatten == pairing(GlobalAveragePool(), tmp_path)
    assert all(len(digest) == 32 for digest in vars(flatten).values())


@pytest.mark.long
def test_each_fact_changes_with_what_it_is_about(tmp_path: Path) -> None:
    reference = pairing(GlobalAveragePool(), tmp_path)
    seed = pairing(GlobalAveragePool(), tmp_path, seed=1)
    assert all(getattr(seed, name) != digest for name, digest in vars(reference).items())
    batch = pairing(GlobalAveragePool(), tmp_path, batch_size=16)
    assert (batch.split, batch.backbone) == (reference.split, reference.backbone)
    assert batch.batches != reference.batches
    data = source.load(Dataset(name="digits"), 0, tmp_path)
    swapped = replace(data, validation_indices=np.array([data.train_indices[0], *data.validation_indices[1:]]))
    model = build_model(SmallFcn(filters=[4], strides=[2]), GlobalAveragePool(), (8, 8, 1), 10, seed=0)
    other = pairing_of(swapped, model, 32)
    assert other.split != reference.split
    assert (other.batches, other.backbone) == (reference.batches, reference.backbone)
    wide = pairing(GlobalAveragePool(), tmp_path, filters=8)
    assert (wide.split, wide.batches) == (reference.split, reference.batches)
    assert wide.backbone != reference.backbone
