"""Writing files so that a crash leaves the old content or the new, never a part."""

from __future__ import annotations

import json
import math
import os
import stat
from pathlib import Path
from typing import Any

MAX_JSON = 16 * 2**20
"""A JSON file of more bytes is refused: read, it takes many times as much memory."""


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC
    flags |= getattr(os, "O_BINARY", 0)  # Windows would turn line feeds into two bytes
    descriptor = os.open(path, flags, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's list of names is on the disk."""
    if os.name == "nt":  # Windows opens no folders and keeps their names safe by itself
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Make a folder, and those above it, that aren't there; wait until they are on the disk."""
    for path in reversed((folder, *folder.parents)):
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


def replace(old: Path, new: Path) -> None:
    """Give a file or folder a new name in one step, and wait until that is on the disk."""
    os.replace(old, new)
    sync_folder(new.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write or replace a file: after a crash it holds all of ``content`` or what it held."""
    new = path.with_name(f"{path.name}.new")
    write_file(new, content)
    replace(new, path)


def to_json(content: Any) -> bytes:
    """Return JSON as files hold it.

    Raises:
        ValueError: If a number is not finite, or it would be too large to be read back.
    """
    text = (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()
    if len(text) > MAX_JSON:
        raise ValueError(f"{len(text)} bytes of JSON are more than the {MAX_JSON} that are read")
    return text


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return what a file holds, unless it is a pipe, a device or huge.

    Raises:
        ValueError: If so, or if the file is missing; the message names it.
    """
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{path} cannot be read: it is no plain file")
        if facts.st_size > max_bytes:
            raise ValueError(f"{path} has {facts.st_size} bytes, more than {max_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise ValueError(f"{path} does not fit into memory") from error


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        ValueError: If the file is missing, too large, no JSON or no object; the message names
            it.
    """
    return parse_json(read_file(path, MAX_JSON), path)


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """Return the object that the content of a JSON file holds.

    Raises:
        ValueError: If it is no JSON or no object, or a number is not finite; the message names
            the file.
    """
    try:
        parsed = json.loads(content, parse_float=_finite, parse_constant=_finite)
    except (ValueError, RecursionError, MemoryError) as error:  # of JSON or UTF-8, or too deep
        raise ValueError(f"{path} is damaged, it is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(parsed).__name__}")
    return parsed


def first_line(error: BaseException) -> str:
    """Return what an error says, without the stack of C++ that torch may append."""
    return str(error).partition("\n")[0] or type(error).__name__


def _finite(text: str) -> float:
    """Return the number that a JSON file holds, unless it is NaN or infinite."""
    number = float(text)
    if not math.isfinite(number):
        raise ValueError(f"{text[:20]} is no finite number")
    return number
