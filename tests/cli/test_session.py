"""What the running command knows of its sweep."""

from __future__ import annotations

import pytest
from omegaconf import OmegaConf

from pipeline.cli.session import _grid_size, sweep_command


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


@pytest.mark.parametrize(
    ("study", "typed", "told"),
    [
        ("heads", ["study=heads", "seed=0,1", "dataset=cifar10"], "study=heads seed=0,1 dataset=cifar10"),
        (None, ["head.strides=[1,1],[2,2]"], "--multirun 'head.strides=[1,1],[2,2]'"),
        ("heads", ["study=heads", "tracking=server", "tracking.uri=http://u:p@h", "output_dir=/x"], "study=heads"),
        ("heads", ["study=heads", "launch=parallel", "launch.workers=2", "rerun=true"], "study=heads"),
        ("heads", ["study=heads", "dataset.path=/home/me/birds"], "study=heads dataset.path=birds"),
        ("heads", ["+backbone.path=/a/b.keras,'/c d/e.keras'"], "'+backbone.path=b.keras,'\"'\"'e.keras'\"'\"''"),
        ("heads", ["backbone.path=models:/fashion/1"], "backbone.path=models:/fashion/1"),
    ],
    ids=str,
)
def test_a_sweep_is_repeated_by_what_was_typed_but_for_places(study: str | None, typed: list[str], told: str) -> None:
    overrides = {"task": typed, "hydra": ["hydra.mode=MULTIRUN"]}
    config = OmegaConf.create({"hydra": {"overrides": overrides, "runtime": {"choices": {"study": study}}}})
    assert sweep_command(config) == f"python -m pipeline.train {told}"


def test_a_search_is_repeated_as_one() -> None:
    overrides = {
        "task": ["seed=0"],
        "hydra": ["hydra/sweeper=search", "hydra.sweeper.n_trials=9", "hydra.verbose=true"],
    }
    config = OmegaConf.create({"hydra": {"overrides": overrides, "runtime": {"choices": {}}}})
    told = "python -m pipeline.train --multirun hydra/sweeper=search hydra.sweeper.n_trials=9 seed=0"
    assert sweep_command(config) == told
