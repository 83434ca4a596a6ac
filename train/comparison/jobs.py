"""Programs side by side, each a process with one thread, and what they leave in run folders.

Dimension key:
    k: marks at which a run was validated
"""

from __future__ import annotations

import csv
import io
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from agents.runs.commands import DIVERGED
from agents.runs.files import make_folder, read_file, read_json
from agents.runs.records import portable
from train.comparison.results import BEHAVIOUR, Curve, Result

_MAX_CSV = 2**30  # [B]
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Become another program, which Linux ends as soon as this process's parent is gone
_LEASH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Job:
    """A program to run.

    Attributes:
        name: For a person.
        command: Its words; ``python`` is the interpreter that runs this.
        run_dir: Folder that it writes; what lies there is of an earlier attempt and removed.
    """

    name: str
    command: tuple[str, ...]
    run_dir: Path

    @property
    def output(self) -> Path:
        """File of what it prints, beside its folder."""
        return self.run_dir.with_name(f"{self.run_dir.name}.txt")


@dataclass(frozen=True)
class Ended:
    """How a program ended.

    Attributes:
        job: Which.
        status: Its exit status; -9 if SIGKILL ended it, and so on.
        cpu_seconds: Of all its threads, from its start to its end [s].
    """

    job: Job
    status: int
    cpu_seconds: float

    @property
    def last_line(self) -> str:
        """The last thing it printed."""
        lines = self.job.output.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "nothing printed"


def run_jobs(jobs: Iterable[Job], processes: int) -> Iterator[Ended]:
    """Run programs, so many at a time, and tell of each as it ends.

    A caller that stops asking, an error or a signal's exception stops those under way. Needs
    ``os.wait4``, which tells CPU time apart by process: not on Windows.

    Args:
        jobs: In the order in which they begin.
        processes: At a time.

    Yields:
        How each ended, in the order in which they do.
    """
    waiting, running = iter(jobs), {}
    with ExitStack() as at_end:
        at_end.callback(_stop_all, running)
        while True:
            while len(running) < processes and (job := next(waiting, None)) is not None:
                process = _start(job)
                running[process.pid] = (job, process)
            if not running:
                return
            pid, wait_status, usage = os.wait4(-1, 0)
            if pid in running:
                job, process = running.pop(pid)
                process.returncode = os.waitstatus_to_exitcode(wait_status)  # it is reaped
                yield Ended(job, process.returncode, usage.ru_utime + usage.ru_stime)


def _start(job: Job) -> subprocess.Popen[bytes]:
    make_folder(job.run_dir.parent)
    shutil.rmtree(job.run_dir, ignore_errors=True)
    words = [sys.executable if word == "python" else word for word in job.command]
    with job.output.open("wb") as output:
        return start_program(words, output)


def start_program(words: Sequence[str], output: BinaryIO) -> subprocess.Popen[bytes]:
    """Start a program with one thread that no Ctrl-C reaches and, on Linux, that ends with us.

    Args:
        words: Its command.
        output: File for all that it prints.
    """
    leash = [sys.executable, "-c", _LEASH] if sys.platform == "linux" else []
    return subprocess.Popen(
        [*leash, *words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **_ONE_THREAD},
        start_new_session=True,  # Ctrl-C is for this process, which passes it on
    )


def _stop_all(running: dict[int, tuple[Job, subprocess.Popen[bytes]]]) -> None:
    for _, process in running.values():
        process.terminate()
    for _, process in running.values():
        wait_or_kill(process)


def wait_or_kill(process: subprocess.Popen[bytes]) -> None:
    """Wait half a minute for a process that was asked to stop, then end it."""
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def harvest(ended: Ended, split: str, chance_error: float) -> Any:
    """Return what a program left in its run folder, as it goes into a folder of results.

    Args:
        ended: With exit status 0, or :data:`~agents.runs.commands.DIVERGED`.
        split: The final split it was asked for.
        chance_error: What it counts as if it diverged [%].

    Returns:
        Its settings, :class:`Curve` and :class:`Result`.

    Raises:
        ValueError: If something is missing or damaged, or the data was the sample of digits; the
            message names the file.
    """
    folder = ended.job.run_dir
    settings = portable(read_json(folder / "config.json"), folder)
    if settings.get("sample"):
        raise ValueError(f"{folder / 'config.json'}: trained on the sample of digits, not kept")
    if not _is_moment(settings.get("started")):
        raise ValueError(
            f"{folder / 'config.json'}: started must be a time such as 2026-01-31T12:00:00, if it "
            f"is there, got {settings['started']!r}"
        )
    curve, last = _read_metrics(folder)
    env_steps = int([0, *curve.env_steps][-1])
    if ended.status == DIVERGED:
        reason = ended.last_line.removeprefix("error: ")
        diverged = ("diverged", chance_error, None, None, split, env_steps)
        return settings, curve, Result(*diverged, ended.cpu_seconds, reason, last)
    end = read_json(folder / "result.json")
    wrong: Any = end.get("wrong")
    total: Any = end.get("total")
    if end.get("split") != split or not _is_share(wrong, total):
        raise ValueError(
            f"{folder / 'result.json'} must hold split {split!r} and how many of total images "
            f"were wrong, got {end}"
        )
    finished = ("finished", 100 * wrong / total, wrong, total, split, env_steps)
    return settings, curve, Result(*finished, ended.cpu_seconds, last=last)


def _is_moment(started: Any) -> bool:
    try:
        return started is None or bool(datetime.fromisoformat(started))
    except (TypeError, ValueError):
        return False


def _is_share(wrong: Any, total: Any) -> bool:
    return isinstance(wrong, int) and isinstance(total, int) and 0 <= wrong <= total > 0


def _read_metrics(folder: Path) -> tuple[Curve, dict[str, float]]:
    """Return validation at the marks and the last behaviour, of ``metrics.csv``, ``timing.csv``."""
    last: dict[str, float] = {}
    errors: dict[str, dict[float, float]] = {"eval/error": {}, "eval/error_sampled": {}}
    try:
        for row in _rows(folder / "metrics.csv"):
            if row["tag"] in errors:
                errors[row["tag"]][float(row["env_steps"])] = float(row["value"])
            elif row["tag"] in BEHAVIOUR:
                last[row["tag"]] = float(row["value"])
        timed = [(0.0, 0.0)]
        timed += [
            (float(r["env_steps"]), float(r["cpu_seconds"])) for r in _rows(folder / "timing.csv")
        ]
        marks = sorted(errors["eval/error"])
        sampled = [errors["eval/error_sampled"][mark] for mark in marks]
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"{folder} holds no curve of a comparison: {error!r}") from error
    cpu_seconds = np.interp(marks, *np.transpose(timed))  # linear between two lines
    best = [errors["eval/error"][mark] for mark in marks]
    return Curve(np.array(marks), cpu_seconds, np.array(best), np.array(sampled)), last


def _rows(path: Path) -> Iterable[dict[str, str]]:
    return csv.DictReader(io.StringIO(read_file(path, _MAX_CSV).decode()))
