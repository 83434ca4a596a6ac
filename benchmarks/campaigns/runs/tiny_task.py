"""A task of labelled images that needs no data: importing this registers `Bars-v0`."""

from __future__ import annotations

import gymnasium
import numpy as np

from ram_env import TASKS, register_dataset
from ram_env.tasks import ImageTask

_CLASSES, _SIDE = 4, 12


def _bars() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return noise with one bright row, which tells the label."""
    rng = np.random.default_rng(0)
    splits = {}
    for split, n in (("train", 200), ("validation", 1200), ("test", 1200)):
        labels = np.arange(n) % _CLASSES
        images = rng.integers(0, 250, (n, _SIDE, _SIDE), np.uint8)
        images[np.arange(n), _SIDE // _CLASSES * labels + 1] = 255
        splits[split] = images, labels
    return splits


_KEYWORDS = {"dataset": "bars", "canvas_size": 16, "translate": True}
register_dataset("bars", _bars)
TASKS["Bars-v0"] = ImageTask, _KEYWORDS
gymnasium.register(
    "Bars-v0",
    entry_point="ram_env:GlimpseEnv",
    vector_entry_point="ram_env:GlimpseVectorEnv",
    kwargs=_KEYWORDS,
)
