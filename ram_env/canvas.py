"""The canvas: one object on black, among clutter cut from other objects.

Dimension key:
    M: images in the split
    N: canvases that exist
    n: canvases drawn
    C: colour planes
    H: canvas side [px]
    h, w: image height and width [px]
    J: clutter pieces on each canvas
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ram_env.arrays import (
    Array,
    device_of,
    minimum,
    read_patches,
    to_array,
    to_device,
    write_patches,
)
from ram_env.data import LabelledImages
from ram_env.draws import below, draw_words, lane_key
from ram_env.reset_options import check_seed
from ram_env.scenes import Drawn


@dataclass(frozen=True)
class CanvasStyle:
    """What a canvas looks like, whatever stands on it.

    Attributes:
        canvas_size: H [px].
        translate: Whether the object stands anywhere wholly inside, or in the centre.
        num_clutter: J.
        clutter_size: Side of a clutter piece [px].
    """

    canvas_size: int
    translate: bool = False
    num_clutter: int = 0
    clutter_size: int = 8

    @property
    def num_words(self) -> int:
        """Random words that one canvas takes."""
        return 2 + 5 * self.num_clutter

    def check(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless images of ``shape`` (M, C, h, w) fit this style."""
        num_images, _, height, width = shape
        if not isinstance(self.translate, bool):
            raise ValueError(f"translate must be True or False, got {self.translate!r}")
        for name, low in (("canvas_size", 1), ("num_clutter", 0), ("clutter_size", 1)):
            value = getattr(self, name)
            if not isinstance(value, (int, np.integer)) or value < low:
                raise ValueError(f"{name} must be an integer >= {low}, got {value!r}")
        if self.canvas_size < max(height, width):
            raise ValueError(
                f"canvas_size must be at least the images' side, {max(height, width)} px, "
                f"got {self.canvas_size}"
            )
        if self.num_clutter and self.clutter_size > min(height, width):
            raise ValueError(
                f"clutter_size must be in 1..{min(height, width)}, the images' side [px], "
                f"got {self.clutter_size}"
            )
        if self.num_clutter and num_images < 2:
            raise ValueError(
                f"num_clutter={self.num_clutter} needs at least 2 images to cut pieces from, "
                f"the split has {num_images}"
            )


@dataclass(frozen=True)
class Placement:
    """Where everything goes on n canvases; (x, y) of top left pixels, int64, on the host.

    Attributes:
        objects: On the canvas. Shape (n, 2).
        sources: Image that each clutter piece is cut from. Shape (n, J).
        cuts: The piece in its source. Shape (n, J, 2).
        drops: The piece on the canvas. Shape (n, J, 2).
    """

    objects: np.ndarray
    sources: np.ndarray
    cuts: np.ndarray
    drops: np.ndarray


def place(
    style: CanvasStyle, shape: tuple[int, ...], indices: np.ndarray, words: np.ndarray
) -> Placement:
    """Turn random words into places, each uniform and wholly inside, bounds inclusive.

    Args:
        style: Of the canvases.
        shape: Of the split's images, (M, C, h, w).
        indices: Image of each canvas; no piece is cut from it. Shape (n,), int64.
        words: Shape (n, style.num_words), uint64.
    """
    num_images, _, height, width = shape
    extent, side = np.array([width, height]), style.clutter_size if style.num_clutter else 0
    room = style.canvas_size - extent
    if style.translate:
        objects = below(words[:, :2], room + 1)  # (n, 2)
    else:
        objects = np.tile(room // 2, (len(words), 1))  # (n, 2)
    pieces = words[:, 2:].reshape(len(words), style.num_clutter, 5)  # (n, J, 5)
    sources = below(pieces[..., 0], max(num_images - 1, 1))  # (n, J)
    sources += sources >= indices[:, None]  # any image but the canvas's own
    cuts = below(pieces[..., 1:3], extent - side + 1)  # (n, J, 2)
    drops = below(pieces[..., 3:5], style.canvas_size - side + 1)  # (n, J, 2)
    return Placement(objects, sources, cuts, drops)


def paint(
    canvases: Array,
    margin: int,
    lanes: Array,
    planes: Array,
    indices: Array,
    placement: Placement,
    clutter_size: int,
) -> None:
    """Paint objects and clutter on black, in place; sums above 255 are clipped.

    Saturating sums don't depend on their order, so the object, which needs no sum on an
    empty canvas, is written first.

    Args:
        canvases: uint8. Shape (N, C, H + 2 margin, H + 2 margin).
        margin: Border of each canvas [px]; stays black.
        lanes: Canvases to paint, all different. Shape (n,), integers.
        planes: The split's images, uint8. Shape (M, C, h, w).
        indices: Image of each canvas. Shape (n,), integers.
        placement: Of the n canvases.
        clutter_size: Side of a piece [px].
    """
    device = device_of(canvases)
    objects, sources, cuts, drops = (
        to_device(places, device)
        for places in (
            placement.objects + margin,
            placement.sources,
            placement.cuts,
            placement.drops + margin,
        )
    )
    canvases[lanes] = 0
    write_patches(canvases, lanes, objects[:, 1], objects[:, 0], planes[indices])
    side = clutter_size
    for j in range(sources.shape[1]):
        rows, columns = drops[:, j, 1], drops[:, j, 0]
        pieces = read_patches(planes, sources[:, j], cuts[:, j, 1], cuts[:, j, 0], side, side)
        below_them = read_patches(canvases, lanes, rows, columns, side, side)  # (n, C, side, side)
        summed = below_them + minimum(pieces, 255 - below_them)
        write_patches(canvases, lanes, rows, columns, summed)


def draw_canvases(
    images: np.ndarray,
    indices: np.ndarray,
    *,
    seed: int,
    canvas_size: int,
    translate: bool = True,
    num_clutter: int = 0,
    clutter_size: int = 8,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw canvases: each an image on black, among pieces cut from the others.

    Args:
        images: A split's images, uint8. Shape (M, h, w) or (M, h, w, C).
        indices: Image of each canvas, 0 to M - 1. Shape (n,), integers.
        seed: Canvas i depends on the seed, i and ``indices[i]`` alone. Non-negative.
        canvas_size: H [px], at least the images' side.
        translate: Place the image uniformly, wholly inside; otherwise in the centre.
        num_clutter: J, pieces added to each canvas.
        clutter_size: Side of a piece [px].

    Returns:
        Canvases, uint8, shape (n, H, H) or (n, H, H, C), and the (x, y) of each image's top
        left pixel, int64, shape (n, 2).

    Raises:
        ValueError: If the images are not uint8 of that shape, an index is out of range, or
            they don't fit the canvas.

    Source:
        Mnih et al. (2014), arXiv:1406.6247, section 4.1; deepmind/mnist-cluttered. A piece
        is never cut from the canvas's own image: it would tell the label.
    """
    images, _ = to_array("images", images, None)
    if images.dtype != np.uint8 or images.ndim not in (3, 4):
        raise ValueError(
            f"images must be uint8 (M, h, w) or (M, h, w, C), got {images.dtype} {images.shape}"
        )
    indices, kind = to_array("indices", indices, None)
    if indices.ndim == 1 and len(indices) and kind not in "iu":
        raise ValueError(f"indices must be integers, got dtype {indices.dtype}")
    if indices.ndim != 1 or not ((indices >= 0) & (indices < len(images))).all():
        raise ValueError(f"indices must be one-dimensional in 0..{len(images) - 1}, got {indices}")
    indices = indices.astype(np.int64)
    if seed is None:
        raise ValueError("seed must be an int >= 0, got None")
    check_seed(seed)
    planes = np.ascontiguousarray(
        images[:, None] if images.ndim == 3 else images.transpose(0, 3, 1, 2)
    )
    style = CanvasStyle(canvas_size, translate, num_clutter, clutter_size)
    style.check(planes.shape)
    n, counters = len(indices), np.arange(len(indices))
    words = draw_words(np.full(n, lane_key(seed), np.uint64), counters, style.num_words)
    placement = place(style, planes.shape, indices, words)
    canvases = np.empty((n, planes.shape[1], canvas_size, canvas_size), np.uint8)
    paint(canvases, 0, counters, planes, indices, placement, clutter_size)
    canvases = canvases[:, 0] if images.ndim == 3 else canvases.transpose(0, 2, 3, 1)
    return np.ascontiguousarray(canvases), placement.objects


class ImageScenes:
    """The scenes of an image task: one a labelled image (see :class:`~ram_env.scenes.Scenes`).

    Args:
        split: The images.
        style: What their canvases look like.
        device: Where canvases are painted; None for NumPy.
    """

    def __init__(self, split: LabelledImages, style: CanvasStyle, device: str | None = None):
        style.check(split.planes.shape)
        self._split, self._style, self._device = split, style, device
        self.side = style.canvas_size
        height, width = split.planes.shape[2:]
        self.object_size = (width, height)
        self.channels = split.planes.shape[1]
        self.num_classes = split.num_classes
        self.num_scenes = len(split.labels)
        self.frozen = split.split in ("validation", "test")
        self.num_words = style.num_words
        self.source = split.source
        self.is_sample = split.is_sample

    def draw(
        self,
        canvases: Array,
        margin: int,
        lanes: np.ndarray,
        indices: np.ndarray,
        words: np.ndarray,
    ) -> Drawn:
        """Paint canvases (see :meth:`ram_env.scenes.Scenes.draw`)."""
        planes = _planes_on(self._split, self._device)
        placement = place(self._style, self._split.planes.shape, indices, words)
        paint(
            canvases,
            margin,
            to_device(lanes, self._device),
            planes,
            to_device(indices, self._device),
            placement,
            self._style.clutter_size,
        )
        return Drawn(self._split.labels[indices], placement.objects)


@lru_cache(maxsize=8)
def _planes_on(split: LabelledImages, device: str | None) -> Array:
    """Hold a split's images on a device once a process, (M, C, h, w)."""
    return to_device(split.planes, device)
