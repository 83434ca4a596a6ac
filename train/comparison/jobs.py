"""Programs run side by side, each a process with one thread."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch
from filelock import BaseFileLock, FileLock, Timeout

from agents.runs.files import make_folder

_GRACE = 30  # seconds that a program has to stop in, before it is killed
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
# Becomes another program, which Linux ends as soon as its parent has died
_LEASH = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
)


@dataclass(frozen=True)
class Job:
    """A program to run.

    Attributes:
        name: Shown to the user.
        command: Its words; ``python`` stands for the interpreter that runs this.
        folder: Where it writes; what an earlier attempt left there is removed.
    """

    name: str
    command: tuple[str, ...]
    folder: Path

    @property
    def output(self) -> Path:
        """The file with all that it prints, next to its folder."""
        return self.folder.with_name(f"{self.folder.name}.txt")

    @property
    def called_as(self) -> str:
        """The command as results keep it, with RUN_DIR for the folder."""
        return " ".join(self.command).replace(str(self.folder), "RUN_DIR")


@dataclass(frozen=True)
class Ended:
    """How a program ended: its exit status (-9: by SIGKILL), CPU time [s] and last line."""

    job: Job
    status: int
    cpu_seconds: float
    last_line: str


def run_jobs(
    next_job: Callable[[], Job | None],
    processes: int,
    *,
    give_up: Callable[[Job], bool] = lambda job: False,
    poll_seconds: float = 0.1,
) -> Generator[Ended]:
    """Run programs side by side and report each as it ends.

    Close the iterator, or let an error or signal end it, to stop the programs under way. Needs
    ``os.wait4`` for the CPU time of one process, so it doesn't run on Windows.

    Args:
        next_job: Returns the next program, None if there is none for now; asked at each poll
            while a process is free.
        processes: Programs at a time.
        give_up: Called at each poll for each running program; True stops it.
        poll_seconds: Time between two polls [s].
    """
    running: list[_Process] = []
    gpus = visible_gpus()
    try:
        while True:
            while len(running) < processes and (job := next_job()) is not None:
                slot = min({*range(processes)} - {process.slot for process in running})
                running.append(_Process(job, slot, gpus))
            if not running:
                return
            for process in tuple(running):
                if not process.has_ended() and give_up(process.job):
                    _stop([process])
                if process.ended:
                    running.remove(process)
                    yield process.ended
            time.sleep(poll_seconds)
    finally:
        _stop(running)


def visible_gpus() -> list[str]:
    """Return the GPUs that this process sees, as ``CUDA_VISIBLE_DEVICES`` names them."""
    names = os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",")
    count = torch.cuda.device_count()  # doesn't wake them
    return names[:count] if len(names) >= count > 0 and names[0] else [*map(str, range(count))]


@contextmanager
def hold(path: Path, used_by: str) -> Iterator[BaseFileLock]:
    """Hold a lock file, which the system frees when this process ends, however it does.

    Raises:
        ValueError: If another process holds it; ``used_by`` says what that process does.
    """
    lock = FileLock(path)
    try:
        held = lock.acquire(timeout=0)
    except Timeout as error:
        raise ValueError(f"{used_by}: wait until it ends, or name another path") from error
    with held:
        yield lock


def exit_on_signals() -> None:
    """Let SIGINT (Ctrl-C) and SIGTERM end this process in one line, with status 128 + the signal.

    A second signal ends it at once.
    """

    def leave(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        line = f"{signal.Signals(number).name}: stopping the programs; the same command resumes\n"
        os.write(2, line.encode())  # print() may not be called from a signal's handler
        raise SystemExit(128 + number)

    signal.signal(signal.SIGINT, leave)
    signal.signal(signal.SIGTERM, leave)


class _Process:
    """A job's process, started; ``ended`` says how it ended, once it has.

    Args:
        job: The job.
        slot: Its place among those that run side by side, from 0. It shares one of the GPUs with
            every ``len(gpus)``-th slot.
        gpus: From :func:`visible_gpus`.
    """

    def __init__(self, job: Job, slot: int = 0, gpus: Sequence[str] = ()):
        self.job, self.slot = job, slot
        gpu = {"CUDA_VISIBLE_DEVICES": gpus[slot % len(gpus)]} if gpus else {}
        self.ended: Ended | None = None
        make_folder(job.folder.parent)
        shutil.rmtree(job.folder, ignore_errors=True)
        leash = [sys.executable, "-c", _LEASH] if sys.platform == "linux" else []
        words = [sys.executable if word == "python" else word for word in job.command]
        with job.output.open("wb") as output:
            self.popen = subprocess.Popen(
                [*leash, *words],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **_ONE_THREAD, **gpu},
                start_new_session=True,  # Ctrl-C is for this process, which stops the others
            )

    def send(self, number: signal.Signals) -> None:
        """Send a signal, unless it has ended; ``Popen``'s own would reap it."""
        if self.ended is None:
            os.kill(self.popen.pid, number)

    def has_ended(self) -> bool:
        """Say whether it has ended, and if so keep how in ``ended``."""
        if self.ended is None:
            pid, status, usage = os.wait4(self.popen.pid, os.WNOHANG)
            if pid:
                self.popen.returncode = os.waitstatus_to_exitcode(status)  # it is reaped
                seconds = usage.ru_utime + usage.ru_stime
                lines = self.job.output.read_text(errors="replace").strip().splitlines()
                last = ["nothing printed", *lines][-1]
                self.ended = Ended(self.job, self.popen.returncode, seconds, last)
        return self.ended is not None


def _stop(processes: list[_Process]) -> None:
    """Stop processes side by side; kill those that take too long."""
    for process in processes:
        process.send(signal.SIGTERM)
    deadline = time.monotonic() + _GRACE
    for process in processes:
        while not process.has_ended():
            if time.monotonic() > deadline:
                process.send(signal.SIGKILL)
            time.sleep(0.02)
