"""What a task must provide for its episodes: a list of labelled scenes, drawn on demand."""

from typing import NamedTuple, Protocol

from ram_env.arrays import Array


class Drawn(NamedTuple):
    """What was drawn for n lanes, where their canvases are."""

    labels: Array
    """Shape (n,), int64."""
    positions: Array
    """(x, y) of the object's top left pixel. Shape (n, 2), int64."""
    sizes: Array
    """Width and height of the object [px]. Shape (n, 2), int64."""
    locations: Array | None = None
    """First locations, (n, 2), float32, in [-1, 1]; None where they are to be uniform."""


class Scenes(Protocol):
    """A list of labelled scenes."""

    side: int
    """Canvas side [px]."""
    channels: int
    """C, 1 for grey scenes and 3 for colour."""
    num_classes: int
    """K; labels are 0 .. K - 1."""
    num_scenes: int
    """Length of the list."""
    frozen: bool
    """Whether scene k is the same at every visit; else all but the image is drawn anew."""
    num_words: int
    """Random words that one scene takes."""
    source: str
    """How many images there are and where they came from, for logs."""
    is_sample: bool
    """Whether the images are the sample that no published result may use."""

    def draw(self, canvases: Array, margin: int, lanes: Array, index: Array, words: Array) -> Drawn:
        """Paint whole scenes into ``canvases``, which hold what was painted there before.

        All are NumPy arrays, or all are tensors on one device. The result may depend on nothing
        but the arguments. While all lanes are drawn, no line may make a GPU's host wait.

        Args:
            canvases: uint8, each with a border. Shape (N, C, side + 2 margin, side + 2 margin).
            margin: Width of the border, which stays black [px].
            lanes: Which canvases to paint. Shape (n,), int64.
            index: Number of each scene in the list. Shape (n,), int64.
            words: Random words, uniform over 64 bits: uint64, or int64 in a tensor.
                ``ram_env.draws.below`` turns them into integers. Shape (n, num_words).
        """
        ...
