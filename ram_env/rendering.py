"""Frames that show an episode to people, drawn with Pillow.

Dimension key:
    h, w: canvas height and width [px]
    t: glimpses so far
    S: scales, finest first
    C: colours, 1 (grey) or 3
    G: glimpse side [px]
    K: classes
    F: frames
    H, W: frame height and width [px]
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from PIL import Image

# Orange and blue, green and vermillion (after Okabe and Ito) can be told apart by colour-blind
# people; what a colour says, a place, a mark or a word says too.
Color = tuple[int, int, int]
BACKGROUND = (22, 24, 29)
TRACK = (40, 44, 52)
BAR = (74, 100, 122)
MUTED = (150, 157, 168)
TEXT = (236, 239, 244)
BOX = (255, 159, 28)
PATH = (86, 180, 233)
RIGHT = (54, 211, 153)
WRONG = (255, 112, 77)

_MARGIN, _GAP, _TITLE, _CAPTION, _FOOTER = 20, 10, 28, 34, 32  # [px]
_SMOOTH = 4  # lines and dots are drawn this much larger, then averaged down


def draw_frame(
    canvas: NDArray[np.uint8],
    path: NDArray[np.float32],
    glimpse: NDArray[np.float32],
    *,
    num_glimpses: int,
    scores: NDArray[Any] | None = None,
    prediction: int | None = None,
    label: int | None = None,
    correct: bool | None = None,
    stopped: bool = False,
) -> NDArray[np.uint8]:
    """Draw where the agent looks, what it sees there and what it believes.

    The frame's shape depends on the shapes of canvas and glimpse only, so that videos work.

    Args:
        canvas: The image, grey or colour, uint8. Shape (h, w) or (h, w, 3).
        path: Locations of the glimpses so far as (x, y), x to the right and y down, in
            [-1, 1]; the oldest first, the current one last. Shape (t, 2), t >= 1.
        glimpse: What the agent sees now, in [0, 1]; channel s * C + colour holds scale s, the
            finest first. Shape (S * C, G, G).
        num_glimpses: T, the most glimpses that an episode has.
        scores: Class scores; bars show their softmax, the ten largest only where there are
            more than 16. Shape (K,).
        prediction: The predicted class; the first argmax where only scores are given.
        label: The true class, where it may be shown.
        correct: Whether the scored prediction was correct; None before the end.
        stopped: Whether the agent ended the episode itself.

    Returns:
        An RGB picture. Shape (H, W, 3), uint8, H and W even.
    """
    height, width = canvas.shape[:2]
    colors = canvas if canvas.ndim == 3 else np.repeat(canvas[..., None], 3, axis=2)  # (h, w, 3)
    tiles = _tiles(glimpse, 1 if canvas.ndim == 2 else 3)  # (S, G, G, 3)
    num_scales, size = tiles.shape[:2]
    centres = _pixels(path, width, height)

    picture = _Picture(_Layout.of(height, width, num_scales, size))
    picture.progress(len(path), num_glimpses, stopped)
    picture.canvas(colors, [size * 2**s // 2 for s in range(num_scales)], centres[-1])
    picture.path(centres)
    picture.retina(tiles)
    if scores is None:
        picture.answer(prediction)
    else:
        picture.scores(_softmax(scores), prediction, label)
    picture.verdict(label, correct)
    return np.array(picture.image)


def tile_frames(frames: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Lay frames out in a near-square grid, row by row.

    Args:
        frames: F >= 1 frames of one shape (H, W, 3), uint8.

    Returns:
        One picture, its empty places in the background's colour. Shape (rows * H,
        columns * W, 3), uint8, where columns = ceil(sqrt(F)) and rows = ceil(F / columns).
    """
    height, width, _ = frames[0].shape
    columns = math.ceil(math.sqrt(len(frames)))
    rows = math.ceil(len(frames) / columns)
    grid = np.empty((rows, columns, height, width, 3), np.uint8)
    grid[:] = BACKGROUND
    for place, frame in enumerate(frames):
        grid[divmod(place, columns)] = frame
    return grid.swapaxes(1, 2).reshape(rows * height, columns * width, 3)  # (rows H, columns W, 3)


def _tiles(glimpse: NDArray[np.float32], channels: int) -> NDArray[np.uint8]:
    """Turn a glimpse into one RGB picture per scale. Shape (S, G, G, 3)."""
    size = glimpse.shape[-1]
    levels = np.rint(glimpse * 255).astype(np.uint8)
    tiles = levels.reshape(-1, channels, size, size).transpose(0, 2, 3, 1)  # (S, G, G, C)
    return np.broadcast_to(tiles, (*tiles.shape[:3], 3))


def _pixels(path: NDArray[np.float32], width: int, height: int) -> list[tuple[int, int]]:
    """Return each location's canvas pixel (x, y), rounded as the retina rounds it."""
    half = np.array([width, height], np.float32) / np.float32(2)
    return [(int(x), int(y)) for x, y in np.rint((path + np.float32(1)) * half)]


def _enlarged(pixels: NDArray[np.uint8], zoom: int) -> Image.Image:
    """Enlarge a picture without smoothing: the agent's pixels stay squares."""
    from PIL import Image

    return Image.fromarray(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1))


def _softmax(scores: NDArray[Any]) -> NDArray[np.float64]:
    powers = np.exp(np.asarray(scores, np.float64) - np.max(scores))
    return powers / powers.sum()


class _Layout(NamedTuple):
    """Where things lie [px]. It depends on the settings alone, so all frames have one shape."""

    zoom: int  # of the canvas, whose top left corner is at (_MARGIN, top)
    tile_zoom: int  # of the retina
    tile: int  # side of a retina tile
    left: int  # of the column with retina and scores
    right: int
    top: int
    bottom: int

    @classmethod
    def of(cls, height: int, width: int, num_scales: int, glimpse_size: int) -> _Layout:
        zoom = max(1, 420 // max(height, width))
        room = min(128, (400 + _GAP) // num_scales - _GAP)
        tile_zoom = max(1, room // glimpse_size)
        tile = tile_zoom * glimpse_size
        left = _MARGIN + width * zoom + _MARGIN + _GAP
        right = left + max(310, num_scales * (tile + _GAP) - _GAP)
        top = _MARGIN + _TITLE
        bottom = top + max(400, height * zoom, tile + _CAPTION + 200 + _FOOTER)
        return cls(zoom, tile_zoom, tile, left, right, top, bottom)

    @property
    def size(self) -> tuple[int, int]:
        """W and H, both even as video codecs want them."""
        width, height = self.right + _MARGIN, self.bottom + _MARGIN
        return width + width % 2, height + height % 2


class _Picture:
    """A frame in the making: each method draws one part of it."""

    def __init__(self, layout: _Layout) -> None:
        from PIL import Image, ImageDraw

        self.layout = layout
        self.image = Image.new("RGB", layout.size, BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)

    def write(
        self, place: tuple[int, int], text: str, size: int, color: Color, anchor: str = "lt"
    ) -> None:
        from PIL import ImageFont

        font = ImageFont.load_default(size=size)
        self.draw.text(place, text, color, font, anchor=anchor)

    def mark(self, middle: int) -> None:
        """Draw the triangle that stands for the true label."""
        left = self.layout.left
        self.draw.polygon([(left, middle - 5), (left + 8, middle), (left, middle + 5)], RIGHT)

    def progress(self, num_seen: int, num_glimpses: int, stopped: bool) -> None:
        text = f"glimpse {num_seen} / {num_glimpses}" + (", stopped" if stopped else "")
        self.write((_MARGIN, _MARGIN), text, 15, TEXT)

    def canvas(
        self, colors: NDArray[np.uint8], reaches: list[int], centre: tuple[int, int]
    ) -> None:
        """Draw the canvas with a box for each scale; what leaves the canvas is cut off."""
        from PIL import ImageDraw

        zoom = self.layout.zoom
        panel = _enlarged(colors, zoom)
        draw = ImageDraw.Draw(panel)
        for scale, reach in reversed(list(enumerate(reaches))):
            left, top = ((c - reach) * zoom for c in centre)
            right, bottom = ((c + reach) * zoom - 1 for c in centre)
            width = 3 if scale == 0 else 2
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), None, BACKGROUND, width + 2)
            draw.rectangle((left, top, right, bottom), None, _shade(scale), width)
        self.image.paste(panel, (_MARGIN, self.layout.top))

    def path(self, centres: list[tuple[int, int]]) -> None:
        """Join the glimpses so far by a line and number them, the current one in orange."""
        from PIL import Image, ImageDraw, ImageFont

        zoom, top = self.layout.zoom, self.layout.top
        dots = [((_MARGIN + x * zoom) * _SMOOTH, (top + y * zoom) * _SMOOTH) for x, y in centres]
        # Drawn enlarged and averaged down: this smooths lines and changes nothing else.
        large = self.image.crop((0, 0, self.layout.left, self.image.height))
        large = large.resize(
            (large.width * _SMOOTH, large.height * _SMOOTH), Image.Resampling.NEAREST
        )
        draw = ImageDraw.Draw(large)
        draw.line(dots, BACKGROUND, 4 * _SMOOTH)
        draw.line(dots, PATH, 2 * _SMOOTH)
        for number, place in enumerate(dots, start=1):
            radius, color = (9, BOX) if number == len(dots) else (7, PATH)
            draw.ellipse(_disc(place, (radius + 1) * _SMOOTH), BACKGROUND)
            draw.ellipse(_disc(place, radius * _SMOOTH), color)
            font = ImageFont.load_default(size=(radius + 3) * _SMOOTH)
            draw.text(place, str(number), BACKGROUND, font, anchor="mm")
        self.image.paste(large.reduce(_SMOOTH))

    def retina(self, tiles: NDArray[np.uint8]) -> None:
        """Draw what the agent sees, each scale framed in the colour of its box."""
        left, top, side = self.layout.left, self.layout.top, self.layout.tile
        self.write((left, _MARGIN), "retina", 15, MUTED)
        for scale, tile in enumerate(tiles):
            frame = (left - 2, top - 2, left + side + 1, top + side + 1)
            self.draw.rectangle(frame, _shade(scale))
            self.image.paste(_enlarged(tile, self.layout.tile_zoom), (left, top))
            self.write((left + side // 2, top + side + 8), f"{2**scale}x", 13, MUTED, "mt")
            left += side + _GAP

    def answer(self, prediction: int | None) -> None:
        """Write the prediction where the agent gives no scores."""
        left, top = self.layout.left, self.layout.top + self.layout.tile + _CAPTION
        self.write((left, top), "prediction", 15, MUTED)
        if prediction is None:
            self.write((left, top + _TITLE), "none yet", 18, MUTED)
        else:
            self.write((left, top + _TITLE), str(prediction), 64, TEXT)

    def scores(self, chances: NDArray[Any], prediction: int | None, label: int | None) -> None:
        """Draw the classes' probabilities as bars, the prediction bright, the label marked."""
        left, top = self.layout.left, self.layout.top + self.layout.tile + _CAPTION
        classes, title = list(range(len(chances))), "class probabilities"
        if len(chances) > 16:
            classes = np.argsort(-chances, kind="stable")[:10].tolist()
            title = f"10 most probable of {len(chances)} classes"
        self.write((left, top), title, 15, MUTED)
        top += _TITLE
        row = min(24, (self.layout.bottom - _FOOTER - top) // len(classes))
        bright = chances.argmax() if prediction is None else prediction
        for k in classes:
            self.bar(top, row, k, chances[k], k == bright)
            if k == label:
                self.mark(top + row // 2)
            top += row

    def bar(self, top: int, row: int, k: int, chance: float, bright: bool) -> None:
        """Draw one class: its index, its bar and its probability."""
        left, right, middle = self.layout.left + 42, self.layout.right - 50, top + row // 2
        size, color = min(14, row - 1), TEXT if bright else MUTED
        self.write((left - 8, middle), str(k), size, color, "rm")
        self.write((self.layout.right, middle), f"{100 * chance:.0f} %", size, color, "rm")
        length = round(chance * (right - left))
        self.draw.rectangle((left, top + 2, right - 1, top + row - 3), TRACK)
        if length:
            end = left + length - 1
            self.draw.rectangle((left, top + 2, end, top + row - 3), PATH if bright else BAR)

    def verdict(self, label: int | None, correct: bool | None) -> None:
        """Write the label and, at the end, whether the prediction was correct."""
        left, middle = self.layout.left, self.layout.bottom - 8
        if label is not None:
            self.mark(middle)
            self.write((left + 16, middle), f"label {label}", 18, TEXT, "lm")
        if correct is not None:
            text, color = ("correct", RIGHT) if correct else ("wrong", WRONG)
            self.write((self.layout.right, middle), text, 18, color, "rm")


def _disc(centre: tuple[int, int], radius: int) -> tuple[int, int, int, int]:
    x, y = centre
    return x - radius, y - radius, x + radius, y + radius


def _shade(scale: int) -> Color:
    """Return a scale's colour: the finest in full, the others fainter and fainter."""
    red, green, blue = (round(0.78**scale * part) for part in BOX)
    return red, green, blue
