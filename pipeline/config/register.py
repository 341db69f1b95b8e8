"""The schema, made known to Hydra."""

from __future__ import annotations

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from omegaconf import OmegaConf

from pipeline.config import help as help_texts
from pipeline.config.launch import cores
from pipeline.config.paths import PROJECT_ROOT, absolute
from pipeline.config.safe_files import ExperimentFiles, refuse_paths_that_lead_out
from pipeline.config.schema import CompareConfig, Config, ConvertConfig, DashboardConfig, ProbeConfig, SyncConfig
from pipeline.config.search import Search
from pipeline.data.settings import Dataset, ImageFolder
from pipeline.heads import HEADS
from pipeline.models.backbones import BACKBONES

GROUPS = ("dataset", "backbone", "head", "training", "size_probe", "tracking", "launch", "arm", "study")
"""Whose options are files, chosen with GROUP=OPTION."""


def register() -> None:
    """Makes the schema and the project's root known to Hydra. Calling it again changes nothing."""
    store = ConfigStore.instance()
    # Under schema/, not in the groups themselves, where they would show up as selectable options.
    store.store(group="schema", name="config", node=Config)
    store.store(group="schema", name="compare", node=CompareConfig)
    store.store(group="schema", name="convert", node=ConvertConfig)
    store.store(group="schema", name="probe", node=ProbeConfig)
    store.store(group="schema", name="sync", node=SyncConfig)
    store.store(group="schema", name="dashboard", node=DashboardConfig)
    store.store(group="schema", name="dataset", node=Dataset)
    store.store(group="schema", name="image_folder", node=ImageFolder)
    for group, classes in (("backbone", BACKBONES), ("head", HEADS)):
        for option in classes:
            store.store(group=f"schema/{group}", name=option.name, node=option)
    # Hydra copies the whole store for each group that it looks into: for --help a hundred times, which takes a second.
    # It need not, since what it loads from the store is a copy anyway.
    ConfigStore.__deepcopy__ = lambda self, memo: self  # type: ignore[attr-defined]
    Plugins.instance().register(ExperimentFiles)
    # Hydra makes plugins of no other package.
    Plugins.instance().class_name_to_class["hydra_plugins.fcn_heads.Search"] = Search
    refuse_paths_that_lead_out()
    OmegaConf.register_new_resolver("project_root", lambda: str(PROJECT_ROOT), replace=True)
    # A worker finds what the launching process has resolved, whatever its own working directory is.
    OmegaConf.register_new_resolver("absolute", lambda path: str(absolute(path)), replace=True, use_cache=True)
    OmegaConf.register_new_resolver("options", help_texts.options, replace=True)
    OmegaConf.register_new_resolver("settings", lambda *, _root_: help_texts.settings(_root_), replace=True)
    OmegaConf.register_new_resolver("cores", cores, replace=True)
    OmegaConf.register_new_resolver(
        "at_most", lambda most, number: most if number is None else min(most, number), replace=True
    )
    OmegaConf.register_new_resolver("share_of_cores", lambda workers: max(1, cores() // max(1, workers)), replace=True)
