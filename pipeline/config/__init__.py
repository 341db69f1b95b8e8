"""The settings of all rooms as one configuration, and what Hydra has to know of them."""

from pipeline.config.check import to_typed, unknown_key
from pipeline.config.paths import CONFIG_DIR, PROJECT_ROOT, absolute
from pipeline.config.register import GROUPS, register
from pipeline.config.schema import CompareConfig, Config, ConvertConfig, DashboardConfig, ProbeConfig, SyncConfig

__all__ = [
    "CONFIG_DIR",
    "GROUPS",
    "PROJECT_ROOT",
    "CompareConfig",
    "Config",
    "ConvertConfig",
    "DashboardConfig",
    "ProbeConfig",
    "SyncConfig",
    "absolute",
    "register",
    "to_typed",
    "unknown_key",
]

register()  # Already now: a worker that a launcher starts composes its run before any function of ours is called.
