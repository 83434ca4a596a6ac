"""Presets: files of settings that other flags override."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import fields, replace
from pathlib import Path

from agents.runs.commands import LOGGING_FLAGS, RUN_FLAGS, parse_flags
from agents.runs.files import read_toml
from train.settings import Config, EpisodeConfig, LearningConfig, ModelConfig

FOLDER = Path(__file__).parent / "presets"

_TASK, _MODEL, _LEARNING = (
    tuple(each.__annotations__) for each in (EpisodeConfig, ModelConfig, LearningConfig)
)
GROUPS = {
    "run": ("preset", *RUN_FLAGS),
    "task": ("env_id", "env_kwargs", "curriculum", *_TASK),
    "model": ("initial", *_MODEL),
    "learning": _LEARNING,
    "logging": (*LOGGING_FLAGS, "validation_images", "validate_sampled", "keep"),
}
"""Flags by the title of their box in ``--help``."""


def preset_names() -> list[str]:
    """Return the names that ``--preset`` accepts besides paths of TOML files."""
    return sorted(path.stem for path in FOLDER.glob("*.toml"))


def read_preset(name: str) -> Config:
    """Return the settings of a TOML file, or of ``train/presets/<name>.toml``; others: defaults.

    Raises:
        ValueError: If the file is missing or holds an unknown or bad setting. The message names it.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    if path.parent == FOLDER and not path.exists():
        raise ValueError(f"preset must be a .toml file or among {preset_names()}, got {name!r}")
    unknown = read_toml(path).keys() - {field.name for field in fields(Config)}
    if unknown:
        raise ValueError(f"{path} is not valid: unknown settings {sorted(unknown)}")
    return replace(read_toml(path, Config), preset=name)


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line: a run's, or a preset's and then the other flags."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset")
    name = first.parse_known_args(arguments)[0].preset
    default = None if name in (None, "None") else read_preset(name)
    about = "Train the recurrent attention model with REINFORCE."
    return parse_flags(Config, arguments, default=default, groups=GROUPS, description=about)
