"""The run folder: what was run, what came of it, and what it takes to go on."""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from safetensors.torch import save
from torch import Tensor

from agents.evaluation import Score
from agents.runs.checkpoints import (
    Checkpoint,
    CheckpointError,
    Tensors,
    latest_checkpoint,
    list_checkpoints,
    prune_checkpoints,
    save_checkpoint,
)
from agents.runs.commands import Stop, Stopped, foreign_module
from agents.runs.files import read_json, to_json, write_whole
from agents.runs.folder_files import (
    TIMING,
    Stopwatch,
    claim,
    cut_csv,
    default_run_dir,
    finished_line,
    open_events,
)
from agents.runs.machine import command_line, commit, describe_machine, interpreter, versions

_METRICS = "env_steps,tag,value\n"


class RunLog:
    """A folder for one run, and what a person sees of it while it goes on.

    It holds ``config.json`` (settings, command, commit, machine; written first), ``log.txt``
    (every line that was printed), ``metrics.csv``, ``timing.csv`` (whatever depends on the
    clock), TensorBoard events, ``checkpoints/``, ``model.json`` with ``best.safetensors``, and
    in the end ``result.json``. All metrics count env steps.

    As a context manager it says how to go on with a run that was stopped or failed.

    Args:
        folder: Made here; must not hold a run already, unless ``resume``.
        config: A dataclass of settings, stored as JSON.
        resume: Go on with the run that the folder holds: from :attr:`checkpoint`, or from the
            start where that is None. Metrics from after the checkpoint are dropped.

    Attributes:
        folder: The run folder.
        checkpoint: The newest valid one, to go on from, or None.

    Raises:
        FileExistsError: If the folder holds a run: none is ever overwritten.
        CheckpointError: If the checkpoint is of a run with other settings, or all are damaged.
        ValueError: If another process is writing to the folder, or a file in it is damaged or
            a link.
    """

    def __init__(self, folder: Path, config: Any, *, resume: bool = False):
        self.folder = folder
        self.checkpoint: Checkpoint | None = None
        self._settings, self._commit = _portable(config), commit()
        self._console = Console(highlight=False, soft_wrap=True, emoji=False)
        self._started, self._share, self._watch = time.monotonic(), 0.0, Stopwatch()
        self._newest: tuple[int, dict[str, float]] = (0, {})  # env steps, metrics there
        self._timed = 0  # env steps of the newest line of timing.csv
        with ExitStack() as opened:
            opened.callback(claim(folder, resume).release)
            if not resume:
                settings = {"config": _plain(asdict(config)), **describe_machine(self._commit)}
                write_whole(folder / "config.json", to_json(settings))
            self._lines = opened.enter_context((folder / "log.txt").open("a"))
            steps = self._find_checkpoint() if resume else 0
            timing = cut_csv(folder / "timing.csv", ",".join(TIMING) + "\n", steps + 1)
            if timing:
                self._watch.go_on(timing[-1], folder / "timing.csv")
            cut_csv(folder / "metrics.csv", _METRICS, steps)
            self._timing = opened.enter_context((folder / "timing.csv").open("a"))
            self._metrics = opened.enter_context((folder / "metrics.csv").open("a"))
            self._events = open_events(folder, purge_step=steps if resume else None)
            opened.callback(self._events.close)
            if self.checkpoint is not None:
                self.scalars(steps, self.checkpoint.state["metrics"])
            self._opened = opened.pop_all()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if error is None:
            self.close()
            return
        with suppress(OSError):  # a full disk, say, which is what ended the run
            if not isinstance(error, Stopped):
                traceback.print_exception(error, file=self._lines)
        with suppress(OSError):
            self.say(self._farewell(error))
        with suppress(OSError):
            self.close()

    def _farewell(self, error: BaseException) -> str:
        """Say what can be done with a run that has ended early."""
        if isinstance(error, FloatingPointError):
            return "the run has ended early, and would again"
        if isinstance(error, ValueError) and self.checkpoint is None and not self._share:
            return f"nothing was trained: {self.folder} can be deleted"
        return f"the run has ended early; to go on with it: {self.resume_command}"

    @property
    def resume_command(self) -> str:
        """The command that goes on with this run."""
        env_id = str(self._settings.get("env_id", ""))
        allowed = [] if foreign_module(env_id) is None else ["--env-id", env_id]
        return shlex.join([interpreter(), sys.argv[0], "--resume", str(self.folder), *allowed])

    def say(self, line: str) -> None:
        """Print a line and keep it in ``log.txt``."""
        self._console.print(line, markup=False)
        print(line, file=self._lines, flush=True)

    def progress(self, num_updates: int) -> Iterator[int]:
        """Count updates, from 0 or from the checkpoint on, with a bar on a terminal."""
        first = 0 if self.checkpoint is None else self.checkpoint.step
        columns = (BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        with Progress(
            *columns, console=self._console, disable=not self._console.is_terminal
        ) as bar:
            self._started = time.monotonic()
            self._watch.start()
            task = bar.add_task("", total=num_updates, completed=first)
            for update in range(first, num_updates):
                self._share = (update + 1 - first) / (num_updates - first)
                yield update
                bar.advance(task)

    def status(self, episodes: int, accuracy: float | Tensor) -> None:
        """Report how training goes, once per update; refreshes the status line every few seconds.

        Args:
            episodes: Training episodes so far.
            accuracy: Share of them that ended with the right label, in the newest update; a tensor
                is read only when the line is due, so that a GPU isn't waited for.
        """

    @property
    def time_left(self) -> str:
        """How long the updates to come will take at the mean speed so far, as minutes:seconds."""
        if not self._share:
            return "going on"
        seconds = (time.monotonic() - self._started) * (1 / self._share - 1)
        return f"{int(seconds) // 60}:{int(seconds) % 60:02d} left"

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Write one line a value to ``metrics.csv``, and the same to TensorBoard.

        Args:
            env_steps: Steps so far, of all lanes together.
            values: By tag, such as ``train/policy_loss`` or ``eval/error``.
        """
        if env_steps != self._newest[0]:
            self._newest = (env_steps, {})
        for tag, value in values.items():
            self._newest[1][tag] = float(value)
            self._metrics.write(f"{env_steps},{tag},{float(value)!r}\n")
            self._events.add_scalar(tag, value, env_steps)
        self._metrics.flush()

    def speed(self, env_steps: int) -> None:
        """Write to ``timing.csv`` how long the run has taken, while a process was at it."""
        seconds, cpu_seconds = self._watch.read()
        speed = env_steps / max(seconds, 1e-9)
        self._timing.write(f"{env_steps},{seconds:.3f},{cpu_seconds:.3f},{speed:.1f}\n")
        self._timing.flush()
        self._timed = env_steps
        self._events.add_scalar("time/fps", speed, env_steps)

    def judging(self) -> AbstractContextManager[None]:
        """Return a context whose CPU seconds are not the training's."""
        return self._watch.paused()

    def save_model_config(self, config: Any) -> None:
        """Write the model's sizes and choices, a dataclass, to ``model.json``."""
        write_whole(self.folder / "model.json", to_json(asdict(config)))

    def save_weights(self, weights: Tensors) -> None:
        """Write the best weights so far to ``best.safetensors``."""
        write_whole(self.folder / "best.safetensors", save(weights))

    def save_checkpoint(
        self, update: int, env_steps: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any]
    ) -> None:
        """Save what the run goes on from, metrics first.

        Args:
            update: Updates done.
            env_steps: Steps so far, of all lanes together.
            tensors: By group.
            state: Everything else that the script needs, ready for JSON.
        """
        if env_steps != self._timed:  # a resumed run's clock goes on from here
            self.speed(env_steps)
        self._sync()
        steps, metrics = self._newest
        everything = {
            "update": update,
            "env_steps": env_steps,
            "metrics": metrics if steps == env_steps else {},
            "config": self._settings,
            "commit": self._commit,
            "versions": versions(),
            **state,
        }
        save_checkpoint(self.folder / "checkpoints", Checkpoint(update, tensors, everything))

    def note_facts(self, facts: Mapping[str, Any]) -> None:
        """Add to ``config.json`` what is known once the data are open: device, where they lay.

        A resumed run leaves them as they were, and warns where they are others now.
        """
        path = self.folder / "config.json"
        settings = read_json(path)
        for name, value in facts.items():
            if settings.setdefault(name, value) != value:
                self.say(f"warning: {name} was {settings[name]!r} and is {value!r}")
        write_whole(path, to_json(settings))

    def result(self, split: str, score: Score | None, data: str) -> None:
        """Write what the run ended with to ``result.json`` and print it as a line of its own.

        Args:
            split: What was judged, or ``"none"``.
            score: How, or None.
            data: Where the split's images came from.
        """
        values: dict[str, Any] = {"split": split, "data": data}
        line = "finished; no final split was judged"
        if score is not None:
            values |= {"error": score.error, "interval": list(score.interval), **asdict(score)}
            line = f"{split} {score}"
        self._sync()  # a finished run is not gone on with: nothing may be missing then
        write_whole(self.folder / "result.json", to_json({**values, "line": line}))
        self.say(line)

    def close(self) -> None:
        """Close the files, and let others have the folder."""
        self._opened.close()

    def _sync(self) -> None:
        """Wait until all metrics and times are on the disk."""
        for file in (self._timing, self._metrics):
            os.fsync(file.fileno())
        self._events.flush()

    def _find_checkpoint(self) -> int:
        """Find what to go on from, check that it is of this run, and return its env steps."""
        folder = self.folder / "checkpoints"
        self.checkpoint = latest_checkpoint(folder, self.say)
        if self.checkpoint is None:
            if list_checkpoints(folder):
                raise CheckpointError(f"{folder} holds none that can be used: start a new run")
            self.say(f"no checkpoint yet, starting over: {command_line()}")
            return 0
        state = self.checkpoint.state
        for name, kind in (("env_steps", int), ("metrics", dict), ("config", dict)):
            if not isinstance(state.get(name), kind):
                raise CheckpointError(f"checkpoint {self.checkpoint.step} has no {name}")
        if not all(isinstance(value, float) for value in state["metrics"].values()):
            raise CheckpointError(f"checkpoint {self.checkpoint.step} has metrics without number")
        if state["config"] != self._settings:
            raise CheckpointError(
                f"{self.folder / 'config.json'} was changed: its settings are not those of "
                f"checkpoint {self.checkpoint.step}; put it back, or start a new run"
            )
        self.say(f"going on after update {self.checkpoint.step}: {command_line()}")
        for name, mine in (("versions", versions()), ("commit", self._commit)):
            if state.get(name) != mine:
                self.say(
                    f"warning: {name} were {state.get(name)!r}, are {mine!r}: the run may not end "
                    "as it would have"
                )
        prune_checkpoints(folder, self.checkpoint.step)  # had its save been cut off there
        return state["env_steps"]


def run_in_folder(config: Any, name: str, train: Callable[[Any, RunLog, Stop], None]) -> None:
    """Train, or go on training, in the run folder; stop in good order when asked to.

    Args:
        config: The settings, with ``run_dir``, ``resume`` and ``seed``. Of a run to go on with
            that has finished, only the last line is printed.
        name: What a new folder below ``runs/`` is called by.
        train: What to do.
    """
    if config.resume is not None and (line := finished_line(config.resume)) is not None:
        print(line)
        return
    folder = config.resume or config.run_dir or default_run_dir(name, config.seed)
    with Stop() as stop, RunLog(folder, config, resume=config.resume is not None) as log:
        train(config, log, stop)


def _portable(config: Any) -> dict[str, Any]:
    """Return a run's settings but for where it lies, which does not change it."""
    settings = {k: v for k, v in asdict(config).items() if k not in ("run_dir", "resume")}
    return _plain(settings)


def _plain(value: Any) -> Any:
    """Return a value as JSON has it: paths as text."""
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    return str(value) if isinstance(value, Path) else value
