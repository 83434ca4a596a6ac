"""Made-up dataset files of a few images; conftest.py has them pass for the real ones."""

import gzip
import struct
from pathlib import Path

COUNTS = {"train": 60, "t10k": 20}
NUM_VALIDATION = 10
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"
IDX_FILES = TRAIN_IMAGES, TRAIN_LABELS, TEST_IMAGES, TEST_LABELS


def compress(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


def idx_files(images: dict[str, bytes]) -> dict[str, bytes]:
    """Return idx files of images of 28 x 28, by part, with the labels 0 to 9 over and over."""
    files = {}
    for part, pixels in images.items():
        n = len(pixels) // 784
        files[f"{part}-images-idx3-ubyte"] = struct.pack(">4I", 0x803, n, 28, 28) + pixels
        labels = bytes(i % 10 for i in range(n))
        files[f"{part}-labels-idx1-ubyte"] = struct.pack(">2I", 0x801, n) + labels
    return files


def write(folder: Path, files: dict[str, bytes], dataset: str = "MNIST", gz: bool = False) -> Path:
    """Lay files out as torchvision does and return the folder they lie in."""
    raw = folder / dataset / "raw"
    raw.mkdir(parents=True)
    for name, content in files.items():
        path = raw / (f"{name}.gz" if gz else name)
        path.write_bytes(compress(content) if gz else content)
    return folder


def only(part: str, files: dict[str, bytes]) -> dict[str, bytes]:
    """Return the files of one part."""
    return {name: content for name, content in files.items() if name.startswith(part)}


def file_names(folder: Path) -> set[str]:
    """Names of all that lies under a folder, but for the locks."""
    return {path.name for path in folder.rglob("*") if path.suffix != ".lock"}
