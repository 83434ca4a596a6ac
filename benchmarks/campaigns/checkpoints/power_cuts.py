"""What a power cut may leave after some system calls: a small model of a file system.

A file's bytes are safe once the file was synchronised; of the later ones all may be there, or
none. A folder's list of names is safe once the folder was; its later changes may all be there,
or none. (Where a part of them is there, that is what an earlier power cut leaves.) Most file
systems keep more. Needs Linux, to know what a file descriptor stands for.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.campaigns.checkpoints.system_calls import Call

Names = dict[str, "_Node"]
Content = bytes | tuple[tuple[str, Any], ...]  # of a folder, names and their contents


@dataclass(eq=False)
class _Node:
    """A file or folder: what it holds, and what of that is safe."""

    now: bytes | Names
    safe: bytes | Names


class Leaving(NamedTuple):
    """What a power cut may leave.

    Attributes:
        name: After which call, and what was lost.
        content: Of the folder.
        done: Whether that was the last call.
    """

    name: str
    content: Content
    done: bool


class Disk:
    """A folder in which system calls are followed.

    Args:
        folder: All that is in it counts as safe.
    """

    def __init__(self, folder: Path):
        self._folder = folder.resolve()
        self._top = _read(self._folder)
        self._moments: list[tuple[str, dict[Content, str]]] = []

    def make(self, call: Call) -> Any:
        """Make a call and keep what a power cut after it may leave."""
        paths = [path for path in _paths(call) if path.is_relative_to(self._folder)]
        result = call.make()
        if paths and call.name != "close":
            self._follow(call, result, *paths)
        self._moments.append((f"call {call.number} ({call.name})", self._lose()))
        return result

    def leavings(self) -> list[Leaving]:
        """Return all that a power cut after any of the calls may leave, each once."""
        found: list[Leaving] = []
        seen: set[Content] = set()
        for number, (call, contents) in enumerate(self._moments, 1):
            done = number == len(self._moments)
            new = {
                content: lost for content, lost in contents.items() if done or content not in seen
            }
            found += [Leaving(f"after {call}{lost}", each, done) for each, lost in new.items()]
            seen |= new.keys()
        return found

    def _follow(self, call: Call, result: Any, path: Path, new: Path | None = None) -> None:
        """Do to the nodes what a call did to the folder."""
        names = _names(self._find(path.parent)) if path != self._folder else {}
        match call.name:
            case "open" if path.name not in names:
                names[path.name] = _Node(b"", b"")
            case "open" if path.is_file() and path.stat().st_size == 0:
                names[path.name].now = b""
            case "write":
                names[path.name].now = _bytes(names[path.name]) + bytes(call.args[1][:result])
            case "fsync":
                node = self._find(path)
                node.now = path.read_bytes() if path.is_file() else node.now
                node.safe = node.now if isinstance(node.now, bytes) else {**node.now}
            case "mkdir":
                names[path.name] = _Node({}, {})
            case "replace" | "rename" if new is not None:
                _names(self._find(new.parent))[new.name] = names.pop(path.name)
            case "unlink" | "remove" | "rmdir":
                del names[path.name]

    def _find(self, path: Path) -> _Node:
        node = self._top
        for name in path.relative_to(self._folder).parts:
            node = _names(node)[name]
        return node

    def _lose(self) -> dict[Content, str]:
        """Return what may be left now, and what of it is lost."""
        unsafe = dict(_find_unsafe(self._top, self._folder.name))
        folders = [node for node in unsafe if isinstance(node.now, dict)]
        files = [node for node in unsafe if isinstance(node.now, bytes)]
        contents: dict[Content, str] = {}
        for choice in itertools.product((False, True), repeat=len(folders) + bool(files)):
            lost = {node for node, gone in zip(folders, choice, strict=False) if gone}
            said = sorted(f"names in {unsafe[node]}" for node in lost)
            if files and choice[-1]:
                lost.update(files)
                said.append("bytes")
            contents.setdefault(
                _freeze(self._top, lost), f", lost: {' and '.join(said) or 'nothing'}"
            )
        return contents


def restore(content: Content, path: Path) -> None:
    """Make a file or folder of this content."""
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    path.mkdir()
    for name, part in content:
        restore(part, path / name)


def _paths(call: Call) -> list[Path]:
    """Return what a call is about, as absolute paths."""
    count = 2 if call.name in ("replace", "rename", "link") else 1
    above = call.kwargs.get("dir_fd")
    base = Path.cwd() if above is None else _path_of(above)
    return [base / (_path_of(p) if isinstance(p, int) else p) for p in call.args[:count]]


def _path_of(descriptor: int) -> Path:
    return Path(os.readlink(f"/proc/self/fd/{descriptor}"))


def _read(path: Path) -> _Node:
    if path.is_dir():
        names = {each.name: _read(each) for each in path.iterdir()}
        return _Node(names, {**names})
    content = path.read_bytes()
    return _Node(content, content)


def _names(node: _Node) -> Names:
    assert isinstance(node.now, dict)
    return node.now


def _bytes(node: _Node) -> bytes:
    assert isinstance(node.now, bytes)
    return node.now


def _find_unsafe(node: _Node, name: str) -> Iterator[tuple[_Node, str]]:
    """Find what differs from what is safe of it, with its name."""
    if node.now != node.safe:
        yield node, name
    if isinstance(node.now, dict) and isinstance(node.safe, dict):
        for child_name, child in [*node.safe.items(), *node.now.items()]:
            yield from _find_unsafe(child, child_name)


def _freeze(node: _Node, lost: set[_Node]) -> Content:
    content = node.safe if node in lost else node.now
    if isinstance(content, bytes):
        return content
    return tuple((name, _freeze(content[name], lost)) for name in sorted(content))
