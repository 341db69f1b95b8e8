"""The A/A control: what it finds, and what it could find."""

from __future__ import annotations

import math

import numpy as np
import pytest

from pipeline.comparison.analysis import analyse
from pipeline.comparison.controls import Agreement, agreement_of
from pipeline.comparison.report.answer import control_text
from pipeline.comparison.report.report import make_report
from pipeline.other_sizes.ways import WAYS
from tests.comparison.studies import ASKS, STATISTICS, study


def _runs(draws: np.random.Generator, seeds: int, images: int = 1000) -> tuple[np.ndarray, np.ndarray]:
    """Two arms whose runs with one seed differ in a hundredth of the images, those of different seeds in a fifth."""
    first = draws.random((seeds, images)) < 0.9
    return first, first ^ (draws.random((seeds, images)) < 0.01)


def test_pairs_agree_more_than_runs_that_are_none() -> None:
    found = agreement_of(*_runs(np.random.default_rng(0), seeds=5))
    assert found.same_seed == pytest.approx(0.01, abs=0.003)
    assert found.other_seed == pytest.approx(2 * 0.9 * 0.1, abs=0.02)
    assert found.p_value == pytest.approx(1 / math.factorial(5))  # Of all 120 ways to pair five runs.
    assert found.shows is True


def test_broken_pairing_shows() -> None:
    """Arms that got other splits and orders differ in accuracy as a study in which all is well; in their errors not."""
    first, second = _runs(np.random.default_rng(0), seeds=5)
    found = agreement_of(first, np.roll(second, 1, axis=0))
    assert found.same_seed > found.other_seed
    assert found.shows is False


def test_a_study_whose_pairing_is_broken_says_so_first() -> None:
    runs = study(average=0.9)
    paired = make_report(runs, STATISTICS, WAYS, ASKS)
    assert not any("err no more alike" in warning for warning in paired.warnings)
    pool = runs["tags.head"] == "average_pool"
    # As if the arm had drawn its seeds anew: seed 0 has what another arm's seed 1 has, and so on.
    globally = runs.loc[runs["tags.head"] == "global_average_pool", "answers.test"].tolist()
    runs.loc[pool, "answers.test"] = [*globally[1:], globally[0]]
    (warning,) = make_report(runs, STATISTICS, WAYS, ASKS).warnings
    assert warning.startswith("runs of average_pool and global_average_pool with the same seed err no more alike than")


def test_three_seeds_cannot_tell() -> None:
    found = agreement_of(*_runs(np.random.default_rng(0), seeds=3))
    assert found.p_value == pytest.approx(1 / math.factorial(3))
    assert found.shows is None
    assert Agreement(0.0, 0.0, 1.0).shows is False


def test_the_bias_that_it_names_it_would_have_found() -> None:
    (group,) = analyse(study(seeds=10), STATISTICS, ASKS)
    (control,) = group.controls
    found = control.difference
    assert control.detectable == pytest.approx(found.half_width(0.99) + 0.8416 * found.standard_error, rel=1e-3)
    # Such studies with that bias, their seeds drawn anew: four of five fail the control.
    seeds, spread = found.seeds, found.standard_error * math.sqrt(found.seeds)
    draws = np.random.default_rng(0).normal(control.detectable, spread, (5000, seeds))
    caught = np.abs(draws.mean(axis=1)) > found.half_width(0.99)
    assert np.mean(caught) == pytest.approx(0.8, abs=0.03)
    said = control_text(control, "8 px", STATISTICS)
    assert f"A bias of about {100 * control.detectable:.2f} points or more it would have found" in said
    assert "Their runs with the same seed disagree on " in said
