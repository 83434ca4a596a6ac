"""What a run writes, each with what must hold whenever the writing is cut off."""

import contextlib
import math
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from agents.checkpoints import (
    Checkpoint,
    latest_checkpoint,
    list_checkpoints,
    save_checkpoint,
)
from agents.files import write_whole
from agents.run_log import RunLog
from benchmarks.campaigns.checkpoints.small_runs import Settings, quiet, same, valid_checkpoints

_KEEP = 3  # checkpoints that stay, as by default


class Save(ABC):
    """Something that gets written into a folder.

    Attributes:
        name: What it is.
    """

    name: str

    @abstractmethod
    def prepare(self, folder: Path) -> None:
        """Make what is there before."""

    @abstractmethod
    def start(self, folder: Path) -> contextlib.AbstractContextManager[Callable[[], object]]:
        """Get ready to write; gives the function that writes, which can be called again."""

    @abstractmethod
    def look(self, folder: Path, before: Path, after: Path, done: bool) -> str | None:
        """Say what is wrong with what is there, without changing it.

        Args:
            folder: Where it was written, or begun to be.
            before: A folder as it was before.
            after: A folder in which it was written without a fault.
            done: Whether the function had returned.
        """

    @abstractmethod
    def find_leftovers(self, folder: Path) -> str | None:
        """Say what is left over after a write that was not cut off."""

    @abstractmethod
    def go_on(self, folder: Path) -> str | None:
        """Write what comes next; say what is wrong with that, leftovers among it."""


class CheckpointSave(Save):
    """A checkpoint.

    Args:
        name: What kind of save it is.
        step: Of the checkpoint.
        old: Steps of the checkpoints that are there before.
        disturb: What happens to the folder of checkpoints before the save.
    """

    def __init__(
        self,
        name: str,
        step: int,
        old: tuple[int, ...] = (),
        disturb: Callable[[Path], None] = lambda folder: None,
    ):
        self.name, self._step, self._old, self._disturb = name, step, old, disturb

    def prepare(self, folder: Path) -> None:
        """Make the checkpoints that are there before."""
        for step in self._old:
            save_checkpoint(folder / "checkpoints", made_up(step), keep=_KEEP)
        self._disturb(folder / "checkpoints")

    @contextmanager
    def start(self, folder: Path) -> Iterator[Callable[[], object]]:
        """Give what saves the checkpoint."""
        checkpoint = made_up(self._step)
        yield lambda: save_checkpoint(folder / "checkpoints", checkpoint, keep=_KEEP)

    def look(self, folder: Path, before: Path, after: Path, done: bool) -> str | None:
        """Say what is wrong with the checkpoints: the newest is the old or the new one."""
        ours = (folder / "checkpoints", before / "checkpoints", after / "checkpoints")
        now, old, new = (valid_checkpoints(path) for path in ours)
        (step,) = new.keys() - old.keys()
        if done and step not in now:
            return f"the save had returned, and checkpoint {step} is not there"
        for each, checkpoint in now.items():
            if not same(checkpoint, old.get(each) or new.get(each)):
                return f"checkpoint {each} is neither the old nor the new one"
        if lost := (new if step in now else old).keys() - now.keys():
            return f"checkpoint {min(lost)} is lost"
        latest = latest_checkpoint(ours[0], lambda line: None)
        if (latest.step if latest else None) != max(now, default=None):
            return "the newest valid checkpoint is not the one that is used"
        damaged, was_damaged = (
            {path.name for path in list_checkpoints(each)} - {f"step_{step:08d}" for step in valid}
            for each, valid in ((ours[0], now), (ours[1], old))
        )
        if damaged - was_damaged:
            return f"{min(damaged - was_damaged)} is damaged"
        return None

    def find_leftovers(self, folder: Path) -> str | None:
        """Say what is there beside checkpoints."""
        odd = {*(folder / "checkpoints").iterdir()} - {*list_checkpoints(folder / "checkpoints")}
        return f"{min(odd).name} was left over" if odd else None

    def go_on(self, folder: Path) -> str | None:
        """Save the next checkpoint after the newest."""
        step = max(valid_checkpoints(folder / "checkpoints"), default=self._step - 1) + 1
        save_checkpoint(folder / "checkpoints", made_up(step), keep=_KEEP)
        return _judge_newest(folder / "checkpoints", step) or self.find_leftovers(folder)


class LoggedSave(CheckpointSave):
    """A run's checkpoint, for which its metrics are synchronised first."""

    def prepare(self, folder: Path) -> None:
        """Begin a run and save twice."""
        with opened_log(folder, resume=False) as log:
            for step in (1, 2):
                _log_and_save(log, step)

    @contextmanager
    def start(self, folder: Path) -> Iterator[Callable[[], object]]:
        """Give what logs, once, and saves."""
        with opened_log(folder, resume=True) as log:
            yield lambda: _log_and_save(log, 3)

    def look(self, folder: Path, before: Path, after: Path, done: bool) -> str | None:
        """Say what is wrong with checkpoints or metrics."""
        latest = latest_checkpoint(folder / "checkpoints", lambda line: None)
        if latest is not None:
            steps = latest.state["env_steps"]
            if _metrics(folder, steps) != _metrics(after, steps):
                return f"metrics.csv does not hold all lines up to checkpoint {latest.step}"
        return super().look(folder, before, after, done)

    def go_on(self, folder: Path) -> str | None:
        """Resume the run and save the next checkpoint."""
        begun = (folder / "config.json").exists()
        with opened_log(folder, resume=begun) as log:
            step = (log.checkpoint.step if log.checkpoint else 0) + 1
            _log_and_save(log, step)
        if left := [path.name for path in folder.iterdir() if path.suffix in (".new", ".old")]:
            return f"{left[0]} was left over"
        return _judge_newest(folder / "checkpoints", step) or super().find_leftovers(folder)


class FirstSave(LoggedSave):
    """The start of a run in a new folder, up to its first checkpoint."""

    def prepare(self, folder: Path) -> None:
        """Make nothing: the run's folder is new, too."""

    @contextmanager
    def start(self, folder: Path) -> Iterator[Callable[[], object]]:
        """Give what begins the run and saves a checkpoint."""

        def begin() -> None:
            begun = (folder / "run" / "config.json").exists()
            with opened_log(folder / "run", resume=begun) as log:
                if log.checkpoint is None:
                    _log_and_save(log, 1)

        yield begin

    def look(self, folder: Path, before: Path, after: Path, done: bool) -> str | None:
        """Say what is wrong with checkpoints or metrics."""
        return super().look(folder / "run", before / "run", after / "run", done)

    def find_leftovers(self, folder: Path) -> str | None:
        """Say what is there beside checkpoints."""
        return super().find_leftovers(folder / "run")

    def go_on(self, folder: Path) -> str | None:
        """Begin or resume the run and save the next checkpoint."""
        return super().go_on(folder / "run")


class FileSave(Save):
    """One file of the run folder.

    Args:
        file: Its name.
        write: Writes it.
    """

    def __init__(self, file: str, write: Callable[[RunLog], None]):
        self.name, self._write = f"a save of {file}", write
        self._file = file

    def prepare(self, folder: Path) -> None:
        """Begin a run that has the file, with other content."""
        with opened_log(folder, resume=False):
            pass
        if not (folder / self._file).exists():
            write_whole(folder / self._file, b"what was there before")

    @contextmanager
    def start(self, folder: Path) -> Iterator[Callable[[], object]]:
        """Give what writes the file."""
        with opened_log(folder, resume=True) as log:
            yield lambda: self._write(log)

    def look(self, folder: Path, before: Path, after: Path, done: bool) -> str | None:
        """Say what is wrong with the file: it holds the old or the new content."""
        now, old, new = ((each / self._file).read_bytes() for each in (folder, before, after))
        if now != new and (done or now != old):
            return f"{self._file} holds neither its old content nor the new"
        return None

    def find_leftovers(self, folder: Path) -> str | None:
        """Say whether the file lies there under another name, too."""
        left = folder / f"{self._file}.new"
        return f"{left.name} was left over" if left.exists() else None

    def go_on(self, folder: Path) -> str | None:
        """Write the file once more."""
        with self.start(folder) as write:
            write()
        return self.find_leftovers(folder)


def made_up(step: int) -> Checkpoint:
    """Return a small checkpoint of this step, with several types and a number alone."""
    weight = torch.arange(4.0).reshape(2, 2) + step
    tensors = {"weight": weight, "bias": weight[0].double(), "step": torch.tensor(float(step))}
    return Checkpoint(step, {"model": tensors}, {"update": step, "best_error": math.pi / step})


def _judge_newest(folder: Path, step: int) -> str | None:
    """Say what is wrong after a save of ``step``: it is the newest valid one, of a few."""
    valid = valid_checkpoints(folder)
    if max(valid, default=None) != step:
        return f"checkpoint {step} is not there after the save"
    if len(list_checkpoints(folder)) > _KEEP:
        return "the oldest was not pruned"
    return None


@contextmanager
def opened_log(folder: Path, *, resume: bool) -> Iterator[RunLog]:
    """Open a run folder quietly."""
    with quiet(), RunLog(folder, Settings(), resume=resume) as log:
        yield log


def _log_and_save(log: RunLog, step: int) -> None:
    """Save a step, and log it unless a save of it that failed has done so."""
    lines = (log.folder / "metrics.csv").read_text().splitlines()
    if not lines[-1].startswith(f"{10 * step},"):
        log.scalars(10 * step, {"train/loss": step / 7, "train/grad_norm": 1.0})
    log.save_checkpoint(step, 10 * step, made_up(step).tensors, {})


def _metrics(folder: Path, env_steps: int) -> list[str]:
    """Return the lines of ``metrics.csv`` up to a step."""
    lines = (folder / "metrics.csv").read_text().splitlines()[1:]
    return [line for line in lines if int(line.split(",")[0]) <= env_steps]


def _damage_newest(folder: Path) -> None:
    path = list_checkpoints(folder)[-1] / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1])


def _leave_parts(folder: Path) -> None:
    """Leave what saves that were killed leave."""
    newest = list_checkpoints(folder)[-1]
    shutil.copytree(newest, folder / ".step_00000001.old")
    (folder / ".step_00000001.old" / "manifest.json").unlink()
    shutil.copytree(newest, folder / ".step_00000004.new")
    (folder / ".step_00000004.new" / "state.json").write_bytes(b"{")


SAVES: tuple[Save, ...] = (
    FirstSave("the start and first save of a run", 1),
    CheckpointSave("a save that prunes", 4, (1, 2, 3)),
    CheckpointSave("a save over a damaged one", 3, (1, 2, 3), _damage_newest),
    CheckpointSave("a save after leftovers", 4, (2, 3), _leave_parts),
    LoggedSave("a save of a run", 3),
    FileSave("best.safetensors", lambda log: log.save_weights(dict(made_up(1).tensors["model"]))),
    FileSave("config.json", lambda log: log.note_facts({"device": "cpu"})),
)
