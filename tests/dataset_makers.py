"""Made-up dataset files of a few images; conftest.py has them pass for the real ones."""

import gzip
from pathlib import Path

COUNTS = {"train": 60, "t10k": 20}
NUM_VALIDATION = 10
TRAIN_IMAGES, TRAIN_LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"
TEST_IMAGES, TEST_LABELS = "t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte"


def compress(content: bytes) -> bytes:
    return gzip.compress(content, compresslevel=1, mtime=0)


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


def flip(content: bytes, at: int = -5) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at:][1:]
