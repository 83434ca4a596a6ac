"""A run of a handful of numbers with three checkpoints, made and gone on with in no time."""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from agents.checkpoints import Checkpoint, CheckpointError, list_checkpoints, read_checkpoint
from agents.commands import read_resumed
from agents.run_log import RunLog
from agents.training import Training

STEPS = (1, 2, 3)


@dataclass(frozen=True)
class Settings:
    """Settings of a small run."""

    seed: int = 0
    env_id: str = "Counter-v0"
    run_dir: Path | None = None
    resume: Path | None = None


class Counter:
    """An environment whose state is a number."""

    def __init__(self) -> None:
        self._count = 0

    def get_state(self) -> dict[str, Any]:
        """Return the number."""
        return {"count": self._count}

    def set_state(self, state: dict[str, Any]) -> int:
        """Go on from a number."""
        if not isinstance(state, dict) or not isinstance(state.get("count"), int):
            raise ValueError(f"state must be a dict with a number as 'count', got {state!r}")
        self._count = state["count"]
        return self._count


@dataclass(frozen=True)
class Resumed:
    """How going on with a run went.

    Attributes:
        lines: What was said.
        checkpoint: What it went on from, if anything.
        error: What it ended with, if it did.
    """

    lines: list[str]
    checkpoint: Checkpoint | None = None
    error: Exception | None = None


def make_training(width: int = 2) -> Training[torch.nn.Linear]:
    """Make what learns: a linear layer of so many inputs."""
    model = torch.nn.Linear(width, 1)
    generator = torch.Generator().manual_seed(3)
    return Training(model, torch.optim.Adam(model.parameters()), Counter(), {"noise": generator})


def make_run(folder: Path, seed: int = 0, width: int = 2) -> None:
    """Make a run with a checkpoint after each of :data:`STEPS`."""
    torch.manual_seed(seed)
    training = make_training(width)
    with quiet(), patch("os.fsync"), RunLog(folder, Settings(seed, run_dir=folder)) as log:
        for step in STEPS:
            _learn_and_save(training, log, step)


def resume(folder: Path, then: int = 0) -> Resumed:
    """Go on with a run, as ``--resume`` does, and save so many further steps."""
    with quiet() as printed, patch("os.fsync"):
        checkpoint = error = None
        try:
            settings = read_resumed(Settings, ["--resume", str(folder)])
            training = make_training()
            with RunLog(folder, settings, resume=True) as log:
                checkpoint = log.checkpoint
                if checkpoint is not None:
                    training.unpack(checkpoint)
                first = checkpoint.step + 1 if checkpoint else 1
                for step in range(first, first + then):
                    _learn_and_save(training, log, step)
        except Exception as caught:
            error = caught
    return Resumed(printed.getvalue().splitlines(), checkpoint, error)


def seal(path: Path) -> None:
    """Give a checkpoint a manifest that says of every file what it is now."""
    files = {
        file.name: {
            "bytes": file.stat().st_size,
            "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        }
        for file in sorted(path.iterdir())
        if file.name != "manifest.json"
    }
    (path / "manifest.json").write_text(json.dumps({"schema": 1, "files": files}))


def edit_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    """Change what a JSON file holds."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def checkpoint_path(folder: Path, step: int) -> Path:
    """Return where a run has the checkpoint of a step."""
    return folder / "checkpoints" / f"step_{step:08d}"


def same(mine: Checkpoint, theirs: Checkpoint | None) -> bool:
    """Whether two checkpoints are equal in every bit and type."""
    if theirs is None or mine.step != theirs.step or mine.state != theirs.state:
        return False
    if mine.tensors.keys() != theirs.tensors.keys():
        return False
    return all(
        part.keys() == theirs.tensors[group].keys()
        and all(
            tensor.dtype == theirs.tensors[group][name].dtype
            and torch.equal(tensor, theirs.tensors[group][name])
            for name, tensor in part.items()
        )
        for group, part in mine.tensors.items()
    )


def valid_checkpoints(folder: Path) -> dict[int, Checkpoint]:
    """Return the valid checkpoints of a run, by step."""
    found = {}
    for path in list_checkpoints(folder):
        with contextlib.suppress(CheckpointError):
            checkpoint = read_checkpoint(path)
            found[checkpoint.step] = checkpoint
    return found


def _learn_and_save(training: Training[torch.nn.Linear], log: RunLog, step: int) -> None:
    """Make an update that depends on all that a checkpoint holds."""
    noise = torch.randn(training.model.in_features, generator=training.generators["noise"])
    loss = (training.model(noise + torch.randn(len(noise))) * step).sum()
    training.optimizer.zero_grad()
    loss.backward()
    training.optimizer.step()
    training.move_mean(0.5)
    training.env.set_state({"count": step})
    log.scalars(10 * step, {"train/loss": loss.item()})
    log.save_checkpoint(step, 10 * step, *training.pack())


@contextmanager
def quiet() -> Iterator[io.StringIO]:
    """Catch what a run prints; let it ask neither git nor the machine, nor write events."""
    with (
        contextlib.redirect_stdout(io.StringIO()) as printed,
        patch("agents.run_log.commit", return_value=None),
        patch("agents.run_log.versions", return_value={}),
        patch("agents.run_log.describe_machine", return_value={}),
        patch("agents.run_log.open_events"),
    ):
        yield printed
