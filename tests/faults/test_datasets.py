"""A damaged dataset is refused by name, never replaced; downloads that race leave one valid copy."""

import gzip
import hashlib
import itertools
import multiprocessing
import os
import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from torchvision import datasets

from ram_env.data import DatasetError, load_digits
from tests.dataset_makers import TEST_IMAGES, TRAIN_IMAGES, TRAIN_LABELS, compress, write
from tests.faults.damage import CHANGED, MISPLACED, Damage, rewrite
from tests.ram_env.test_dataset_files import Mirror

# Damage


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


def move_folder(make: Callable[[Path], object]) -> Damage:
    def damage(path: Path, rng: np.random.Generator) -> None:
        path.parent.rename(path.parent.with_name("moved"))
        make(path.parent)

    return damage


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
    "its folder a file": move_folder(Path.touch),
    "its folder a link to nowhere": move_folder(lambda path: path.symlink_to("nowhere")),
}


NOT_OF_CIFAR = {"the labels", "the test's images"} | {
    what for what in DAMAGES if what.startswith(("another", "its folder"))
}
"""Its archive holds everything, and lies in no folder of its own."""

CASES = [
    *((place, what) for place in ("MNIST idx", "MNIST gz", "KMNIST gz") for what in DAMAGES),
    *(("CIFAR10 gz", what) for what in DAMAGES if what not in NOT_OF_CIFAR),
]


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
    whole = load_digits(name, "train", folder)
    tracemalloc.start()
    DAMAGES[what](path, np.random.default_rng(fault_round))
    try:
        images, labels = load_digits(name, "train", folder)
    except (DatasetError, FileNotFoundError) as error:
        known = (path, path.parent, path.parent.parent)
        assert any(str(each) in str(error) for each in known) or path.stem in str(error)
    else:  # a .gz has a few bits that don't count
        assert np.array_equal(images, whole[0])
        assert np.array_equal(labels, whole[1])
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**26


# A race


def compress_siblings() -> dict[str, bytes]:
    """Return files of blank images that have the counts of the real ones, packed."""
    files = {}
    for part, n in (("train", 60_000), ("t10k", 10_000)):
        images = struct.pack(">IIII", 0x803, n, 28, 28) + bytes(n * 784)
        labels = struct.pack(">II", 0x801, n) + bytes(i % 10 for i in range(n))
        files[f"{part}-images-idx3-ubyte.gz"] = compress(images)
        files[f"{part}-labels-idx1-ubyte.gz"] = compress(labels)
    return files


def prepare(barrier: Any, resources: list[tuple[str, str]], settings: dict[str, str]) -> None:
    """Let blank images pass for KMNIST's in a process of its own."""
    global _barrier
    _barrier = barrier
    datasets.KMNIST.resources = resources
    os.environ.update(settings)
    os.environ.pop("RAM_ENV_DATA", None)


def download(number: int) -> str:
    """Open the dataset when all processes are ready; return its labels' digest or the error."""
    _barrier.wait(100)
    try:
        images, labels = load_digits("KMNIST", "test")
    except (DatasetError, FileNotFoundError) as error:
        return f"error: {error}"
    assert not images.any()
    return hashlib.sha256(labels.tobytes()).hexdigest()


ANSWERS: dict[str, Callable[[bytes], tuple[int, bytes, int]]] = {
    "honest": lambda content: (200, content, len(content)),
    "truncating": lambda content: (200, content[:-9], len(content)),
    "lying": lambda content: (200, compress(b"lie"), len(compress(b"lie"))),
    "forbidding": lambda content: (403, b"no", 2),
    "unavailable": lambda content: (503, b"later", 5),
}


def test_downloads_that_race_leave_one_valid_copy_or_a_clear_error(
    tmp_path: Path, fault_round: int
):
    bad = list(ANSWERS.values())[fault_round % len(ANSWERS)]
    files, requests, processes = compress_siblings(), itertools.count(), 3
    num_bad = 1 + fault_round % (processes - 1)  # fewer than processes: one must succeed

    def answer(name: str) -> tuple[int, bytes, int]:
        return (bad if next(requests) < num_bad else ANSWERS["honest"])(files[name])

    mirror = Mirror(answer)
    resources = [(name, hashlib.md5(content).hexdigest()) for name, content in files.items()]
    settings = {"RAM_ENV_MIRROR": mirror.url, "XDG_CACHE_HOME": str(tmp_path)}
    context = multiprocessing.get_context("forkserver")
    start = (context.Barrier(processes), resources, settings)
    try:
        with context.Pool(processes, prepare, start) as pool:
            results = pool.map(download, range(processes), chunksize=1)
            wanted = {hashlib.sha256((np.arange(10_000) % 10).tobytes()).hexdigest()}
            errors = [result for result in results if result.startswith("error: ")]
            assert set(results) - set(errors) == wanted
            assert len(errors) == (0 if bad is ANSWERS["honest"] else num_bad)
            assert all(mirror.url in error for error in errors)
            assert set(pool.map(download, range(processes), chunksize=1)) == wanted
    finally:
        mirror.server.shutdown()
        mirror.server.server_close()
    assert len(mirror.requested) == len(files) + len(errors)
    left = {path.name for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".lock"}
    assert left == {name.removesuffix(".gz") for name in files}
