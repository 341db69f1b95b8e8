"""What the running command knows of its sweep."""

from __future__ import annotations

import pytest

from pipeline.cli.session import _grid_size


@pytest.mark.parametrize(
    ("overrides", "size"),
    [
        (["study=heads", "training.epochs=2"], 1),
        (["seed=0,1,2", "head=average_pool,flatten_dense"], 3 * 2),
        # The command line comes after the study's own, and wins.
        (["seed=0,1,2,3,4", "head=average_pool,flatten_dense", "seed=0,1"], 2 * 2),
        (["seed=0,1", "seed=7"], 1),
        (["seed=range(0,10)", "head.strides=[1,1],[2,2]", "head.hidden_units=[128,64]"], 10 * 2),
    ],
    ids=str,
)
def test_a_sweep_has_as_many_runs_as_its_values_have_combinations(overrides: list[str], size: int) -> None:
    assert _grid_size(overrides) == size
