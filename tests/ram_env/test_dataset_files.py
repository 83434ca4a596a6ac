"""Tests of ram_env.dataset_files through ram_env.data, on made-up datasets of a few images."""

import http.server
import multiprocessing
import re
import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from ram_env import data, dataset_files
from ram_env.data import DatasetError, load_digits, open_split
from tests.dataset_makers import (
    COUNTS,
    NUM_VALIDATION,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    compress,
    file_names,
    only,
    write,
)
from tests.script_helpers import note_calls

# Finding


def test_a_file_is_read_once_as_it_is_and_nothing_is_written(tiny, tmp_path, cache, monkeypatch):
    folder = write(tmp_path / "digits", tiny, gz=True)
    before, read = file_names(folder), note_calls(monkeypatch, Path, "read_bytes")
    for split in ("train", "validation", "test"):
        load_digits("MNIST", split, folder)
    assert sorted(call.args[0].name for call in read) == sorted(f"{name}.gz" for name in tiny)
    assert open_split("MNIST", "train", folder).source == f"MNIST train: 50 images from {folder}"
    assert file_names(folder) == before
    assert not cache.exists()


def test_one_part_is_enough_for_its_splits_but_images_without_labels_are_an_error(tiny, tmp_path):
    folder = write(tmp_path / "test", only("t10k", tiny))
    assert len(load_digits("MNIST", "test", folder)[0]) == 20
    folder = write(tmp_path / "train", {TRAIN_IMAGES: tiny[TRAIN_IMAGES]})
    with pytest.raises(DatasetError, match=f"{TRAIN_LABELS} is missing"):
        load_digits("MNIST", "train", folder)


# Damaged files


@pytest.mark.parametrize("name", ["MNIST", "MNIST/raw"])
@pytest.mark.parametrize("put", [Path.touch, lambda path: path.symlink_to("not mounted")])
def test_a_file_in_place_of_a_folder_is_never_replaced_by_the_sample(put, name, cache, tmp_path):
    folder = tmp_path / "digits"
    (folder / name).parent.mkdir(parents=True)
    put(folder / name)
    with pytest.raises(DatasetError, match=f"{folder / name}.* is inaccessible .*replace it"):
        load_digits("MNIST", "train", folder)


@pytest.mark.parametrize(
    ("dataset", "damage"), [("KMNIST", "a label is above 9"), ("FashionMNIST", "SHA-256: got")]
)
def test_the_labels_of_the_siblings_of_mnist_are_checked_too(dataset, damage, tiny, tmp_path):
    folder = write(tmp_path, {**tiny, TRAIN_LABELS: tiny[TRAIN_LABELS][:-1] + b"\x0a"}, dataset)
    with pytest.raises(DatasetError, match=f"{TRAIN_LABELS} is damaged: {damage}"):
        load_digits(dataset, "train", folder)


def test_damaged_batches_of_cifar_are_named(tiny_cifar, cache):
    load_digits("CIFAR10", "train", tiny_cifar)
    batch = cache / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(batch.read_bytes() + b"x")
    with pytest.raises(DatasetError, match=f"{batch} is damaged: MD5: got"):
        load_digits("CIFAR10", "test")
    batch.unlink()
    with pytest.raises(DatasetError, match=f"{batch} is damaged: it cannot be read"):
        load_digits("CIFAR10", "test")


# Downloads


@pytest.fixture
def serve(monkeypatch):
    """Start a local mirror of files, the one to use from now on.

    It has folders like those of a data folder, unless it is ``flat``.
    """
    servers = []

    def start(files: dict[str, bytes], flat: bool = False) -> SimpleNamespace:
        requested: list[str] = []

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                requested.append(path := self.path.lstrip("/"))
                name = Path(path).name
                present = name in files and not (flat and "/" in path)
                self.send_response(200 if present else 404)
                self.end_headers()
                self.wfile.write(files[name] if present else b"")

            def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
                pass

        servers.append(server := http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        url = f"http://127.0.0.1:{server.server_port}"
        monkeypatch.setenv("RAM_ENV_MIRROR", url)
        return SimpleNamespace(url=url, requested=requested)

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def packed(files: dict[str, bytes]) -> dict[str, bytes]:
    return {f"{name}.gz": compress(content) for name, content in files.items()}


@pytest.mark.parametrize(("dataset", "flat"), [("MNIST", False), ("FashionMNIST", True)])
def test_a_download_leaves_one_valid_copy(dataset, flat, tiny, cache, serve):
    mirror = serve(packed(tiny), flat)
    images, _ = load_digits(dataset, "test")
    assert images.tobytes() == tiny["t10k-images-idx3-ubyte"][16:]
    assert file_names(cache) == {dataset, "raw", *(f"{name}.gz" for name in tiny)}
    load_digits(dataset, "train")
    paths = [f"{name}.gz" for name in tiny] * flat + [f"{dataset}/raw/{name}.gz" for name in tiny]
    assert sorted(mirror.requested) == sorted(paths)


def test_cifar_is_downloaded(tiny_cifar, cache, serve):
    archive = (tiny_cifar / "cifar-10-python.tar.gz").read_bytes()
    mirror = serve({"cifar-10-python.tar.gz": archive})
    assert load_digits("CIFAR10", "test")[0].shape == (12, 32, 32, 3)
    assert mirror.requested == ["cifar-10-python.tar.gz"]
    assert "cifar-10-python.tar.gz" not in file_names(cache)


def test_a_damaged_download_is_an_error_that_leaves_nothing_behind(tiny, cache, serve, monkeypatch):
    images = f"{TRAIN_IMAGES}.gz"
    mirror = serve({images: compress(tiny[TRAIN_IMAGES])[:-9]})
    url = f"{mirror.url}/{TRAIN_IMAGES}.gz"
    with pytest.raises(DatasetError, match=f"(?s){url} is damaged: it cannot be read"):
        load_digits("MNIST", "train")
    monkeypatch.setattr(dataset_files, "_MAX_BYTES", 1000)
    serve({images: bytes(2000)})  # cut off
    with pytest.raises(DatasetError, match="larger than 1000 bytes"):
        load_digits("MNIST", "train")
    mirror = serve({})
    with pytest.raises(FileNotFoundError) as caught:
        load_digits("KMNIST", "train")
    url = f"{mirror.url}/{TRAIN_IMAGES}.gz"
    for part in ("KMNIST", str(cache), url, "404", "RAM_ENV_DATA", "data_dir"):
        assert part in str(caught.value)
    assert file_names(cache) == set()
    assert not data._sample


@pytest.mark.parametrize("address", ["/data/mirror", "example.com/mnist", "http://[bad/x"])
def test_an_address_that_is_none_is_named(address, cache, monkeypatch):
    monkeypatch.setenv("RAM_ENV_MIRROR", address)
    with pytest.raises(FileNotFoundError, match=re.escape(f"  {address}/{TRAIN_IMAGES}.gz: ")):
        load_digits("KMNIST", "train")


def test_a_second_mirror_makes_up_for_the_first(tiny, serve, monkeypatch):
    from torchvision.datasets import MNIST

    lying = serve(dict.fromkeys(packed(tiny), b"<html>"))
    good = serve(packed(tiny))
    monkeypatch.delenv("RAM_ENV_MIRROR")
    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/", lying.url, good.url])
    assert len(load_digits("MNIST", "train")[0]) == 50


def test_an_interrupted_download_is_completed(tiny, cache, serve):
    write(cache, {TRAIN_IMAGES: tiny[TRAIN_IMAGES]})
    (cache / "MNIST.part").mkdir()
    (cache / "MNIST.part" / "half").touch()
    mirror = serve(packed(tiny))
    assert len(load_digits("MNIST", "train")[0]) == 50
    assert len(mirror.requested) == 3
    fetched = {f"{name}.gz" for name in tiny if name != TRAIN_IMAGES}
    assert file_names(cache) == {"MNIST", "raw", TRAIN_IMAGES, *fetched}


def test_a_download_begins_with_the_part_that_was_asked_for(tiny, cache, serve):
    serve(packed(only("t10k", tiny)))
    assert open_split("MNIST", "test").source == f"MNIST test: 20 images from {cache}"
    with pytest.raises(FileNotFoundError, match=rf"(?s)Needed: MNIST/raw/{TRAIN_IMAGES} .*404"):
        load_digits("MNIST", "train")


def open_in_another_process(tables: tuple[Any, ...], barrier: Any, sender: Any) -> None:
    """Open the made-up training split once both processes are ready; send its bytes."""
    dataset_files._NUM_IMAGES, data._NUM_VALIDATION, dataset_files._SHA256 = tables
    barrier.wait(600)
    sender.send_bytes(load_digits("MNIST", "train")[0].tobytes())


@pytest.mark.slow
def test_two_processes_at_once_share_one_download(tiny, cache, serve):
    mirror, context = serve(packed(tiny)), multiprocessing.get_context("spawn")
    tables = COUNTS, NUM_VALIDATION, dataset_files._SHA256
    barrier, (receiver, sender) = context.Barrier(2), context.Pipe(duplex=False)
    other = context.Process(target=open_in_another_process, args=(tables, barrier, sender))
    other.start()
    barrier.wait(600)
    images = load_digits("MNIST", "train")[0].tobytes()
    assert images == receiver.recv_bytes() == tiny[TRAIN_IMAGES][16 : 16 + 50 * 784]
    other.join()
    assert len(mirror.requested) == 4
    assert file_names(cache) == {"MNIST", "raw", *(f"{name}.gz" for name in tiny)}


def test_a_cache_that_cannot_be_written_is_a_reason(cache):
    cache.parent.write_text("a file where the cache should be")
    with pytest.raises(FileNotFoundError, match=f"cache folder {cache} cannot be used"):
        load_digits("KMNIST", "train")
