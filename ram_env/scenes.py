"""What a task must provide for its episodes: a list of scenes, drawn on demand."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ram_env.arrays import Array


@dataclass(frozen=True)
class Drawn:
    """What was drawn for n lanes, on the host.

    Attributes:
        labels: Shape (n,), int64.
        positions: (x, y) of the object's top left pixel. Shape (n, 2), int64.
        locations: Where the first glimpse lies, in [-1, 1], or None where any place will
            do. Shape (n, 2), float32.
    """

    labels: np.ndarray
    positions: np.ndarray
    locations: np.ndarray | None = None


class Scenes(Protocol):
    """A list of labelled scenes.

    Attributes:
        side: Canvas side [px].
        object_size: Width and height of an object, whose top left pixel is its position [px].
        channels: C, 1 for grey scenes and 3 for colour.
        num_classes: Labels are 0 .. num_classes - 1.
        num_scenes: Length of the list.
        frozen: Whether scene k is the same at every visit; otherwise each episode draws it
            afresh (the object stays, its place and the clutter change).
        num_words: Random words that one scene takes.
        source: A sentence for logs: where the images came from.
        is_sample: Whether they are the sample that no published result may use.
    """

    side: int
    object_size: tuple[int, int]
    channels: int
    num_classes: int
    num_scenes: int
    frozen: bool
    num_words: int
    source: str
    is_sample: bool

    def draw(
        self,
        canvases: Array,
        margin: int,
        lanes: np.ndarray,
        indices: np.ndarray,
        words: np.ndarray,
    ) -> Drawn:
        """Paint scenes into ``canvases`` in place.

        Args:
            canvases: uint8, each with a border. Shape (N, C, side + 2 margin, side + 2 margin).
            margin: Width of the border, which stays black [px].
            lanes: Which canvases to paint. Shape (n,), int64.
            indices: Number of each scene in the list. Shape (n,), int64.
            words: Shape (n, num_words), uint64.
        """
        ...
