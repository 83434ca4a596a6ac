"""Fixtures for all tests: a cache of their own, a toy dataset, and full MNIST if there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ram_env import register_dataset


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and processes they start, out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    """Let torch use one thread: the tests' tensors are too small for more."""
    torch.set_num_threads(1)


@pytest.fixture
def full_mnist() -> Path:
    """The folder that ``$RAM_ENV_DATA`` names, where it holds the full MNIST; else skip."""
    folder = os.environ.get("RAM_ENV_DATA")
    if not folder:
        pytest.skip("needs full MNIST: RAM_ENV_DATA is not set")
    raw = Path(folder) / "MNIST" / "raw"
    if not list(raw.glob("train-images-idx3-ubyte*")):
        pytest.skip(f"needs full MNIST: RAM_ENV_DATA={folder} holds none")
    return Path(folder)


@pytest.fixture(scope="session")
def toy_dataset() -> str:
    """The name of a registered dataset: 40 random 28x28 images a split, labels 0 to 3."""
    rng = np.random.default_rng(0)
    splits = {
        split: (rng.integers(0, 256, (40, 28, 28), np.uint8), np.arange(40) % 4)
        for split in ("train", "validation", "test")
    }
    register_dataset("toy", lambda: splits)
    return "toy"
