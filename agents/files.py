"""Writing files so that a crash leaves the old content or the new, never a part."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
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
        ValueError: If a number is not finite.
    """
    return (json.dumps(content, indent=2, allow_nan=False) + "\n").encode()


def read_json(path: Path) -> dict[str, Any]:
    """Return the object that a JSON file holds.

    Raises:
        ValueError: If the file is missing, no JSON or no object; the message names it.
    """
    try:
        return parse_json(path.read_bytes(), path)
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error


def parse_json(content: bytes, path: Path) -> dict[str, Any]:
    """Return the object that the content of a JSON file holds.

    Raises:
        ValueError: If it is no JSON or no object; the message names the file.
    """
    try:
        parsed = json.loads(content)
    except (ValueError, RecursionError) as error:  # of JSON or UTF-8; brackets without end
        raise ValueError(f"{path} is damaged, it is not JSON: {error}") from error
    if not isinstance(parsed, dict):
        raise ValueError(f"{path} must hold a JSON object, got {type(parsed).__name__}")
    return parsed
