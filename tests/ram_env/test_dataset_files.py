"""Tests of ram_env.dataset_files through ram_env.data, on made-up datasets of a few images."""

import multiprocessing
import re
from pathlib import Path
from typing import Any

import pytest

from ram_env import data, dataset_files
from ram_env.data import DatasetError, load_digits
from tests.dataset_makers import (
    NUM_VALIDATION,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    file_names,
    write,
)
from tests.script_helpers import note_calls


def test_a_file_is_read_once_as_it_is_and_nothing_is_written(tiny, tmp_path, cache, monkeypatch):
    folder = write(tmp_path / "digits", tiny, gz=True)
    before, read = file_names(folder), note_calls(monkeypatch, Path, "read_bytes")
    for split in ("train", "validation", "test"):
        load_digits("MNIST", split, folder)
    assert sorted(call.args[0].name for call in read) == sorted(f"{name}.gz" for name in tiny)
    assert file_names(folder) == before
    assert not cache.exists()


@pytest.mark.parametrize(("dataset", "gz"), [("KMNIST", True), ("FashionMNIST", False)])
def test_the_labels_of_the_siblings_of_mnist_are_checked_too(dataset, gz, tiny, tmp_path):
    damaged = {**tiny, TRAIN_LABELS: tiny[TRAIN_LABELS][:-1] + b"\x0a"}
    with pytest.raises(DatasetError, match=f"{TRAIN_LABELS}.* is damaged: .*: got"):
        load_digits(dataset, "train", write(tmp_path, damaged, dataset, gz))


def test_a_plain_file_of_kmnist_has_no_published_hash_and_is_not_read(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="KMNIST was not found"):
        load_digits("KMNIST", "train", write(tmp_path, tiny, "KMNIST"))


def test_damaged_batches_of_cifar_are_named(tiny_cifar, cache):
    load_digits("CIFAR10", "train", tiny_cifar)
    batch = cache / "cifar-10-batches-py" / "data_batch_2"
    for damage in (lambda: batch.write_bytes(b"x"), batch.unlink):
        damage()
        with pytest.raises(DatasetError, match=f"{batch.parent} is damaged"):
            load_digits("CIFAR10", "test")


# Downloads


@pytest.fixture
def mirror(tmp_path, monkeypatch) -> Path:
    """A folder to download from."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    monkeypatch.setenv("RAM_ENV_MIRROR", folder.as_uri())
    return folder


def packed(files: dict[str, bytes]) -> list[str]:
    return [f"{name}.gz" for name in files]


@pytest.mark.parametrize(("dataset", "flat"), [("MNIST", False), ("FashionMNIST", True)])
def test_a_download_leaves_one_valid_copy(dataset, flat, tiny, cache, mirror, monkeypatch):
    write(mirror, tiny, dataset, gz=True)
    if flat:
        monkeypatch.setenv("RAM_ENV_MIRROR", (mirror / dataset / "raw").as_uri() + "/")
    fetched = note_calls(monkeypatch, dataset_files, "_fetch")
    images, _ = load_digits(dataset, "test")
    assert images.tobytes() == tiny["t10k-images-idx3-ubyte"][16:]
    assert file_names(cache) == {dataset, "raw", *packed(tiny)}
    load_digits(dataset, "train")
    assert len(fetched) == 4


def test_cifar_is_downloaded(tiny_cifar, cache, monkeypatch):
    monkeypatch.setenv("RAM_ENV_MIRROR", tiny_cifar.as_uri())
    assert load_digits("CIFAR10", "test")[0].shape == (12, 32, 32, 3)
    assert "cifar-10-python.tar.gz" not in file_names(cache)


def test_a_damaged_download_is_an_error_that_leaves_nothing_behind(tiny, cache, mirror):
    damaged = write(mirror, tiny, gz=True) / "MNIST" / "raw" / f"{TRAIN_IMAGES}.gz"
    damaged.write_bytes(damaged.read_bytes()[:-9])
    with pytest.raises(DatasetError, match=f"{damaged} is damaged"):
        load_digits("MNIST", "train")
    assert file_names(cache) == set()


@pytest.mark.parametrize("address", ["file:///nowhere", "/data/mirror", "a.com/x", "http://[bad/x"])
def test_an_address_without_the_files_is_named_with_the_other_ways(address, cache, monkeypatch):
    monkeypatch.setenv("RAM_ENV_MIRROR", address)
    with pytest.raises(FileNotFoundError, match=f"not found in {cache}") as caught:
        load_digits("KMNIST", "train")
    for part in (f"  {address}/{TRAIN_IMAGES}.gz: ", "RAM_ENV_DATA", "data_dir"):
        assert part in str(caught.value)


def test_a_second_mirror_makes_up_for_the_first(tiny, mirror, monkeypatch):
    from torchvision.datasets import MNIST

    good = write(mirror / "good", tiny, gz=True)
    lying = write(mirror / "lying", dict.fromkeys(tiny, b"<html>"), gz=True)
    mirrors = [f"{folder.as_uri()}/MNIST/raw/" for folder in (lying, good)]
    monkeypatch.delenv("RAM_ENV_MIRROR")
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/", *mirrors])
    assert len(load_digits("MNIST", "train")[0]) == 50


def test_an_interrupted_download_is_completed(tiny, cache, mirror, monkeypatch):
    write(cache, {TRAIN_IMAGES: tiny[TRAIN_IMAGES]})
    (cache / "MNIST.part").mkdir()
    (cache / "MNIST.part" / "half").touch()
    write(mirror, tiny, gz=True)
    fetched = note_calls(monkeypatch, dataset_files, "_fetch")
    assert len(load_digits("MNIST", "train")[0]) == 50
    assert [Path(call.args[1]).name for call in fetched] == packed(tiny)[1:]
    assert file_names(cache) == {"MNIST", "raw", TRAIN_IMAGES, *packed(tiny)[1:]}


def open_in_another_process(tables: tuple[Any, ...], barrier: Any, sender: Any) -> None:
    """Open the made-up training split once both processes are ready; send its bytes."""
    from torchvision.datasets import MNIST

    data._NUM_VALIDATION, dataset_files._SHA256, MNIST.resources = tables
    barrier.wait(600)
    sender.send_bytes(load_digits("MNIST", "train")[0].tobytes())


def test_two_processes_may_download_at_once(tiny, cache, mirror):
    from torchvision.datasets import MNIST

    write(mirror, tiny, gz=True)
    context = multiprocessing.get_context("spawn")
    tables = NUM_VALIDATION, dataset_files._SHA256, MNIST.resources
    barrier, (receiver, sender) = context.Barrier(2), context.Pipe(duplex=False)
    other = context.Process(target=open_in_another_process, args=(tables, barrier, sender))
    other.start()
    barrier.wait(600)
    images = load_digits("MNIST", "train")[0].tobytes()
    assert images == receiver.recv_bytes() == tiny[TRAIN_IMAGES][16 : 16 + 50 * 784]
    other.join()
    assert file_names(cache) == {"MNIST", "raw", *packed(tiny)}


def test_a_cache_that_cannot_be_written_is_a_reason(cache):
    cache.parent.write_text("a file where the cache should be")
    with pytest.raises(FileNotFoundError, match=f"cache folder {re.escape(str(cache))} cannot be"):
        load_digits("KMNIST", "train")
