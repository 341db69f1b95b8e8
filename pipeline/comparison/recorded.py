"""What runs of before recorded in another form, or not at all."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import pandas as pd
import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from pipeline.common.errors import UserError
from pipeline.common.names import Param, Tag
from pipeline.comparison.arms import common_value
from pipeline.comparison.params import param_value
from pipeline.comparison.settings import About, Asks
from pipeline.heads import HEADS
from pipeline.heads.base import Head


def asked(runs: pd.DataFrame, asks: Asks) -> Asks:
    """What a question is about: as it was given, and where that says nothing, as the runs have recorded it.

    Runs of before 2026-11-26 have recorded nothing; their question is about the training size.
    """
    if asks.about is not None:
        return asks
    about = common_value(runs, Param.ASKS_ABOUT.column)
    primary = common_value(runs, Param.ASKS_PRIMARY.column)
    return Asks(
        about=About(about) if about is not None else About.training_size,
        over=common_value(runs, Param.ASKS_OVER.column),
        primary=asks.primary or (param_value(primary) if primary is not None else None),
    )


def head_function(run: pd.Series) -> str | None:
    """What the head of a run computes at the training size, see `Head.function`; None if nothing tells."""
    recorded = run.get(Tag.FUNCTION.column)
    if isinstance(recorded, str):
        return recorded
    prefix = "params."
    return _reconstructed_function(
        {str(column).removeprefix(prefix): value for column, value in run.items() if str(column).startswith(prefix)}
    )


def _reconstructed_function(params: Mapping[str, Any]) -> str | None:
    """The same for a run of before 2026-11-26, which did not record it, as far as its params tell."""
    option = next((option for option in HEADS if option.name == params.get("head.name")), None)
    if option is None:
        return None
    # The text of a param is what Python prints, and that is YAML but for None.
    typed = [
        f"{field.name}={'null' if params[key] == 'None' else params[key]}"
        for field in dataclasses.fields(option)
        if isinstance(params.get(key := f"head.{field.name}"), str)
    ]
    try:
        settings = OmegaConf.merge(OmegaConf.structured(option), OmegaConf.from_dotlist(typed))
        head = OmegaConf.to_object(settings)
    except (OmegaConfBaseException, UserError, ValueError, yaml.YAMLError):
        return None
    assert isinstance(head, Head)
    return head.function(native=None)
