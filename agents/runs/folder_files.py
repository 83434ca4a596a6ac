"""The files of a run folder: claimed, cut back to a checkpoint, timed, told finished."""

from __future__ import annotations

import os
import shlex
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from torch.utils.tensorboard import SummaryWriter

from agents.runs.files import make_folder, read_file, read_json, write_whole

TIMING = ("env_steps", "seconds", "cpu_seconds", "env_steps_per_second")
"""Columns of ``timing.csv``; CPU seconds are of all threads, validation left out."""

_MAX_CSV = 2**30  # [B]


class Stopwatch:
    """How long a run has taken, in this process and those that it goes on from.

    Attributes:
        seconds: By the clock, until this process began to count [s].
        cpu_seconds: Of all threads, until then, what was paused left out [s].
    """

    def __init__(self) -> None:
        self.seconds, self.cpu_seconds = 0.0, 0.0
        self.start()

    def start(self) -> None:
        """Count from here on."""
        self._wall, self._cpu = time.monotonic(), time.process_time()

    def read(self) -> tuple[float, float]:
        """Return seconds by the clock and CPU seconds."""
        wall, cpu = time.monotonic() - self._wall, time.process_time() - self._cpu
        return self.seconds + wall, self.cpu_seconds + cpu

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the CPU seconds of what happens within."""
        before = time.process_time()
        try:
            yield
        finally:
            self._cpu += time.process_time() - before

    def go_on(self, line: str, path: Path) -> None:
        """Take in what earlier processes took, off a line of ``timing.csv``."""
        try:
            self.seconds, self.cpu_seconds = (float(part) for part in line.split(",")[1:3])
        except ValueError as error:
            raise ValueError(f"{path} is damaged: {line!r} has no seconds") from error


def default_run_dir(env_id: str, seed: int) -> Path:
    """Return a folder of its own below ``runs/`` for a run that starts now."""
    now = datetime.now().strftime("%Y%m%d-%H%M%S")
    return Path("runs") / f"{env_id.replace(':', '_')}_seed{seed}_{now}_{os.getpid()}"


def finished_line(folder: Path) -> str | None:
    """Return the line that a finished run ended with, or None if it isn't finished."""
    path = folder / "result.json"
    if not path.exists():
        return None
    line = read_json(path).get("line")
    if not isinstance(line, str) or not line.isprintable():
        raise ValueError(f"{path} is damaged: it does not hold a line to print")
    return line


def claim(folder: Path, resume: bool) -> FileLock:
    """Make the folder this process's own."""
    if not resume and folder.exists():
        unclaimed = {"run.lock", "config.json.new"}  # of a start that was cut off
        if not folder.is_dir() or {path.name for path in folder.iterdir()} - unclaimed:
            raise FileExistsError(
                f"{folder} holds a run already: name another with --run-dir, or go on with it "
                f"with --resume {shlex.quote(str(folder))}"
            )
    make_folder(folder)
    for path in folder.iterdir():
        if path.is_symlink() or not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path} is no plain file: a run would write to what it stands for")
    lock = FileLock(folder / "run.lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{folder} is in use: another process writes to it") from error
    return lock


def cut_csv(path: Path, header: str, env_steps: int) -> list[str]:
    """Keep a CSV file's whole lines from before ``env_steps``; make it if it isn't there.

    Returns:
        The lines that stay, without the header.
    """
    try:
        text = read_file(path, _MAX_CSV).decode() if path.exists() else ""
        lines = text.splitlines(keepends=True)[1:]
        whole = [line for line in lines if line.endswith("\n")]  # but for one that was cut off
        kept = [line for line in whole if int(line.split(",", 1)[0]) < env_steps]
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error
    write_whole(path, "".join([header, *kept]).encode())
    return kept


def open_events(folder: Path, purge_step: int | None) -> SummaryWriter:
    """Open a new file of TensorBoard events; readers drop older ones from ``purge_step`` on."""
    words = [path.name.split(".")[3] for path in folder.glob("events.out.tfevents.*")]
    stamps = [int(word) for word in words if word.isdecimal()]
    while int(time.time()) == max(stamps, default=0):  # files are read in the order of seconds
        time.sleep(0.05)
    return SummaryWriter(str(folder), purge_step=purge_step)


def portable(settings: dict[str, Any], run_dir: Path) -> dict[str, Any]:
    """Return what ``config.json`` holds without the paths of the machine that it ran on.

    Args:
        settings: Of the file.
        run_dir: The run folder, which is called RUN_DIR.
    """
    told = {**settings, "command": _portable_command(settings.get("command", ""), run_dir)}
    if "data" in told:  # how many images, not the folder they lay in
        told["data"] = told["data"].partition(" from ")[0]
    if "config" in told:
        told["config"] = {**told["config"], "run_dir": None}
    return told


def _portable_command(command: str, run_dir: Path) -> str:
    """Return a command with RUN_DIR for the run folder and the last two parts of other paths."""
    words = []
    for before, word in pairwise(["", *shlex.split(command)]):
        path = Path(word)
        if before == "--run-dir" or path.resolve() == run_dir.resolve():
            word = "RUN_DIR"
        elif word.startswith("--run-dir="):
            word = "--run-dir=RUN_DIR"
        elif path.is_absolute():
            word = "/".join(path.parts[-2:])
        words.append(word)
    return shlex.join(words)
