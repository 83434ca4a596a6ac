"""A save that is cut off at any system call leaves the old state or the new one, never a part.

Each save is killed before every system call and in the middle of every write; each call fails
once; and the power is cut after each. As the disk changes through system calls alone, that covers
every moment at which a process can die.
"""

import errno
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest
import torch

from agents.runs.checkpoints import (
    Checkpoint,
    CheckpointError,
    latest_checkpoint,
    list_checkpoints,
    read_checkpoint,
    save_checkpoint,
)
from agents.runs.files import write_whole
from agents.runs.folder import RunLog
from tests.faults.power_cuts import Disk, restore
from tests.faults.system_calls import Handler, Killed, die, fail, handled_by

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self/fd")

View = dict[Any, Any]
"""What a reader sees: the newest checkpoint has the largest key."""


@pytest.fixture(autouse=True, scope="module")
def _without_tensorboard_git_and_fsync() -> Iterator[None]:
    """Leave out what takes time and isn't tested here; a handler still sees each fsync."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.runs.folder.SummaryWriter", Mock())
        patch.setattr(subprocess, "run", Mock(side_effect=FileNotFoundError))
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


# What is saved


@dataclass(frozen=True)
class Save:
    """Something that is written into a folder.

    Attributes:
        prepare: Makes what is there before.
        write: Writes; repeated after a crash, it completes what was cut off.
        view: Returns what a reader sees.
    """

    prepare: Callable[[Path], object]
    write: Callable[[Path], object]
    view: Callable[[Path], View]


@dataclass(frozen=True)
class Settings:
    seed: int = 0
    env_id: str = "Made-v0"
    run_dir: Path | None = None
    resume: Path | None = None


def made_up(step: int) -> Checkpoint:
    weight = torch.arange(4.0).reshape(2, 2) + step
    tensors = {"weight": weight, "step": torch.tensor(float(step))}
    return Checkpoint(step, {"model": tensors}, {"update": step, "best_error": step / 7})


def view_checkpoints(folder: Path) -> View:
    """Return the files of valid checkpoints by step; damaged ones by name, below all steps."""
    view: View = {}
    for path in list_checkpoints(folder):
        try:
            step = read_checkpoint(path).step
        except CheckpointError:
            view[-int(path.name[5:])] = "damaged"
        else:
            view[step] = {file.name: file.read_bytes() for file in path.iterdir()}
    latest = latest_checkpoint(folder, lambda line: None)
    assert (latest.step if latest else 0) == max([*view, 0])
    return view


def save_steps(*steps: int) -> Callable[[Path], None]:
    def save(folder: Path) -> None:
        for step in steps:
            save_checkpoint(folder, made_up(step), keep=3)

    return save


def save_and_damage(folder: Path) -> None:
    save_steps(1, 2, 3)(folder)
    path = folder / "step_00000003" / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def log_steps(last: int) -> Callable[[Path], None]:
    """Return what begins or resumes a run, and logs and saves each step up to the last."""

    def write(folder: Path) -> None:
        run = folder / "run"
        with RunLog(run, Settings(), resume=(run / "config.json").exists()) as log:
            for step in range((log.checkpoint.step if log.checkpoint else 0) + 1, last + 1):
                log.scalars(10 * step, {"train/loss": step / 7, "train/grad_norm": 1.0})
                log.save_checkpoint(step, 10 * step, made_up(step).tensors, {})

    return write


def view_run(folder: Path) -> View:
    """Return a run's checkpoints, each with the metrics before it; its own are part of it."""
    view = view_checkpoints(folder / "run" / "checkpoints")
    if not view:
        return view
    rows = (folder / "run" / "metrics.csv").read_text().splitlines()[1:]
    return {
        step: (files, [row for row in rows if int(row.split(",")[0]) < 10 * step])
        for step, files in view.items()
    }


def of_a_file(name: str, write: Callable[[RunLog], object]) -> Save:
    """Return the save of a file of a run that exists already."""

    def prepare(folder: Path) -> None:
        log_steps(1)(folder)
        if not (folder / "run" / name).exists():
            write_whole(folder / "run" / name, b"the old content")

    def rewrite(folder: Path) -> None:
        with RunLog(folder / "run", Settings(), resume=True) as log:
            write(log)

    return Save(prepare, rewrite, lambda folder: {name: (folder / "run" / name).read_bytes()})


SAVES = {
    "the first checkpoint": Save(lambda folder: None, save_steps(1), view_checkpoints),
    "a checkpoint, pruning": Save(save_steps(1, 2, 3), save_steps(4), view_checkpoints),
    "over a damaged one": Save(save_and_damage, save_steps(3), view_checkpoints),
    "the start of a run": Save(lambda folder: None, log_steps(1), view_run),
    "a run's checkpoint": Save(log_steps(3), log_steps(4), view_run),
    "best.safetensors": of_a_file(
        "best.safetensors", lambda log: log.save_weights(dict(made_up(1).tensors["model"]))
    ),
    "config.json": of_a_file("config.json", lambda log: log.note_facts({"device": "cpu"})),
    "result.json": of_a_file("result.json", lambda log: log.result("none", None, "made up")),
}


# How it is crashed


class Bench:
    """A save, the states before and after it, and the calls that it takes."""

    def __init__(self, save: Save, scratch: Path):
        self.save, self._old, self._here = save, scratch / "old", scratch / "here"
        self._old.mkdir(parents=True)
        save.prepare(self._old)
        self.calls: list[str] = []
        self.attempt(lambda call: self.calls.append(call.name) or call.make())
        self.before, self.after = save.view(self._old), save.view(self._here)
        self._left = names(self._here)
        self.disk = Disk(self.fresh())
        with handled_by(self.disk.make):
            save.write(self._here)

    def fresh(self) -> Path:
        """Return the folder as it is before the save."""
        shutil.rmtree(self._here, ignore_errors=True)
        return Path(shutil.copytree(self._old, self._here, symlinks=True))

    def attempt(self, handler: Handler) -> None:
        """Save anew, its calls passed to a handler."""
        here = self.fresh()
        with handled_by(handler):
            self.save.write(here)

    def check(self, done: bool) -> None:
        """Check what a reader sees after a crash, and that the next save completes it."""
        now = self.save.view(self._here)
        for key, content in now.items():
            assert content in (self.before.get(key), self.after.get(key)), key
        assert now.keys() >= self.before.keys() & self.after.keys(), "lost"
        assert max(now, default=0) >= max(self.before, default=0), "the newest is lost"
        assert not done or now == self.after, "saved, but not there"
        self.save.write(self._here)
        assert self.save.view(self._here) == self.after
        assert names(self._here) == self._left, "something was left over"

    def restore(self, content: Any) -> None:
        shutil.rmtree(self._here)
        restore(content, self._here)


def names(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*")}


@pytest.fixture(params=SAVES, scope="module")
def bench(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(SAVES[request.param], tmp_path_factory.mktemp("bench"))


@contextmanager
def noted(what: object) -> Iterator[None]:
    """Add to an error at which point the save was crashed."""
    try:
        yield
    except Exception as error:
        error.add_note(f"crashed: {what}")
        raise


def test_killed_before_any_call_or_within_any_write(bench: Bench):
    for number, name in enumerate(bench.calls):
        for half in (False, True)[: 1 + (name == "write")]:
            with noted(f"call {number}, {name}, half={half}"):
                with pytest.raises(Killed):
                    bench.attempt(partial(die, number, half))
                bench.check(done=False)


def test_a_call_that_fails_is_reported_or_harmless(bench: Bench):
    for number, name in enumerate(bench.calls):
        with noted(f"call {number}, {name}"):
            failed = False
            try:
                bench.attempt(partial(fail, number, errno.EIO))
            except OSError as error:
                failed = error.errno == errno.EIO or name == "close"  # rmtree closes it once more
                if not failed:
                    raise
            bench.check(done=not failed)


def test_the_power_is_cut_after_any_call(bench: Bench):
    for content, what in bench.disk.leavings.items():
        with noted(what):
            bench.restore(content)
            bench.check(done=content in bench.disk.last)


# What these tests notice


def replace(folder: Path, *, forgotten: str) -> None:
    descriptor = os.open(folder / "new", os.O_WRONLY | os.O_CREAT)
    os.write(descriptor, b"the new content")
    if forgotten != "file":
        os.fsync(descriptor)
    os.close(descriptor)
    os.replace(folder / "new", folder / "file")
    if forgotten != "folder":
        descriptor = os.open(folder, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


@pytest.mark.parametrize("forgotten", ["nothing", "file", "folder"])
def test_a_save_that_forgets_an_fsync_is_noticed(forgotten: str, tmp_path: Path):
    save = Save(
        lambda folder: (folder / "file").write_bytes(b"the old content"),
        partial(replace, forgotten=forgotten),
        lambda folder: {"file": (folder / "file").read_bytes()},
    )
    bench = Bench(save, tmp_path)
    with nullcontext() if forgotten == "nothing" else pytest.raises(AssertionError):
        test_the_power_is_cut_after_any_call(bench)
