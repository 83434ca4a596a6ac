"""The files of the built-in datasets: found or downloaded, verified and read.

Folders are laid out as torchvision does. IDX files are read as they are, plain or as ``.gz``
(KMNIST's only as ``.gz``, since no hash of the plain files is published). CIFAR10's archive is
unpacked into the cache, where torchvision reads it.

Dimension key: n images of a part, training or test, of H x W px and C colours.
"""

import gzip
import hashlib
import http.client
import io
import os
import shutil
import tarfile
import urllib.request
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]  # images and their labels

_MAX_BYTES = 2**28  # [B], above the largest archive (CIFAR10, 170 MB)
_MAX_UNPACKED = 48_000_000  # [B], above the largest IDX file
_CIFAR, _CIFAR_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
# SHA-256 of the unpacked files; FashionMNIST's are those in the archives with its published MD5s.
_MNIST = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}
_FASHION = {
    "train-images-idx3-ubyte": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_SHA256 = {"MNIST": _MNIST, "FashionMNIST": _FASHION}


class DatasetError(ValueError):
    """A dataset file is damaged, on disk or at every address that offers it."""


def list_files(dataset: str) -> list[str]:
    """Return the paths of a dataset's files, images before labels; CIFAR10 has one folder."""
    if dataset == "CIFAR10":
        return [_CIFAR]
    kinds = ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1")
    return [f"{dataset}/raw/{kind}-ubyte" for kind in kinds]


def find_files(dataset: str, folder: Path) -> list[Path]:
    """Return which files of a dataset a folder holds, packed or not."""
    return [path for name in list_files(dataset) if (path := _find(folder, name))]


def find_folder(dataset: str, folders: tuple[Path, ...]) -> Path | None:
    """Return the first folder that holds all files of a dataset, or None."""
    count = len(list_files(dataset))
    return next((each for each in folders if len(find_files(dataset, each)) == count), None)


def _archive_of(name: str) -> str:
    return _CIFAR_ARCHIVE if name == _CIFAR else f"{name}.gz"


def _find(folder: Path, name: str) -> Path | None:
    """Return the path of a file in the folder, else of its archive, else None."""
    names = [name, _archive_of(name)][name.startswith("KMNIST") :]
    return next((path for each in names if os.path.lexists(path := folder / each)), None)


# Reading


def read_folder(dataset: str, folder: Path, cache: Path) -> tuple[Pair, Pair]:
    """Read and verify the training and the test part of a dataset that :func:`find_folder` found.

    Images, (n, H, W) or (n, H, W, C), and labels, (n,), are read-only. DatasetError names a damaged
    file; OSError says that CIFAR10 needs to be unpacked into a cache that cannot be written.
    """
    if dataset == "CIFAR10":
        arrays = _read_cifar(folder, cache)
    else:
        arrays = [_read_idx(dataset, path) for path in find_files(dataset, folder)]
    images, labels = map(read_only, arrays[::2]), (a.astype(np.int64) for a in arrays[1::2])
    train, test = zip(images, map(read_only, labels), strict=True)
    return train, test


def read_only(array: np.ndarray) -> np.ndarray:
    """Return the array itself, which nobody can write to from now on."""
    array.setflags(write=False)
    return array


def _read_idx(dataset: str, path: Path) -> np.ndarray:
    """Return the array of a file with the SHA-256 above, or the MD5 of KMNIST's ``.gz``."""
    name, content = path.name.removesuffix(".gz"), _read_bytes(path)
    if dataset not in _SHA256:
        _check_hash(path, "MD5", content, _archive_md5(dataset, path.name))
    if path.suffix == ".gz":
        try:  # a gzip bomb is unpacked no further than this
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(_MAX_UNPACKED)
        except (OSError, EOFError, zlib.error) as error:
            raise _damaged(path, error) from error
    if dataset in _SHA256:
        _check_hash(path, "SHA-256", content, _SHA256[dataset][name])
    if "images" in name:
        return np.frombuffer(content, np.uint8, offset=16).reshape(-1, 28, 28)
    return np.frombuffer(content, np.uint8, offset=8)


def _read_cifar(folder: Path, cache: Path) -> list[np.ndarray]:
    """Let torchvision read CIFAR10: it verifies the MD5 of every file before it unpickles."""
    if not os.path.lexists(folder / _CIFAR):  # only the archive is there
        archive = folder / _CIFAR_ARCHIVE
        _check_hash(archive, "MD5", content := _read_bytes(archive), _archive_md5("CIFAR10"))
        with _staging("CIFAR10", cache) as staging:
            if not os.path.lexists(cache / _CIFAR):  # else another process was quicker
                _install(_CIFAR, content, staging, cache)
        folder = cache
    try:
        with warnings.catch_warnings():  # the first releases of NumPy 2.4 warn about old pickles
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            parts = [_torchvision_class("CIFAR10")(folder, train=train) for train in (True, False)]
    except (RuntimeError, OSError) as error:
        raise _damaged(folder / _CIFAR, error) from error
    pairs = [(np.ascontiguousarray(part.data), np.array(part.targets)) for part in parts]
    return [array for pair in pairs for array in pair]


def _read_bytes(path: Path) -> bytes:
    try:
        if path.is_file() and path.stat().st_size <= _MAX_BYTES:
            return path.read_bytes()
    except OSError as error:
        raise _damaged(path, error) from error
    raise _damaged(path, f"it is not a file of at most {_MAX_BYTES} bytes")


def _damaged(path: Path, damage: object) -> DatasetError:
    advice = "Delete it or replace it with a valid copy."
    return DatasetError(f"{path} is damaged: {damage}. {advice}")


def _check_hash(path: Path, kind: str, content: bytes, expected: str) -> None:
    got = hashlib.new(kind.replace("-", ""), content).hexdigest()
    if got != expected:
        raise _damaged(path, f"{kind}: got {got}, expected {expected}")


def _torchvision_class(dataset: str) -> Any:
    from torchvision import datasets  # noqa: TID251 - CIFAR-10's pickles, once their MD5s are compared

    return getattr(datasets, dataset)


def _archive_md5(dataset: str, name: str = "") -> str:
    """Return the published MD5 of an archive, by its file name."""
    source = _torchvision_class(dataset)
    return source.tgz_md5 if dataset == "CIFAR10" else dict(source.resources)[name]


# Filling the cache


def download(dataset: str, cache: Path) -> None:
    """Download the files of a dataset that the cache lacks, and verify each.

    DatasetError if an address has a damaged copy and none a valid one; ConnectionError if no
    address can be reached, or the cache cannot be written.
    """
    try:
        with _staging(dataset, cache) as staging:
            for name in list_files(dataset):
                if _find(cache, name) is None:
                    _install(name, _fetch(dataset, _archive_of(name)), staging, cache)
    except ConnectionError:
        raise
    except OSError as error:
        raise ConnectionError(f"the cache folder {cache} cannot be used ({error})") from error


@contextmanager
def _staging(dataset: str, cache: Path) -> Iterator[Path]:
    """Hold the dataset's lock, for which others wait, and a folder for unfinished files."""
    from filelock import FileLock

    cache.mkdir(parents=True, exist_ok=True)
    folder = cache / f"{dataset}.part"
    with FileLock(cache / f"{dataset}.lock"):
        shutil.rmtree(folder, ignore_errors=True)  # left by a process that was killed
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _fetch(dataset: str, archive: str) -> bytes:
    """Return an archive from the first address that has a valid copy."""
    source, name = _torchvision_class(dataset), archive.rpartition("/")[2]
    mirrors = [source.url.removesuffix(name)] if dataset == "CIFAR10" else source.mirrors
    urls = [f"{address.rstrip('/')}/{name}" for address in mirrors]
    if mirror := os.environ.get("RAM_ENV_MIRROR"):  # with the folders of a data folder, or flat
        urls = [f"{mirror.rstrip('/')}/{end}" for end in (archive, name)]
    failures, kind = [], ConnectionError
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                content = response.read(_MAX_BYTES)
        except (OSError, ValueError, http.client.HTTPException) as error:  # of a bad address, too
            failures.append(f"  {url}: {error or type(error).__name__}")
            continue
        if hashlib.md5(content).hexdigest() == _archive_md5(dataset, name):
            return content
        failures.append(f"  {url} is damaged: its MD5 is not the published one")
        kind = DatasetError
    raise kind("\n".join([f"{dataset} has no valid copy to download:", *failures]))


def _install(name: str, content: bytes, staging: Path, cache: Path) -> None:
    """Move a verified archive into the cache in one step; unpack CIFAR10."""
    target = cache / (name if name == _CIFAR else _archive_of(name))
    if name == _CIFAR:
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 has it
            tar.extractall(staging)
    else:
        (staging / target.name).write_bytes(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staging / target.name, target)
