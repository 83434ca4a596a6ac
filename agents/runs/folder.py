"""The run folder: what was run, its results, and what it takes to resume."""

from __future__ import annotations

import os
import shlex
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, nullcontext, suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

import msgspec
from filelock import FileLock, Timeout
from rich.console import Console
from safetensors.torch import save
from torch.utils.tensorboard import SummaryWriter

from agents.distributed import on_first, rank
from agents.evaluation import Score
from agents.runs import checkpoints
from agents.runs.checkpoints import Checkpoint, CheckpointError, Tensors
from agents.runs.commands import Stop, Stopped
from agents.runs.files import convert, make_folder, read_file, read_json, to_json, write_whole
from agents.runs.hashed import remove
from agents.runs.machine import command_line, commit, describe_machine, launcher, versions
from agents.runs.progress import Stopwatch, TrainingProgress
from agents.runs.records import ResultRecord, printable
from agents.torchrun import lost_connection


class _SavedState(msgspec.Struct):
    """Entries in the state of every checkpoint; scripts add their own."""

    env_steps: Annotated[int, msgspec.Meta(ge=0)]
    metrics: dict[str, float]
    config: dict[str, Any]


class _Place(msgspec.Struct):
    """Entries of ``config.json`` that say where a run has been."""

    commit: str | None = None
    machine: str | None = None
    python: str | None = None
    versions: dict[str, str | None] = {}


class RunLog:
    """A folder for one run, and what a person sees of it meanwhile.

    It holds ``config.json`` (settings, command, commit, machine), ``log.txt`` (all that was
    printed but the status lines), ``metrics.csv``, ``timing.csv`` (all that depends on the clock),
    TensorBoard events, ``checkpoints/``, ``model.json`` with ``best.safetensors``, and in the end
    ``result.json``. Env steps are those of all lanes together.

    As a context manager it says how to resume a run that was stopped or failed. A new run that
    fails before its first update leaves nothing behind.

    Args:
        folder: Folder to create; FileExistsError if it holds a run already, unless ``resume``.
        config: A dataclass of settings, stored as JSON.
        resume: Resume the folder's run from :attr:`checkpoint`; drop metrics from after it.

    Attributes:
        checkpoint: The newest valid checkpoint, or None: a resumed run then starts over.
        status: :meth:`agents.runs.progress.TrainingProgress.report`, to call once per update.
        judging: Returns a context whose CPU time does not count as training.
    """

    def __init__(self, folder: Path, config: Any, *, resume: bool = False):
        self.folder, self._resumed = folder, resume
        self.checkpoint: Checkpoint | None = None
        settings = msgspec.to_builtins(asdict(config), enc_hook=str)
        self._settings = {k: v for k, v in settings.items() if k not in ("run_dir", "resume")}
        self._num_validations: int = settings.get("num_validations", 1)
        self._commit = commit()
        self._console = Console(highlight=False, soft_wrap=True, emoji=False)
        self._training = TrainingProgress(self._console)
        self.status = self._training.report
        self._newest: tuple[int, dict[str, float]] = (0, {})  # env steps, metrics there
        self._timed = 0  # env steps of the newest row of timing.csv
        timing, metrics = folder / "timing.csv", folder / "metrics.csv"
        with ExitStack() as opened, ExitStack() as failed:
            opened.callback(_claim(folder, resume).release)
            if not resume:
                failed.callback(remove, folder)
            self._lines = opened.enter_context((folder / "log.txt").open("a", encoding="utf-8"))
            steps = self._find_checkpoint() if resume else 0
            self._describe(settings)
            columns = "env_steps,seconds,cpu_seconds,env_steps_per_second"
            last = _cut_csv(timing, columns, tuple[int, float, float, float], steps + 1)
            self._stopwatch = Stopwatch(*last[1:3] if last else ())
            self.judging = self._stopwatch.paused
            _cut_csv(metrics, "env_steps,tag,value", tuple[int, str, float], steps)
            self._timing = opened.enter_context(timing.open("a", encoding="utf-8"))
            self._metrics = opened.enter_context(metrics.open("a", encoding="utf-8"))
            self._events = _open_events(folder, steps if resume else None)
            opened.callback(self._events.close)
            if self.checkpoint is not None:
                self.scalars(steps, self.checkpoint.state["metrics"])
            failed.pop_all()
            self._opened = opened.pop_all()

    def __enter__(self) -> RunLog:
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        if error is None:
            self._opened.close()
            return
        env_id = str(self._settings.get("env_id", ""))
        allowed = ["--env-id", env_id] if ":" in env_id else []
        words = [sys.executable, *launcher(), sys.argv[0], "--resume", str(self.folder), *allowed]
        if allowed and (places := os.environ.get("PYTHONPATH")):  # where the id's module lies
            words = ["env", f"PYTHONPATH={places}", *words]
        resume = f"resume with: {shlex.join(words)}"
        # All is tried, the last line first: a full disk, for instance, may have ended the run
        with suppress(OSError), ExitStack() as ending:
            if not (self._resumed or self._training.share > 0 or self._newest[0] > 0):
                advice = f"nothing was trained: {self.folder} is removed"
                ending.callback(remove, self.folder)
            elif isinstance(error, FloatingPointError):
                advice = "the run diverged; resumed, it would diverge again"
            elif isinstance(error, ValueError) and not self._training.share:
                advice = "the run was not resumed"  # the error says why
            elif lost_connection(error):  # that rank's error isn't known here
                advice = f"another process ended; if the run didn't diverge, {resume}"
            else:
                advice = f"the run ended early; {resume}"
            ending.callback(self._opened.close)
            ending.callback(self.say, advice)
            if not isinstance(error, Stopped):
                ending.callback(traceback.print_exception, error, file=self._lines)

    def say(self, line: str) -> None:
        """Print a line and keep it in ``log.txt``."""
        self._console.print(printable(line), markup=False)
        print(printable(line), file=self._lines, flush=True)

    def progress(self, num_updates: int) -> Iterator[int]:
        """Count updates, from 0 or from the checkpoint, with a bar on a terminal."""
        self._num_validations = min(self._num_validations, num_updates)
        self.say(f"training: {num_updates:,} updates; validations: {self._num_validations}")
        self._stopwatch.start()
        yield from self._training.updates(getattr(self.checkpoint, "step", 0), num_updates)

    @property
    def time_left(self) -> str:
        """Time that the remaining updates take at the mean speed so far, such as 0:12:34 left."""
        return self._training.time_left

    def scalars(self, env_steps: int, values: Mapping[str, float]) -> None:
        """Write values by tag, such as ``eval/error``, to ``metrics.csv`` and TensorBoard."""
        if env_steps != self._newest[0]:
            self._newest = (env_steps, {})
        for tag, value in values.items():
            self._newest[1][tag] = float(value)
            self._metrics.write(f"{env_steps},{tag},{float(value)!r}\n")
            self._events.add_scalar(tag, value, env_steps)
        self._metrics.flush()

    def speed(self, env_steps: int) -> None:
        """Write to ``timing.csv`` how long the run has taken, before it was resumed too."""
        seconds, cpu_seconds = self._stopwatch.read()
        speed = env_steps / max(seconds, 1e-9)
        self._timing.write(f"{env_steps},{seconds:.3f},{cpu_seconds:.3f},{speed:.1f}\n")
        self._timing.flush()
        self._timed = env_steps
        self._events.add_scalar("time/fps", speed, env_steps)

    def save_model_config(self, config: Any) -> None:
        """Write the model's sizes and choices, a dataclass, to ``model.json``."""
        write_whole(self.folder / "model.json", to_json(asdict(config)))

    def save_weights(self, weights: Tensors) -> None:
        """Write the best weights so far to ``best.safetensors``."""
        write_whole(self.folder / "best.safetensors", save(weights))

    def save_checkpoint(
        self, update: int, env_steps: int, tensors: Mapping[str, Tensors], state: Mapping[str, Any]
    ) -> None:
        """Save what the run resumes from: tensors by group, and all else ready for JSON."""
        if env_steps != self._timed:  # a resumed run's clock continues from here
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
        folder = self.folder / "checkpoints"
        checkpoints.save_checkpoint(folder, Checkpoint(update, tensors, everything))

    def note_facts(self, facts: Mapping[str, Any]) -> None:
        """Add facts such as the device to ``config.json``; warn if a resumed run's have changed."""
        path = self.folder / "config.json"
        settings = read_json(path)
        for name, value in facts.items():
            if settings.setdefault(name, value) != value:
                self.say(f"warning: {name} was {settings[name]!r} and is {value!r}")
        write_whole(path, to_json(settings))

    def decide(self, name: str, choice: Any) -> Any:
        """Store and return a choice that depends on the machine; a resumed run keeps its own."""
        choice = read_json(self.folder / "config.json").get(name, choice)
        self.note_facts({name: choice})
        return choice

    def result(self, split: str, score: Score | None, data: str, **more: float) -> None:
        """Write the score on a split, if any, where its images came from and more; print a line."""
        values: dict[str, Any] = {"split": split, "data": data, **more}
        line = "finished; no final split was evaluated"
        if score is not None:
            values |= score.to_json()
            count, keep = self._num_validations, self._settings.get("keep", "best")
            if split == "validation" and keep == "best" and count > 1:
                self.say(
                    f"chosen as the best of {count} validations, so this error is a little low:"
                )
            line = ", ".join([f"{split} {score}", *(f"{k} {v:.3f}" for k, v in more.items())])
        self._sync()  # a finished run is not resumed: nothing may be missing then
        write_whole(self.folder / "result.json", to_json({**values, "line": line}))
        self.say(line)

    def _sync(self) -> None:
        """Wait until all metrics and times are on the disk."""
        for file in (self._timing, self._metrics):
            os.fsync(file.fileno())
        self._events.flush()

    def _describe(self, settings: dict[str, Any]) -> None:
        """Write to ``config.json`` what runs, and where.

        A run that goes on from a checkpoint adds what is new, since bytes may differ. One that
        starts over is described anew.
        """
        path, here = self.folder / "config.json", describe_machine(self._commit)
        content = {"config": settings, **here}
        if self._resumed:
            before, place = read_json(path), read_json(path, _Place)
            content |= {name: before[name] for name in ("config", "command") if name in before}
            if self.checkpoint is not None:
                facts = ("commit", "machine", "python")
                moves = {name: _joined(getattr(place, name), here[name]) for name in facts}
                new, old = here["versions"], place.versions
                joined = {name: _joined(old.get(name), version) for name, version in new.items()}
                content = {**before, **moves, "versions": joined}
        write_whole(path, to_json(content))

    def _find_checkpoint(self) -> int:
        """Find the checkpoint to resume from, check that it is this run's, return its env steps."""
        folder = self.folder / "checkpoints"
        self.checkpoint = checkpoints.latest_checkpoint(folder, self.say)
        if self.checkpoint is None:
            if checkpoints.list_checkpoints(folder):
                raise CheckpointError(f"{folder} holds no usable checkpoint: start a new run")
            self.say(f"no checkpoint yet, starting over: {command_line()}")
            return 0
        step, state = self.checkpoint.step, self.checkpoint.state
        try:
            saved = convert(state, _SavedState)
        except ValueError as error:
            raise CheckpointError(f"the state of checkpoint {step} is invalid: {error}") from error
        if saved.config != self._settings:
            raise CheckpointError(
                f"{self.folder / 'config.json'} was changed: its settings are not those of "
                f"checkpoint {step}; restore it, or start a new run"
            )
        self.say(f"resuming after update {step}: {command_line()}")
        for name, mine in (("versions", versions()), ("commit", self._commit)):
            if (theirs := state.get(name)) != mine:
                self.say(f"warning: {name} was {theirs!r}, is {mine!r}: the result may differ")
        checkpoints.prune_checkpoints(folder, step)  # in case its save was interrupted there
        return saved.env_steps


def run_in_folder(config: Any, name: str, train: Callable[[Any, RunLog, Stop], None]) -> None:
    """Call a script's ``train`` with a run folder; resuming a finished run only prints its result.

    A new folder below ``runs/`` is called after ``name``, the seed and the time. Under torchrun it
    is rank 0's alone.
    """
    if config.resume is not None and (result := config.resume / "result.json").exists():
        if rank() == 0:
            print(printable(read_json(result, ResultRecord).line))
        return
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    new = f"{name.replace(':', '_')}_seed{config.seed}_{now}_{os.getpid()}"
    folder = config.resume or config.run_dir or Path("runs") / new
    logs: list[RunLog] = []
    with Stop() as stop, ExitStack() as opened:

        def begin() -> Checkpoint | None:
            log = RunLog(folder, config, resume=config.resume is not None)
            logs.append(opened.enter_context(log))
            return log.checkpoint

        checkpoint = on_first(begin)
        log: Any = logs[0] if logs else _NoLog(checkpoint)
        train(config, log, stop)


class _NoLog:
    """What ranks other than 0 have for a :class:`RunLog`: it writes and prints nothing."""

    judging = nullcontext

    def __init__(self, checkpoint: Checkpoint | None):
        self.checkpoint = checkpoint

    def progress(self, num_updates: int) -> range:
        return range(getattr(self.checkpoint, "step", 0), num_updates)

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *values, **named: None


def _joined(before: str | None, here: str | None) -> str | None:
    """Return what was and what is now, such as ``here; then there``; None is unknown."""
    if here is None or (before or "").split("; then ")[-1] == here:
        return before
    return f"{before}; then {here}" if before else here


def _claim(folder: Path, resume: bool) -> FileLock:
    """Create the folder if necessary and lock it for this process."""
    if not resume and folder.is_dir():
        unclaimed = {"run.lock", "log.txt", "config.json.new"}  # what an interrupted start leaves
        names = {path.name for path in folder.iterdir()}
        if names - unclaimed or (names and "run.lock" not in names):
            if not (folder / "config.json").is_file():
                raise FileExistsError(f"{folder} is not empty: choose another with --run-dir")
            raise FileExistsError(
                f"{folder} holds a run already: choose another with --run-dir, or resume it with "
                f"--resume {shlex.quote(str(folder))}"
            )
    make_folder(folder)
    for path in folder.iterdir():
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is not a regular file: expected no links or pipes in a run")
    lock = FileLock(folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder} is in use: another process writes to it") from error
    return lock


def _cut_csv(path: Path, header: str, row: Any, before: int) -> Any:
    """Cut a CSV file back to the rows before some env steps; return the last one left, if any."""
    try:
        text = read_file(path, 2**30).decode() if path.exists() else ""
        lines = text.splitlines(keepends=True)[1:]  # of which a crash may cut off the last
        kept = [line for line in lines if line[-1] == "\n" and int(line.split(",", 1)[0]) < before]
        last = convert(kept[-1].rstrip().split(","), row, strict=False) if kept else None
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    write_whole(path, "".join([header + "\n", *kept]).encode())
    return last


def _open_events(folder: Path, purge_step: int | None) -> SummaryWriter:
    """Open a new file of TensorBoard events; readers drop older ones from ``purge_step`` on."""
    words = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    stamps = [int(word) for word in words if word.isdecimal()]
    while int(time.time()) == max(stamps, default=0):  # files are read in the order of seconds
        time.sleep(0.05)
    return SummaryWriter(str(folder), purge_step=purge_step)
