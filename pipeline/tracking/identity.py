"""Which run this is: what determines its result, and under which names it is recorded."""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipeline.common.digest import digest_of, file_digest
from pipeline.common.names import INDIFFERENT, Param
from pipeline.other_sizes.ways import REFITS
from pipeline.tracking.code_digest import code_digest
from pipeline.tracking.settings import Tracking

if TYPE_CHECKING:
    from pipeline.data.batches import Data

LIBRARIES = ("tensorflow", "keras")
"""Whose versions take part in what a run computes."""
OF_REFITS = ("scikit-learn", "scipy")
"""Likewise, where layers are fitted again."""


@dataclass(frozen=True)
class RunIdentity:
    """What tells a run apart from all others, made once before it starts.

    Attributes:
        key: Digest of what determines its result, see `run_key`.
        name: For people.
        study: The study that it belongs to; None for none.
        arm: The study's arm that it belongs to; None for none.
        sweep: What all runs of one call of a study have in common; None for a run on its own.
        sweep_runs: How many runs that call asked for; None where that is not known.
        experiment: Name of the MLflow experiment.
        tags: That it starts with.
        params: What is recorded of its configuration and data.
        rerun: Whether it is trained again though it was done before.
        tracking: Where it is recorded.
        output_path: The `output_dir`.
    """

    key: str
    name: str
    study: str | None
    arm: str | None
    sweep: str | None
    sweep_runs: int | None
    experiment: str
    tags: Mapping[str, str]
    params: Mapping[str, Any]
    rerun: bool
    tracking: Tracking
    output_path: Path


def run_name(arm: str, seed: int) -> str:
    """What people call the run of an arm, or of a head where there are no arms."""
    return f"{arm} seed {seed}"


def made_with() -> str:
    """`Python 3.11.7, tensorflow 2.21.0, keras 3.15.1, Linux x86_64, 2 cores`: what a run is computed with."""
    versions = [f"{name} {importlib.metadata.version(name)}" for name in LIBRARIES]
    machine = f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores"
    return ", ".join([f"Python {platform.python_version()}", *versions, machine])


def run_key(settings: Mapping[str, Any], weights: Path | None, data: Data) -> str:
    """First 32 hexadecimal digits of a SHA-256 of what determines a run's result.

    That is its settings, but for those that change nothing, the code of the rooms that compute it, the weights that it
    begins with, the data, and the versions of the libraries that compute.

    Args:
        settings: Every setting by its dotted name.
        weights: File that the backbone's weights come from; None where they are drawn by the seed.
        data: Of the run.
    """
    indifferent = (*INDIFFERENT, Param.ARM, "study")
    refits = {way.name for way in REFITS} & set(settings.get("size_probe.ways") or ())
    libraries = (*LIBRARIES, *(OF_REFITS if refits else ()))
    identity = {
        "settings": {name: value for name, value in settings.items() if not name.startswith(indifferent)},
        "code": code_digest(),
        "weights": file_digest(weights) if weights else None,
        "data": [data.facts.version, data.train_split.digest, data.test_split.digest],
        "libraries": {name: importlib.metadata.version(name) for name in libraries},
    }
    return digest_of(json.dumps(identity, sort_keys=True, default=str))
