"""A damaged dataset is refused by name, and no other images ever take its place."""

import gzip
import re
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

import train.evaluate
from ram_env.data import DatasetError, load_digits
from tests.dataset_makers import IDX_FILES, TEST_IMAGES, TRAIN_IMAGES, TRAIN_LABELS, compress, write
from tests.faults.conftest import Command
from tests.faults.damage import CHANGED, MISPLACED, Damage, rewrite


def swap_with(name: str) -> Damage:
    """Return what exchanges a file with another one of its folder."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        other = path.with_name(name + ".gz" * (path.suffix == ".gz"))
        content = other.read_bytes()
        other.write_bytes(path.read_bytes())
        path.write_bytes(content)

    return damage


def inside(change: Callable[[bytearray, np.random.Generator], object]) -> Damage:
    """Return what changes an idx file's content, which is packed again where it was packed."""

    def damage(path: Path, rng: np.random.Generator) -> None:
        packed = path.suffix == ".gz"
        content = bytearray(gzip.decompress(path.read_bytes()) if packed else path.read_bytes())
        change(content, rng)
        path.write_bytes(compress(bytes(content)) if packed else content)

    return damage


def set_int(content: bytearray, at: int, value: int) -> None:
    content[at : at + 4] = struct.pack(">I", value)


DAMAGES: dict[str, Damage] = {
    **CHANGED,
    **MISPLACED,
    "a page": rewrite(lambda content, i: b"<!DOCTYPE html><html>"),
    "a bomb": rewrite(lambda content, i: compress(bytes(2**24)) * 16),
    "not packed as named": rewrite(lambda content, i: b"PK" + content[2:]),
    "another kind of numbers": inside(lambda c, rng: set_int(c, 0, 0xD03)),
    "another count": inside(lambda c, rng: set_int(c, 4, int(rng.integers(2**32)))),
    "another image": inside(lambda c, rng: set_int(c, int(rng.integers(16, 999)), 7)),
    "another trailer": rewrite(lambda c, i: c[:-8] + bytes(b ^ 1 << i % 8 for b in c[-8:])),
    "the labels": swap_with(TRAIN_LABELS),
    "the test's images": swap_with(TEST_IMAGES),
}
HASH = "(SHA-256|MD5): got .* expected"
REASONS = {  # of those that are always noticed in the same way
    "a page": f"Not a gzipped file|{HASH}",
    "a bomb": HASH,
    "not packed as named": f"Not a gzipped file|{HASH}",
    "another image": HASH,
}
CASES = [(place, what) for place in ("MNIST idx", "MNIST gz", "KMNIST gz") for what in DAMAGES]
CASES += [("CIFAR10 gz", what) for what in (*CHANGED, *MISPLACED, "a page", "a bomb")]


@pytest.fixture
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path, Path]:
    """A dataset, the folder that it lies in and the file of it that is damaged."""
    name, form = request.param.split()
    if name == "CIFAR10":
        folder = request.getfixturevalue("tiny_cifar")
        return name, folder, folder / "cifar-10-python.tar.gz"
    files = request.getfixturevalue("tiny")
    folder = write(tmp_path / "digits", files, name, gz=form == "gz")
    return name, folder, folder / name / "raw" / (TRAIN_IMAGES + ".gz" * (form == "gz"))


@pytest.mark.parametrize(("place", "what"), CASES, indirect=["place"])
def test_a_damaged_file_is_refused_by_name(
    what: str, place: tuple[str, Path, Path], fault_round: int
):
    name, folder, path = place
    DAMAGES[what](path, np.random.default_rng(fault_round))
    tracemalloc.start()
    with pytest.raises((DatasetError, FileNotFoundError)) as caught:
        load_digits(name, "train", folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    known = (path.stem, *map(str, (path, path.parent, path.parent.parent)))
    assert any(each in str(caught.value) for each in known)
    if what in REASONS:
        message = f"{re.escape(str(path))} is damaged: .*({REASONS[what]}).*replace it with a valid"
        assert re.search(message, str(caught.value))
    assert peak < 2**26


def test_a_script_reports_a_damaged_file_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: Command
):
    files: dict[str, bytes] = dict.fromkeys(IDX_FILES, b"no IDX file")
    monkeypatch.setenv("RAM_ENV_DATA", str(write(tmp_path, files, "MNIST", gz=False)))
    assert f"{TRAIN_IMAGES} is damaged" in command(train.evaluate, "--pretrained", "mnist")
