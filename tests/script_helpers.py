"""What tests of the scripts share."""

import re
import time
from collections.abc import Callable

import numpy as np

from ram_env import register_dataset

LAST_LINE = re.compile(
    r"(test|validation) error \d+\.\d\d % \(95 % interval \d+\.\d\d-\d+\.\d\d, \d+ images\)"
)
"""What a script ends with."""


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so, on a busy machine for ten minutes at most."""
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def register_shades() -> str:
    """Register 40 images a split, each a shade of grey that is its label; return the name."""
    shades = np.repeat(np.array([0, 80, 160, 240], np.uint8), 10)
    images = shades[:, None, None] * np.ones((28, 28), np.uint8)
    splits = {split: (images, np.arange(40) // 10) for split in ("train", "validation", "test")}
    register_dataset("shades-of-grey", lambda: splits)
    return "shades-of-grey"
