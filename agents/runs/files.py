"""Files: written so that a crash leaves the old content or the new, read through schemas."""

from __future__ import annotations

import csv
import io
import json
import os
import stat
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

MAX_TEXT = 128 * 2**20
"""A JSON, TOML or CSV file of more bytes is refused: parsed, it takes many times the memory."""


def write_file(path: Path, content: bytes) -> None:
    """Write a new file and wait until it is on the disk."""
    binary = getattr(os, "O_BINARY", 0)  # Windows would turn line feeds into two bytes
    _write_and_sync(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | binary, content)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    if os.name != "nt":  # Windows opens no folders and keeps their names safe by itself
        _write_and_sync(folder, os.O_RDONLY, b"")


def _write_and_sync(path: Path, flags: int, content: bytes) -> None:
    descriptor = os.open(path, flags, 0o644)
    try:
        rest = memoryview(content)
        while rest:
            rest = rest[os.write(descriptor, rest) :]
        os.fsync(descriptor)
    except OSError as error:
        error.filename = str(path)  # only opening a file names it
        raise
    finally:
        os.close(descriptor)


def make_folder(folder: Path) -> None:
    """Create a folder and its parents if missing, and wait until they are on the disk."""
    for path in reversed((folder, *folder.parents)):
        if path.exists() and not path.is_dir():
            raise FileExistsError(f"{path} is a file: expected a folder")
        if not path.is_dir():
            path.mkdir(exist_ok=True)
            sync_folder(path.parent)


def replace(old: Path, new: Path) -> None:
    """Rename a file or folder in one step, and wait until that is on the disk."""
    os.replace(old, new)
    sync_folder(new.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write or replace a file: after a crash it holds all of ``content`` or what it held."""
    new = path.with_name(f"{path.name}.new")
    write_file(new, content)
    replace(new, path)


def to_json(content: Any, indent: int | None = 2) -> bytes:
    """Return JSON as files hold it; ValueError for NaN, infinity or more than :data:`MAX_TEXT`."""
    text = (json.dumps(content, indent=indent, allow_nan=False) + "\n").encode()
    if len(text) > MAX_TEXT:
        raise ValueError(f"{len(text)} bytes of JSON are more than the {MAX_TEXT} that are read")
    return text


def read_file(path: Path, max_bytes: int) -> bytes:
    """Return the content of a file; ValueError names one that is missing, a pipe or too large."""
    try:
        facts = path.stat()
        if not stat.S_ISREG(facts.st_mode):
            raise ValueError(f"{path} cannot be read: it is not a regular file")
        if facts.st_size > max_bytes:
            raise ValueError(f"{path} has {facts.st_size} bytes, more than {max_bytes}")
        return path.read_bytes()
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from error
    except MemoryError as error:
        raise ValueError(f"{path} does not fit into memory") from error


def read_json(path: Path, schema: Any = dict[str, Any]) -> Any:
    """Return the content of a JSON file, in the form of a schema.

    A schema is a type that msgspec converts to: a dataclass, a ``msgspec.Struct`` (which can
    forbid unknown keys and bound values), ``dict[str, Any]``, ... The ValueError for a file that
    is missing, too large, not JSON or of another form names the file and the entry.
    """
    return parse(read_file(path, MAX_TEXT), path, schema)


def read_toml(path: Path, schema: Any = dict[str, Any]) -> Any:
    """Return the content of a TOML file: see :func:`read_json`."""
    return parse(read_file(path, MAX_TEXT), path, schema, lambda text: tomllib.loads(text.decode()))


def read_inline(text: str) -> dict[str, Any]:
    """Return the content of an inline TOML table without its braces: ``a = 1, b = [2, 3]``."""
    try:
        match tomllib.loads(f"tables = [{{{text}}}]"):  # which a comment or a new line would break
            case {"tables": [table], **others} if not others:
                return table
        raise ValueError("it is more than one table")
    except (ValueError, RecursionError) as error:
        example = "'object_scale = [0.5, 1.5], num_clutter = 8'"
        raise ValueError(f"expected TOML such as {example}, got {text!r}: {error}") from error


def read_csv(path: Path, row: Any = dict[str, str]) -> list[Any]:
    """Return the rows of a CSV file with a header, in the form ``row``: see :func:`read_json`."""

    def decode(text: bytes) -> list[dict[str, Any]]:
        return list(csv.DictReader(io.StringIO(text.decode()), restkey="?", strict=True))

    return parse(read_file(path, MAX_TEXT), path, list[row], decode, strict=False)


def parse(
    content: bytes,
    path: Path,
    schema: Any = dict[str, Any],
    decode: Callable[[bytes], Any] = msgspec.json.decode,
    *,
    strict: bool = True,
) -> Any:
    """Return the content of a file read before, by default JSON: see :func:`read_json`."""
    if len(content) > MAX_TEXT:
        raise ValueError(f"{path} has {len(content)} bytes, more than {MAX_TEXT}")
    try:
        return convert(decode(content), schema, strict=strict)
    except (ValueError, RecursionError, MemoryError, csv.Error) as error:
        raise ValueError(f"{path} is not valid: {error}") from error


def convert(value: Any, schema: Any, *, strict: bool = True) -> Any:
    """Return dicts, lists, strings and numbers in the form of a schema: see :func:`read_json`.

    A string becomes a ``Path`` where the schema has one, and unless ``strict`` a number. The
    ValueError for another form names the entry.
    """
    return msgspec.convert(value, schema, strict=strict, dec_hook=lambda kind, part: kind(part))


def first_line(error: BaseException) -> str:
    """Return an error's message without the C++ stack that torch may append."""
    return str(error).partition("\n")[0] or type(error).__name__
