"""Composes Hydra configs, validates them into plain settings, and builds objects from them."""

from micro_lit.config import hydra_nodes
from micro_lit.config.building import build, check_objects
from micro_lit.config.command import entry_point
from micro_lit.config.composition import (
    command_with,
    compose,
    in_sweep,
    quoted,
    run_folder_of,
    text_setting,
    to_settings,
)
from micro_lit.config.folders import config_dir
from micro_lit.config.rules import Settings, validate
from micro_lit.config.targets import ALLOWED_TARGETS, find

hydra_nodes.install()

__all__ = [
    "ALLOWED_TARGETS",
    "Settings",
    "build",
    "check_objects",
    "command_with",
    "compose",
    "config_dir",
    "entry_point",
    "find",
    "in_sweep",
    "quoted",
    "run_folder_of",
    "text_setting",
    "to_settings",
    "validate",
]
