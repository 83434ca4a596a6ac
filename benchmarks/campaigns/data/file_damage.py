"""Ways in which a file of a dataset can be damaged, and what must be said of each."""

import gzip
import os
import shutil
import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import numpy as np

from benchmarks.campaigns.data.made_up import CIFAR_FOLDER, IDX_DATASETS, MadeUp, compress

_BOMB_SIZE = 200 * 2**20  # [B] that a bomb unpacks to
_HUGE_SIZE = 2**32  # [B] of a file that is one long hole


@dataclass(frozen=True)
class Target:
    """A file to damage.

    Attributes:
        made: The made-up datasets.
        dataset: Name of the dataset.
        form: "idx", "gz" (of an idx file), "batch" (of CIFAR10) or "tar" (CIFAR10's archive).
        folder: The folder that holds the dataset.
        name: Path in the folder.
    """

    made: MadeUp
    dataset: str
    form: str
    folder: Path
    name: str

    @property
    def path(self) -> Path:
        """Where it is."""
        return self.folder / self.name

    @property
    def content(self) -> bytes:
        """What it should hold."""
        return self.made.members(self.dataset, self.form in ("gz", "tar"))[self.name]

    @property
    def idx(self) -> bytes:
        """What it should hold unpacked; of an idx file."""
        return self.made.idx[self.path.name.removesuffix(".gz")]


Damage = Callable[[Target, np.random.Generator], Path | None]


@dataclass(frozen=True)
class Fault:
    """A kind of damage.

    Attributes:
        name: What has happened to the file.
        forms: Forms of files that it can happen to.
        damage: Does it; returns what has to be blamed, None for the file itself.
        reason: Pattern of what must be said to be wrong.
    """

    name: str
    forms: tuple[str, ...]
    damage: Damage
    reason: str


# Content


def _changed(change: Callable[[bytes, np.random.Generator], bytes]) -> Damage:
    def damage(target: Target, rng: np.random.Generator) -> None:
        target.path.write_bytes(change(target.content, rng))

    return damage


def _flip_a_bit(target: Target, rng: np.random.Generator) -> None:
    """Flip a bit that counts.

    A .gz has a few that don't (its time stamp, padding); an extracted idx file of MNIST's
    siblings has no checksum, so that only its header tells.
    """
    end = len(target.content)
    if target.form == "idx" and target.dataset != "MNIST":
        end = len(target.idx) - int(np.prod(_shape(target.idx)))
    while True:
        content = bytearray(target.content)
        content[rng.integers(end)] ^= 1 << int(rng.integers(8))
        if target.form != "gz" or _unpacked(bytes(content)) != target.idx:
            break
    target.path.write_bytes(content)


def _unpacked(content: bytes) -> bytes | None:
    try:
        return gzip.decompress(content)
    except (OSError, EOFError, zlib.error):
        return None


def _changed_idx(change: Callable[[bytes, np.random.Generator], bytes]) -> Damage:
    """Change the content of an idx file, and pack it again where it was packed."""

    def damage(target: Target, rng: np.random.Generator) -> None:
        content = change(target.idx, rng)
        target.path.write_bytes(compress(content) if target.form == "gz" else content)

    return damage


def _shape(idx: bytes) -> tuple[int, ...]:
    return struct.unpack_from(f">{idx[3]}I", idx, 4)


def _another_magic(idx: bytes, rng: np.random.Generator) -> bytes:
    kinds = [0x08, 0x09, 0x0B, 0x0C, 0x0D, 0x0E]  # of numbers that idx files can hold
    magics = [256 * kind + axes for kind in kinds for axes in range(5)]
    magics.remove(256 * idx[2] + idx[3])
    return struct.pack(">I", rng.choice(magics)) + idx[4:]


def _another_count(idx: bytes, rng: np.random.Generator) -> bytes:
    """Let the header announce some images more or fewer, or really append one."""
    axis = int(rng.integers(idx[3]))
    shape = list(_shape(idx))
    shape[axis] = max(0, shape[axis] + int(rng.choice([-2, -1, 1, 2, 2**31])))
    head = idx[:4] + struct.pack(f">{len(shape)}I", *shape)
    extra = b"\0" * int(np.prod(_shape(idx)[1:])) if rng.random() < 0.5 else b""
    return head + idx[len(head) :] + extra


def _a_label_above_9(target: Target, rng: np.random.Generator) -> Path:
    path = target.path.with_name(target.path.name.replace("images-idx3", "labels-idx1"))
    idx = bytearray(target.made.idx[path.name.removesuffix(".gz")])
    idx[rng.integers(8, len(idx))] = rng.integers(10, 256)
    path.write_bytes(compress(bytes(idx)) if target.form == "gz" else idx)
    return path


def _explode(target: Target, _: np.random.Generator) -> None:
    if target.form == "idx":
        with target.path.open("wb") as file:
            file.truncate(_HUGE_SIZE)
    else:
        target.path.write_bytes(_bomb())


@cache
def _bomb() -> bytes:
    return compress(bytes(_BOMB_SIZE))


def _another_trailer(content: bytes, rng: np.random.Generator) -> bytes:
    """Change the checksum or the length at the end of a .gz."""
    changed = bytearray(content)
    changed[-1 - rng.integers(8)] ^= 1 << int(rng.integers(8))
    return bytes(changed)


# Names


def _swap_with(find: Callable[[str], str]) -> Damage:
    def damage(target: Target, _: np.random.Generator) -> None:
        other = target.path.with_name(find(target.path.name))
        content = other.read_bytes()
        target.path.rename(other)
        target.path.write_bytes(content)

    return damage


def _other_part(name: str) -> str:
    pairs = [("train-", "t10k-"), ("t10k-", "train-"), ("data_batch_1", "test_batch")]
    old, new = next(pair for pair in pairs if name.startswith(pair[0]))
    return name.replace(old, new)


def _other_kind(name: str) -> str:
    if "images" in name:
        return name.replace("images-idx3", "labels-idx1")
    return name.replace("labels-idx1", "images-idx3")


def _put_a_folder(target: Target, _: np.random.Generator) -> None:
    target.path.unlink()
    target.path.mkdir()
    (target.path / "inside").touch()


def _in_place_of_its_folder(put: Callable[[Path], object]) -> Damage:
    def damage(target: Target, rng: np.random.Generator) -> Path:
        folder = _folder_above(target, rng)
        put(folder)
        return folder

    return damage


def _folder_above(target: Target, rng: np.random.Generator) -> Path:
    """Remove one of the folders that the file lies in, and return its path."""
    folders = [target.folder / parent for parent in Path(target.name).parents][:-1]
    folder = folders[rng.integers(len(folders))]
    shutil.rmtree(folder)
    return folder


def _link_to(place: str) -> Damage:
    def damage(target: Target, _: np.random.Generator) -> None:
        target.path.unlink()
        target.path.symlink_to(place.format(name=target.path.name))

    return damage


def _put_a_pipe(target: Target, _: np.random.Generator) -> None:
    target.path.unlink()
    os.mkfifo(target.path)


_FILE_FOR_FOLDER = _in_place_of_its_folder(Path.touch)
_LOOP_FOR_FOLDER = _in_place_of_its_folder(lambda folder: folder.symlink_to(folder.name))
_BROKEN_FOLDER = _in_place_of_its_folder(lambda folder: folder.symlink_to("not mounted"))
_FILES = ("idx", "gz", "tar", "batch")
_IDX = ("idx", "gz")
_WRONG = "content|header|MD5|SHA-256|more than|cannot be read"
_NO_FOLDER = "no folder|Not a directory"
_HTML = b"<!DOCTYPE html>\n<html><body>Sign in to the network</body></html>"

FAULTS = [
    Fault("truncated", _FILES, _changed(lambda c, rng: c[: rng.integers(1, len(c))]), _WRONG),
    Fault("a bit flipped", ("gz", "idx", "batch", "tar"), _flip_a_bit, _WRONG),
    Fault("train and test swapped", ("idx", "gz", "batch"), _swap_with(_other_part), _WRONG),
    Fault("images and labels swapped", _IDX, _swap_with(_other_kind), _WRONG),
    Fault("an HTML page", _FILES, _changed(lambda *_: _HTML), "HTML page"),
    Fault("a bomb", ("gz", "idx", "tar"), _explode, "more than|MD5"),
    Fault("a folder", _FILES, _put_a_folder, "directory"),
    Fault("a file for its folder", ("idx", "gz", "batch"), _FILE_FOR_FOLDER, _NO_FOLDER),
    Fault("a link to nowhere", _FILES, _link_to("nowhere"), "cannot be read.*No such file"),
    Fault("a looping link", ("gz", "idx", "tar"), _link_to("{name}"), "cannot be read.*levels"),
    Fault("its folder a looping link", _IDX, _LOOP_FOR_FOLDER, _NO_FOLDER),
    Fault("its folder a broken link", _IDX, _BROKEN_FOLDER, _NO_FOLDER),
    Fault("reading fails", _FILES, _link_to("/proc/self/mem"), "cannot be read"),  # for root, too
    Fault("a pipe", _FILES, _put_a_pipe, "no regular file"),
    Fault("an endless device", ("tar", "gz", "batch"), _link_to("/dev/zero"), "no regular file"),
    Fault("empty", _FILES, _changed(lambda *_: b""), "got 0|MD5"),
    Fault("followed by another .gz", ("gz", "tar"), _changed(lambda c, _: c + c), _WRONG),
    Fault(
        "garbage at the end",
        _FILES,
        _changed(lambda c, rng: c + b"\1" + rng.bytes(int(rng.integers(99)))),
        _WRONG,
    ),
    Fault("another magic number", _IDX, _changed_idx(_another_magic), "header|MD5"),
    Fault("no .gz", ("gz", "tar"), _changed(lambda c, _: b"PK" + c[2:]), "Not a gzipped|MD5"),
    Fault("another count in the header", _IDX, _changed_idx(_another_count), _WRONG),
    Fault("another trailer", ("gz", "tar"), _changed(_another_trailer), _WRONG),
    Fault("a label above 9", _IDX, _a_label_above_9, "label is above 9|SHA-256|MD5"),
]


def choose(number: int) -> tuple[Fault, str, np.random.Generator]:
    """Return a case's fault, the form of the file it happens to and its random numbers.

    Every fault comes with its first form before any comes with its second.
    """
    variants = max(len(fault.forms) for fault in FAULTS)
    cases = [(f, f.forms[v]) for v in range(variants) for f in FAULTS if v < len(f.forms)]
    return *cases[number % len(cases)], np.random.default_rng(number)


def target_of(
    made: MadeUp, form: str, split: str, folder: Path, rng: np.random.Generator
) -> Target:
    """Choose a file of a split and of a form."""
    if form == "tar":
        name = next(iter(made.members("CIFAR10", archived=True)))
        return Target(made, "CIFAR10", form, folder, name)
    if form == "batch":
        batch = "test_batch" if split == "test" else "data_batch_1"
        return Target(made, "CIFAR10", form, folder, f"{CIFAR_FOLDER}/{batch}")
    dataset = IDX_DATASETS[max(0, rng.integers(-2, 3))]  # MNIST in three of five
    part, ending = "t10k" if split == "test" else "train", ".gz" if form == "gz" else ""
    kind = rng.choice(["images-idx3-ubyte", "labels-idx1-ubyte"])
    return Target(made, dataset, form, folder, f"{dataset}/raw/{part}-{kind}{ending}")
