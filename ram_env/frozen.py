"""The frozen canvases of validation and test: the same for everybody, for ever."""

import hashlib
from typing import Any

import numpy as np

from ram_env.checks import check_choice, expect
from ram_env.draws import draw_words, named_key
from ram_env.episodes import SCENE_WORDS
from ram_env.registration import find_task

FROZEN_SHA256: dict[str, dict[str, str]] = {
    "MNISTGlimpse-v0": {
        "validation": "d28c706f7fb47d09d4d6e834642057f870543e0e217e373a5401ffbb9b596dc7",
        "test": "6d87418db22cc8025d05968bec9bd5c3932904b23485740db143a061a2c9d161",
    },
    "TranslatedMNISTGlimpse-v0": {
        "validation": "9a488379e2f0c950d129ad4e93211f44ce809a6ddf5ece0a2031d256466af30a",
        "test": "62c55ef24ec3b2880eef617fc3cb343cacb033571919f634d50fabaaa1ffa8b8",
    },
    "ClutteredMNISTGlimpse-v0": {
        "validation": "1d329d6d53c7058b524c13ec95d2107b11b982c0ca9a46b1bb6ef28763b9e37b",
        "test": "7f8e8bd44d3f0ef7f248ebe4e434291e91afc11dfcfea01634242231333573dd",
    },
    "LargeClutteredMNISTGlimpse-v0": {
        "validation": "178f3343b73289615c05328d5207a1613153f700dd462d40494413062029cbd0",
        "test": "9f30983c8535293494cbf7142569dd6c5e4e05872a6e37c985fa4daa3e3a47b5",
    },
    "SearchMNISTGlimpse-v0": {  # the canvases of ClutteredMNISTGlimpse-v0
        "validation": "1d329d6d53c7058b524c13ec95d2107b11b982c0ca9a46b1bb6ef28763b9e37b",
        "test": "7f8e8bd44d3f0ef7f248ebe4e434291e91afc11dfcfea01634242231333573dd",
    },
    "FashionMNISTGlimpse-v0": {
        "validation": "69c6eedd84f8e35cee17021aa981de759de2042ea53ec60f067174bdec7e3ae9",
        "test": "c867c93ff95360594e8ec3287995350b824dd110b11595c0e13d5423f621867a",
    },
}
"""Digest of :func:`frozen_canvases` on full datasets, by id, then split; a test pins them."""


def frozen_canvases(env_id: str, split: str, **keywords: Any) -> tuple[np.ndarray, np.ndarray]:
    """Return all canvases of a frozen split, as the environment shows them.

    Full datasets give the canvases with the digests of :data:`FROZEN_SHA256`. The sample of 5,000
    digits gives other, and fewer, canvases.

    Args:
        env_id: A registered id, such as "ClutteredMNISTGlimpse-v0" or your own.
        split: "validation" or "test".
        **keywords: Keywords of the environment that differ from the id's. Those of the canvas give
            other canvases, of which no digest is published.

    Returns:
        Canvases, uint8, shape (n, H, H) or (n, H, H, 3), and labels, int64, shape (n,).

    Raises:
        ValueError: If the split is not frozen, the id doesn't name a glimpse environment, or
            a keyword is not allowed.
        gymnasium.error.Error: If nothing is registered by that name.
        DatasetError: If the data are damaged.
        FileNotFoundError: If the data can be neither found nor downloaded.
    """
    check_choice("split", split, ("validation", "test"))
    scenes = find_task(env_id, **keywords, split=split).open_scenes()
    anew = f"{env_id} draws a scene anew at each visit: no {split} canvas is frozen"
    expect(scenes.frozen, anew)
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
