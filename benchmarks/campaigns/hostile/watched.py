"""Open a file in a process of its own, in which an audit hook tells of all that it should not do.

Needs Linux: processes are forked, so that nothing has to be imported in them.
"""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import CodeType
from typing import Any

_DEADLINE = 20.0  # [s] after which a process counts as hanging
_MEMORY = 2**30  # [B] of address space that a process may take beyond what it begins with

# Whoever runs foreign code does one of these. (To compile is not yet to run.)
_CODE = ("exec", "import", "marshal.loads", "code.__new__", "pickle.find_class")
_CODE += ("os.system", "os.exec", "os.spawn", "os.posix_spawn", "os.fork", "os.forkpty")
_CODE += ("subprocess.Popen", "pty.spawn", "ctypes.dlopen", "webbrowser.open", "socket.connect")
_CHANGES = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink")
_CHANGES += ("os.truncate", "os.chmod", "os.chown", "shutil.rmtree")
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND


@dataclass(frozen=True)
class Outcome:
    """How opening a file went.

    Attributes:
        error: Names of the exception's type and of those it is a kind of; none if there was no
            exception.
        message: The exception's text.
        events: What should not have happened.
        grown: How far the process's resident memory grew [MB].
    """

    error: tuple[str, ...] = ()
    message: str = ""
    events: tuple[str, ...] = ()
    grown: float = 0.0


def watch(action: Callable[[], object], folder: Path) -> Outcome:
    """Do something in a process of its own, watched.

    Args:
        action: What to do.
        folder: Where it may change files.

    Returns:
        How it went; the error "Hanging" or "Crash" if the process had to be ended or ended by
        itself.
    """
    reading, writing = os.pipe()
    with warnings.catch_warnings():  # of threads, which the child doesn't use
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child == 0:
        try:
            os.close(reading)
            outcome = _act(action, folder.resolve())
            os.write(writing, json.dumps(asdict(outcome)).encode())
        finally:
            os._exit(0)
    os.close(writing)
    told = _receive(reading)
    os.close(reading)
    if told is None:
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if told is None:
        return Outcome(("Hanging",), f"it took more than {_DEADLINE:.0f} s")
    if not told:
        return Outcome(("Crash",), f"the process ended with status {status}")
    return Outcome(**{name: _tuples(value) for name, value in json.loads(told).items()})


def _receive(reading: int) -> bytes | None:
    """Return what the child sends, or None if it doesn't end in time."""
    end, told = time.monotonic() + _DEADLINE, b""
    while select.select([reading], [], [], max(0.0, end - time.monotonic()))[0]:
        part = os.read(reading, 65536)
        if not part:
            return told
        told += part
    return None


def _act(action: Callable[[], object], folder: Path) -> Outcome:
    """Do it, and say how it went."""
    gc.freeze()  # else a collection would touch, and so copy, all that was there before
    events: list[str] = []
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + _MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    before, error = _largest_mb(), None
    with contextlib.redirect_stdout(io.StringIO()), warnings.catch_warnings():
        warnings.simplefilter("error")
        _install_hook(events, folder)
        try:
            action()
        except BaseException as caught:
            error = caught
        events.append("")  # what follows is ours
    names = tuple(kind.__name__ for kind in type(error).__mro__) if error is not None else ()
    happened = tuple(events[: min(events.index(""), 30)])
    return Outcome(names, str(error)[:2000], happened, _largest_mb() - before)


def _install_hook(events: list[str], folder: Path) -> None:
    allowed = (str(folder) + os.sep, os.devnull)

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event in _CODE:
            events.append(f"{event} {_describe(*args[:1])}")
        elif event in _CHANGES or (event == "open" and (args[2] or 0) & _WRITING):
            path = args[0]
            if not isinstance(path, int) and not _resolve(event, *args).startswith(allowed):
                events.append(f"{event} {path}")

    sys.addaudithook(hook)


def _describe(subject: object = None) -> str:
    """Describe what is run, the same each time."""
    if isinstance(subject, CodeType):
        return f"{subject.co_filename} {subject.co_names} {subject.co_consts}"[:200]
    return repr(subject)[:200]


def _resolve(event: str, path: Any, *args: Any) -> str:
    """Return what is changed, without links; of a link itself where it is not followed."""
    path = os.fspath(path)
    if event in ("os.remove", "os.rmdir", "os.mkdir") and args[-1] != -1:
        path = os.path.join(os.readlink(f"/proc/self/fd/{args[-1]}"), path)
    if event == "open":
        return os.path.realpath(path)
    return os.path.join(os.path.realpath(os.path.dirname(path)), os.path.basename(path))


def _tuples(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def _largest_mb() -> float:
    """Return the largest resident size this process has had [MB] (Linux counts in kB)."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3
