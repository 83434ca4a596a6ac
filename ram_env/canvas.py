"""The canvas: an object on black, among clutter cut from other objects.

Dimension key:
    M: images in the split
    N: canvases that exist
    n: canvases drawn
    C: colour planes
    H: canvas side [px]
    h, w: image height and width [px]
    J: clutter pieces on each canvas
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import ArrayLike

from ram_env import arrays as xp
from ram_env.arrays import Array
from ram_env.checks import check_flag, check_int, check_scale, check_seed, expect, to_python
from ram_env.data import LabelledImages
from ram_env.draws import below, draw_words, lane_key
from ram_env.scenes import Drawn


@dataclass(frozen=True)
class CanvasStyle:
    """What a canvas looks like, whatever object is on it; see :func:`draw_canvases`."""

    canvas_size: int
    translate: bool = False
    num_clutter: int = 0
    clutter_size: int = 8
    object_scale: float | tuple[float, float] = 1

    @property
    def num_words(self) -> int:
        """Random words of one canvas: of the object's place, the clutter and the object's size."""
        return 2 + 5 * self.num_clutter + 1

    @property
    def scales(self) -> tuple[float, float]:
        """Lowest and highest scale of the object."""
        scale = self.object_scale
        return (scale, scale) if isinstance(scale, (int, float)) else (scale[0], scale[1])

    def __post_init__(self) -> None:
        """Check what doesn't depend on the images."""
        check_int("canvas_size", self.canvas_size, 1, 4096)
        check_flag("translate", self.translate)
        check_int("num_clutter", self.num_clutter, 0, 1_000)
        room = self.canvas_size if self.num_clutter else 4096  # no pieces, no need to fit
        check_int("clutter_size", self.clutter_size, 1, room)
        check_scale("object_scale", self.object_scale)

    def sides(self, longest: int) -> tuple[int, int]:
        """Return the least and the most pixels that the ``longest`` side of an image takes."""
        low, high = (int(scale * longest + 0.5) for scale in self.scales)
        return low, high

    def check_images(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless images of ``shape`` (M, C, h, w) fit this style."""
        num_images, _, height, width = shape
        least, most = self.sides(max(height, width))[1], min(height, width)
        scaled = "" if self.scales == (1, 1) else f" at object_scale={self.scales[1]}"
        wanted = f"at least the images' side{scaled}, {least} px"
        fits = self.canvas_size >= least
        expect(fits, f"canvas_size must be {wanted}, got {self.canvas_size}")
        if self.num_clutter:
            wanted, got = f"in 1..{most}, the images' side [px]", self.clutter_size
            expect(got <= most, f"clutter_size must be {wanted}, got {got}")
            wanted = f"num_clutter={self.num_clutter} needs at least 2 images to cut pieces from"
            expect(num_images >= 2, f"{wanted}, the split has {num_images}")


def paint(
    style: CanvasStyle,
    planes: Array,
    canvases: Array,
    margin: int,
    lanes: Array,
    indices: Array,
    words: Array,
) -> tuple[Array, Array]:
    """Paint objects and clutter on black canvases, in place; sums above 255 are clipped.

    See :meth:`ram_env.scenes.Scenes.draw`. ``planes`` are the split's images, uint8, (M, C, h, w),
    where the canvases are. Returns (x, y) of each object's top left pixel and its width and height,
    both (n, 2), int64.
    """
    sizes = _draw_sizes(style, planes.shape, words[:, -1])  # (n, 2)
    objects, sources, cuts, drops = _draw_places(style, planes.shape, indices, sizes, words)
    shown, corners = planes[indices], objects  # (n, C, h, w), (n, 2)
    if style.scales != (1, 1):
        side = style.sides(max(planes.shape[2:]))[1]
        corners = objects.clip(None, style.canvas_size - side)  # where the largest would fit
        shown = _resample(shown, sizes, objects - corners, side)
    at, onto = corners + margin, drops + margin
    if len(lanes) == len(canvases):
        canvases[:] = 0
    else:
        canvases[lanes] = 0  # on a GPU the host waits until the number has been copied
    # Saturating sums don't depend on their order. The object comes first: it needs no sum.
    xp.write_patches(canvases, lanes, at[:, 1], at[:, 0], shown)
    side = style.clutter_size
    for j in range(style.num_clutter):
        rows, columns = onto[:, j, 1], onto[:, j, 0]
        pieces = xp.read_patches(planes, sources[:, j], cuts[:, j, 1], cuts[:, j, 0], side, side)
        behind = xp.read_patches(canvases, lanes, rows, columns, side, side)  # (n, C, side, side)
        summed = behind + xp.library(behind).minimum(pieces, 255 - behind)
        xp.write_patches(canvases, lanes, rows, columns, summed)
    return objects, sizes


def _draw_sizes(style: CanvasStyle, shape: tuple[int, ...], words: Array) -> Array:
    """Draw the objects' widths and heights, (n, 2), from words (n,): the longer is uniform."""
    longest = max(shape[2:])
    low, high = style.sides(longest)
    side = below(words, high - low + 1) + low  # (n,)
    sizes = [(2 * side * part + longest) // (2 * longest) for part in (shape[3], shape[2])]
    return xp.library(words).stack(sizes, 1).clip(1)


def _resample(images: Array, sizes: Array, offsets: Array, side: int) -> Array:
    """Average images, (n, C, h, w), over the pixels of objects, (n, 2), at offsets in squares.

    All sums are whole numbers below 2^53, so the result depends on no order and no device. CUDA
    multiplies by the reciprocal of a float, so the division is one of integers.
    """
    height, width = images.shape[2:]
    rows = _shares(sizes[:, 1], offsets[:, 1], side, height)[:, None]  # (n, 1, side, h)
    columns = _shares(sizes[:, 0], offsets[:, 0], side, width)[:, None]  # (n, 1, side, w)
    sums = rows @ xp.cast(images, "float64") @ columns.swapaxes(2, 3)  # (n, C, side, side)
    area = height * width
    return xp.cast((2 * xp.cast(sums, "int64") + area) // (2 * area), "uint8")


def _shares(sizes: Array, offsets: Array, side: int, length: int) -> Array:
    """Return how much of each of an image's rows lies in each row of its square.

    The object has ``sizes`` rows, (n,), of the square's, from ``offsets``, (n,), on. In units of
    1 / (sizes length) of the object, its row r begins at r length and image row i at i sizes.
    """
    lib, counts = xp.library(sizes), xp.cast(sizes, "float64")[:, None]  # (n, 1)
    rows = xp.arange(counts, 0, side) - xp.cast(offsets, "float64")[:, None]  # (n, side)
    begins = (rows * length)[:, :, None]  # (n, side, 1)
    image_begins = (xp.arange(counts, 0, length) * counts)[:, None]  # (n, 1, length)
    ends = lib.minimum(begins + length, image_begins + counts[:, None])  # (n, side, length)
    return (ends - lib.maximum(begins, image_begins)).clip(0)


def _draw_places(
    style: CanvasStyle, shape: tuple[int, ...], indices: Array, sizes: Array, words: Array
) -> tuple[Array, Array, Array, Array]:
    """Draw (x, y) of top left pixels, each uniform and wholly inside, bounds inclusive.

    They are the objects', (n, 2), and the pieces' in their images and on the canvases, (n, J, 2);
    the second entry is the images that pieces are cut from, (n, J).
    """
    num_images, _, height, width = shape
    size, side = style.canvas_size, style.clutter_size if style.num_clutter else 0
    objects = (size - sizes) // 2  # (n, 2)
    if style.translate:
        bounds = xp.cast(size - sizes + 1, xp.dtype_name(words))
        objects = below(words[:, :2], bounds)
    pieces = words[:, 2:-1].reshape(len(words), style.num_clutter, 5)  # (n, J, 5)
    sources = below(pieces[..., 0], max(num_images - 1, 1))  # (n, J)
    sources += sources >= indices[:, None]  # any image but the canvas's own
    rooms = enumerate((width - side + 1, height - side + 1), start=1)
    cuts = xp.library(words).stack([below(pieces[..., k], room) for k, room in rooms], -1)
    drops = below(pieces[..., 3:5], size - side + 1)  # (n, J, 2)
    return objects, sources, cuts, drops


def draw_canvases(
    images: np.ndarray,
    indices: ArrayLike,
    *,
    seed: int,
    canvas_size: int,
    translate: bool = True,
    num_clutter: int = 0,
    clutter_size: int = 8,
    ids: ArrayLike | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw canvases: each an image on black, among pieces cut from the others.

    For a dataset that doesn't depend on the order of drawing, pass each canvas's number as its id::

        class Canvases(torch.utils.data.Dataset):
            def __getitem__(self, k):
                canvases, _ = draw_canvases(self.images, [k], ids=[k], seed=0, canvas_size=60)
                return canvases[0], self.labels[k]

    ``ids=[epoch * len(self.images) + k]`` draws fresh canvases in each epoch.

    Args:
        images: A split's images, uint8. Shape (M, h, w) or (M, h, w, C).
        indices: Image of each canvas, 0 to M - 1. Shape (n,), integers.
        seed: Canvas i depends on the seed, ``ids[i]`` and ``indices[i]`` alone. Non-negative.
        canvas_size: H [px], at least the images' side and at most 4,096.
        translate: Place the image uniformly, wholly inside; otherwise in the centre.
        num_clutter: J, pieces added to each canvas, at most 1,000.
        clutter_size: Side of a piece [px].
        ids: Number of each canvas's random draws, >= 0. None: 0 .. n - 1. Shape (n,), integers.

    Returns:
        Canvases, uint8, shape (n, H, H) or (n, H, H, C), and the (x, y) of each image's top
        left pixel, int64, shape (n, 2).

    Raises:
        ValueError: If an argument has a wrong type, shape or range, or doesn't fit the others.

    Source:
        Mnih et al. (2014), arXiv:1406.6247, section 4.1; deepmind/mnist-cluttered. A piece
        is never cut from the canvas's own image, because it would reveal the label.
    """
    images, _ = xp.to_array("images", images)
    fits, got = images.dtype == np.uint8 and images.ndim in (3, 4), f"{images.dtype} {images.shape}"
    expect(fits, f"images must be uint8 (M, h, w) or (M, h, w, C), got {got}")
    n = len(chosen := _read_numbers("indices", indices, len(images)))
    counters = np.arange(n) if ids is None else _read_numbers("ids", ids, 2**63)
    got = f"({len(counters)},)"
    expect(len(counters) == n, f"ids must have shape ({n},), one per index, got {got}")
    expect(seed is not None, "seed must be an int >= 0, got None")
    check_seed(seed := to_python(seed))
    planes = images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    style = CanvasStyle(*map(to_python, (canvas_size, translate, num_clutter, clutter_size)))
    style.check_images(planes.shape)
    words = draw_words(np.full(n, lane_key(seed), np.uint64), counters, style.num_words)
    canvases = np.empty((n, planes.shape[1], style.canvas_size, style.canvas_size), np.uint8)
    positions, _ = paint(style, planes, canvases, 0, np.arange(n), chosen, words)
    canvases = canvases[:, 0] if images.ndim == 3 else canvases.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(canvases), positions


def _read_numbers(name: str, value: object, bound: int) -> np.ndarray:
    """Return integers in 0 .. bound - 1, (n,), int64, or raise ValueError."""
    array, kind = xp.to_array(name, value)
    expect(array.ndim == 1, f"{name} must have shape (n,), got {array.shape}")
    whole = kind in "iu" or not len(array)
    expect(whole, f"{name} must be integers, got dtype {array.dtype}")
    inside = ((array >= 0) & (array < bound)).all()
    expect(inside, f"{name} must lie in 0..{bound - 1}, got {array}")
    return array.astype(np.int64)


class ImageScenes:
    """The :class:`~ram_env.scenes.Scenes` of an image task, one per image, on ``device``."""

    def __init__(self, split: LabelledImages, style: CanvasStyle, device: str | None = None):
        style.check_images(split.planes.shape)
        self._split, self._style, self._device = split, style, device
        self.side, self.num_words = style.canvas_size, style.num_words
        self.num_scenes, self.channels = split.planes.shape[:2]
        self.frozen = split.split in ("validation", "test")
        self.num_classes, self.source = split.num_classes, split.source
        self.is_sample = split.is_sample

    def draw(self, canvases: Array, margin: int, lanes: Array, index: Array, words: Array) -> Drawn:
        """Paint canvases (see :meth:`ram_env.scenes.Scenes.draw`)."""
        split, device = self._split, self._device
        held = (split.planes, split.labels) if device is None else _held_split(split, device)
        planes, labels = held  # (M, C, h, w), (M,)
        drawn = paint(self._style, planes, canvases, margin, lanes, index, words)
        return Drawn(labels[index], *drawn)


@cache  # for ever: a GPU's graph may still read them
def _held_split(split: LabelledImages, device: str) -> tuple[Array, Array]:
    """Hold a split on a device once per process."""
    return xp.to_device(split.planes, device), xp.to_device(split.labels, device)
