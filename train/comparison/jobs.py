"""Jobs side by side, each with one thread, on this machine or on Slurm.

Jobs outlive the process that starts them, unless it stops them: one that begins the same jobs
again finds those that still wait or run.
"""

from __future__ import annotations

import math
import os
import shlex
import shutil
import signal
import subprocess  # noqa: TID251 - job.py, sbatch, scancel, sinfo, squeue
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Literal

import torch
from filelock import BaseFileLock, FileLock, Timeout

from agents.runs.commands import DIVERGED
from agents.runs.files import make_folder
from agents.training import check_settings
from train.comparison.job import GRACE, Job, words_of

LOOK_SECONDS = 15.0
"""Time between two looks at Slurm's queue, which serves all of its users [s]."""
_QUEUE = ("squeue", "--me", "--array", "--noheader", "--format=%i")
_DAY = 24 * 60  # [min]


@dataclass(frozen=True)
class JobConfig:
    """Where jobs run: settings of all scripts that have jobs."""

    cluster: Literal["local", "slurm"] = "local"
    """Where trainings run: on this machine, or as jobs of Slurm."""
    partition: str | None = None
    """Slurm's partition, or several with commas between; by default the cluster's."""
    timeout_min: int | None = None
    """Minutes after which a training saves and waits for its next turn; by default unlimited, on
    Slurm a day or, if that is shorter, the partition's limit."""
    parallel: int = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    """Trainings side by side, each with one thread; on Slurm, jobs in the queue."""
    work_dir: Path = Path("runs")
    """Folder for the runs; it can be deleted afterwards."""

    def __post_init__(self) -> None:
        check_settings(self, {"at least 1": ("timeout_min", "parallel")})
        if self.cluster == "slurm":
            _time_limit(self)
        elif self.partition is not None:
            raise ValueError(f"partition {self.partition!r} needs --cluster slurm")


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        job: The job.
        status: Exit status, minus the signal's number if it was killed; None if it stopped early.
        cpu_seconds: CPU time [s].
        last_words: Last line that it printed, or its whole error message if it failed.
        how: How it ended, in words.
    """

    job: Job
    status: int | None
    cpu_seconds: float
    last_words: str
    how: str


@dataclass(eq=False)
class _Submitted:
    """A job under way: its place among those side by side, and what runs or queues it.

    ``process`` is that of :mod:`train.comparison.job` if this process started it, ``id`` the job's
    number on Slurm, whose own messages are in ``log``.
    """

    job: Job
    slot: int
    process: subprocess.Popen[bytes] | None = None
    id: str = ""
    log: Path | None = None


class _Local:
    """This machine: a process of its own starts each program and waits for it."""

    poll_seconds = 0.1

    def __init__(self, config: JobConfig):
        if sys.platform == "win32":
            raise ValueError("jobs need Linux or macOS, for their signals; on Windows, use WSL")
        self._minutes, self._gpus = config.timeout_min or 0, visible_gpus()

    def finds(self, each: _Submitted) -> bool:
        return each.job.is_running()

    def submit(self, jobs: Sequence[_Submitted]) -> None:
        """Start jobs; a slot's GPU is shared with every n-th one of n GPUs."""
        for each in jobs:
            gpus = self._gpus
            own = {"CUDA_VISIBLE_DEVICES": gpus[each.slot % len(gpus)]} if gpus else {}
            each.process = subprocess.Popen(
                words_of([each.job], "local", self._minutes),
                env={**os.environ, **own},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's signals are for this process
            )

    def has_ended(self, each: _Submitted) -> bool:
        gone = each.process is None or each.process.poll() is not None
        return gone and not each.job.is_running()

    def stop(self, jobs: Sequence[_Submitted]) -> None:
        """Send SIGTERM until all have ended; their own processes kill what takes too long."""
        deadline = time.monotonic() + GRACE + 10
        while jobs and time.monotonic() < deadline:
            for each in jobs:
                if number := each.process.pid if each.process else each.job.record.process:
                    with suppress(OSError):  # it is gone
                        os.kill(number, signal.SIGTERM)
            time.sleep(0.1)
            jobs = [each for each in jobs if not self.has_ended(each)]

    close = stop


class _Slurm:
    """Slurm: jobs that are begun together are a job array. They go on without this process."""

    poll_seconds = 2.0

    def __init__(self, config: JobConfig):
        self._minutes, self._folder = _time_limit(config), config.work_dir.resolve()
        self._partition = [f"--partition={config.partition}"] if config.partition else []
        ids = set(_ask(*_QUEUE))  # unless Slurm answers, it isn't known what is under way
        self._looks: list[set[str]] = [ids, ids]  # the last two
        self._looked = time.monotonic()

    def finds(self, each: _Submitted) -> bool:
        note = each.job.beside("job")  # from which a later process learns the id
        each.id = note.read_text() if note.exists() else ""
        return each.id in self._looks[-1]

    def submit(self, jobs: Sequence[_Submitted]) -> None:
        words = words_of([each.job for each in jobs], "slurm", 0)
        delay = min(2 * GRACE, 30 * self._minutes)  # [s] before the time limit
        flags = [f"--array=0-{len(jobs) - 1}", f"--time={self._minutes}", f"--signal=USR2@{delay}"]
        flags += ["--job-name=ram-env", "--cpus-per-task=1", "--requeue", "--open-mode=append"]
        flags += [f"--output={self._folder}/slurm-%A_%a.txt", *self._partition]
        script = f"#!/bin/sh\nsrun {shlex.join(words)}\n"
        (number,) = _ask("sbatch", "--parsable", *flags, stdin=script)
        for index, each in enumerate(jobs):
            each.id = f"{number.partition(';')[0]}_{index}"
            each.log = self._folder / f"slurm-{each.id}.txt"
            each.job.beside("job").write_text(each.id)
        self._looks[-1].update(each.id for each in jobs)

    def has_ended(self, each: _Submitted) -> bool:
        """Say whether a job has ended, however it did: two looks in a row didn't find it."""
        if time.monotonic() > self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            with suppress(ValueError):  # Slurm doesn't answer now
                self._looks = [self._looks[-1], set(_ask(*_QUEUE))]
        return each.job.record.status is not None or not any(each.id in ids for ids in self._looks)

    def stop(self, jobs: Sequence[_Submitted]) -> None:
        subprocess.run(["scancel", *(each.id for each in jobs)], check=False)

    def close(self, jobs: Sequence[_Submitted]) -> None:
        if jobs:
            ids = " ".join(each.id for each in jobs if each.id)
            print(f"they are in Slurm's queue; to cancel them: scancel {ids}", file=sys.stderr)


def run_jobs(
    next_job: Callable[[], Job | None],
    config: JobConfig,
    give_up: Callable[[Job], bool] = lambda job: False,
) -> Generator[Ended]:
    """Run jobs side by side and report each as it ends.

    A job that has ended already is reported, one that waits or runs is waited for, and any other
    is submitted. Close the iterator, or let an error or signal end it, to stop the jobs under way
    on this machine. Those on Slurm go on.

    Args:
        next_job: Returns the next job, None if there is none for now; asked at each poll while
            less than ``config.parallel`` are under way.
        config: Where they run.
        give_up: Called at each poll for each job under way; True stops it.
    """
    make_folder(config.work_dir)
    cluster = _Slurm(config) if config.cluster == "slurm" else _Local(config)
    under_way: list[_Submitted] = []
    try:
        while True:
            new: list[_Submitted] = []
            while len(under_way) + len(new) < config.parallel and (job := next_job()) is not None:
                taken = {each.slot for each in under_way + new}
                new.append(_Submitted(job, min({*range(config.parallel)} - taken)))
            under_way += new
            if missing := [each for each in new if _is_to_run(each, cluster)]:
                with _signals_held_back():
                    cluster.submit(missing)
            if not under_way:
                return
            for each in tuple(under_way):
                if not cluster.has_ended(each):
                    if not give_up(each.job):
                        continue
                    cluster.stop([each])
                under_way.remove(each)
                yield _report(each)
            time.sleep(cluster.poll_seconds)
    finally:
        cluster.close(under_way)


def _is_to_run(each: _Submitted, cluster: _Local | _Slurm) -> bool:
    """Say whether a job is neither under way nor has ended well, and let one that failed run."""
    make_folder(each.job.folder.parent)
    if cluster.finds(each) or (status := each.job.record.status) in (0, DIVERGED):
        return False
    if status is not None:
        each.job.reopen()
    return True


def _report(each: _Submitted) -> Ended:
    """Return how a job that is no longer under way ended."""
    record, output = each.job.record, each.job.output
    text = output.read_bytes()[record.printed :] if output.exists() else b""
    how = f"ended with status {record.status}"
    if record.status is None:
        lost = "was lost" if record.command else "did not start"
        how = "was cancelled" if record.stopped else lost
    if each.log and each.log.exists():
        text = text or each.log.read_bytes()
        each.log.unlink()
    lines = text.decode(errors="replace").splitlines()
    lines = ["nothing printed", *(line for line in lines if any(map(str.isalnum, line)))]
    errors = [k for k, line in enumerate(lines) if line.startswith("error: ")] or [-1]
    first = errors[-1] if record.status else -1  # a message may have several lines
    last_words = "\n".join(lines[first:]).strip()
    return Ended(each.job, record.status, record.cpu_seconds, last_words, how)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let no signal end this process before it knows the jobs that it starts.

    Their processes inherit the mask and lift it when they are ready.
    """
    held = (signal.SIGINT, signal.SIGHUP, signal.SIGTERM)
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, held)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)


@contextmanager
def hold(path: Path, used_by: str, seconds: float = 0) -> Iterator[BaseFileLock]:
    """Hold a lock file, which the system frees when this process ends, however it does.

    Raises:
        ValueError: If another process holds it for some ``seconds``; ``used_by`` says what for.
    """
    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=seconds)
    except Timeout as error:
        raise ValueError(f"{used_by}: wait until it ends, or name another path") from error
    with held:
        yield lock


def exit_on_signals(cluster: str) -> None:
    """Let SIGINT (Ctrl-C) and SIGTERM end this process in one line, with status 128 + the signal.

    Jobs on this machine stop, those on Slurm go on. A second signal ends this process at once.
    """
    what = "leaving the jobs to Slurm" if cluster == "slurm" else "stopping the programs"

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        line = f"{signal.Signals(number).name}: {what}; the same command resumes\n"
        os.write(2, line.encode())  # print() may not be called from a signal's handler
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()  # doesn't wake them
    return names[:count] if len(names) >= count > 0 and names[0] else [*map(str, range(count))]


def _time_limit(config: JobConfig) -> int:
    """Return the time limit of jobs on Slurm [min]; a ValueError says why there can be none."""
    if shutil.which("sbatch") is None:
        raise ValueError(
            "cluster slurm needs Slurm, and there is no sbatch here: run this on a login node of "
            "the cluster, or choose --cluster local"
        )
    words = _ask("sinfo", "--noheader", "--format=%P %l")
    names, times = [name.rstrip("*") for name in words[::2]], map(_minutes, words[1::2])
    limits = dict(zip(names, times, strict=True))
    default = next((name.rstrip("*") for name in words if name.endswith("*")), "")
    chosen = (config.partition or os.environ.get("SBATCH_PARTITION") or default).split(",")
    if unknown := [name for name in chosen if name not in limits]:
        raise ValueError(f"partition must be among {sorted(limits)}, got {unknown}")
    limit = min(limits[name] for name in chosen)  # a job runs where there is room first
    if (config.timeout_min or 0) > limit:
        got = f"got {config.timeout_min}"
        raise ValueError(f"timeout_min must be at most {limit}, the partition's limit, {got}")
    return config.timeout_min or int(min(limit, _DAY))


def _minutes(limit: str) -> float:
    """Return the minutes of a limit as sinfo prints it: infinite, or [days-][hours:]mm:ss."""
    if limit == "infinite":
        return math.inf
    days, _, clock = limit.rpartition("-")
    hours, minutes, _ = [0, *map(int, clock.split(":"))][-3:]
    return 1440 * int(days or 0) + 60 * hours + minutes


def _ask(*words: str, stdin: str = "") -> list[str]:
    """Return the words that a command of Slurm prints; ValueError if it fails."""
    ended = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ValueError(f"Slurm's {words[0]} failed: {ended.stderr.strip()}")
    return ended.stdout.split()
