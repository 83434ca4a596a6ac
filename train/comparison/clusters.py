"""Where jobs run: this machine or Slurm, both through submitit.

Jobs outlive the process that submits them, unless it stops them: one that begins the same jobs
again finds those that still wait or run.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess  # noqa: TID251 - scancel, sinfo
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import submitit  # noqa: TID251 - pickles jobs into a new folder
import torch
from submitit.core.utils import FailedJobError  # noqa: TID251 - the same

from agents.runs.commands import DIVERGED
from agents.runs.files import make_folder
from agents.training import check_settings
from train.comparison.job import GRACE, Job

LOOK_SECONDS = 15.0
"""Time between two looks at Slurm's queue, which serves all of its users [s]."""
RESTART_SECONDS = 600.0
"""Time in which a job's process starts it again; later, its id may be another process's [s]."""
_QUEUE = ("squeue", "--me", "--array", "--noheader", "--format=%i")
_DAY, _YEAR = 24 * 60, 365 * 24 * 60  # [min]


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


@dataclass(eq=False)
class Submitted:
    """A job that was submitted, by this process or an earlier one.

    Attributes:
        job: The job.
        slot: Its place among those side by side, from 0.
        id: Its number on Slurm; on this machine, the process that submitit started for it.
        handle: What submitit returned, if this process submitted it.
    """

    job: Job
    slot: int = 0
    id: str = ""
    handle: Any = None


class _Cluster:
    """What both clusters do: begin jobs that aren't under way."""

    _finds: Any
    _submit: Any

    def __init__(self, config: JobConfig):
        if sys.platform == "win32":
            raise ValueError("jobs need Linux or macOS, as submitit does; on Windows, use WSL")
        self.name = config.cluster
        make_folder(config.work_dir)
        # A new folder: what is unpickled there was pickled by this process
        self._folder = Path(tempfile.mkdtemp(prefix="submitit-", dir=config.work_dir))

    def begin(self, jobs: Sequence[Submitted]) -> None:
        """Submit jobs, except those that are under way or have ended well."""
        new = []
        for each in jobs:
            make_folder(each.job.folder.parent)
            note = each.job.beside("job")  # from which a later process learns the id
            name, _, number = note.read_text().partition(" ") if note.exists() else ("", "", "")
            each.id = number if name == self.name else ""
            if not self._finds(each) and (status := each.job.record.status) not in (0, DIVERGED):
                if status is not None:
                    each.job.reopen()
                new.append(each)
        with _signals_held_back():
            for each, each.handle in zip(new, self._submit(new), strict=True):
                each.id = each.handle.job_id
                each.job.beside("job").write_text(f"{self.name} {each.id}")


class Local(_Cluster):
    """This machine: a process of submitit starts each job and waits for it."""

    def __init__(self, config: JobConfig):
        super().__init__(config)
        minutes = config.timeout_min or _YEAR
        self._executor = submitit.LocalExecutor(self._folder, max_num_timeout=sys.maxsize)
        self._executor.update_parameters(
            timeout_min=minutes, signal_delay_s=_signal_delay(minutes), stderr_to_stdout=True
        )
        self._gpus = visible_gpus()

    def _finds(self, each: Submitted) -> bool:
        with suppress(OSError, ValueError):
            age = time.time() - each.job.beside("json").stat().st_mtime
            if each.job.record.stopped == "requeued" and age < RESTART_SECONDS:
                os.kill(int(each.id), 0)
                return True  # its process starts the program again about now
        return each.job.is_running()

    def _submit(self, jobs: Sequence[Submitted]) -> list[Any]:
        return [self._executor.submit(each.job, self._environment(each)) for each in jobs]

    def _environment(self, each: Submitted) -> dict[str, str]:
        """Return the GPU of a slot, shared with every n-th one of n GPUs; submitit hides them."""
        gpus = self._gpus
        return {"CUDA_VISIBLE_DEVICES": gpus[each.slot % len(gpus)]} if gpus else {}

    def has_ended(self, each: Submitted) -> bool:
        """Say whether a job has ended, however it did."""
        return (each.handle is None or each.handle.done()) and not each.job.is_running()

    def stop(self, jobs: Sequence[Submitted]) -> None:
        """Send SIGTERM until all have ended; their own processes kill what takes too long."""
        deadline = time.monotonic() + GRACE + 10
        while (jobs := [*filter(lambda each: not self.has_ended(each), jobs)]) and (
            time.monotonic() < deadline
        ):
            for each in jobs:
                with suppress(OSError, ValueError):  # its process or its id is gone
                    os.kill(int(each.id), signal.SIGTERM)
            time.sleep(0.1)

    def close(self, under_way: Sequence[Submitted]) -> None:
        """Stop the jobs that are under way when this process ends."""
        self.stop(under_way)
        shutil.rmtree(self._folder, ignore_errors=True)


class Slurm(_Cluster):
    """Slurm: jobs that are begun together are a job array. They go on without this process."""

    def __init__(self, config: JobConfig):
        super().__init__(config)
        minutes = _time_limit(config)
        self._executor = submitit.SlurmExecutor(self._folder, max_num_timeout=sys.maxsize)
        self._executor.update_parameters(
            job_name="ram-env",
            partition=config.partition,
            time=minutes,
            cpus_per_task=1,
            signal_delay_s=_signal_delay(minutes),
            stderr_to_stdout=True,
            additional_parameters={"requeue": True},
        )
        ids = set(_ask(*_QUEUE))  # unless Slurm answers, it isn't known what is under way
        self._looks: list[set[str]] = [ids, ids]  # the last two
        self._looked = time.monotonic()

    def _finds(self, each: Submitted) -> bool:
        return each.id in self._looks[-1]

    def _submit(self, jobs: Sequence[Submitted]) -> list[Any]:
        try:
            with self._executor.batch(allow_implicit_submissions=True):
                handles = [self._executor.submit(each.job, {}) for each in jobs]
        except FailedJobError as error:
            raise ValueError(f"Slurm refused the jobs: {error}") from error
        self._looks[-1].update(handle.job_id for handle in handles)
        return handles

    def has_ended(self, each: Submitted) -> bool:
        """Say whether a job has ended, however it did: two looks in a row didn't find it."""
        self._look()
        return each.job.record.status is not None or not any(each.id in ids for ids in self._looks)

    def _look(self) -> None:
        """Look at the queue, unless that was just done or Slurm doesn't answer now."""
        if time.monotonic() > self._looked + LOOK_SECONDS:
            self._looked = time.monotonic()
            with suppress(ValueError):
                self._looks = [self._looks[-1], set(_ask(*_QUEUE))]

    def stop(self, jobs: Sequence[Submitted]) -> None:
        """Cancel jobs."""
        subprocess.run(["scancel", *(each.id for each in jobs)], check=False)

    def close(self, under_way: Sequence[Submitted]) -> None:
        """Say which jobs are under way when this process ends."""
        if under_way:
            ids = " ".join(each.id for each in under_way if each.id)
            print(f"they are in Slurm's queue; to cancel them: scancel {ids}", file=sys.stderr)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Let no signal end this process before it has noted the jobs that it submits.

    SIGINT and SIGHUP, which a terminal sends, are for this process. They are blocked, and its
    children inherit that. SIGTERM is handled, not blocked, so that children still receive it.
    """
    held: list[int] = []
    handler = signal.signal(signal.SIGTERM, lambda number, frame: held.append(number))
    mask = signal.pthread_sigmask(signal.SIG_BLOCK, (signal.SIGINT, signal.SIGHUP))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, handler)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        if held:
            signal.raise_signal(signal.SIGTERM)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()  # doesn't wake them
    return names[:count] if len(names) >= count > 0 and names[0] else [*map(str, range(count))]


def _signal_delay(minutes: int) -> int:
    """Return how long before its time limit a job is told to save and stop [s]."""
    return min(2 * GRACE, 30 * minutes)


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


def _ask(*words: str) -> list[str]:
    """Return the words that a command of Slurm prints; ValueError if it fails."""
    ended = subprocess.run(words, capture_output=True, text=True, check=False)
    if ended.returncode:
        raise ValueError(f"Slurm's {words[0]} failed: {ended.stderr.strip()}")
    return ended.stdout.split()
