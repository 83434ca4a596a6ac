"""The system calls by which files are written: counted, and one of them made to go wrong.

Whoever writes files in Python that must survive a crash calls the functions of :mod:`os`, so
they are what gets replaced, and ``open`` where it is for writing. `shutil.rmtree` calls them,
too. ``os.fsync`` is counted but does nothing: a killed process loses nothing that it wrote, and
what a power cut takes is the business of :mod:`benchmarks.campaigns.checkpoints.power_cuts`.
"""

import builtins
import io
import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

_NAMES = ("open", "write", "fsync", "close", "replace", "rename", "link", "symlink")
_NAMES += ("mkdir", "unlink", "remove", "rmdir", "truncate", "ftruncate")
_OPEN = io.open


@dataclass(frozen=True)
class Call:
    """A system call that is about to be made.

    Attributes:
        number: How many came before it.
        name: What it is called in :mod:`os`.
        function: Makes it.
        args: Its arguments.
        kwargs: Its keyword arguments.
    """

    number: int
    name: str
    function: Callable[..., Any]
    args: tuple[Any, ...]
    kwargs: dict[str, Any]

    def make(self) -> Any:
        """Make the call."""
        return None if self.name == "fsync" else self.function(*self.args, **self.kwargs)

    def make_half(self) -> int:
        """Write half of the bytes, of a ``write``; return how many that are."""
        descriptor, content = self.args
        return self.function(descriptor, content[: len(content) // 2])


Handler = Callable[[Call], Any]


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Let a handler make the calls of this thread; it returns what the caller gets."""
    thread, made = threading.get_ident(), 0

    def replaced(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            if threading.get_ident() != thread or _only_reads(name, function, args, kwargs):
                return function(*args, **kwargs)
            made += 1
            return handler(Call(made - 1, name, function, args, kwargs))

        return call

    opener = replaced("open", _OPEN)
    with ExitStack() as patches:
        for name in _NAMES:
            function = replaced(name, getattr(os, name))
            patches.enter_context(patch.object(os, name, function))
        patches.enter_context(patch.object(io, "open", opener))
        patches.enter_context(patch.object(builtins, "open", opener))
        yield


def _only_reads(
    name: str, function: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
) -> bool:
    """Whether this is an ``open`` of Python's, not of the system's, to read."""
    if name != "open" or function is not _OPEN:
        return False
    mode = kwargs.get("mode", args[1] if len(args) > 1 else "r")
    return not set(mode) & set("wax+")


def record(write: Callable[[], Any], then: Handler = Call.make) -> list[str]:
    """Write and return the names of the calls that it took, in order.

    Args:
        write: What to do.
        then: What makes the calls.
    """
    names: list[str] = []

    def handler(call: Call) -> Any:
        names.append(call.name)
        return then(call)

    with handled_by(handler):
        write()
    return names


def killed_at(number: int, moment: str) -> Handler:
    """Return a handler in which the process dies at a call as by ``kill -9``.

    Args:
        number: Of the call.
        moment: "before" it, "after" it, or "in the middle of" a ``write``.
    """

    def handler(call: Call) -> Any:
        if call.number != number:
            return call.make()
        try:
            if moment == "after":
                call.make()
            elif moment == "in the middle of":
                call.make_half()
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
        raise AssertionError("a killed process went on")

    return handler


def failing_at(number: int, code: int) -> Handler:
    """Return a handler in which a call fails with the error ``code``, as of :mod:`errno`."""

    def handler(call: Call) -> Any:
        if call.number != number:
            return call.make()
        if call.name == "close":  # which lets go of the file even so
            call.make()
        raise OSError(code, os.strerror(code))

    return handler


def short_at(number: int) -> Handler:
    """Return a handler in which a ``write`` writes half, and says so."""

    def handler(call: Call) -> Any:
        return call.make_half() if call.number == number else call.make()

    return handler
