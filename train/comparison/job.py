"""One job: a program that is started or resumed, and a record of how far it came.

The process that waits next to each program imports this module, so it imports nothing slow.
Next to the run folder ``seed_0`` lie ``seed_0.txt`` with all that the program prints, which is
locked while it runs, and ``seed_0.json``, the record.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess  # noqa: TID251 - a protocol's programs; a protocol is code
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

if sys.platform != "win32":
    import fcntl
    import resource

GRACE = 30
"""Seconds in which a program has to stop, before it is killed."""
TOO_SLOW = 124
"""Exit status of a job that its time limit ended before it had a new checkpoint."""

_STOPPED = (128 + signal.SIGINT, 128 + signal.SIGTERM)  # exit statuses after a signal
_ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Record:
    """How far a job came.

    Attributes:
        command: What was started.
        cpu_seconds: CPU time since the program last started from scratch [s], without processes
            that were lost with their node.
        status: Exit status, minus the signal's number if it was killed; None before the end.
        failed_at: Name of the newest checkpoint when its program last gave up.
        stopped: Why it was last stopped before its end, ``"cancelled"`` or ``"requeued"``.
        printed: Bytes that it had printed before it was last started or resumed.
    """

    command: tuple[str, ...] = ()
    cpu_seconds: float = 0.0
    status: int | None = None
    failed_at: str = ""
    stopped: str = ""
    printed: int = 0


@dataclass(frozen=True)
class Job:
    """A program to run, and the function that submitit calls for it.

    Attributes:
        name: Shown to the user.
        command: Its words; ``python`` stands for the interpreter that runs this.
        folder: Where it writes; it is removed before the program starts over.
        resume: Words of the command that resumes it, if it can, from the newest entry of
            ``checkpoints`` in its folder.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    resume: tuple[str, ...] = ()

    @property
    def output(self) -> Path:
        """The file with all that it prints, next to its folder."""
        return self.beside("txt")

    def beside(self, suffix: str) -> Path:
        """Return a path next to its folder: ``seed_0.txt`` for ``txt``."""
        return self.folder.with_name(f"{self.folder.name}.{suffix}")

    @property
    def called_as(self) -> str:
        """The command as results keep it, with RUN_DIR for the folder."""
        return " ".join(self.command).replace(str(self.folder), "RUN_DIR")

    @property
    def record(self) -> Record:
        """How far it came; a new record if none is there, or that of another command."""
        stored = self._stored()
        return stored if stored.command == self.command else Record()

    def holds_another(self) -> bool:
        """Say whether a start would delete a checkpoint of another command in its folder."""
        another = self._stored().command not in ((), self.command)
        return another and self._newest_checkpoint() != ""

    def _stored(self) -> Record:
        path = self.beside("json")
        try:
            content = json.loads(path.read_text())
            return Record(**{**content, "command": tuple(content["command"])})
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, TypeError, KeyError) as error:
            advice = f"move it and {self.folder} away"
            raise ValueError(f"{path} is not a job's record: {advice} ({error!r})") from error

    def is_running(self) -> bool:
        """Say whether a process on this machine runs it, whoever started that."""
        with suppress(FileNotFoundError), self.output.open("rb") as output:
            try:
                fcntl.flock(output, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def reopen(self) -> None:
        """Let a job that failed run again, from its newest checkpoint.

        One whose program gave up twice at the same checkpoint starts over: the checkpoint may be
        the reason.
        """
        record, newest = self.record, self._newest_checkpoint()
        gave_up = (record.status or 0) > 0 and record.status not in _STOPPED
        if gave_up and record.failed_at == newest:
            self.forget()
        else:
            failed_at = newest if gave_up else record.failed_at
            self._write(replace(record, status=None, failed_at=failed_at))

    def forget(self) -> None:
        """Let the job start over if it is run again."""
        self.beside("json").unlink(missing_ok=True)

    def __call__(self, environment: Mapping[str, str]) -> None:
        """Run the program to its end; on SIGTERM, or before a time limit, let it save and stop.

        submitit's signal before a time limit is SIGUSR2. The job is then submitted again, unless
        the program can't resume or made no checkpoint: that would go on for ever.
        """
        received: list[int] = []

        def note(number: int, frame: FrameType | None) -> None:
            received.append(number)

        signal.signal(signal.SIGTERM, note)
        submit_again: Any = signal.signal(signal.SIGUSR2, note)
        with self.output.open("ab", 0) as output:
            fcntl.flock(output, fcntl.LOCK_EX)  # passed on to the program
            if self.record.status is not None or received:  # a second submission, or it is to stop
                return
            record, checkpoint = replace(self.record, stopped=""), self._newest_checkpoint()
            resumes = self.resume and record.command and checkpoint
            if not resumes:
                shutil.rmtree(self.folder, ignore_errors=True)
                output.truncate(0)
                record, checkpoint = Record(self.command), ""
            record = replace(record, printed=os.fstat(output.fileno()).st_size)
            self._write(record)
            try:
                words = self.resume if resumes else self.command
                status = _run(words, output, {**_ONE_THREAD, **environment}, received)
            except OSError as error:
                output.write(f"error: {error}\n".encode())
                status = 127
            stops = bool(received) and status != 0
            late = stops and signal.SIGUSR2 in received
            if late and not (self.resume and self._newest_checkpoint() != checkpoint):
                advice = b"or lower --checkpoint-every" if self.resume else b"it can't resume"
                output.write(b"error: no new checkpoint within the time limit: ")
                output.write(b"raise --timeout-min, " + advice + b"\n")
                stops, status = False, TOO_SLOW
            requeued = stops and (late or _has_time_of_grace())
            used = resource.getrusage(resource.RUSAGE_CHILDREN)
            seconds = record.cpu_seconds + used.ru_utime + used.ru_stime
            stopped = ("requeued" if requeued else "cancelled") if stops else ""
            status = None if stops else status
            self._write(replace(record, cpu_seconds=seconds, status=status, stopped=stopped))
        if requeued:
            submit_again(signal.SIGUSR2, None)  # and exit

    def checkpoint(self, *arguments: Any) -> Any:
        """Return what submitit is to run when the job is requeued."""
        from submitit.helpers import DelayedSubmission  # noqa: TID251 - of a job that it began

        return DelayedSubmission(self, *arguments)

    def _write(self, record: Record) -> None:
        new = self.beside("json.new")
        with new.open("w") as file:
            file.write(json.dumps(asdict(record)))
            file.flush()
            os.fsync(file.fileno())
        new.replace(self.beside("json"))

    def _newest_checkpoint(self) -> str:
        paths = (self.folder / "checkpoints").glob("[!.]*")
        return max((path.name for path in paths), default="")


def _run(
    words: tuple[str, ...], output: Any, environment: dict[str, str], received: list[int]
) -> int:
    """Run a program, stop it once a signal was received, and return its exit status."""
    process = subprocess.Popen(
        [sys.executable if word == "python" else word for word in words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **environment},
        start_new_session=True,
        preexec_fn=_reset_signals,
    )
    deadline = 0.0
    while process.poll() is None:
        if received and not deadline:
            process.terminate()
            deadline = time.monotonic() + GRACE
        elif deadline and time.monotonic() > deadline:
            process.kill()
        time.sleep(0.05)
    return process.returncode


def _reset_signals() -> None:
    """Unblock what clusters.py blocks; ignore SIGUSR2, which Slurm sends to every process."""
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    signal.signal(signal.SIGUSR2, signal.SIG_IGN)


def _has_time_of_grace() -> bool:
    """Return whether Slurm still counts this job as running after SIGTERM.

    In its partition's GraceTime it does, and the job must then requeue itself.
    """
    if os.environ.get("SUBMITIT_EXECUTOR") != "slurm":
        return False
    words = ["squeue", "--noheader", "--format=%T", f"--jobs={os.environ['SLURM_JOB_ID']}"]
    with suppress(OSError):  # a node may lack squeue
        return subprocess.run(words, capture_output=True, text=True).stdout.strip() == "RUNNING"
    return False
