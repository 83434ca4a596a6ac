"""Training processes: forked from a warm server, or real ones; their signals and their ends.

Importing torch and its company takes seconds, so a server process imports all of it once and
forks a process for each run of a script. The script is run as ``python train/reinforce.py``
runs it, down to its exit status.
"""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import runpy
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from benchmarks.campaigns.runs.process_faults import Fault, install

_DEADLINE = 120.0  # [s] after which a process counts as hanging
_ENVIRONMENT = {
    **{f"{library}_NUM_THREADS": "1" for library in ("OMP", "OPENBLAS", "MKL")},
    "GIT_DIR": os.devnull,  # runs save the commit, which may change while a campaign goes on
}
_HERE = Path(__file__).resolve().parents[3]
_HURRY = 100  # seconds of a forked process's clock in one of ours


@dataclass(frozen=True)
class Signal:
    """A signal from outside.

    Attributes:
        delay: Seconds from the moment that ``sight`` is seen.
        sight: Pattern of a file in the run folder; None for the process's start.
        number: SIGKILL by default.
    """

    delay: float
    sight: str | None = None
    number: signal.Signals = signal.SIGKILL

    def __str__(self) -> str:
        return f"{self.number.name} {self.delay:.3f} s after {self.sight or 'the start'}"


@dataclass(frozen=True)
class Command:
    """What a process runs.

    Attributes:
        arguments: What would follow ``python`` on a command line.
        folder: The run folder, where signals look.
        faults: What happens to it from within; not to a real process.
        signals: What happens to it from outside, one after the other.
    """

    arguments: tuple[str, ...]
    folder: Path
    faults: tuple[Fault, ...] = ()
    signals: tuple[Signal, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """How a process ended.

    Attributes:
        status: Its exit status; -9 for a process that SIGKILL ended, and so on.
        output: What it printed.
        errors: What it printed to stderr.
        seconds: How long it took.
    """

    status: int
    output: str
    errors: str
    seconds: float

    @property
    def told(self) -> str:
        """The status and the end of what was printed, for a message."""
        lines = (self.errors or self.output).strip().splitlines()
        return f"status {self.status}, {lines[-1] if lines else 'nothing printed'!r}"


def run_real(command: Command) -> Outcome:
    """Run a script in a process of its own, from its first import on."""
    assert not command.faults, "a real process has no faults from within"
    begun = time.monotonic()
    with subprocess.Popen(
        [sys.executable, *command.arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=_HERE,
        env={**os.environ, **_ENVIRONMENT, "PYTHONPATH": str(_HERE)},
    ) as process:
        _attend(process.poll, process.pid, command)
        output, errors = process.communicate()
    return Outcome(process.returncode, output, errors, time.monotonic() - begun)


@cache
def _server() -> subprocess.Popen[bytes]:
    """Start the server that this process uses to its end."""
    server = subprocess.Popen(
        [sys.executable, "-c", f"from {__name__} import serve; serve()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        cwd=_HERE,
        env={**os.environ, **_ENVIRONMENT},
    )
    atexit.register(server.__exit__, None, None, None)  # closes its input, which ends it
    return server


def run_forked(command: Command) -> Outcome:
    """Run a script in a process that the server forks."""
    server = _server()
    assert server.stdin
    assert server.stdout
    pickle.dump(command, server.stdin)
    server.stdin.flush()
    return pickle.load(server.stdout)


def _attend(poll: Callable[[], int | None], pid: int, command: Command) -> None:
    """Send a process its signals, and wait until it has ended."""
    signals, seen = list(command.signals), None
    until = time.monotonic() + _DEADLINE
    while poll() is None:
        now = time.monotonic()
        if signals:
            if seen is None and _sees(command.folder, signals[0].sight):
                seen = now
            if seen is not None and now >= seen + signals[0].delay:
                os.kill(pid, signals.pop(0).number)
                seen = None
        if now > until:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.001)


def _sees(folder: Path, sight: str | None) -> bool:
    with suppress(OSError):  # a folder that is gone between two looks
        return sight is None or any(folder.glob(sight))
    return False


# In the server


def serve() -> None:
    """Answer commands with outcomes until the input ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not be an answer
    _import_what_scripts_need()
    while True:
        try:
            command = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(_fork(command), answers)
        answers.flush()


def _import_what_scripts_need() -> None:
    import torch._dynamo  # by the first optimiser
    import tyro

    import agents.baselines
    import agents.run_log
    import agents.training
    import ram_env
    from benchmarks.campaigns.runs import tiny_task

    del tyro, agents, ram_env, tiny_task
    torch.set_num_threads(1)
    assert threading.active_count() == 1, "a process with threads must not be forked"


def _fork(command: Command) -> Outcome:
    begun = time.monotonic()
    pipes = [os.pipe(), os.pipe()]
    ends = [end for _, end in pipes]
    process = multiprocessing.get_context("fork").Process(target=_run_script, args=(command, ends))
    process.start()
    for end in ends:
        os.close(end)
    assert process.pid
    _attend(lambda: process.exitcode, process.pid, command)
    assert process.exitcode is not None
    output, errors = (_read(pipe) for pipe, _ in pipes)
    return Outcome(process.exitcode, output, errors, time.monotonic() - begun)


def _read(pipe: int) -> str:
    with os.fdopen(pipe) as file:
        return file.read()


# In a process of its own


def _run_script(command: Command, ends: list[int]) -> None:
    for number, end in enumerate(ends, 1):
        os.dup2(end, number)
        os.close(end)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.fsync = lambda descriptor: None  # a killed process's writes are kept without it
    _hurry_the_clock()
    sys.argv = list(command.arguments)
    install(command.faults)
    runpy.run_path(sys.argv[0], run_name="__main__")


def _hurry_the_clock() -> None:
    """Let a second of ``time.time`` pass sooner: for each, one file of events can be begun."""
    real, start = time.time, _STARTED
    time.time = lambda: start + _HURRY * (real() - start)


_STARTED = time.time()
