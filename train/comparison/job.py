"""One job: a program that is started or resumed, and a record of how far it came.

This file is also the script that waits next to each program, so it imports nothing slow. Next to
the run folder ``seed_0`` lie ``seed_0.txt`` with what the program has printed since it was last
started or resumed, which is locked while it runs, and ``seed_0.json``, the record.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess  # noqa: TID251 - a protocol's programs; a protocol is code
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

if sys.platform != "win32":
    import fcntl
    import resource

GRACE = 30
"""Seconds in which a program has to stop, before it is killed."""
TOO_SLOW = 124
"""Exit status of a job that its time limit ended before it had a new checkpoint."""
ONE_THREAD = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")


@dataclass(frozen=True)
class Record:
    """How far a job came.

    Attributes:
        command: What was started.
        cpu_seconds: CPU time since the program last started from scratch [s], without processes
            that were lost with their node.
        status: Exit status, minus the signal's number if it was killed; None before the end.
        stopped: Whether it was last stopped before its end.
        process: Id of the process that last waited next to it, on its machine.
    """

    command: tuple[str, ...] = ()
    cpu_seconds: float = 0.0
    status: int | None = None
    stopped: bool = False
    process: int = 0


@dataclass(frozen=True)
class Job:
    """A program to run.

    Attributes:
        name: Shown to the user.
        command: Its words; ``python`` stands for the interpreter that runs this.
        folder: Where it writes; it is removed before the program starts over.
        resume: Words of the command that resumes it, if it can, from the newest entry of
            ``checkpoints`` in its folder.
        formerly: Words of the same command in an earlier version, which results may name.
    """

    name: str
    command: tuple[str, ...]
    folder: Path
    resume: tuple[str, ...] = ()
    formerly: tuple[str, ...] = ()

    def beside(self, suffix: str) -> Path:
        """Return a path next to its folder: ``seed_0.txt``, which has its output, for ``txt``."""
        return self.folder.with_name(f"{self.folder.name}.{suffix}")

    @property
    def called_as(self) -> str:
        """The command as results keep it, with RUN_DIR for the folder."""
        return self._without_folder(self.command)

    def was_called(self, name: str) -> bool:
        """Say whether results keep ``name`` for its command, today or in an earlier version."""
        return name in (self.called_as, self._without_folder(self.formerly))

    def _without_folder(self, command: tuple[str, ...]) -> str:
        return " ".join(command).replace(str(self.folder), "RUN_DIR")

    @property
    def record(self) -> Record:
        """How far it came; ValueError if its folder holds a checkpoint of another command."""
        path = self.beside("json")
        try:
            content = json.loads(path.read_text())
            record = Record(**{**content, "command": tuple(content["command"])})
        except FileNotFoundError:
            return Record()
        except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
            advice = f"move it and {self.folder} away"
            raise ValueError(f"{path} is not a job's record: {advice} ({error!r})") from error
        if record.command == self.command:
            return record
        if self._newest_checkpoint():
            advice = "move it away, or choose another --work-dir"
            raise ValueError(f"{self.folder} holds a run of another command: {advice}")
        return Record()

    def is_running(self) -> bool:
        """Say whether a process on this machine runs it, whoever started that."""
        with suppress(FileNotFoundError), self.beside("txt").open("rb") as output:
            try:
                fcntl.flock(output, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return True
        return False

    def reopen(self) -> None:
        """Let a job that failed run again, from its newest checkpoint."""
        self._write(replace(self.record, status=None))

    def forget(self) -> None:
        """Let the job start over if it is run again."""
        self.beside("json").unlink(missing_ok=True)

    def run(self, *, on_slurm: bool) -> None:
        """Run the program to its end, or let it save and stop on a signal.

        SIGTERM stops it. SIGUSR2, by which Slurm announces a time limit, also queues the job again,
        unless the program can't resume or made no checkpoint: that would never end.
        """
        received: list[int] = []
        for number in (signal.SIGTERM, signal.SIGUSR2):
            signal.signal(number, lambda number, frame: received.append(number))
        with self.beside("txt").open("ab", 0) as output:
            fcntl.flock(output, fcntl.LOCK_EX)  # passed on to the program
            os.dup2(output.fileno(), 2)  # a failure of this process is seen there
            if self.record.status is None and not received:  # else submitted twice, or to stop
                self._run_program(output, received)
            late = received[:1] == [signal.SIGUSR2]
            if on_slurm and self.record.stopped and (late or _has_time_of_grace()):
                subprocess.run(["scontrol", "requeue", os.environ["SLURM_JOB_ID"]], check=False)

    def _run_program(self, output: Any, received: Sequence[int]) -> None:
        """Start or resume the program, wait until it ends, and record how."""
        record, checkpoint = self.record, self._newest_checkpoint()
        resumes = self.resume and record.command and checkpoint
        if not resumes:
            shutil.rmtree(self.folder, ignore_errors=True)
            record, checkpoint = Record(self.command), ""
        output.truncate(0)
        record = replace(record, stopped=False, process=os.getpid())
        self._write(record)
        before = _children_seconds()
        try:
            status = _wait_for(self.resume if resumes else self.command, output, received)
        except OSError as error:
            output.write(f"error: {error}\n".encode())
            status = 127
        stopped = bool(received) and status != 0
        can_go_on = self.resume and self._newest_checkpoint() != checkpoint
        if stopped and received[0] == signal.SIGUSR2 and not can_go_on:
            advice = b"or lower --checkpoint-every" if self.resume else b"it can't resume"
            output.write(b"error: no new checkpoint within the time limit: ")
            output.write(b"raise --timeout-min, " + advice + b"\n")
            stopped, status = False, TOO_SLOW
        seconds = record.cpu_seconds + _children_seconds() - before
        status = None if stopped else status
        self._write(replace(record, cpu_seconds=seconds, status=status, stopped=stopped))

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


def _wait_for(words: tuple[str, ...], output: Any, received: Sequence[int]) -> int:
    """Run a program, stop it once a signal was received, and return its exit status."""
    process = subprocess.Popen(
        [sys.executable if word == "python" else word for word in words],
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=subprocess.STDOUT,
        env={**os.environ, **ONE_THREAD},
        start_new_session=True,
        # Slurm sends it to every process
        preexec_fn=lambda: signal.signal(signal.SIGUSR2, signal.SIG_IGN),
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


def _children_seconds() -> float:
    """Return the CPU time of the programs that have ended [s]."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def _has_time_of_grace() -> bool:
    """Return whether Slurm still counts this job as running after SIGTERM.

    In its partition's GraceTime it does, and the job must then requeue itself.
    """
    words = ["squeue", "--noheader", "--format=%T", f"--jobs={os.environ['SLURM_JOB_ID']}"]
    with suppress(OSError):  # a node may lack squeue
        return subprocess.run(words, capture_output=True, text=True).stdout.strip() == "RUNNING"
    return False


def words_of(jobs: Sequence[Job], where: str) -> list[str]:
    """Return the command that runs one of some jobs: the first, or that of Slurm's array task."""
    described = [json.dumps({**asdict(job), "folder": str(job.folder)}) for job in jobs]
    return [sys.executable, "-IS", __file__, where, *described]


def main(where: str, *described: str) -> None:
    """Run the job that :func:`words_of` was called for."""
    number = int(os.environ["SLURM_ARRAY_TASK_ID"]) if where == "slurm" else 0
    fields = json.loads(described[number])
    words = {name: tuple(fields[name]) for name in ("command", "resume")}
    job = Job(fields["name"], folder=Path(fields["folder"]), **words)
    job.run(on_slurm=where == "slurm")


if __name__ == "__main__":
    main(*sys.argv[1:])
