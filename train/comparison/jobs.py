"""Jobs side by side, each with one thread, on this machine or on Slurm.

Jobs outlive the process that starts them, unless it stops them: one that begins the same jobs
again finds those that still wait or run.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess  # noqa: TID251 - job.py, sbatch, squeue
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Literal

import torch

from agents.runs.commands import DIVERGED
from agents.runs.files import make_folder
from agents.training import check_settings
from train.comparison.job import GRACE, Job, words_of

LOOK_SECONDS = 15.0
"""Time between two looks at Slurm's queue, which serves all of its users [s]."""


@dataclass(frozen=True)
class JobConfig:
    """Where jobs run: settings of all scripts that have jobs."""

    cluster: Literal["local", "slurm"] = "local"
    """Where trainings run: on this machine, or as jobs of Slurm."""
    partition: str | None = None
    """Slurm's partition, or several with commas between; by default the cluster's."""
    timeout_min: int | None = None
    """Minutes after which a job on Slurm saves and waits for its next turn; by default the
    partition's limit."""
    parallel: int = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    """Trainings side by side, each with one thread; on Slurm, jobs in the queue."""
    work_dir: Path = Path("runs")
    """Folder for the runs; it can be deleted afterwards."""

    def __post_init__(self) -> None:
        check_settings(self, {"at least 1": ("timeout_min", "parallel")})
        for name in ("partition", "timeout_min"):
            if self.cluster != "slurm" and (value := getattr(self, name)) is not None:
                raise ValueError(f"{name} {value!r} needs --cluster slurm")


@dataclass(frozen=True)
class Ended:
    """How a job ended.

    Attributes:
        job: The job.
        status: Exit status, minus the signal's number if it was killed; None if it stopped early.
        cpu_seconds: CPU time [s].
        last_words: Last line that it printed.
        how: How it ended, in words.
    """

    job: Job
    status: int | None
    cpu_seconds: float
    last_words: str
    how: str


class _Local:
    """This machine: a process of its own starts each program and waits for it."""

    poll_seconds = 0.1

    def __init__(self, config: JobConfig):
        if sys.platform == "win32":
            raise ValueError("jobs need Linux or macOS, for their signals; on Windows, use WSL")
        self._gpus = cycle(visible_gpus() or [""])
        self._processes: dict[Job, subprocess.Popen[bytes]] = {}

    def finds(self, job: Job) -> bool:
        return job.is_running()

    def submit(self, jobs: Sequence[Job]) -> None:
        """Start jobs, which take the GPUs in turn."""
        for job in jobs:
            gpu = next(self._gpus)
            self._processes[job] = subprocess.Popen(
                words_of([job], "local"),
                env={**os.environ, **({"CUDA_VISIBLE_DEVICES": gpu} if gpu else {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,  # a terminal's signals are for this process
            )

    def has_ended(self, job: Job) -> bool:
        process = self._processes.get(job)
        return (process is None or process.poll() is not None) and not job.is_running()

    def close(self, jobs: Sequence[Job]) -> None:
        """Send SIGTERM until all have ended; their own processes kill what takes too long."""
        if jobs:
            print("stopping the programs; the same command resumes", file=sys.stderr)
        deadline = time.monotonic() + GRACE + 10
        while jobs and time.monotonic() < deadline:
            for job in jobs:
                process = self._processes.get(job)
                if number := process.pid if process else job.record.process:
                    with suppress(OSError):  # it is gone
                        os.kill(number, signal.SIGTERM)
            time.sleep(0.1)
            jobs = [job for job in jobs if not self.has_ended(job)]


class _Slurm:
    """Slurm: jobs that are begun together are a job array. They go on without this process."""

    poll_seconds = 2.0

    def __init__(self, config: JobConfig):
        self._folder = config.work_dir.resolve()
        flags = {"partition": config.partition, "time": config.timeout_min}
        self._flags = [f"--{name}={value}" for name, value in flags.items() if value is not None]
        self._ids: dict[Job, str] = {}
        ids = self._queued()  # unless Slurm answers, it isn't known what is under way
        self._looks = [ids, ids]  # the last two
        self._looked = time.monotonic()

    def finds(self, job: Job) -> bool:
        note = job.beside("job")  # from which a later process learns the id
        self._ids[job] = note.read_text() if note.exists() else ""
        return self._ids[job] in self._looks[-1]

    def submit(self, jobs: Sequence[Job]) -> None:
        flags = [f"--array=0-{len(jobs) - 1}", f"--signal=USR2@{2 * GRACE}", *self._flags]
        flags += ["--job-name=ram-env", "--cpus-per-task=1", "--requeue", "--open-mode=append"]
        flags += [f"--output={self._folder}/slurm-%A_%a.txt"]
        script = f"#!/bin/sh\nsrun {shlex.join(words_of(jobs, 'slurm'))}\n"
        (number,) = self._ask("sbatch", "--parsable", *flags, stdin=script)
        for index, job in enumerate(jobs):
            self._ids[job] = f"{number.partition(';')[0]}_{index}"
            job.beside("job").write_text(self._ids[job])
            self._looks[-1].add(self._ids[job])

    def has_ended(self, job: Job) -> bool:
        """Say whether a job has ended, however it did: two looks in a row didn't find it."""
        if time.monotonic() > self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            with suppress(ValueError):  # Slurm doesn't answer now
                self._looks = [self._looks[-1], self._queued()]
        known = any(self._ids[job] in ids for ids in self._looks)
        return job.record.status is not None or not known

    def close(self, jobs: Sequence[Job]) -> None:
        if ids := " ".join(filter(None, (self._ids.get(job) for job in jobs))):
            print(f"the jobs stay in Slurm's queue; to cancel them: scancel {ids}", file=sys.stderr)

    def _queued(self) -> set[str]:
        return set(self._ask("squeue", "--me", "--array", "--noheader", "--format=%i"))

    def _ask(self, *words: str, stdin: str = "") -> list[str]:
        """Return the words that a command of Slurm prints; ValueError if it fails."""
        try:
            ended = subprocess.run(words, input=stdin, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            advice = "run this on a login node of the cluster, or choose --cluster local"
            raise ValueError(f"there is no {words[0]} here: {advice}") from error
        if ended.returncode:
            raise ValueError(f"Slurm's {words[0]} failed: {ended.stderr.strip()}")
        return ended.stdout.split()


def run_jobs(jobs: Sequence[Job], config: JobConfig) -> Generator[Ended]:
    """Run jobs side by side and report each as it ends.

    A job that has ended already is reported, one that waits or runs is waited for, and any other
    is submitted. Close the iterator, or let an error or signal end it, to stop the jobs under way
    on this machine. Those on Slurm go on.
    """
    make_folder(config.work_dir)
    for job in jobs:
        _ = job.record  # a ValueError if it can't be read, or is of another command
    cluster = _Slurm(config) if config.cluster == "slurm" else _Local(config)
    waiting, under_way = [*jobs], list[Job]()
    try:
        while waiting or under_way:
            count = config.parallel - len(under_way)
            new, waiting = waiting[:count], waiting[count:]
            under_way += new
            if missing := [job for job in new if not cluster.finds(job) and _is_to_run(job)]:
                cluster.submit(missing)
            for job in [each for each in under_way if cluster.has_ended(each)]:
                under_way.remove(job)
                yield _report(job)
            time.sleep(cluster.poll_seconds)
    finally:
        cluster.close(under_way)


def _is_to_run(job: Job) -> bool:
    """Say whether a job has not ended well, and let one that failed run."""
    make_folder(job.folder.parent)
    status = job.record.status
    if status not in (None, 0, DIVERGED):
        job.reopen()
    return status not in (0, DIVERGED)


def _report(job: Job) -> Ended:
    """Return how a job that is no longer under way ended."""
    record, output = job.record, job.beside("txt")
    text = output.read_text(errors="replace") if output.exists() else ""
    words = [line for line in text.splitlines() if any(map(str.isalnum, line))]
    how = f"ended with status {record.status}"
    if record.status is None:
        lost = "was lost" if record.command else "did not start"
        how = "was cancelled" if record.stopped else lost
    last_words = ["nothing printed", *words][-1].strip()
    return Ended(job, record.status, record.cpu_seconds, last_words, how)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()  # doesn't wake them
    return names[:count] if len(names) >= count > 0 and names[0] else [*map(str, range(count))]
