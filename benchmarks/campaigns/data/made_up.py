"""Made-up datasets of a few images, and what makes them pass for the real ones in a process.

They are small enough to be opened hundreds of times, and the checks of :mod:`ram_env.data` stay
what they are: only the tables of sizes and checksums are replaced by those of the made-up files.

Dimension key:
    n: images of a part
"""

import gzip
import hashlib
import io
import pickle
import struct
import tarfile
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

IDX_DATASETS = ("MNIST", "FashionMNIST", "KMNIST")
COUNTS = {"train": 60, "t10k": 20}  # images of the idx datasets
NUM_VALIDATION = 10
CIFAR_FOLDER, CIFAR_ARCHIVE = "cifar-10-batches-py", "cifar-10-python.tar.gz"
_BATCHES = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")
_BATCH_SIZE = 12


class MadeUp:
    """The files of the made-up datasets; MNIST and its siblings share theirs.

    Attributes:
        idx: Content of the four idx files, by name.
        batches: Content of CIFAR10's extracted files, by name.
    """

    def __init__(self) -> None:
        rng = np.random.default_rng(0)
        self.idx: dict[str, bytes] = {}
        for part, n in COUNTS.items():
            header = struct.pack(">IIII", 0x803, n, 28, 28)
            self.idx[f"{part}-images-idx3-ubyte"] = header + rng.bytes(n * 28 * 28)
            header, labels = struct.pack(">II", 0x801, n), np.arange(n) % 10
            self.idx[f"{part}-labels-idx1-ubyte"] = header + labels.astype(np.uint8).tobytes()
        self._rows = rng.integers(0, 256, (len(_BATCHES), _BATCH_SIZE, 3 * 32 * 32), np.uint8)
        self._labels = [i % 10 for i in range(_BATCH_SIZE)]
        self.batches = {
            name: pickle.dumps({"data": rows, "labels": self._labels}, protocol=2)
            for name, rows in zip(_BATCHES, self._rows, strict=True)
        }
        self.batches["batches.meta"] = pickle.dumps({"label_names": [*"0123456789"]})

    @cached_property
    def archive(self) -> bytes:
        """CIFAR10's ``.tar.gz``."""
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w") as tar:
            for name, content in self.batches.items():
                member = tarfile.TarInfo(f"{CIFAR_FOLDER}/{name}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
        return compress(packed.getvalue())

    def members(self, dataset: str, archived: bool) -> dict[str, bytes]:
        """Return a dataset's files, by their path in the folder that holds it."""
        if dataset == "CIFAR10":
            if archived:
                return {CIFAR_ARCHIVE: self.archive}
            return {f"{CIFAR_FOLDER}/{name}": content for name, content in self.batches.items()}
        if archived:
            return {f"{dataset}/raw/{name}.gz": compress(c) for name, c in self.idx.items()}
        return {f"{dataset}/raw/{name}": content for name, content in self.idx.items()}

    @cached_property
    def tables(self) -> dict[str, Any]:
        """What to set, by dotted name, so that these files pass for the real ones."""
        md5s = [(f"{name}.gz", _md5(compress(content))) for name, content in self.idx.items()]
        batches = [[name, _md5(self.batches[name])] for name in _BATCHES]
        meta = {
            "filename": "batches.meta",
            "key": "label_names",
            "md5": _md5(self.batches["batches.meta"]),
        }
        return {
            "ram_env.data._NUM_VALIDATION": NUM_VALIDATION,
            "ram_env.dataset_files._NUM_IMAGES": COUNTS,
            "ram_env.dataset_files._MNIST_SHA256": {
                name: hashlib.sha256(content).hexdigest() for name, content in self.idx.items()
            },
            "torchvision.datasets.FashionMNIST.resources": md5s,
            "torchvision.datasets.KMNIST.resources": md5s,
            "torchvision.datasets.CIFAR10.train_list": batches[:-1],
            "torchvision.datasets.CIFAR10.test_list": batches[-1:],
            "torchvision.datasets.CIFAR10.meta": meta,
            "torchvision.datasets.CIFAR10.tgz_md5": _md5(self.archive),
        }

    def digest(self, dataset: str, split: str) -> str:
        """Return `content_digest` of what a split holds, read off the files' bytes."""
        if dataset == "CIFAR10":
            rows = self._rows[-1:] if split == "test" else self._rows[:-1]
            images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
            labels = np.tile(self._labels, len(rows))
        else:
            part = "t10k" if split == "test" else "train"
            images = np.frombuffer(self.idx[f"{part}-images-idx3-ubyte"], np.uint8, offset=16)
            labels = np.frombuffer(self.idx[f"{part}-labels-idx1-ubyte"], np.uint8, offset=8)
            images = images.reshape(-1, 28, 28)
        end = len(images) - NUM_VALIDATION
        cut = {"train": slice(end), "validation": slice(end, None)}.get(split, slice(None))
        return content_digest(images[cut], labels[cut])


def compress(content: bytes) -> bytes:
    """Return the ``.gz`` of some bytes, always the same."""
    return gzip.compress(content, compresslevel=1, mtime=0)


def content_digest(images: np.ndarray, labels: np.ndarray) -> str:
    """Return a digest of a split's shape, images (n, ...) and labels (n,)."""
    parts = (repr(images.shape).encode(), images.tobytes(), labels.astype(np.int64).tobytes())
    return hashlib.sha256(b"".join(parts)).hexdigest()


def write(folder: Path, files: dict[str, bytes]) -> None:
    """Write files, by their path in the folder."""
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)


def _md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()
