"""Fixtures for all tests: their own cache, made-up datasets, and full MNIST if there is one."""

import hashlib
import os
import pickle
import signal
import tarfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

from ram_env import data, dataset_files, register_dataset
from tests.dataset_makers import COUNTS, NUM_VALIDATION, compress, idx_files
from tests.pretend_gpu import NAME, PretendGPU


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--fault-rounds",
        type=int,
        default=2,
        metavar="N",
        help="Number of random rounds per test in tests/faults; each round draws its own fault.",
    )


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "fault_round" in metafunc.fixturenames:  # the seed of a round, so that it can be repeated
        metafunc.parametrize("fault_round", range(metafunc.config.getoption("fault_rounds") or 0))


@pytest.fixture
def fault_rounds(request: pytest.FixtureRequest) -> int:
    """The number of random rounds, for tests that draw their faults in another way."""
    return request.config.getoption("fault_rounds") or 0


@pytest.fixture(scope="session", autouse=True)
def _same_everywhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep the tests, and processes they start, out of the user's cache folder, and offline.

    Trainings in this process compute in float32 on every CPU.
    """
    torch.set_num_threads(1)  # the tests' tensors are too small for more
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")  # in processes that the tests start
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        patch.setenv("RAM_ENV_MIRROR", "http://127.0.0.1:9/")  # the discard port: refused
        patch.delenv("FORCE_COLOR", raising=False)
        patch.setattr(torch.cpu, "get_capabilities", dict, raising=False)
        yield


@pytest.fixture
def bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let trainings in this process compute in bfloat16 on every CPU."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"bf16": True}, raising=False)


@pytest.fixture(scope="module")
def one_commit() -> Iterator[None]:
    """Let runs say that they are of one commit, whatever someone changes or commits meanwhile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("agents.runs.folder.commit", lambda: "0" * 40)
        yield


@pytest.fixture
def pretend_gpu() -> Iterator[PretendGPU]:
    """The device "pretend", for as long as the test runs; skipped where there is a real GPU."""
    if torch.cuda.is_available():
        pytest.skip("torch allows no second kind of GPU in one process")
    with PretendGPU() as gpu:
        yield gpu


@pytest.fixture
def device(request: pytest.FixtureRequest) -> str | None:
    """The device of a test that is parametrised with ``indirect``; skipped where there is none."""
    if request.param == NAME:
        request.getfixturevalue("pretend_gpu")
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    return request.param


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


@pytest.fixture
def full_fashion_mnist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Full FashionMNIST, as Debian packs it, for ``$RAM_ENV_DATA``; else skip."""
    if not (packed := Path("/usr/share/datasets/fashion-mnist")).is_dir():
        pytest.skip("needs Debian's package dataset-fashion-mnist")
    (tmp_path / "FashionMNIST").mkdir()
    (tmp_path / "FashionMNIST" / "raw").symlink_to(packed)
    monkeypatch.setenv("RAM_ENV_DATA", str(tmp_path))


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


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache folder, no other place to look in, and no mirror that answers."""
    monkeypatch.delenv("RAM_ENV_DATA", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(data, "_opened", {})
    return tmp_path / "cache" / "ram_env"


@pytest.fixture
def tiny(cache: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, bytes]:
    """Files of a made-up dataset of 60 + 20 digits, which pass for MNIST and its siblings."""
    import torchvision.datasets as datasets

    rng = np.random.default_rng(0)
    files = idx_files({part: rng.bytes(n * 784) for part, n in COUNTS.items()})
    md5s = [(f"{k}.gz", hashlib.md5(compress(v)).hexdigest()) for k, v in files.items()]
    sha256s = {k: hashlib.sha256(v).hexdigest() for k, v in files.items()}
    monkeypatch.setattr(data, "_NUM_VALIDATION", NUM_VALIDATION)
    monkeypatch.setattr(dataset_files, "_SHA256", {"MNIST": sha256s, "FashionMNIST": sha256s})
    for name in ("MNIST", "FashionMNIST", "KMNIST"):
        monkeypatch.setattr(getattr(datasets, name), "resources", md5s)
    return files


@pytest.fixture
def tiny_cifar(cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a made-up cifar-10-python.tar.gz of 5 x 12 + 12 images."""
    from torchvision.datasets import CIFAR10

    rng = np.random.default_rng(0)
    folder, batches = tmp_path / "colour", tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    batches.mkdir()
    names = [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]
    for name in names:
        rows = rng.integers(0, 256, (12, 3072), np.uint8)
        labels = [i % 10 for i in range(12)]
        content = pickle.dumps({"data": rows, "labels": labels}, protocol=2)
        # The real files say 0 and 1 where NumPy's dtype now says False and True.
        old = content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87")
        (batches / name).write_bytes(old)
    (batches / "batches.meta").write_bytes(pickle.dumps({"label_names": [*"0123456789"]}))
    with tarfile.open(folder / "cifar-10-python.tar.gz", "w:gz") as archive:
        archive.add(batches, batches.name)
    md5 = {p.name: hashlib.md5(p.read_bytes()).hexdigest() for p in batches.iterdir()}
    tgz = (folder / "cifar-10-python.tar.gz").read_bytes()
    monkeypatch.setattr(data, "_NUM_VALIDATION", NUM_VALIDATION)
    monkeypatch.setattr(CIFAR10, "train_list", [[name, md5[name]] for name in names[:5]])
    monkeypatch.setattr(CIFAR10, "test_list", [[names[5], md5[names[5]]]])
    monkeypatch.setattr(CIFAR10, "meta", {**CIFAR10.meta, "md5": md5["batches.meta"]})
    monkeypatch.setattr(CIFAR10, "tgz_md5", hashlib.md5(tgz).hexdigest())
    return folder


@pytest.fixture
def own_signals() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM, which a script sets, after the test."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)
