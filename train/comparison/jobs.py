"""Jobs side by side, each with one thread: see :mod:`train.comparison.clusters`."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from filelock import BaseFileLock, FileLock, Timeout

from train.comparison.clusters import JobConfig, Local, Slurm, Submitted
from train.comparison.job import Job


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


def run_jobs(
    next_job: Callable[[], Job | None],
    config: JobConfig,
    *,
    give_up: Callable[[Job], bool] = lambda job: False,
    poll_seconds: float = 0.1,
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
        poll_seconds: Time between two polls [s].
    """
    cluster = Slurm(config) if config.cluster == "slurm" else Local(config)
    under_way: list[Submitted] = []
    try:
        while True:
            new: list[Submitted] = []
            while len(under_way) + len(new) < config.parallel and (job := next_job()) is not None:
                taken = {each.slot for each in under_way + new}
                new.append(Submitted(job, min({*range(config.parallel)} - taken)))
            under_way += new
            cluster.begin(new)
            if not under_way:
                return
            for each in tuple(under_way):
                if cluster.has_ended(each):
                    if isinstance(cluster, Local) and each.job.record.stopped == "requeued":
                        cluster.begin([each])
                        continue
                elif give_up(each.job):
                    cluster.stop([each])
                else:
                    continue
                under_way.remove(each)
                yield _report(each)
            time.sleep(max(poll_seconds, 2 if config.cluster == "slurm" else 0))
    finally:
        cluster.close(under_way)


def _report(each: Submitted) -> Ended:
    """Return how a job that is no longer under way ended."""
    record, output = each.job.record, each.job.output
    how, before = f"ended with status {record.status}", record.printed
    if record.status is None:
        lost = "was lost" if record.command else "did not start"
        how = "was cancelled" if record.stopped else lost
        if each.handle is not None and not record.stopped:
            output, before = each.handle.paths.stdout, 0  # submitit's
    text = output.read_bytes()[before:] if output.exists() else b""
    lines = text.decode(errors="replace").splitlines()
    lines = ["nothing printed", *(line for line in lines if any(map(str.isalnum, line)))]
    errors = [k for k, line in enumerate(lines) if line.startswith("error: ")] or [-1]
    first = errors[-1] if record.status else -1  # a message may have several lines
    last_words = "\n".join(lines[first:]).strip()
    return Ended(each.job, record.status, record.cpu_seconds, last_words, how)


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
