"""Files with a manifest of their sizes and SHA-256: checkpoints, published runs, zips.

A folder holds its manifest as ``manifest.json``; a single file ``NAME`` has ``NAME.json`` next
to it. Both are JSON. Reading checks sizes before contents, so that a huge file costs nothing,
and refuses links, pipes and devices. A digest detects damage and mix-ups. It is not a
signature: whoever can write the file can write the manifest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec

from agents.runs.files import (
    make_folder,
    read_file,
    read_json,
    replace,
    sync_folder,
    to_json,
    write_file,
    write_whole,
)

SCHEMA = 1
"""Version of the manifests; another one is refused."""

MAX_BYTES = 4 * 2**30
"""Files of more bytes, those of a folder together, are refused."""

MANIFEST = "manifest.json"


class _Digest(msgspec.Struct):
    """Size and SHA-256 of one file."""

    bytes: Annotated[int, msgspec.Meta(ge=0)]
    sha256: str


class _FolderManifest(msgspec.Struct):
    """Form of ``manifest.json``."""

    schema: Literal[1]
    files: dict[str, _Digest]


class _FileManifest(_Digest):
    """Form of ``NAME.json``, which may hold more entries."""

    schema: Literal[1]


def write_hashed(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files and their manifest into a folder, which appears or is replaced as a whole.

    The files are written and synchronised under a temporary name, which a rename makes final.
    A crash leaves the old folder, the new one, or, between the two renames of a replacement,
    the old one where :func:`find_hashed` finds it.

    Args:
        folder: Folder to create or replace. Missing parents are created.
        files: Content by file name.

    Raises:
        OSError: If the disk is full or read-only. An old folder stays as it was.
    """
    new, old = _temporary_names(folder)
    manifest = {"schema": SCHEMA, "files": {name: _digest(part) for name, part in files.items()}}
    make_folder(folder.parent)
    remove(new)
    os.mkdir(new)
    for name, content in {**files, MANIFEST: to_json(manifest)}.items():
        write_file(new / name, content)
    sync_folder(new)
    if os.path.lexists(folder):
        remove(old)
        replace(folder, old)
    replace(new, folder)
    remove(old)


def read_hashed(folder: Path, *, max_bytes: int = MAX_BYTES) -> dict[str, bytes]:
    """Return the files that :func:`write_hashed` wrote, after checking every byte.

    Args:
        folder: Folder with ``manifest.json``.
        max_bytes: Largest size of all files together [B].

    Raises:
        ValueError: If a file is missing, unexpected, changed, too large or not a regular file;
            the message names it.
    """
    path = _regular(folder / MANIFEST)
    digests = read_json(path, _FolderManifest).files
    names = {entry.name for entry in folder.iterdir()} - {MANIFEST}
    if names != digests.keys():
        differing = sorted(names ^ digests.keys())
        raise ValueError(f"{path} does not list the files of its folder: {differing} differ")
    if (total := sum(digest.bytes for digest in digests.values())) > max_bytes:
        raise ValueError(f"{path} lists {total} bytes, more than {max_bytes}")
    return {name: _read_checked(folder / name, digest) for name, digest in digests.items()}


def find_hashed(folder: Path) -> Path:
    """Return where a folder lies: elsewhere if a crash interrupted its replacement."""
    old = _temporary_names(folder)[1]
    return old if old.is_dir() and not os.path.lexists(folder) else folder


def write_hashed_file(path: Path, content: bytes, facts: Mapping[str, Any]) -> None:
    """Write one file with its manifest next to it, for instance ``best.zip`` and ``best.zip.json``.

    Each is replaced as a whole, the manifest first. After a crash between the two, they don't
    match, and :func:`read_hashed_file` refuses them.

    Args:
        path: File to create or replace; its folder exists.
        content: What the file holds.
        facts: Further entries of the manifest, ready for JSON.
    """
    write_whole(manifest_path(path), to_json({"schema": SCHEMA, **facts, **_digest(content)}))
    write_whole(path, content)


def read_hashed_file(path: Path, *, max_bytes: int = MAX_BYTES) -> tuple[bytes, dict[str, Any]]:
    """Return what :func:`write_hashed_file` wrote, after checking every byte.

    Args:
        path: The file.
        max_bytes: Largest size [B].

    Returns:
        The file's content, and its manifest with all further entries.

    Raises:
        ValueError: If the file or its manifest is missing, not a regular file or too large, or
            the two don't match; the message names the file.
    """
    manifest = _regular(manifest_path(path))
    digest, facts = read_json(manifest, _FileManifest), read_json(manifest)
    if digest.bytes > max_bytes:
        raise ValueError(f"{path} has {digest.bytes} bytes, more than {max_bytes}")
    return _read_checked(path, digest), facts


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a single file lies: ``best.zip.json`` next to ``best.zip``."""
    return path.with_name(f"{path.name}.json")


def remove(path: Path) -> None:
    """Delete a folder, a file or a link, if it exists."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest(content: bytes) -> dict[str, Any]:
    """Return the manifest's entry for a file."""
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read_checked(path: Path, expected: _Digest) -> bytes:
    """Return a file's content if it has the expected size and SHA-256."""
    size = _regular(path).stat().st_size
    if size != expected.bytes:
        raise ValueError(f"{path} has {size} bytes, its manifest says {expected.bytes}")
    content = read_file(path, size)
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        raise ValueError(f"{path} was changed: its SHA-256 is not the manifest's")
    return content


def _regular(path: Path) -> Path:
    """Return the path if a regular file is there, and not a link to one."""
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path} is missing or not a regular file")
    return path


def _temporary_names(folder: Path) -> tuple[Path, Path]:
    """Return where a new folder is written, and where the old one waits for it."""
    return folder.with_name(f".{folder.name}.new"), folder.with_name(f".{folder.name}.old")
