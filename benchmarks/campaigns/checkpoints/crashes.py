"""A campaign that crashes a save at every system call: by a kill, an error or a power cut."""

import errno
import os
import shutil
import signal
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from unittest.mock import patch

from benchmarks.campaigns.checkpoints.power_cuts import Disk, Leaving, restore
from benchmarks.campaigns.checkpoints.saves import SAVES, Save
from benchmarks.campaigns.checkpoints.system_calls import (
    Handler,
    failing_at,
    handled_by,
    killed_at,
    record,
    short_at,
)

_ERRORS = (errno.ENOSPC, errno.EROFS, errno.EIO)

Case = Callable[[], str | None]


def crashed_saves(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Crash every kind of save at every system call that it makes.

    It is killed before each call, which is after the one before, and in the middle of writes;
    the call fails; the power is cut after it.

    Each time the newest valid checkpoint must be the old one or the new one, to the bit,
    whatever bears a checkpoint's name must be whole, and the next save must work and leave
    nothing behind. An error must be raised as the OSError it is.

    Args:
        rounds: Ignored: there are as many cases as crash points.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    del rounds
    for number, save in enumerate(SAVES):
        yield from crashed_save(save, folder / str(number))


def crashed_save(save: Save, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Crash one kind of save at every system call; see :func:`crashed_saves`."""
    try:
        bench = _Bench(save, folder)
    except Exception as error:  # a save that is itself broken
        yield save.name, f"without any fault: {error!r}"
        return
    for name, case in bench.cases():
        yield f"{save.name}, {name}", _attempt(case)


def _attempt(case: Case) -> str | None:
    try:
        with patch("os.fsync"):  # which is slow, and is nothing to a process that is killed
            return case()
    except Exception as error:
        return f"what comes after it fails: {error!r}"


class _Bench:
    """A kind of save with the folders that it needs.

    Args:
        save: What is to be crashed.
        folder: Scratch directory.
    """

    def __init__(self, save: Save, folder: Path):
        self._save = save
        self._before, self._after, self._here = (folder / n for n in ("before", "after", "here"))
        self._before.mkdir(parents=True)
        save.prepare(self._before)
        shutil.copytree(self._before, self._after)
        with save.start(self._after) as write:
            write()  # now all is imported that a save needs
        with save.start(self._fresh()) as write:
            disk = Disk(self._here)
            self._calls = record(write, disk.make)
        self._leavings = disk.leavings()
        if problem := self._look(self._here, done=True):
            raise ValueError(problem)

    def cases(self) -> Iterator[tuple[str, Case]]:
        """Return all cases, by name."""
        for leaving in self._leavings:
            yield f"power cut {leaving.name}", partial(self._cut_power, leaving)
        last = len(self._calls) - 1
        for number, called in enumerate(self._calls):
            where = f"call {number} ({called})"
            moments = {
                "before": True,
                "in the middle of": called == "write",
                "after": number == last,
            }
            for moment in (moment for moment, wanted in moments.items() if wanted):
                yield f"killed {moment} {where}", partial(self._kill, killed_at(number, moment))
            for code in _ERRORS:
                yield f"{errno.errorcode[code]} at {where}", partial(self._fail, number, code)
            if called == "write":
                yield f"half written at {where}", partial(self._write, short_at(number))

    def _kill(self, handler: Handler) -> str | None:
        here = self._fresh()
        with warnings.catch_warnings():  # of threads, which the child doesn't use
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                with self._save.start(here) as write, handled_by(handler):
                    write()
            finally:
                os._exit(0)
        status = os.waitpid(child, 0)[1]
        if not os.WIFSIGNALED(status) or os.WTERMSIG(status) != signal.SIGKILL:
            return "the save did not get as far as to be killed"
        return self._look(here, done=False) or self._save.go_on(here)

    def _fail(self, number: int, code: int) -> str | None:
        here = self._fresh()
        with ExitStack() as started:
            write = started.enter_context(self._save.start(here))
            raised = None
            try:
                with handled_by(failing_at(number, code)):
                    write()
            except OSError as error:
                raised = error
            if problem := self._look(here, done=raised is None):
                return problem
            write()  # the process goes on
        return self._look(here, done=True) or self._save.find_leftovers(here)

    def _write(self, handler: Handler) -> str | None:
        here = self._fresh()
        with self._save.start(here) as write, handled_by(handler):
            write()
        return self._look(here, done=True) or self._save.find_leftovers(here)

    def _cut_power(self, leaving: Leaving) -> str | None:
        shutil.rmtree(self._here, ignore_errors=True)
        restore(leaving.content, self._here)
        return self._look(self._here, leaving.done) or self._save.go_on(self._here)

    def _look(self, folder: Path, done: bool) -> str | None:
        return self._save.look(folder, self._before, self._after, done)

    def _fresh(self) -> Path:
        """Return a folder as it is before the save."""
        shutil.rmtree(self._here, ignore_errors=True)
        shutil.copytree(self._before, self._here, symlinks=True)
        return self._here
