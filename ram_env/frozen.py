"""The frozen canvases of validation and test: the same for everybody, for ever."""

from __future__ import annotations

import hashlib
from os import PathLike
from typing import Any

import numpy as np

from ram_env.draws import draw_words, named_key
from ram_env.episodes import SCENE_WORDS
from ram_env.tasks import TASKS, ImageTask

FROZEN_SHA256: dict[tuple[str, str], str] = {}
"""Digest of :func:`frozen_canvases` on full MNIST, by id and split; a test pins them."""


def frozen_canvases(
    env_id: str, split: str, data_dir: str | PathLike[str] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Return all canvases of a frozen split, as the environment shows them.

    Args:
        env_id: A registered id, such as "ClutteredMNISTGlimpse-v0".
        split: "validation" or "test".
        data_dir: As the environment's keyword.

    Returns:
        Canvases, uint8, shape (n, H, H) or (n, H, H, 3), and labels, int64, shape (n,).

    Raises:
        ValueError: If the id is unknown or the split is not a frozen one.
        DatasetError: If the data are damaged.
    """
    if env_id not in TASKS:
        raise ValueError(f"env_id must be one of {sorted(TASKS)}, got {env_id!r}")
    if split not in ("validation", "test"):
        raise ValueError(f"split must be 'validation' or 'test', got {split!r}")
    kind, keywords = TASKS[env_id]
    where: dict[str, Any] = {"data_dir": data_dir} if kind is ImageTask else {}
    scenes = kind(**keywords, **where, split=split).open_scenes()
    indices = np.arange(scenes.num_scenes)
    keys = np.full(scenes.num_scenes, named_key(split), np.uint64)
    words = draw_words(keys, indices, SCENE_WORDS.start + scenes.num_words)[:, SCENE_WORDS]
    planes = np.zeros((scenes.num_scenes, scenes.channels, scenes.side, scenes.side), np.uint8)
    drawn = scenes.draw(planes, 0, indices, indices, words)
    canvases = planes[:, 0] if scenes.channels == 1 else planes.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(canvases), drawn.labels


def digest(canvases: np.ndarray) -> str:
    """Return the SHA-256 of the canvases' bytes, (n, H, W[, C])."""
    return hashlib.sha256(np.ascontiguousarray(canvases).tobytes()).hexdigest()
