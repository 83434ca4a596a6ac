"""The files of the built-in datasets: found, checked, read, unpacked, downloaded.

Dimension key:
    n: images of a part, the training images ("train") or the test images ("t10k")
    H, W: image height and width [px]
    C: colours

A dataset's members are what torchvision reads: four idx files, or CIFAR10's folder of batches.
A member is downloaded as its archive (``.gz`` or ``.tar.gz``), and a folder may hold that in
place of it. It enters the cache checked and in one step.

Longer than 300 lines because every way a file comes in, be it found, unpacked or downloaded,
goes through the same checks and words for damage.
"""

import gzip
import hashlib
import http.client
import io
import os
import shutil
import stat
import struct
import tarfile
import urllib.request
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

Pair = tuple[np.ndarray, np.ndarray]  # images and their labels

_NUM_IMAGES = {"train": 60_000, "t10k": 10_000}  # of the MNIST-like datasets
_MAX_DOWNLOAD = 2**28  # [B], above the largest archive (CIFAR10, 170 MB)
_CIFAR_FOLDER, _CIFAR_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
_MNIST_SHA256 = {
    "train-images-idx3-ubyte": "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "train-labels-idx1-ubyte": "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "t10k-images-idx3-ubyte": "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "t10k-labels-idx1-ubyte": "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
}


class DatasetError(RuntimeError):
    """A file of a dataset is damaged, here or at every address it can be fetched from."""


class _Damage(Exception):  # noqa: N818
    """What is wrong with a file; whoever knows the file's origin names it."""


class Place(NamedTuple):
    """Where the files of a part are.

    Attributes:
        root: The folder to read them from.
        found: The folder they were found in: another one if they lie archived there and were
            unpacked into the cache.
    """

    root: Path
    found: Path


# Finding


def members_of(dataset: str, *parts: str) -> list[str]:
    """Return what the parts of a dataset consist of, relative to the folder that holds it.

    Args:
        dataset: "MNIST", "FashionMNIST", "KMNIST" or "CIFAR10".
        *parts: "train", "t10k" or both. CIFAR10 has one member, with both parts in it.

    Returns:
        The members' paths, a part's images before its labels.
    """
    if dataset == "CIFAR10":
        return [_CIFAR_FOLDER]
    kinds = ("images-idx3-ubyte", "labels-idx1-ubyte")
    return [f"{dataset}/raw/{part}-{kind}" for part in parts for kind in kinds]


def archive_of(member: str) -> str:
    """Return what a member is downloaded as, relative to the same folder.

    Args:
        member: One of `members_of`.

    Returns:
        The path of the ``.gz`` or ``.tar.gz``.
    """
    return _CIFAR_ARCHIVE if member == _CIFAR_FOLDER else f"{member}.gz"


def _exists(path: Path) -> bool:
    """Whether something bears this name, be it a folder, a broken link or unreadable."""
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        message = f"{path} cannot be looked at: {error}. Make it readable, or replace it."
        raise DatasetError(message) from error
    return True


def _find(folder: Path, member: str) -> Path | None:
    """Return a member's path in the folder, else its archive's, else None."""
    for above in [folder / parent for parent in Path(member).parents][-2::-1]:  # outermost first
        if _exists(above) and not os.path.isdir(above):  # a file, or a link that leads nowhere
            with _blaming(above):
                raise _Damage("it is no folder")
    return next((p for p in (folder / member, folder / archive_of(member)) if _exists(p)), None)


def find_files(dataset: str, folders: tuple[Path, ...]) -> list[Path]:
    """Return all files of a dataset, of either part and archived or not, in the folders.

    Args:
        dataset: "MNIST", "FashionMNIST", "KMNIST" or "CIFAR10".
        folders: The folders to look in.

    Returns:
        Their paths, in the order of the folders.

    Raises:
        DatasetError: If a path cannot be looked at, or what should be a folder is none.
    """
    members = members_of(dataset, *_NUM_IMAGES)
    return [path for folder in folders for m in members if (path := _find(folder, m))]


def missing_members(dataset: str, part: str, folder: Path) -> list[str]:
    """Return the members of a part that a folder does not hold, not even archived.

    Args:
        dataset: "MNIST", "FashionMNIST", "KMNIST" or "CIFAR10".
        part: "train" or "t10k".
        folder: The folder to look in.

    Returns:
        Some of `members_of`.

    Raises:
        DatasetError: If a path cannot be looked at, or what should be a folder is none.
    """
    return [m for m in members_of(dataset, part) if _find(folder, m) is None]


def locate(dataset: str, part: str, folders: tuple[Path, ...]) -> Place | None:
    """Find the first folder with the part's files; archives are unpacked into the cache.

    Args:
        dataset: "MNIST", "FashionMNIST", "KMNIST" or "CIFAR10".
        part: "train" or "t10k".
        folders: Absolute paths of the folders to look in, the cache last.

    Returns:
        The place of all members of the part, none of them an archive in its ``root``, still
        to be checked by `read_part`; None where no folder holds them all.

    Raises:
        DatasetError: If a folder other than the cache holds images without their labels or
            labels without their images, if an archive is damaged, if a path cannot be looked
            at, or if what should be a folder is none.
        OSError: If an archive has to be unpacked and the cache cannot be written.
    """
    cache, members = folders[-1], members_of(dataset, part)
    for folder in folders:
        absent = missing_members(dataset, part, folder)
        if absent and len(absent) < len(members) and folder != cache:
            raise DatasetError(f"{folder / absent[0]} is missing beside its counterpart: add it")
        if absent:  # half a dataset in the cache is an interrupted download, to be completed
            continue
        if not all(_exists(folder / member) for member in members):
            if not all(_exists(cache / member) for member in members):
                _unpack_folder(dataset, folder, cache)
            return Place(cache, folder)
        return Place(folder, folder)
    return None


# Reading and checking


def read_part(dataset: str, part: str, root: Path) -> Pair:
    """Check a part's files, then read them with torchvision.

    Args:
        dataset: "MNIST", "FashionMNIST", "KMNIST" or "CIFAR10".
        part: "train" or "t10k".
        root: The folder that holds the part's members, see `Place`.

    Returns:
        Images, uint8, shape (n, H, W) or, of CIFAR10, (n, H, W, C), contiguous, and labels
        in 0..9, int64, shape (n,).

    Raises:
        DatasetError: If a file is damaged; the message names it.
    """
    return (_open_cifar if dataset == "CIFAR10" else _open_idx)(dataset, part, root)


def _open_cifar(dataset: str, part: str, root: Path) -> Pair:
    _check_cifar(root)
    with warnings.catch_warnings():  # the first releases of NumPy 2.4 warn about its old pickles
        warnings.simplefilter("ignore", np.exceptions.VisibleDeprecationWarning)
        opened = _torchvision_class(dataset)(root, train=part == "train")
    return np.ascontiguousarray(opened.data), np.array(opened.targets, np.int64)


def _open_idx(dataset: str, part: str, root: Path) -> Pair:
    paths = [root / member for member in members_of(dataset, part)]
    for path in paths:
        with _blaming(path):
            _read_idx(dataset, path)
    # Only the files of this part are asked for, and no processed/*.pt is ever loaded.
    ours = {
        "resources": [(path.name, None) for path in paths],
        "_check_legacy_exist": lambda self: False,
    }
    reader = type(dataset, (_torchvision_class(dataset),), ours)
    opened = reader(root, train=part == "train")
    return opened.data.numpy(), opened.targets.numpy()


@contextmanager
def _blaming(path: Path) -> Iterator[None]:
    """Say which file is damaged and what to do about it."""
    try:
        yield
    except _Damage as damage:
        message = f"{path} is damaged: {damage}. Delete it or replace it with a valid copy."
        raise DatasetError(message) from damage


@contextmanager
def _reading(path: Path) -> Iterator[io.BufferedReader]:
    try:
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):  # it may never begin or never end
            raise _Damage("it is no regular file")
        with path.open("rb") as file:
            if file.read(1) == b"<":
                raise _Damage("it looks like an HTML page")
            file.seek(0)
            yield file
    except (OSError, EOFError, zlib.error) as error:
        raise _Damage(f"it cannot be read ({error})") from error


def _expect(what: str, got: object, expected: object) -> None:
    if got != expected:
        raise _Damage(f"{what}: got {got}, expected {expected}")


def _check_md5(path: Path, expected: str) -> None:
    with _reading(path) as file:
        _expect("MD5", hashlib.file_digest(file, "md5").hexdigest(), expected)


def _read_idx(dataset: str, path: Path) -> bytes:
    """Return the checked content of an idx file, gzipped or not.

    MNIST's content is checked by its own SHA-256, the others' by the MD5 of the .gz that
    torchvision knows; extracted, they show only their size, header and range of labels.
    """
    name = path.name.removesuffix(".gz")
    if path.suffix == ".gz" and dataset != "MNIST":
        _check_md5(path, dict(_torchvision_class(dataset).resources)[path.name])
    count = _NUM_IMAGES[name.partition("-")[0]]
    shape = (count, 28, 28) if "images" in name else (count,)
    header = struct.pack(f">{1 + len(shape)}I", 0x800 + len(shape), *shape)
    size = len(header) + int(np.prod(shape))
    with _reading(path) as file:
        stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
        content = stream.read(size + 1)  # a gzip bomb is not unpacked any further
    if len(content) > size:
        verb = "unpacks to" if path.suffix == ".gz" else "holds"
        raise _Damage(f"it {verb} more than the expected {size} bytes")
    _expect("content [B]", len(content), size)
    _expect("header", content[: len(header)].hex(), header.hex())
    if dataset == "MNIST":
        _expect("SHA-256", hashlib.sha256(content).hexdigest(), _MNIST_SHA256[name])
    elif "labels" in name and max(content[len(header) :]) > 9:
        raise _Damage("a label is above 9")
    return content


def _check_cifar(root: Path) -> None:
    cifar = _torchvision_class("CIFAR10")
    meta = (cifar.meta["filename"], cifar.meta["md5"])
    for name, md5 in (*cifar.train_list, *cifar.test_list, meta):
        path = root / _CIFAR_FOLDER / name
        with _blaming(path):
            _check_md5(path, md5)


def _torchvision_class(dataset: str) -> Any:
    from torchvision import datasets

    return getattr(datasets, dataset)


# Filling the cache


@contextmanager
def _staging(dataset: str, cache: Path) -> Iterator[Path]:
    """Hold the dataset's lock and a folder for unfinished files, empty now and gone later.

    It lies in the cache, so that a finished file is moved to its place in one step.
    """
    from filelock import FileLock

    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f"{dataset}.lock"):
        folder = cache / f"{dataset}.part"
        shutil.rmtree(folder, ignore_errors=True)  # of a process that was killed
        folder.mkdir()
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def _unpack_folder(dataset: str, folder: Path, cache: Path) -> None:
    with _staging(dataset, cache) as staging:
        for member in members_of(dataset, *_NUM_IMAGES):
            source = _find(folder, member)
            if source is not None and not _exists(cache / member):
                with _blaming(source):
                    _unpack(dataset, source, staging, cache / member)


def _unpack(dataset: str, source: Path, staging: Path, target: Path) -> None:
    """Check a file, unpack it and move what is in it to its place, all or nothing."""
    if dataset == "CIFAR10":
        _check_md5(source, _torchvision_class(dataset).tgz_md5)
        with tarfile.open(source) as archive:
            archive.extractall(staging, filter="data")
    else:
        (staging / target.name).write_bytes(_read_idx(dataset, source))
    target.parent.mkdir(parents=True, exist_ok=True)
    os.replace(staging / target.name, target)


def download(dataset: str, part: str, cache: Path) -> None:
    """Bring all of a dataset into the cache, checked and unpacked; what is there is kept.

    Processes that ask at the same time wait for the first, and then find its files.

    Args:
        dataset: "MNIST", "FashionMNIST", "KMNIST" or "CIFAR10".
        part: "train" or "t10k", the part to begin with.
        cache: The cache folder; it is made if need be.

    Raises:
        DatasetError: If a member has no valid copy at any address, and a damaged one at one
            of them.
        ConnectionError: If no address gives a member, or the cache cannot be used.
        ValueError: If ``$RAM_ENV_MIRROR`` is no address.
    """
    try:
        with _staging(dataset, cache) as staging:
            for member in members_of(dataset, *dict.fromkeys((part, *_NUM_IMAGES))):
                if not _exists(cache / member):  # else another process was quicker
                    _download_member(dataset, member, staging, cache)
    except ConnectionError:
        raise
    except OSError as error:
        raise ConnectionError(f"the cache folder {cache} cannot be used ({error})") from error


def _download_member(dataset: str, member: str, staging: Path, cache: Path) -> None:
    failures, damaged = [], False
    archive = staging / Path(archive_of(member)).name
    for address in _addresses(dataset):
        url = f"{address.rstrip('/')}/{archive.name}"
        try:
            _stream(url, archive)
            return _unpack(dataset, archive, staging, cache / member)
        except _Damage as damage:
            damaged = True
            failures.append(f"  {url} is damaged: {damage}")
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"  {url}: {error or type(error).__name__}")
    if damaged:
        failures.append(
            "Set RAM_ENV_MIRROR to an address with valid copies, or RAM_ENV_DATA or "
            "data_dir to a folder with them."
        )
        raise DatasetError(f"{dataset} has no valid copy to download:\n" + "\n".join(failures))
    raise ConnectionError("\n".join(failures))


def _addresses(dataset: str) -> list[str]:
    if mirror := os.environ.get("RAM_ENV_MIRROR"):
        return [mirror]
    source = _torchvision_class(dataset)
    return [source.url.removesuffix(_CIFAR_ARCHIVE)] if dataset == "CIFAR10" else source.mirrors


def _stream(url: str, target: Path) -> None:
    with urllib.request.urlopen(url, timeout=30) as response, target.open("wb") as file:
        while chunk := response.read(2**20):
            file.write(chunk)
            if file.tell() > _MAX_DOWNLOAD:
                raise _Damage(f"it is larger than {_MAX_DOWNLOAD} bytes")
