"""One message for a mistake: the setting, the value received, the rule, the remedy."""

from __future__ import annotations

import errno
import re
import sys

from hydra.errors import MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException

from pipeline.common.errors import UserError, excerpt, suggestion
from pipeline.config import GROUPS, unknown_key

EXTRAS = {
    "hydra/launcher/ray": ("launch=ray", "hydra-ray-launcher", "ray"),
    "hydra/launcher/submitit_slurm": ("launch=slurm", "hydra-submitit-launcher", "slurm"),
}
"""By the option of Hydra that an optional package brings: what is typed, the package, the extra that installs it."""


def is_out_of_memory(error: BaseException) -> bool:
    """Whether there was not enough memory; TensorFlow's error is told by its name, since it may not be imported yet."""
    return isinstance(error, MemoryError) or type(error).__name__ == "ResourceExhaustedError"


def explain(error: Exception) -> str:
    """One message for a mistake: the setting, the value received, the rule, the remedy."""
    if isinstance(error, UserError):
        return str(error)
    if is_out_of_memory(error):
        what = re.sub(r"\{\{.*?\}\} | on /job:.*", "", str(error).partition("\n")[0])
        return (
            f"There is not enough memory: {what}. Use a smaller training.batch_size, size_probe.batch_size, "
            "size_probe.sizes, dataset.image_size, backbone.filters or head.hidden_units."
        )
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__
    if isinstance(error, MissingConfigException):
        return _explain_missing_option(error)
    if isinstance(error, OSError):
        where = f"{excerpt(str(error.filename))}: " if error.filename else ""
        remedy = "Use an output_dir that can be written to, with room in it: output_dir=PATH."
        if error.errno == errno.ENAMETOOLONG:
            remedy = "Use shorter names, or a shorter output_dir=PATH."
        return f"{where}{error.strerror}. {remedy}"
    if isinstance(cause, OmegaConfBaseException) and cause.full_key:
        return _explain_value(cause.full_key, str(error), cause)
    first = excerpt(next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip("."))
    if isinstance(error, OverrideParseException):
        return (
            f"{excerpt(str(error.override))}: cannot be read as key=value ({first}). Quote a value with special "
            "characters twice, for the shell and for Hydra, as in \"dataset.train_split='train[:80%]'\"."
        )
    if first.startswith("Ambiguous value"):
        return f"{first}: several values make a sweep. Add --multirun to try each, or write [a,b] for a list."
    if first.startswith("Unexpected type for root: NoneType"):
        return _explain_empty_group(sys.argv[1:])
    # What Hydra says of an option that is not a name does not say of which.
    chosen = [text for text in sys.argv[1:] if text.partition("=")[0] in GROUPS]
    shown = f"{excerpt(' '.join(chosen))}: {first}" if chosen else first
    return f"{shown}. See python -m pipeline.train --help for settings and examples."


def _explain_empty_group(arguments: list[str]) -> str:
    """A setting of a group of which nothing is chosen; Hydra does not say which."""
    chosen = {argument.partition("=")[0] for argument in arguments}
    typed = [argument for argument in arguments if argument.partition("=")[0].partition(".")[0] not in chosen]
    groups = {argument.partition("=")[0].partition(".")[0]: argument for argument in reversed(typed)}
    group = next((group for group in GROUPS if group in groups), "")
    return f"{excerpt(groups.get(group, ''))}: no {group} is chosen, so that it has no settings. Add {group}=NAME."


def _explain_missing_option(error: MissingConfigException) -> str:
    group, _, option = (error.missing_cfg_file or "").rpartition("/")
    options = list(error.options or [])
    if error.missing_cfg_file in EXTRAS:
        typed, package, extra = EXTRAS[error.missing_cfg_file]
        return f"{typed} needs the package {package}: pip install '.[{extra}]'"
    if not group or not options:
        return excerpt(str(error).strip().splitlines()[0])
    hint = suggestion(option, options)
    return f"{group}={excerpt(option)}: there is no such option. Use one of {', '.join(options)}. {hint}".strip()


def _explain_value(key: str, message: str, cause: OmegaConfBaseException) -> str:
    typed = re.search(r"=(.*)$", message.splitlines()[0]) or re.search(r"\+[\w.]+=(.*)$", message)
    value = typed.group(1) if typed else None
    if "not in" in str(cause):
        parent = cause.parent_node
        if not isinstance(parent, DictConfig):
            return str(unknown_key(key, value, []))
        whole = parent._get_root()
        assert isinstance(whole, DictConfig)
        return str(unknown_key(key, value, [str(name) for name in parent], whole))
    if isinstance(cause, InterpolationResolutionError):
        quoted = re.search(r'"(.+)"', str(cause))
        why = excerpt(quoted.group(1) if quoted else str(cause).splitlines()[0])
        return f"{key} has no value: {why}. Set it, or give {key}=VALUE."
    key = re.sub(r"\[\d+\]$", "", key)  # The setting that was typed, not its element.
    rule = excerpt(str(cause).splitlines()[0].rstrip("."))
    if "is not a ListConfig" in rule:
        rule = f"must be a list, such as {key}=[{value or '1,2'}]"
    shown = key if value is None else f"{key}={excerpt(value)}"
    return f"{shown}: {rule}. python -m pipeline.train --cfg job shows every setting with a valid value."
