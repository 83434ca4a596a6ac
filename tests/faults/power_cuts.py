"""What a power cut may leave: a small model of a file system.

A file's bytes are safe once the file was synchronised; later bytes may all be there or all be
lost. A folder's list of names is safe once the folder was synchronised; its later changes may all
be there or all be lost. (A state in which some are there is one that an earlier cut leaves.) Most
file systems keep more. Linux only: it resolves file descriptors through /proc.
"""

import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.system_calls import Call

Content = bytes | tuple[tuple[str, Any], ...]
"""A file's bytes, or a folder's names, each with its content."""


@dataclass(eq=False)
class _Node:
    """A file or folder: its content now, and what of that is safe."""

    now: Any  # bytes, or dict[str, _Node]
    safe: Any


class Disk:
    """Follows the system calls in a folder; all that is in it at first counts as safe.

    Attributes:
        leavings: All that a power cut may leave, with after which call and what is lost.
        last: What one may leave after the last call.
    """

    def __init__(self, folder: Path):
        self._folder = folder.resolve()
        self._top = _read(self._folder)
        self._root = _Node({self._folder.name: self._top}, {})
        self.leavings: dict[Content, str] = {}
        self.last: dict[Content, str] = {}

    def make(self, call: Call) -> Any:
        """Make a call, as a handler, and note what a power cut after it may leave."""
        paths = [path for path in _paths(call) if path.is_relative_to(self._folder)]
        result = call.make()
        if paths:
            self._follow(call, *paths)
        self.last = {content: f"{call}, {lost}" for content, lost in self._lose()}
        self.leavings |= self.last
        return result

    def _follow(self, call: Call, path: Path, new: Path | None = None) -> None:
        """Do to the nodes what a call has done to the folder."""
        names = self._names(path.parent)
        if new is not None:
            self._names(new.parent)[new.name] = names.pop(path.name)
        elif not path.exists():
            names.pop(path.name, None)
        else:
            new_node = _Node({}, {}) if path.is_dir() else _Node(b"", b"")
            node = names.setdefault(path.name, new_node)
            node.now = node.now if path.is_dir() else path.read_bytes()
            if call.name == "fsync":
                node.safe = {**node.now} if path.is_dir() else node.now

    def _names(self, folder: Path) -> dict[str, _Node]:
        node = self._root
        for name in folder.relative_to(self._folder.parent).parts:
            node = node.now[name]
        return node.now

    def _lose(self) -> Iterator[tuple[Content, str]]:
        """Find what a power cut may leave now, with the names of what loses its unsafe part."""
        unsafe = dict(_find_unsafe(self._top, self._folder.name))
        folders = [node for node in unsafe if isinstance(node.now, dict)]
        files = [node for node in unsafe if isinstance(node.now, bytes)]
        groups = [[folder] for folder in folders] + [files] * bool(files)
        for chosen in itertools.product((False, True), repeat=len(groups)):
            lost = {node for group in itertools.compress(groups, chosen) for node in group}
            yield _freeze(self._top, lost), f"lost: {sorted(unsafe[node] for node in lost)}"


def restore(content: Content, path: Path) -> None:
    """Make a file or folder of this content."""
    if isinstance(content, bytes):
        path.write_bytes(content)
        return
    path.mkdir()
    for name, part in content:
        restore(part, path / name)


def _paths(call: Call) -> list[Path]:
    """Return the absolute paths that a call takes."""
    count = 2 if call.name in ("replace", "rename") else 1
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


def _find_unsafe(node: _Node, name: str) -> Iterator[tuple[_Node, str]]:
    if node.now != node.safe:
        yield node, name
    if isinstance(node.now, dict):
        for child_name, child in [*node.safe.items(), *node.now.items()]:
            yield from _find_unsafe(child, child_name)


def _freeze(node: _Node, lost: set[_Node]) -> Content:
    content = node.safe if node in lost else node.now
    if isinstance(content, bytes):
        return content
    return tuple((name, _freeze(content[name], lost)) for name in sorted(content))
