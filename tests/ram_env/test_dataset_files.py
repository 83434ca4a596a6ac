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
from ram_env.data import DatasetError, load_digits
from tests.dataset_makers import (
    NUM_VALIDATION,
    TRAIN_IMAGES,
    TRAIN_LABELS,
    compress,
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
    assert file_names(cache) == {dataset, "raw", *packed(tiny)}
    load_digits(dataset, "train")
    paths = [*packed(tiny)] * flat + [f"{dataset}/raw/{name}" for name in packed(tiny)]
    assert sorted(mirror.requested) == sorted(paths)


def test_cifar_is_downloaded(tiny_cifar, cache, serve):
    archive = "cifar-10-python.tar.gz"
    mirror = serve({archive: (tiny_cifar / archive).read_bytes()})
    assert load_digits("CIFAR10", "test")[0].shape == (12, 32, 32, 3)
    assert mirror.requested == [archive]
    assert archive not in file_names(cache)


def test_a_damaged_download_is_an_error_that_leaves_nothing_behind(tiny, cache, serve):
    mirror = serve({f"{TRAIN_IMAGES}.gz": compress(tiny[TRAIN_IMAGES])[:-9]})
    with pytest.raises(DatasetError, match=f"{mirror.url}/{TRAIN_IMAGES}.gz is damaged"):
        load_digits("MNIST", "train")
    assert file_names(cache) == set()


@pytest.mark.parametrize("address", ["", "/data/mirror", "example.com/mnist", "http://[bad/x"])
def test_an_address_without_the_files_is_named_with_the_other_ways(
    address, cache, serve, monkeypatch
):
    mirror = serve({}).url
    if address:
        monkeypatch.setenv("RAM_ENV_MIRROR", mirror := address)
    with pytest.raises(FileNotFoundError, match=f"not found in {cache}") as caught:
        load_digits("KMNIST", "train")
    for part in (f"  {mirror}/{TRAIN_IMAGES}.gz: ", "RAM_ENV_DATA", "data_dir"):
        assert part in str(caught.value)


def test_a_second_mirror_makes_up_for_the_first(tiny, serve, monkeypatch):
    from torchvision.datasets import MNIST

    lying, good = serve(dict.fromkeys(packed(tiny), b"<html>")), serve(packed(tiny))
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
    assert file_names(cache) == {"MNIST", "raw", TRAIN_IMAGES, *packed(tiny)} - {
        f"{TRAIN_IMAGES}.gz"
    }


def open_in_another_process(tables: tuple[Any, ...], barrier: Any, sender: Any) -> None:
    """Open the made-up training split once both processes are ready; send its bytes."""
    from torchvision.datasets import MNIST

    data._NUM_VALIDATION, dataset_files._SHA256, MNIST.resources = tables
    barrier.wait(600)
    sender.send_bytes(load_digits("MNIST", "train")[0].tobytes())


def test_two_processes_at_once_share_one_download(tiny, cache, serve):
    from torchvision.datasets import MNIST

    mirror, context = serve(packed(tiny)), multiprocessing.get_context("spawn")
    tables = NUM_VALIDATION, dataset_files._SHA256, MNIST.resources
    barrier, (receiver, sender) = context.Barrier(2), context.Pipe(duplex=False)
    other = context.Process(target=open_in_another_process, args=(tables, barrier, sender))
    other.start()
    barrier.wait(600)
    images = load_digits("MNIST", "train")[0].tobytes()
    assert images == receiver.recv_bytes() == tiny[TRAIN_IMAGES][16 : 16 + 50 * 784]
    other.join()
    assert len(mirror.requested) == 4
    assert file_names(cache) == {"MNIST", "raw", *packed(tiny)}


def test_a_cache_that_cannot_be_written_is_a_reason(cache):
    cache.parent.write_text("a file where the cache should be")
    with pytest.raises(FileNotFoundError, match=f"cache folder {re.escape(str(cache))} cannot be"):
        load_digits("KMNIST", "train")
