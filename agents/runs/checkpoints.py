"""Checkpoints: all that the rest of a run depends on, in folders that are never half written.

``checkpoints/step_00012000/`` holds tensors as safetensors, everything else as JSON, and a
manifest (:mod:`agents.runs.hashed`). Nothing is unpickled.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from agents.runs.files import first_line, parse, replace, to_json
from agents.runs.hashed import MAX_BYTES, read_hashed, remove, write_hashed

Tensors = dict[str, Tensor]
_ROOM = 2**27  # for a checkpoint's other tensors [bytes]


class CheckpointError(ValueError):
    """A checkpoint is damaged, of another schema, or of another run."""


@dataclass(frozen=True)
class Checkpoint:
    """The state from which a run resumes, after ``step`` updates."""

    step: int
    tensors: Mapping[str, Tensors]  # by group, which is one ``.safetensors`` file
    state: Mapping[str, Any]  # everything else, ready for JSON


def save_checkpoint(folder: Path, checkpoint: Checkpoint, *, keep: int = 3) -> Path:
    """Write a checkpoint into a folder, which is returned, and prune others; crashes harm none."""
    path = folder / f"step_{checkpoint.step:08d}"
    files = {f"{group}.safetensors": save(part) for group, part in checkpoint.tensors.items()}
    write_hashed(path, {**files, "state.json": to_json(dict(checkpoint.state), None)})
    prune_checkpoints(folder, checkpoint.step, keep=keep)
    return path


def prune_checkpoints(folder: Path, step: int, *, keep: int = 3) -> None:
    """Delete interrupted saves and, of the checkpoints up to a step, all but the newest."""
    for leftover in folder.glob(".step_*"):
        remove(leftover)
    for path in [path for path in list_checkpoints(folder) if _step(path) <= step][:-keep]:
        old = path.with_name(f".{path.name}.old")  # so that no checkpoint is ever there in part
        replace(path, old)
        remove(old)


def latest_checkpoint(folder: Path, warn: Callable[[str], None]) -> Checkpoint | None:
    """Return the newest valid checkpoint, if any; ``warn`` of newer ones that are damaged."""
    for path in reversed(list_checkpoints(folder)):
        try:
            return read_checkpoint(path)
        except CheckpointError as error:
            warn(f"warning: {error}; passed over")
    return None


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the folders of a run's checkpoints, oldest first; none if ``folder`` is missing."""
    paths = folder.iterdir() if os.path.lexists(folder) else ()
    return sorted((p for p in paths if re.fullmatch("step_[0-9]{8,}", p.name)), key=_step)


def read_checkpoint(path: Path) -> Checkpoint:
    """Read ``.../step_00012000``; CheckpointError names a file that isn't as it was written."""
    try:
        files = read_hashed(path)
        state = parse(files.pop("state.json", b""), path / "state.json")
        loaded = {name: load_tensors(content, path / name) for name, content in files.items()}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be used: {error}") from error
    if state.get("update") != _step(path):
        raise CheckpointError(f"{path} was renamed: it is of update {state.get('update')!r}")
    tensors = {name.removesuffix(".safetensors"): part for name, part in loaded.items()}
    return Checkpoint(_step(path), tensors, state)


def load_tensors(content: bytes, path: Path) -> Tensors:
    """Return the tensors in the content of a safetensors file; ValueError names ``path``."""
    try:
        return load(content)
    except (SafetensorError, KeyError, TypeError, RuntimeError, MemoryError) as error:
        raise ValueError(
            f"{path} holds no tensors that can be read: {first_line(error)}"
        ) from error


def check_replay_size(what: str, size: int, advice: str) -> None:
    """Raise ValueError if a checkpoint can't hold a replay of ``size`` bytes and the rest."""
    if size > (limit := MAX_BYTES - _ROOM):
        gib = f"{size / 2**30:.1f} GiB, and a checkpoint has room for {limit / 2**30:.1f}"
        raise ValueError(f"{what} has {gib}: {advice}")


def check_like(group: str, tensors: Tensors, expected: Tensors) -> None:
    """Raise CheckpointError if a name, shape or type of a group's tensors is unexpected."""

    def describe(part: Tensor | None) -> str:
        return "absent" if part is None else f"{part.dtype} {tuple(part.shape)}"

    for name in sorted(expected | tensors):
        wanted, got = describe(expected.get(name)), describe(tensors.get(name))
        if wanted != got:
            file = f"{group}.safetensors belongs to another model or device"
            raise CheckpointError(f"{file}: {name} must be {wanted}, got {got}")


def pack_optimizer(optimizer: torch.optim.Optimizer) -> Tensors:
    """Return an optimiser's tensors by parameter index and name, such as ``3.exp_avg``."""
    state = optimizer.state_dict()["state"]
    return {f"{i}.{name}": part for i, parts in state.items() for name, part in parts.items()}


def unpack_optimizer(optimizer: torch.optim.Optimizer, tensors: Tensors) -> None:
    """Load what :func:`pack_optimizer` returned; CheckpointError if it is of another model."""
    params = [p for group in optimizer.param_groups for p in group["params"]]
    state: dict[int, Tensors] = {}
    for key, tensor in tensors.items():
        number, _, name = key.partition(".")
        known = number.isdecimal() and int(number) < len(params)
        if not known or (tensor.ndim and tensor.shape != params[int(number)].shape):
            got = f"{key!r} with shape {tuple(tensor.shape)}"
            raise CheckpointError(f"optimizer.safetensors belongs to another model: it has {got}")
        if name == "step" and not (tensor >= 0).all():  # Adam would divide by 0
            raise CheckpointError(
                f"optimizer.safetensors: {key} must be at least 0, got {tensor.min():g}"
            )
        state.setdefault(int(number), {})[name] = tensor.clone()
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})


def pack_generators(device: torch.device) -> Tensors:
    """Return the states of torch's random number generator and, on a GPU, of CUDA's."""
    states = {"torch": torch.get_rng_state()}
    if device.type == "cuda":
        states["torch_cuda"] = torch.cuda.get_rng_state(device)
    return states


def unpack_generators(states: Tensors, device: torch.device) -> None:
    """Restore what :func:`pack_generators` returned; CheckpointError if it is of another run."""
    check_like("generators", states, pack_generators(device))
    on_gpu = partial(torch.cuda.set_rng_state, device=device)
    restore = {"torch": torch.set_rng_state, "torch_cuda": on_gpu}
    for name, state in states.items():
        try:
            restore[name](state)
        except RuntimeError as error:
            raise CheckpointError(f"generators.safetensors: {name}: {first_line(error)}") from error


def _step(path: Path) -> int:
    return int(path.name.removeprefix("step_"))
