"""Loading the model and the settings of a run: one's own or a published one."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import Any

import torch

from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.runs.checkpoints import check_like, load_tensors
from agents.runs.commands import check_env_id
from agents.runs.files import first_line, read_file, read_inline, read_json
from agents.runs.hashed import MANIFEST, MAX_BYTES, find_hashed, read_hashed
from agents.runs.records import RunRecord, read_settings

PRETRAINED = Path(__file__).parents[1] / "pretrained"
"""Folder of the published runs, each in a folder with ``manifest.json``."""


def published_names() -> list[str]:
    """Return the names that :func:`load_pretrained` accepts."""
    folders = (path.parent.name for path in PRETRAINED.glob(f"*/{MANIFEST}"))
    whole = (name for name in folders if not name.endswith(".new"))
    return sorted({name.removeprefix(".").removesuffix(".old") for name in whole})


def pretrained_dir(name: str) -> Path:
    """Return the folder of a published run; ValueError if a file is missing or was changed."""
    if name not in published_names():
        raise ValueError(f"name must be one of {', '.join(published_names())}, got {name!r}")
    folder = find_hashed(PRETRAINED / name)
    try:
        read_hashed(folder)
    except ValueError as error:
        raise ValueError(f"{error}; install the package again") from error
    return folder


def load_pretrained(name: str) -> tuple[RecurrentAttentionModel, dict[str, Any]]:
    """Return what :func:`load_run` does, for one of :func:`published_names`."""
    return load_run(pretrained_dir(name))


def check_data(name: str, run_dir: Path, *, data: str, is_sample: bool) -> None:
    """Raise ValueError if a run may have been trained on images that these data hold out.

    Args:
        name: Name of the run, for the message.
        run_dir: Its folder.
        data: An environment's ``data_source``, which begins with the dataset's name.
        is_sample: Whether these data are the fallback sample of digits.
    """
    run = read_json(run_dir / "config.json", RunRecord)
    datasets = {text.partition(" ")[0] for text in (run.data, data) if text}
    # A run that began from another one has seen that one's images, too
    other_images = len(datasets) > 1 and not run.config.get("initial")
    if run.sample not in (None, is_sample) and not other_images:
        kinds = ("the full data", "the sample of digits")
        advice = "" if run.sample else ". Set RAM_ENV_DATA to a folder with MNIST/raw"
        raise ValueError(
            f"{name} was trained on {kinds[run.sample]}, but the data found here are "
            f"{kinds[is_sample]}, which shares images with it: the error would be too low{advice}"
        )


def find_run(name: str) -> Path:
    """Return the folder of a published agent, or the run folder; ValueError for neither or both."""
    names = published_names()
    if name not in names and not Path(name).is_dir():
        raise ValueError(f"{name!r} must be a run folder or one of {', '.join(names)}")
    if name in names and (Path(name) / "config.json").exists():
        raise ValueError(f"{name} is a published agent and a run folder here: ./{name} is yours")
    return pretrained_dir(name) if name in names else Path(name)


def load_run(
    run_dir: Path, *, env_id: str | None = None
) -> tuple[RecurrentAttentionModel, dict[str, Any]]:
    """Rebuild a run's best model.

    Nothing is unpickled or imported: sizes and settings are JSON, weights are safetensors.

    Args:
        run_dir: A folder with ``config.json`` (its ``"config"`` holds the trainer's settings),
            ``model.json`` (fields of :class:`~agents.ram.RAMConfig`) and ``best.safetensors``.
        env_id: Environment id to return in place of the run's, which is then not checked.

    Returns:
        The model, on the CPU and in evaluation mode, and the trainer's settings. Among these,
        ``env_kwargs`` are the environment's keywords by name, empty where there are none.

    Raises:
        ValueError: If a file is missing, damaged or does not fit another, or the run's environment
            id names a module that is neither ours nor imported; the message names the file.
    """
    run_dir = Path(run_dir)
    settings = read_settings(run_dir)
    if not (run_dir / "model.json").exists():
        scripts = {"algorithm": "train/sb3.py", "model": "train/baselines.py"}
        found = next((scripts[name] for name in scripts if name in settings), "another script")
        wanted = "expected a run of train/reinforce.py"
        raise ValueError(f"{run_dir} has no model.json: {wanted}, found {found}'s")
    if env_id is not None:
        settings["env_id"] = env_id
    elif "env_id" in settings:
        check_env_id(settings["env_id"], run_dir / "config.json")
    try:
        settings["env_kwargs"] = read_inline(settings.get("env_kwargs", ""))
    except ValueError as error:
        raise ValueError(f"{run_dir / 'config.json'}: env_kwargs: {error}") from error
    path = run_dir / "best.safetensors"
    if not path.exists():
        raise ValueError(f"{run_dir} has no best.safetensors: wait for the run's first validation")
    model = _build_model(run_dir / "model.json")
    weights = load_tensors(read_file(path, MAX_BYTES), path)
    check_like(f"{run_dir}: by its model.json, best", weights, model.state_dict())
    model.to_empty(device="cpu").load_state_dict(weights)
    return model.eval(), settings


def _build_model(path: Path) -> RecurrentAttentionModel:
    """Make a model of the sizes in ``model.json``, as yet without weights or memory."""
    config = read_json(path, RAMConfig)
    if unknown := sorted(read_json(path).keys() - {field.name for field in fields(RAMConfig)}):
        raise ValueError(f"{path} must hold RAMConfig's fields, got unknown {unknown}")
    try:
        with torch.device("meta"):
            return RecurrentAttentionModel(config)
    except (TypeError, ValueError, RuntimeError, OverflowError) as error:  # a size is impossible
        raise ValueError(f"{path} does not describe a model: {first_line(error)}") from error
