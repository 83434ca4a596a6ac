"""Ways in which a checkpoint can be damaged or be of something else, and what must be said."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaigns.checkpoints.small_runs import edit_json, seal


@dataclass(frozen=True)
class Target:
    """A checkpoint to damage.

    Attributes:
        path: Its folder.
        before: Folder of the checkpoint before; of the last one for the first.
        other: Folder of the checkpoint of the same step of a run with other settings.
        rng: Random numbers.
    """

    path: Path
    before: Path
    other: Path
    rng: np.random.Generator

    def choose(self, pattern: str = "*") -> Path:
        """Return one of the checkpoint's files, another one each time."""
        return self.path / str(self.rng.choice(sorted(p.name for p in self.path.glob(pattern))))

    def bytes_of(self, file: Path) -> tuple[bytearray, int]:
        """Return a file's content, and a place in it, another one each time."""
        content = bytearray(file.read_bytes())
        return content, int(self.rng.integers(len(content)))


@dataclass(frozen=True)
class Fault:
    """A kind of damage.

    Attributes:
        name: What happens.
        damage: Does it.
        said: Pattern of what must be said to be wrong; "" where nothing may be.
        also: Whether it happens to the checkpoint before, too.
    """

    name: str
    damage: Callable[[Target], object]
    said: str
    also: bool = False


# Content


def _truncate(target: Target) -> None:
    content, place = target.bytes_of(file := target.choose())
    file.write_bytes(content[:place])


def _flip_a_bit(target: Target) -> None:
    content, place = target.bytes_of(file := target.choose())
    content[place] ^= 1 << int(target.rng.integers(8))
    file.write_bytes(content)


def _lose_the_end(target: Target) -> None:
    """Let the end of a file be zeros, as if its last blocks had never been written."""
    content, place = target.bytes_of(file := target.choose())
    file.write_bytes(content[:place] + bytes(len(content) - place))


def _append(target: Target) -> None:
    content, _ = target.bytes_of(file := target.choose())
    file.write_bytes(content + target.rng.bytes(int(target.rng.integers(1, 99))))


# Files


def _swap(one: Path, two: Path) -> None:
    aside = one.with_name("aside")
    one.rename(aside)
    two.rename(one)
    aside.rename(two)


def _swap_within(target: Target) -> None:
    one, two = target.rng.choice(sorted(p.name for p in target.path.iterdir()), 2, replace=False)
    _swap(target.path / one, target.path / two)


def _swap_with_the_one_before(target: Target) -> None:
    file = target.choose("m*.safetensors")
    _swap(file, target.before / file.name)


def _take_from(whose: str, pattern: str) -> Callable[[Target], None]:
    def damage(target: Target) -> None:
        file = target.choose(pattern)
        shutil.copyfile(getattr(target, whose) / file.name, file)

    return damage


def _add(name: str) -> Callable[[Target], object]:
    return lambda target: (target.path / name).write_bytes(b"more")


def _put_a_folder(target: Target) -> None:
    file = target.choose()
    file.unlink()
    file.mkdir()


def _put_a_pipe(target: Target) -> None:
    file = target.choose()
    file.unlink()
    os.mkfifo(file)


def _put_a_link(target: Target) -> None:
    """Put a link to the same content in place of a file."""
    file = target.choose()
    moved = file.rename(target.path.parent.parent / f"{target.path.name}-{file.name}")
    file.symlink_to(moved)


def _link_to_nowhere(target: Target) -> None:
    file = target.choose()
    file.unlink()
    file.symlink_to("nowhere")


# The manifest


def _edit_manifest(change: Callable[[dict[str, Any]], object]) -> Callable[[Target], object]:
    return lambda target: edit_json(target.path / "manifest.json", change)


def _write_manifest(content: object) -> Callable[[Target], object]:
    return lambda target: (target.path / "manifest.json").write_text(json.dumps(content))


def _forget_a_file(manifest: dict[str, Any]) -> None:
    manifest["files"].popitem()


def _spoil_an_entry(manifest: dict[str, Any]) -> None:
    manifest["files"]["state.json"] = None


# The folder


def _rename_to(name: str) -> Callable[[Target], object]:
    return lambda target: target.path.rename(
        target.path.with_name(name.format(step=int(target.path.name[5:]) + 90))
    )


def _put_in_its_place(make: Callable[[Path], object]) -> Callable[[Target], None]:
    def damage(target: Target) -> None:
        shutil.rmtree(target.path)
        make(target.path)

    return damage


def edit_state(change: Callable[[dict[str, Any]], object]) -> Callable[[Target], None]:
    """Return what changes a checkpoint's state and seals it."""

    def damage(target: Target) -> None:
        edit_json(target.path / "state.json", change)
        seal(target.path)

    return damage


_ANY = "bytes, the manifest|SHA-256|is not JSON|manifest.json"
_FILES = "must list the files"
_PLAIN = "no plain file"

PASSED_OVER = [
    Fault("a file truncated", _truncate, _ANY),
    Fault("a bit flipped", _flip_a_bit, _ANY),
    Fault("the end of a file lost", _lose_the_end, _ANY),
    Fault("more at the end of a file", _append, _ANY),
    Fault("a file emptied", lambda target: target.choose().write_bytes(b""), _ANY),
    Fault("two files swapped", _swap_within, f"{_ANY}|{_FILES}"),
    Fault("a file swapped with the one before", _swap_with_the_one_before, "SHA-256", also=True),
    Fault("tensors of the one before", _take_from("before", "m*.safetensors"), "SHA-256"),
    Fault("state of the one before", _take_from("before", "state.json"), "state.json"),
    Fault("manifest of the one before", _take_from("before", "manifest.json"), "manifest|SHA-256"),
    Fault("tensors of another run", _take_from("other", "m*.safetensors"), "SHA-256"),
    Fault("manifest of another run", _take_from("other", "manifest.json"), "manifest|SHA-256"),
    Fault("a file missing", lambda target: target.choose("[mgos][a-z]*[srn]").unlink(), _ANY),
    Fault("tensors missing", lambda target: target.choose("*.safetensors").unlink(), _FILES),
    Fault("the manifest missing", lambda t: (t.path / "manifest.json").unlink(), "manifest.json"),
    Fault("tensors too many", _add("more.safetensors"), _FILES),
    Fault("a note too many", _add("note.txt"), _FILES),
    Fault("a folder too many", lambda target: (target.path / "more").mkdir(), _FILES),
    Fault("a folder in place of a file", _put_a_folder, _PLAIN),
    Fault("a pipe in place of a file", _put_a_pipe, _PLAIN),
    Fault("a link in place of a file", _put_a_link, _PLAIN),
    Fault("a link to nowhere in place of a file", _link_to_nowhere, _PLAIN),
    Fault("a manifest that forgets a file", _edit_manifest(_forget_a_file), _FILES),
    Fault("a manifest with a strange entry", _edit_manifest(_spoil_an_entry), "strange entry"),
    Fault("a manifest that is a list", _write_manifest([1]), "JSON object"),
    Fault("a manifest that says nothing", _write_manifest({"schema": 1}), _FILES),
    Fault("an older schema", _edit_manifest(lambda m: m.update(schema=0)), "has schema 0"),
    Fault("a future schema", _edit_manifest(lambda m: m.update(schema=2)), "has schema 2"),
    Fault("no schema", _edit_manifest(lambda m: m.pop("schema")), "has schema None"),
    Fault("renamed to a later step", _rename_to("step_{step:08d}"), "was renamed"),
    Fault("exchanged names", lambda t: _swap(t.path, t.before), "was renamed", also=True),
    Fault("another name", _rename_to("step_{step}"), ""),
    Fault("a copy of another name", _rename_to("copy of step_{step:08d}"), ""),
    Fault("an empty folder", _put_in_its_place(Path.mkdir), _PLAIN),
    Fault("a file in its place", _put_in_its_place(lambda p: p.write_bytes(b"a file")), _PLAIN),
    Fault(
        "a link to nowhere in its place", _put_in_its_place(lambda p: p.symlink_to("no")), _PLAIN
    ),
    Fault("a state without its step", edit_state(lambda s: s.pop("update")), "was renamed"),
]
