"""What can be done to a training process from within, at the n-th call of a function."""

from __future__ import annotations

import builtins
import errno
import functools
import io
import itertools
import os
import pkgutil
import resource
import signal
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import torch

Act = Callable[..., Any]
"""Called with the original function and the call's arguments, in place of the function."""


@dataclass(frozen=True)
class Fault:
    """Something that happens at a call of a function.

    Attributes:
        function: Its dotted name, where the callers look it up.
        call: At which call, counted from 1 in each process; 0 for every one.
        act: What happens there.
    """

    function: str
    call: int
    act: Act

    def __str__(self) -> str:
        what = self.act
        if not isinstance(what, functools.partial):
            return f"{what.__name__} at call {self.call} of {self.function}"
        then = ", ".join(str(argument) for argument in what.args)
        return f"{what.func.__name__} at call {self.call} of {self.function} ({then})"


def install(faults: Iterable[Fault]) -> None:
    """Let faults happen in this process from now on."""
    for fault in faults:
        _wrap(fault.function, functools.partial(_act_at, fault, itertools.count(1)))


def _act_at(fault: Fault, numbers: Iterator[int], original: Act, *args: Any, **kwargs: Any) -> Any:
    if fault.call in (0, next(numbers)):
        return fault.act(original, *args, **kwargs)
    return original(*args, **kwargs)


def _wrap(name: str, around: Act) -> None:
    """Replace a function by ``around``, which gets the original and the arguments."""
    owner_name, _, attribute = name.rpartition(".")
    owner = pkgutil.resolve_name(owner_name)
    original = getattr(owner, attribute)

    @functools.wraps(original)
    def wrapped(*args: Any, **kwargs: Any) -> Any:  # a function, so that it works as a method
        return around(original, *args, **kwargs)

    setattr(owner, attribute, wrapped)


# What happens


def kill(original: Act, *args: Any, **kwargs: Any) -> None:
    """End the process before the call as nothing else can: with SIGKILL."""
    os.kill(os.getpid(), signal.SIGKILL)


def kill_after(original: Act, *args: Any, **kwargs: Any) -> None:
    """End the process with SIGKILL right after the call."""
    original(*args, **kwargs)
    os.kill(os.getpid(), signal.SIGKILL)


def kill_half_way(original: Act, descriptor: int, content: memoryview) -> None:
    """End the process with SIGKILL when ``os.write`` has written half of its content."""
    original(descriptor, content[: len(content) // 2])
    os.kill(os.getpid(), signal.SIGKILL)


def send(number: signal.Signals, original: Act, *args: Any, **kwargs: Any) -> Any:
    """Send the process a signal before the call."""
    os.kill(os.getpid(), number)
    return original(*args, **kwargs)


def arm(fault: Fault, original: Act, *args: Any, **kwargs: Any) -> Any:
    """Let another fault happen from here on, its calls counted from here."""
    install([fault])
    return original(*args, **kwargs)


def skip(original: Act, *args: Any, **kwargs: Any) -> None:
    """Do nothing in place of the call."""


def hide_errors(original: Act, *args: Any, **kwargs: Any) -> Any:
    """Go on as if all were well where a call reports that a file could not be written."""
    with suppress(OSError):
        return original(*args, **kwargs)


def limit_files(size: int, original: Act, *args: Any, **kwargs: Any) -> Any:
    """Let no file grow beyond ``size`` bytes from here on; Python reports EFBIG."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    return original(*args, **kwargs)


def fill_disk(original: Act, descriptor: int, content: memoryview) -> None:
    """Let the disk be full when ``os.write`` has written half of its content."""
    original(descriptor, content[: len(content) // 2])
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def make_read_only(original: Act, *args: Any, **kwargs: Any) -> Any:
    """Let nothing be made, renamed or deleted from here on, as on a read-only file system.

    What is open for writing stays so. Permissions would not do: they don't stop root.
    """
    for name in ("mkdir", "rename", "replace", "rmdir", "unlink"):
        _wrap(f"os.{name}", _refuse)
    _wrap("os.open", _open_for_reading)
    for module in (builtins, io):
        _wrap(f"{module.__name__}.open", _open_file_for_reading)
    return original(*args, **kwargs)


def _refuse(original: Act, path: Any, *args: Any, **kwargs: Any) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS), os.fsdecode(path))


def _open_for_reading(original: Act, path: Any, flags: int, *args: Any, **kwargs: Any) -> int:
    if flags & (os.O_WRONLY | os.O_RDWR) and os.fsdecode(path) != os.devnull:
        _refuse(original, path)
    return original(path, flags, *args, **kwargs)


def _open_file_for_reading(
    original: Act, file: Any, mode: str = "r", *args: Any, **kwargs: Any
) -> Any:
    if set(mode) & set("wax+") and not isinstance(file, int):
        _refuse(original, file)
    return original(file, mode, *args, **kwargs)


# Numbers that are none


def spoil_reward(value: float, original: Act, *args: Any, **kwargs: Any) -> Any:
    """Let a vector environment's ``step`` pay ``value`` in its first lane."""
    obs, reward, *rest = original(*args, **kwargs)
    reward = reward.copy()
    reward[0] = value
    return obs, reward, *rest


def spoil_loss(value: float, original: Act, *args: Any, **kwargs: Any) -> Any:
    """Add ``value`` to the loss that a function returns."""
    return original(*args, **kwargs) + value


def spoil_gradient(
    value: float, which: int, original: Act, optimizer: torch.optim.Optimizer, **kwargs: Any
) -> None:
    """When ``zero_grad`` is called, arrange for ``value`` in the next gradient."""
    original(optimizer, **kwargs)
    params = optimizer.param_groups[0]["params"]
    params[which % len(params)].register_hook(lambda grad: torch.full_like(grad, value))


@torch.no_grad()
def spoil_weights(
    value: float, which: int, original: Act, optimizer: torch.optim.Optimizer
) -> None:
    """After an optimiser's ``step``, put ``value`` into a parameter."""
    original(optimizer)
    params = optimizer.param_groups[0]["params"]
    params[which % len(params)].view(-1)[-1] = value
