"""Read a finished run back, one's own or a published one: the model and its settings."""

from __future__ import annotations

import hashlib
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.runs.files import first_line, read_json

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Folder of the published runs, with ``manifest.json``: the SHA-256 of each of their files."""


def published_names() -> list[str]:
    """Return what :func:`load_pretrained` can load."""
    return sorted(read_json(PRETRAINED / "manifest.json"))


def pretrained_dir(name: str) -> Path:
    """Return the folder of a published run, its files checked against the manifest.

    Args:
        name: Of a published run, such as ``"cluttered"``.

    Raises:
        ValueError: If there is no run of that name, or a file is missing or not the published
            one.
    """
    if name not in published_names():
        raise ValueError(f"name must be one of {', '.join(published_names())}, got {name!r}")
    for file, expected in read_json(PRETRAINED / "manifest.json")[name].items():
        path = PRETRAINED / name / file
        if not path.is_file() or hashlib.sha256(path.read_bytes()).hexdigest() != expected:
            raise ValueError(f"{path} is not the published file: install the package again")
    return PRETRAINED / name


def load_pretrained(name: str) -> tuple[RecurrentAttentionModel, dict[str, Any]]:
    """Return a published model, on the CPU and in evaluation mode, and its settings.

    Args:
        name: Of a published run, such as ``"cluttered"``.

    Raises:
        ValueError: See :func:`pretrained_dir` and :func:`load_run`.
    """
    return load_run(pretrained_dir(name))


def load_run(run_dir: Path) -> tuple[RecurrentAttentionModel, dict[str, Any]]:
    """Rebuild a run's best model.

    Nothing is unpickled: sizes and settings are JSON, weights are safetensors.

    Args:
        run_dir: A run folder with ``config.json`` (its ``"config"`` holds the trainer's
            settings), ``model.json`` (fields of :class:`~agents.ram.RAMConfig`; one that is newer
            than the run has its default) and ``best.safetensors``.

    Returns:
        The model, on the CPU and in evaluation mode, and the trainer's settings.

    Raises:
        ValueError: If a file is missing or damaged, or one does not fit another; the message
            names it.
    """
    run_dir = Path(run_dir)
    if not run_dir.is_dir():
        raise ValueError(f"{run_dir} is not a run folder: there is no such folder")
    settings = read_json(run_dir / "config.json").get("config")
    if not isinstance(settings, dict):
        raise ValueError(f"{run_dir / 'config.json'} holds no settings under the key 'config'")
    model = _build_model(run_dir / "model.json")
    _load_weights(model, run_dir / "best.safetensors")
    return model.eval(), settings


def _build_model(path: Path) -> RecurrentAttentionModel:
    """Make a model of the sizes that ``model.json`` tells, as yet without weights or memory."""
    content = read_json(path)
    known = {field.name: field.default is MISSING for field in fields(RAMConfig)}  # name: needed
    missing = sorted(name for name, needed in known.items() if needed and name not in content)
    unknown = sorted(content.keys() - known.keys())
    if missing or unknown:
        raise ValueError(
            f"{path} must hold RAMConfig's fields: missing {missing}, unknown {unknown}"
        )
    try:
        shape = tuple(content.pop("glimpse_shape"))
        with torch.device("meta"):
            return RecurrentAttentionModel(RAMConfig(shape, **content))
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # a wrong type or size
        raise ValueError(f"{path} describes no model: {first_line(error)}") from error


def _load_weights(model: RecurrentAttentionModel, path: Path) -> None:
    """Fill a model with the weights of a file, which must have its names, shapes and types."""
    try:
        if path.exists() and not path.is_file():
            raise ValueError(f"{path} cannot be read: it is no plain file")
        weights = load_file(path)
    except (OSError, SafetensorError, TypeError, RuntimeError, MemoryError) as error:
        strerror = error.strerror if isinstance(error, OSError) else None
        raise ValueError(f"{path} cannot be read: {strerror or first_line(error)}") from error
    for name, expected in model.state_dict().items():
        if name in weights and weights[name].dtype != expected.dtype:
            raise ValueError(
                f"{path} does not fit the model of model.json: {name} must be {expected.dtype}, "
                f"got {weights[name].dtype}"
            )
    try:
        model.to_empty(device="cpu").load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model of model.json: {error}") from error
