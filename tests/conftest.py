"""Fixtures for all tests: a cache of their own, and the full MNIST where there is one."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and processes they start, out of the user's cache folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


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
