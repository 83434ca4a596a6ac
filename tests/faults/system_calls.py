"""Intercept the system calls that change files, and let one of them go wrong.

Code that must survive a crash writes files through the functions of :mod:`os` (so do `pathlib`
and `shutil.rmtree`) or opens them with ``open``. Both are replaced here. ``os.fsync`` is counted
but does nothing: a killed process loses nothing it wrote, and :mod:`tests.faults.power_cuts`
models what a power cut loses.
"""

import builtins
import errno
import io
import os
import resource
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

_NAMES = ("open", "write", "fsync", "close", "replace", "rename", "link", "symlink")
_NAMES += ("mkdir", "unlink", "remove", "rmdir", "truncate", "ftruncate")
_ORIGINAL_OPEN = io.open


class Killed(BaseException):
    """Stands for SIGKILL: no later call of the dead process has an effect."""


@dataclass(frozen=True)
class Call:
    """A system call that is about to be made: how many came before it, and the call itself."""

    number: int
    name: str
    function: Callable[..., Any] = field(repr=False)
    args: tuple[Any, ...] = field(repr=False)
    kwargs: dict[str, Any] = field(repr=False)

    def make(self) -> Any:
        return None if self.name == "fsync" else self.function(*self.args, **self.kwargs)

    def make_half(self) -> Any:
        """Write half of the bytes, if this is a ``write``; else do nothing."""
        if self.name == "write":
            descriptor, content = self.args
            return self.function(descriptor, content[: len(content) // 2])
        return None

    @property
    def only_reads(self) -> bool:
        if self.function is _ORIGINAL_OPEN:
            mode = self.kwargs.get("mode", self.args[1] if len(self.args) > 1 else "r")
            return not set(mode) & set("wax+")
        return self.name == "open" and not self.args[1] & (os.O_WRONLY | os.O_RDWR)


Handler = Callable[[Call], Any]
"""Makes a call, or not, and returns what the caller gets."""


@contextmanager
def handled_by(handler: Handler) -> Iterator[None]:
    """Pass the calls of this thread to a handler."""
    thread, made = threading.get_ident(), 0

    def replaced(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal made
            call = Call(made, name, function, args, kwargs)
            is_read = function is _ORIGINAL_OPEN and call.only_reads
            if threading.get_ident() != thread or is_read:
                return function(*args, **kwargs)
            made += 1
            return handler(call)

        return call

    opener = replaced("open", _ORIGINAL_OPEN)
    with ExitStack() as patches:
        for name in _NAMES:
            patches.enter_context(patch.object(os, name, replaced(name, getattr(os, name))))
        for module in (io, builtins):
            patches.enter_context(patch.object(module, "open", opener))
        yield


# Handlers take the call last, so that functools.partial makes some that can be pickled.


def die(number: int, half: bool, call: Call) -> Any:
    """Let the process die, as far as the disk can show it, before a call or half-way through."""
    if call.number < number:
        return call.make()
    if call.number == number and half:
        call.make_half()
    raise Killed


def send(number: int, which: signal.Signals, half: bool, call: Call) -> Any:
    """Send the process a signal, which may be SIGKILL, before a call or half-way through."""
    if call.number == number:
        if half:
            call.make_half()
        os.kill(os.getpid(), which)
    return call.make()


def fail(number: int, code: int, call: Call) -> Any:
    """Let one call fail with an error of :mod:`errno`."""
    if call.number != number:
        return call.make()
    if call.name == "close":  # the descriptor is closed even if close() reports an error
        call.make()
    raise OSError(code, os.strerror(code))


def fill_disk(number: int, call: Call) -> Any:
    """Let the disk be full from a call on: writes stop half-way, nothing new can be made."""
    exists = call.name == "open" and Path(call.args[0]).exists()
    if call.number >= number and call.name in ("open", "write", "mkdir") and not exists:
        call.make_half()
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    return call.make()


def make_read_only(number: int, call: Call) -> Any:
    """Let the file system be read-only from a call on; files that are open stay writable."""
    harmless = call.only_reads or call.name in ("write", "fsync", "close")
    if call.number < number or harmless or call.args[0] == os.devnull:
        return call.make()
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(call.args[0]))


def limit_files(number: int, call: Call) -> Any:
    """Let no file grow beyond a few KiB from a call on, not even those that C writes."""
    if call.number == number:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (1000 + 50 * number, hard))
    return call.make()
