"""Hostile files and what puts them where sound ones lie."""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaigns.checkpoints.small_runs import edit_json, seal
from benchmarks.campaigns.hostile.grounds import CHECKPOINT

HUGE = 2**36  # [B] of a file that is one long hole

Change = Callable[[dict[str, Any]], object]  # of what a JSON file holds


@dataclass(frozen=True)
class Plant:
    """A hostile file.

    Attributes:
        what: What it is.
        place: Where it is put, below :attr:`benchmarks.campaigns.hostile.grounds.Grounds.here`.
        make: Puts it at a path.
    """

    what: str
    place: str
    make: Callable[[Path], object]

    def put(self, folder: Path) -> None:
        """Put it into its place; the manifest of a checkpoint then says that this is right."""
        path = folder / self.place
        path.parent.mkdir(exist_ok=True)
        self.make(path)
        in_checkpoint = self.place.startswith(f"{CHECKPOINT}/") and path.name != "manifest.json"
        if in_checkpoint and stat.S_ISREG(path.lstat().st_mode) and path.stat().st_size < HUGE:
            seal(path.parent)


def put(places: Iterable[str], contents: Mapping[str, bytes]) -> list[Plant]:
    """Return what puts each content, by what it is, into each place."""
    return [
        Plant(what, place, _writes(content))
        for place in places
        for what, content in contents.items()
    ]


def _writes(content: bytes) -> Callable[[Path], object]:
    return lambda path: path.write_bytes(content)


def edit(place: str, changes: Mapping[str, Change]) -> list[Plant]:
    """Return what makes each change, by what it is, to a JSON file."""
    return [Plant(what, place, _edits(change)) for what, change in changes.items()]


def _edits(change: Change) -> Callable[[Path], object]:
    return lambda path: edit_json(path, change)


def updates(**values: Any) -> Change:
    """Return what sets entries of a JSON object."""
    return lambda content: content.update(values)


def links(places: Iterable[str], targets: Iterable[Path]) -> list[Plant]:
    """Return what puts links to each target into each place."""
    targets = [*targets]
    return [
        Plant(f"a link to {target}", place, _links(target))
        for place in places
        for target in targets
    ]


def _links(target: Path) -> Callable[[Path], object]:
    def make(path: Path) -> None:
        if path.is_dir():
            shutil.rmtree(path)
        path.unlink(missing_ok=True)
        path.symlink_to(target)

    return make


def pipes(places: Iterable[str]) -> list[Plant]:
    """Return what puts pipes into places; to read one waits for ever."""

    def make(path: Path) -> None:
        path.unlink()
        os.mkfifo(path)

    return [Plant("a pipe", place, make) for place in places]


def holes(places: Iterable[str], start: bytes = b"") -> list[Plant]:
    """Return what puts files into places that are huge and take no space.

    Args:
        places: Where to.
        start: What the files begin with.
    """

    def make(path: Path) -> None:
        with path.open("wb") as file:
            file.write(start)
            file.truncate(HUGE)
        manifest = path.with_name("manifest.json")
        if path != manifest and manifest.exists():
            facts = {"bytes": HUGE, "sha256": "0" * 64}
            edit_json(manifest, lambda content: content["files"].update({path.name: facts}))

    return [Plant(f"a hole after {len(start)} bytes", place, make) for place in places]
