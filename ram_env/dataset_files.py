"""The files of the built-in datasets: found or downloaded, then read, verified and parsed once.

Dimension key:
    n: images of a part, the training images ("train") or the test images ("t10k")
    H, W: image height and width [px]
    C: colours

A dataset consists of members, laid out as torchvision does: four IDX files, or CIFAR10's folder
of batches. A folder may hold a member as its archive instead (``.gz`` or ``.tar.gz``), which is
also how it is downloaded. IDX files are read as they are, gzipped or not. Only CIFAR10 is
unpacked, into the cache, where torchvision reads it.
"""

import functools
import gzip
import hashlib
import http.client
import io
import math
import os
import shutil
import struct
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

_NUM_IMAGES = {"train": 60_000, "t10k": 10_000}  # of the MNIST-like datasets
_MAX_BYTES = 2**28  # [B], above the largest archive (CIFAR10, 170 MB)
_CIFAR_FOLDER, _CIFAR_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
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


# Finding


def list_members(dataset: str, *parts: str) -> list[str]:
    """Return the paths of the members of some parts; CIFAR10 has one, which holds both parts."""
    if dataset == "CIFAR10":
        return [_CIFAR_FOLDER]
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return [f"{dataset}/raw/{part}-{kind}" for part in parts for kind in kinds]


def archive_of(member: str) -> str:
    """Return the path of a member's archive in the same folder."""
    return _CIFAR_ARCHIVE if member == _CIFAR_FOLDER else f"{member}.gz"


def find_files(dataset: str, folders: tuple[Path, ...]) -> list[Path]:
    """Return the files of a dataset, of either part and archived or not, folder by folder."""
    members = list_members(dataset, *_NUM_IMAGES)
    return [path for folder in folders for m in members if (path := _find_member(folder, m))]


def find_part(dataset: str, part: str, folders: tuple[Path, ...]) -> Path | None:
    """Return the first folder that holds a part of a dataset, or None.

    If only one of a part's two files is there, the cache (the last folder) counts as an
    interrupted download; any other folder raises DatasetError.
    """
    members = list_members(dataset, part)
    for folder in folders:
        missing = [member for member in members if _find_member(folder, member) is None]
        if not missing:
            return folder
        if len(missing) < len(members) and folder != folders[-1]:
            raise DatasetError(f"{folder / missing[0]} is missing, but its counterpart is there")
    return None


def _find_member(folder: Path, member: str) -> Path | None:
    """Return the path of a member in the folder, else of its archive, else None."""
    if not folder.is_dir():  # the cache, before anything was downloaded
        return None
    return next((p for p in (folder / member, folder / archive_of(member)) if _exists(p)), None)


def _exists(path: Path) -> bool:
    """Return whether anything has this name: a file, a folder, even a broken link."""
    try:
        path.lstat()
    except OSError as error:
        lost = [above for above in path.parents if above.is_symlink() and not above.exists()]
        if isinstance(error, FileNotFoundError) and not lost:
            return False
        raise DatasetError(f"{path} is inaccessible ({error}): repair or replace it") from error
    return True


# Reading


@functools.cache
def read_part(dataset: str, part: str, folder: Path, cache: Path) -> Pair:
    """Read, verify and parse, once per process, a part that :func:`find_part` found in a folder.

    Images, (n, H, W) or (n, H, W, C), and labels, (n,), are read-only. DatasetError names a damaged
    file; OSError says that CIFAR10 needs to be unpacked into a cache that cannot be written.
    """
    try:
        if dataset == "CIFAR10":
            images, labels = _read_cifar(part, folder, cache)
        else:
            paths = [_find_member(folder, m) or folder / m for m in list_members(dataset, part)]
            images, labels = (_parse_idx(dataset, path, _read_bytes(path)) for path in paths)
    except DatasetError as error:
        raise DatasetError(f"{error}. Delete it or replace it with a valid copy.") from error
    return read_only(images), read_only(labels.astype(np.int64))


def read_only(array: np.ndarray) -> np.ndarray:
    """Return the array itself, which nobody can write to from now on."""
    array.setflags(write=False)
    return array


def _read_bytes(path: Path) -> bytes:
    try:
        _require(path, not path.exists() or path.is_file(), "it is not a regular file")
        _require(path, path.stat().st_size <= _MAX_BYTES, f"it is larger than {_MAX_BYTES} bytes")
        return path.read_bytes()
    except OSError as error:
        raise DatasetError(f"{path} is damaged: it cannot be read ({error})") from error


def _parse_idx(dataset: str, where: Path | str, content: bytes) -> np.ndarray:
    """Verify by the content's SHA-256, or the MD5 of KMNIST's ``.gz``; return the array."""
    name, _, packed = Path(where).name.partition(".")
    count = _NUM_IMAGES[name.partition("-")[0]]
    shape = (count, 28, 28) if "images" in name else (count,)
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    size = len(header) + math.prod(shape)
    page = content.startswith(b"<")  # the login page of a network, say
    _require(where, not page, "it looks like an HTML page")
    if packed:
        if dataset not in _SHA256:
            published = dict(_torchvision_class(dataset).resources)
            _check_hash(where, "MD5", content, published[f"{name}.gz"])
        try:  # a gzip bomb is unpacked no further than this
            content = gzip.GzipFile(fileobj=io.BytesIO(content)).read(size + 1)
        except (OSError, EOFError, zlib.error) as error:
            raise DatasetError(f"{where} is damaged: it cannot be read ({error})") from error
    whole = len(content) == size and content.startswith(header)
    _require(where, whole, f"it must hold {size} bytes that begin with {header.hex()}")
    if dataset in _SHA256:
        _check_hash(where, "SHA-256", content, _SHA256[dataset][name])
    array = np.frombuffer(content, np.uint8, offset=len(header)).reshape(shape)
    _require(where, "images" in name or array.max() <= 9, "a label is above 9")
    return array


def _read_cifar(part: str, folder: Path, cache: Path) -> Pair:
    """Let torchvision read CIFAR10: it verifies the MD5 of every file before it unpickles."""
    if not _exists(folder / _CIFAR_FOLDER):  # only the archive is there
        with _staging("CIFAR10", cache) as staging:
            if not _exists(cache / _CIFAR_FOLDER):  # else another process was quicker
                archive = folder / _CIFAR_ARCHIVE
                _install("CIFAR10", _CIFAR_FOLDER, archive, _read_bytes(archive), staging, cache)
        folder = cache
    cifar = _torchvision_class("CIFAR10")
    try:
        with warnings.catch_warnings():  # the first releases of NumPy 2.4 warn about old pickles
            warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
            opened = cifar(folder, train=part == "train")
    except (RuntimeError, OSError) as error:  # torchvision doesn't say which file is damaged
        meta = (cifar.meta["filename"], cifar.meta["md5"])
        for name, md5 in (*cifar.train_list, *cifar.test_list, meta):
            path = folder / _CIFAR_FOLDER / name
            _check_hash(path, "MD5", _read_bytes(path), md5)
        raise DatasetError(f"{folder / _CIFAR_FOLDER} cannot be read: {error}") from error
    return np.ascontiguousarray(opened.data), np.array(opened.targets, np.int64)


def _require(where: Path | str, holds: Any, damage: str) -> None:
    if not holds:
        raise DatasetError(f"{where} is damaged: {damage}")


def _check_hash(where: Path | str, kind: str, content: bytes, expected: str) -> None:
    got = hashlib.new(kind.replace("-", ""), content).hexdigest()
    _require(where, got == expected, f"{kind}: got {got}, expected {expected}")


def _torchvision_class(dataset: str) -> Any:
    from torchvision import datasets  # noqa: TID251 - CIFAR-10's pickles, once their MD5s are compared

    return getattr(datasets, dataset)


# Filling the cache


def download(dataset: str, part: str, cache: Path) -> None:
    """Download the members of a dataset that the cache lacks, ``part`` first, and verify each.

    DatasetError if an address has a damaged copy of a member and none has a valid one;
    ConnectionError if no address can be reached, or the cache cannot be written.
    """
    try:
        with _staging(dataset, cache) as staging:
            for member in list_members(dataset, *dict.fromkeys((part, *_NUM_IMAGES))):
                if _find_member(cache, member) is None:
                    _download_member(dataset, member, staging, cache)
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


def _download_member(dataset: str, member: str, staging: Path, cache: Path) -> None:
    """Install a member from the first address that has a valid copy."""
    source, path = _torchvision_class(dataset), archive_of(member)
    name = path.rpartition("/")[2]
    mirrors = [source.url.removesuffix(name)] if dataset == "CIFAR10" else source.mirrors
    urls = [f"{address.rstrip('/')}/{name}" for address in mirrors]
    if mirror := os.environ.get("RAM_ENV_MIRROR"):  # with the folders of a data folder, or flat
        urls = dict.fromkeys(f"{mirror.rstrip('/')}/{end}" for end in (path, name))
    failures, kind = [], ConnectionError
    for url in urls:
        try:
            with urllib.request.urlopen(url, timeout=30) as response:
                content = response.read(_MAX_BYTES + 1)
            _require(url, len(content) <= _MAX_BYTES, f"it is larger than {_MAX_BYTES} bytes")
            return _install(dataset, member, url, content, staging, cache)
        except DatasetError as error:
            failures.append(f"  {error}")
            kind = DatasetError
        except (OSError, ValueError, http.client.HTTPException) as error:  # of a bad address, too
            failures.append(f"  {url}: {error or type(error).__name__}")
    reasons = "\n".join(failures)
    if kind is DatasetError:
        reasons = f"{dataset} has no valid copy to download:\n{reasons}\nSet RAM_ENV_MIRROR to an "
        reasons += "address with valid copies, or RAM_ENV_DATA or data_dir to a folder with them."
    raise kind(reasons)


def _install(
    dataset: str, member: str, where: Path | str, content: bytes, staging: Path, cache: Path
) -> None:
    """Verify an archive's content and move it into the cache in one step; unpack CIFAR10."""
    target = cache / (member if dataset == "CIFAR10" else archive_of(member))
    if dataset == "CIFAR10":
        _check_hash(where, "MD5", content, _torchvision_class(dataset).tgz_md5)
        with tarfile.open(fileobj=io.BytesIO(content)) as tar:
            tar.extraction_filter = getattr(tarfile, "data_filter", None)  # Python 3.11.4 has it
            tar.extractall(staging)
    else:
        _parse_idx(dataset, where, content)
        (staging / target.name).write_bytes(content)
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staging / target.name, target)
