"""A damaged checkpoint is named and passed over; a sound one of another run is refused."""

import filecmp
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.runs.checkpoints import (
    Checkpoint,
    CheckpointError,
    Tensors,
    latest_checkpoint,
    list_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from tests.faults.conftest import Command, spoilt
from tests.faults.damage import CHANGED, MISPLACED
from tests.script_helpers import edit_json
from train import reinforce

Copy = Callable[[Path, Path, Path], object]

COPIES: dict[str, Copy] = {
    "a link": lambda file, before, other: file.symlink_to(
        file.rename(file.parent.parent / file.name)
    ),
    "the one before's": lambda file, before, other: shutil.copy(before, file),
    "another run's": lambda file, before, other: shutil.copy(other, file),
}
"""Sound files in the place of a file: of the same checkpoint, the one before, another run."""


def assert_passed_over(folder: Path, damaged: Path, step: int) -> None:
    """Check that the checkpoint of a step is the newest valid one and the newer one is named."""
    warnings: list[str] = []
    latest = latest_checkpoint(folder, warnings.append)
    assert latest is not None
    assert latest.step == step
    assert len(warnings) == 1
    assert str(damaged) in warnings[0]


@pytest.mark.parametrize("what", [*CHANGED, *MISPLACED, *COPIES])
def test_a_damaged_file_is_noticed(what: str, run_dir: Path, fault_round: int):
    folder = run_dir / "checkpoints"
    before, path = list_checkpoints(folder)[-2:]
    rng, kept = np.random.default_rng(fault_round), path.with_name("kept")
    for name in sorted(file.name for file in path.iterdir()):
        shutil.copytree(path, kept)
        if what in COPIES:
            other = run_dir.with_name("other") / "checkpoints" / path.name
            COPIES[what](path / name, before / name, other / name)
        else:
            {**CHANGED, **MISPLACED}[what](path / name, rng)
        plain = (path / name).is_file() and not (path / name).is_symlink()
        if not (plain and filecmp.cmp(path / name, kept / name, shallow=False)):
            assert_passed_over(folder, path, 3)  # else the same, as a best model may be for long
        shutil.rmtree(path)
        kept.rename(path)


FOLDER_DAMAGES: dict[str, tuple[Callable[[Path, Path], object], int]] = {
    "a file too many": (lambda path, before: (path / "note.txt").touch(), 3),
    "tensors too many": (lambda path, before: (path / "more.safetensors").touch(), 3),
    "a folder too many": (lambda path, before: (path / "more").mkdir(), 3),
    "renamed": (lambda path, before: path.rename(path.with_name("step_00000009")), 3),
    "a copy renamed": (lambda p, b: shutil.copytree(b, p.with_name("step_00000009")), 4),
}


@pytest.mark.parametrize(("damage", "step"), FOLDER_DAMAGES.values(), ids=FOLDER_DAMAGES)
def test_a_damaged_folder_is_noticed(damage: Callable[..., object], step: int, run_dir: Path):
    before, path = list_checkpoints(run_dir / "checkpoints")[-2:]
    damage(path, before)
    newest = list_checkpoints(run_dir / "checkpoints")[-1]
    assert_passed_over(run_dir / "checkpoints", newest, step)


def test_a_manifest_with_any_entry_missing_or_wrong_is_refused(run_dir: Path):
    path = list_checkpoints(run_dir / "checkpoints")[-1]
    for manifest in spoilt(json.loads((path / "manifest.json").read_text())):
        (path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(CheckpointError):
            read_checkpoint(path)


def test_a_run_resumes_from_the_one_before_and_ends_in_the_same_bytes(
    run_dir: Path, whole_runs: Path, command: Command, fault_round: int
):
    rng, paths = np.random.default_rng(fault_round), list_checkpoints(run_dir / "checkpoints")
    for path in paths[-int(rng.integers(1, len(paths))) :]:
        file = path / str(rng.choice(sorted(file.name for file in path.iterdir())))
        CHANGED["truncated"](file, rng)
    assert command(reinforce, "--resume", run_dir) == ""
    for name in ("best.safetensors", "metrics.csv"):
        assert (run_dir / name).read_bytes() == (whole_runs / "run" / name).read_bytes()


def test_a_run_whose_checkpoints_are_all_damaged_is_refused(run_dir: Path, command: Command):
    for path in list_checkpoints(run_dir / "checkpoints"):
        (path / "state.json").unlink()
    assert str(run_dir / "checkpoints") in command(reinforce, "--resume", run_dir)


# Sound checkpoints of something else


def resave(run_dir: Path, change: Callable[[dict[str, Tensors], dict[str, Any]], object]) -> None:
    """Change the newest checkpoint and save it anew; the older ones go."""
    path = list_checkpoints(run_dir / "checkpoints")[-1]
    saved = read_checkpoint(path)
    tensors = {group: dict(part) for group, part in saved.tensors.items()}
    state = dict(saved.state)
    change(tensors, state)
    save_checkpoint(path.parent, Checkpoint(saved.step, tensors, state), keep=1)


def change_tensors(change: Callable[[dict[str, Tensors]], object]) -> Callable[[Path], None]:
    return lambda run_dir: resave(run_dir, lambda tensors, state: change(tensors))


MIXUPS: dict[str, Callable[[Path], object]] = {
    "other settings": lambda run_dir: edit_json(run_dir / "config.json", config={"seed": 5}),
    "weights of another type": change_tensors(
        lambda ts: ts.update(model={name: part.double() for name, part in ts["model"].items()})
    ),
    "a group missing": change_tensors(lambda ts: ts.pop("mean_model")),
    "a group too many": change_tensors(lambda ts: ts.update(more={"a": torch.zeros(1)})),
    "a file in place of all": lambda run_dir: (
        (run_dir / "checkpoints").rename(run_dir / "kept"),
        (run_dir / "checkpoints").touch(),
    ),
}


@pytest.mark.parametrize("mix_up", MIXUPS.values(), ids=MIXUPS)
def test_a_checkpoint_of_something_else_is_refused(
    mix_up: Callable[[Path], object], run_dir: Path, command: Command
):
    mix_up(run_dir)
    weights = (run_dir / "best.safetensors").read_bytes()
    assert command(reinforce, "--resume", run_dir)
    assert (run_dir / "best.safetensors").read_bytes() == weights


def test_a_state_with_an_entry_missing_or_wrong_never_ends_in_a_traceback(
    run_dir: Path, command: Command, fault_round: int
):
    state = read_checkpoint(list_checkpoints(run_dir / "checkpoints")[-1]).state
    states = [bad for bad in spoilt(dict(state)) if bad.get("update") == state["update"]]
    rng = np.random.default_rng(fault_round)
    for bad in rng.choice(np.array(states, object), 8, replace=False):
        here = run_dir.with_name("here")
        shutil.copytree(run_dir, here)
        resave(here, lambda tensors, state, bad=bad: (state.clear(), state.update(bad)))
        command(reinforce, "--resume", here)  # a traceback would fail here
        shutil.rmtree(here)
