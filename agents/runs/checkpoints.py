"""Checkpoints: all that the rest of a run depends on, in a folder that nothing can half write.

``checkpoints/step_00012000/`` holds tensors as safetensors, everything else as JSON, and
``manifest.json`` with the size and SHA-256 of each file. It gets its name only when all of it
is on the disk. Nothing is unpickled.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from agents.runs.files import (
    MAX_TEXT,
    first_line,
    make_folder,
    parse_json,
    read_file,
    read_json,
    replace,
    sync_folder,
    to_json,
    write_file,
)

SCHEMA = 1
"""Version of what a checkpoint holds; another one is refused."""

MAX_BYTES = 4 * 2**30
"""A checkpoint with a file of more bytes is refused."""

Tensors = dict[str, Tensor]


class CheckpointError(ValueError):
    """A checkpoint is damaged, of another schema, or of another run."""


@dataclass(frozen=True)
class Checkpoint:
    """What a run goes on from.

    Attributes:
        step: Updates done.
        tensors: By group; each group is one ``.safetensors`` file.
        state: Everything else, ready for JSON.
    """

    step: int
    tensors: Mapping[str, Tensors]
    state: Mapping[str, Any]


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int = 3) -> Path:
    """Write a checkpoint, then delete the oldest of those up to it.

    Files are written and synchronised under a temporary name, which one rename makes final:
    whenever the process or the machine dies, the checkpoints before are as they were.

    Args:
        folder: Of all checkpoints of a run; made if it isn't there.
        checkpoint: What to write.
        keep: So many stay; those of later steps, which were passed over, don't count.

    Returns:
        The checkpoint's own folder.

    Raises:
        OSError: If the disk is full or read-only; the checkpoints before are as they were.
    """
    make_folder(folder)
    _remove_leftovers(folder)
    final = folder / f"step_{checkpoint.step:08d}"
    new = folder / f".{final.name}.new"
    os.mkdir(new)
    files = {f"{group}.safetensors": save(part) for group, part in checkpoint.tensors.items()}
    files["state.json"] = to_json(dict(checkpoint.state))
    files["manifest.json"] = to_json(
        {
            "schema": SCHEMA,
            "files": {
                name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
                for name, content in files.items()
            },
        }
    )
    for name, content in files.items():
        write_file(new / name, content)
    sync_folder(new)
    if os.path.lexists(final):  # a damaged one, which the resumed run has passed over
        _delete(final)
    replace(new, final)
    prune_checkpoints(folder, checkpoint.step, keep=keep)
    return final


def prune_checkpoints(folder: Path, step: int, *, keep: int = 3) -> None:
    """Delete the oldest checkpoints up to a step, and what a save that was cut off has left.

    Args:
        folder: Of all checkpoints of a run.
        step: Of the newest that counts.
        keep: So many stay.
    """
    _remove_leftovers(folder)
    for old in [path for path in list_checkpoints(folder) if _step(path) <= step][:-keep]:
        _delete(old)


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest valid checkpoint, or None if there is none.

    Args:
        folder: Of all checkpoints of a run; need not exist.
        warn: Told of each newer one that is damaged, and passed over.
    """
    for path in reversed(list_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            warn(f"warning: {error}; passed over")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, oldest first.

    Raises:
        OSError: If ``folder`` is no folder.
    """
    if not os.path.lexists(folder):
        return []
    return sorted(
        (p for p in folder.iterdir() if re.fullmatch("step_[0-9]{8,}", p.name)), key=_step
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """Read a checkpoint and check every byte of it.

    Args:
        path: Its own folder, ``.../step_00012000``.

    Raises:
        CheckpointError: If it is not as it was written; the message names the file.
    """
    try:
        contents = {name: _read(path, name, facts) for name, facts in _manifest(path).items()}
        state = parse_json(contents.pop("state.json"), path / "state.json")
        tensors = {
            name.removesuffix(".safetensors"): _load(name, contents[name]) for name in contents
        }
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    step = _step(path)
    if state.get("update") != step:
        raise CheckpointError(f"{path} was renamed: it is of update {state.get('update')}")
    return Checkpoint(step, tensors, state)


def check_like(group: str, tensors: Tensors, expected: Tensors) -> Tensors:
    """Return a group of a checkpoint's tensors, once they have the expected names and shapes.

    Raises:
        CheckpointError: If a name, shape or type differs.
    """
    if tensors.keys() != expected.keys():
        differing = sorted(tensors.keys() ^ expected.keys())
        raise CheckpointError(
            f"{group}.safetensors is of another model or device: {differing} differ"
        )
    for name, tensor in expected.items():
        mine, theirs = (tensor.shape, tensor.dtype), (tensors[name].shape, tensors[name].dtype)
        if mine != theirs:
            raise CheckpointError(
                f"{group}.safetensors is of another model: {name} must be "
                f"{tensor.dtype} {tuple(tensor.shape)}, got "
                f"{tensors[name].dtype} {tuple(tensors[name].shape)}"
            )
    return tensors


def pack_optimizer(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return an optimiser's tensors by parameter's number and name, such as ``3.exp_avg``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": part for i, parts in state.items() for name, part in parts.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Give an optimiser the tensors that :func:`pack_optimizer` returned.

    Raises:
        CheckpointError: If they are not of the same parameters.
    """
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, Tensors] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        if not number.isdecimal() or int(number) >= len(params):
            raise CheckpointError(f"optimizer.safetensors is of another model: {key!r}")
        if tensor.ndim and tensor.shape != params[int(number)].shape:
            raise CheckpointError(
                f"optimizer.safetensors is of another model: {key} must have shape "
                f"{tuple(params[int(number)].shape)}, got {tuple(tensor.shape)}"
            )
        state.setdefault(int(number), {})[name] = tensor.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def pack_generators(
    generators: Mapping[str, torch.Generator], device: torch.device | None = None
) -> Tensors:
    """Return the states of random number generators, and of torch's own, on a GPU its too."""
    states = {name: generator.get_state() for name, generator in generators.items()}
    states["torch"] = torch.get_rng_state()
    if device is not None and device.type == "cuda":
        states["torch_cuda"] = torch.cuda.get_rng_state()
    return states


def unpack_generators(
    generators: Mapping[str, torch.Generator],
    states: Tensors,
    device: torch.device | None = None,
) -> None:
    """Set random number generators, and torch's own, to what :func:`pack_generators` returned.

    Raises:
        CheckpointError: If a state is missing or unknown, or not a generator's.
    """
    check_like("generators", states, pack_generators(generators, device))
    for name, generator in generators.items():
        generator.set_state(states[name])
    torch.set_rng_state(states["torch"])
    if "torch_cuda" in states:
        torch.cuda.set_rng_state(states["torch_cuda"])


def _manifest(path: Path) -> dict[str, dict[str, Any]]:
    """Return the manifest's entries by file name, once schema and names are in order."""
    manifest = read_json(_plain(path, "manifest.json"))
    if manifest.get("schema") != SCHEMA:
        raise CheckpointError(
            f"manifest.json has schema {manifest.get('schema')!r}, this version reads {SCHEMA}"
        )
    files = manifest.get("files")
    names = {entry.name for entry in path.iterdir()} - {"manifest.json"}
    if not isinstance(files, dict) or "state.json" not in files or files.keys() != names:
        raise CheckpointError(
            f"manifest.json must list the files there, state.json among them: {sorted(names)}"
        )
    for name, facts in files.items():
        if not re.fullmatch(r"\w+\.safetensors|state\.json", name) or not isinstance(facts, dict):
            raise CheckpointError(f"manifest.json has a strange entry {name!r}")
    return files


def _read(path: Path, name: str, facts: dict[str, Any]) -> bytes:
    """Return a file's content, once it is what the manifest says."""
    file = _plain(path, name)
    if file.stat().st_size != facts.get("bytes"):
        raise CheckpointError(
            f"{name} has {file.stat().st_size} bytes, the manifest says {facts.get('bytes')}"
        )
    content = read_file(file, MAX_TEXT if name == "state.json" else MAX_BYTES)
    if hashlib.sha256(content).hexdigest() != facts.get("sha256"):
        raise CheckpointError(f"{name} was changed: its SHA-256 is not the manifest's")
    return content


def _plain(path: Path, name: str) -> Path:
    """Return the path of a file in a checkpoint, once it is a file and no link to one."""
    file = path / name
    if file.is_symlink() or not file.is_file():
        raise CheckpointError(f"{name} is missing or no plain file")
    return file


def _load(name: str, content: bytes) -> Tensors:
    """Return the tensors of a file's content."""
    try:
        return load(content)
    except (SafetensorError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        reason = f"{type(error).__name__}: {first_line(error)}"
        raise CheckpointError(f"{name} holds no tensors that can be read: {reason}") from error


def _step(path: Path) -> int:
    """Return the step that a checkpoint's name tells."""
    return int(path.name.removeprefix("step_"))


def _remove_leftovers(folder: Path) -> None:
    """Remove what a save that was cut off has left."""
    for leftover in folder.glob(".step_*"):
        _remove(leftover)


def _delete(path: Path) -> None:
    """Delete a checkpoint under another name, so that none is ever there in part."""
    old = path.with_name(f".{path.name}.old")
    replace(path, old)
    _remove(old)


def _remove(path: Path) -> None:
    """Remove a folder, or whatever is in its place."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink()
