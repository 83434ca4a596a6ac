"""Files with a manifest of their sizes and SHA-256: checkpoints, published runs, zips.

A folder holds its manifest as ``manifest.json``; a single file ``NAME`` has ``NAME.json`` next
to it. Reading checks sizes before contents and refuses links, pipes and devices. A digest
detects damage and mix-ups; it is not a signature, since anyone can write a new manifest.
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import msgspec

from agents.runs import files as disk

MAX_BYTES = 4 * 2**30
"""Limit on a file, and on all files of a folder together [B]."""

MANIFEST = "manifest.json"


class _Digest(msgspec.Struct):
    bytes: int
    sha256: str


class _FileManifest(_Digest):
    schema: Literal[1]  # other versions are refused


class _FolderManifest(msgspec.Struct):
    schema: Literal[1]
    files: dict[str, _Digest]


def write_hashed(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files by name and their manifest into a folder, which is made or replaced as a whole.

    A crash leaves the new folder or the old one, perhaps where :func:`find_hashed` finds it. More
    than :func:`read_hashed` would read is a ValueError.
    """
    if (total := sum(map(len, files.values()))) > MAX_BYTES:
        raise ValueError(f"{folder} can't hold {total} bytes: more than {MAX_BYTES} are not read")
    new, old = (folder.with_name(f".{folder.name}.{word}") for word in ("new", "old"))
    manifest = {"schema": 1, "files": {name: _digest(part) for name, part in files.items()}}
    disk.make_folder(folder.parent)
    remove(new)
    os.mkdir(new)
    for name, content in {**files, MANIFEST: disk.to_json(manifest)}.items():
        disk.write_file(new / name, content)
    disk.sync_folder(new)
    if os.path.lexists(folder):
        remove(old)
        disk.replace(folder, old)
    disk.replace(new, folder)
    remove(old)


def read_hashed(folder: Path) -> dict[str, bytes]:
    """Return the files that :func:`write_hashed` wrote, by name, after checking every byte.

    The ValueError names a file that is missing, unexpected, changed, too large or a link. Hidden
    files, which a file manager may leave, are ignored.
    """
    path = _regular(folder / MANIFEST)
    digests = disk.read_json(path, _FolderManifest).files
    names = {each.name for each in folder.iterdir()} - {MANIFEST}
    names = {name for name in names if not name.startswith(".") or name in digests}
    if differing := names ^ digests.keys():
        raise ValueError(f"{path} must list the folder's files: {sorted(differing)} differ")
    if (total := sum(digest.bytes for digest in digests.values())) > MAX_BYTES:
        raise ValueError(f"{path} lists {total} bytes, more than {MAX_BYTES}")
    return {name: _read_checked(folder / name, digest) for name, digest in digests.items()}


def find_hashed(folder: Path) -> Path:
    """Return where a folder lies: under another name if a crash interrupted its replacement."""
    old = folder.with_name(f".{folder.name}.old")
    return old if old.is_dir() and not os.path.lexists(folder) else folder


def write_hashed_file(path: Path, content: bytes, facts: Mapping[str, Any]) -> None:
    """Write one file, and a manifest next to it with further facts, ready for JSON.

    A crash in between may leave a pair that doesn't match: :func:`read_hashed_file` refuses it.
    """
    manifest = {"schema": 1, **facts, **_digest(content)}
    disk.write_whole(manifest_path(path), disk.to_json(manifest))
    disk.write_whole(path, content)


def read_hashed_file(path: Path) -> tuple[bytes, dict[str, Any]]:
    """Return a file that :func:`write_hashed_file` wrote, and its manifest, which it matches."""
    manifest = _regular(manifest_path(path))
    digest, facts = disk.read_json(manifest, _FileManifest), disk.read_json(manifest)
    return _read_checked(path, digest), facts


def manifest_path(path: Path) -> Path:
    """Return where the manifest of a single file lies: ``best.zip.json`` next to ``best.zip``."""
    return path.with_name(f"{path.name}.json")


def remove(path: Path) -> None:
    """Delete a folder, a file or a link, if it exists; of a mount point, what it holds."""
    if path.is_mount():
        for part in path.iterdir():
            remove(part)
    elif path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def _digest(content: bytes) -> dict[str, Any]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read_checked(path: Path, expected: _Digest) -> bytes:
    if (size := _regular(path).stat().st_size) != expected.bytes:
        raise ValueError(f"{path} has {size} bytes, its manifest says {expected.bytes}")
    content = disk.read_file(path, MAX_BYTES)
    if hashlib.sha256(content).hexdigest() != expected.sha256:
        raise ValueError(f"{path} was changed: its SHA-256 is not the manifest's")
    return content


def _regular(path: Path) -> Path:
    if path.is_symlink() or not path.is_file():
        raise ValueError(f"{path} is missing or not a regular file")
    return path
