"""Frames that show an episode to people, drawn with Pillow.

Dimension key: canvas of h x w px, t glimpses so far, S scales, finest first, C colours, 1 (grey) or
3, glimpse side G [px], K classes, frame of H x W px.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from ram_env.arrays import log_softmax

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
        path: Locations so far, the current one last, in [-1, 1]. Shape (t, 2), t >= 1.
        glimpse: What the agent sees now, in [0, 1], finest scale first. Shape (S * C, G, G).
        num_glimpses: T, the most glimpses that an episode has.
        scores: Class scores of the last action; bars show their softmax. Before the end it was
            chosen one glimpse earlier, as the frame says. Shape (K,).
        prediction: The predicted class; the first argmax where only scores are given.
        label: The true class, where it may be shown.
        correct: Whether the scored prediction was correct; None before the end.
        stopped: Whether the agent ended the episode itself.

    Returns:
        An RGB picture. Shape (H, W, 3), uint8, H and W even.
    """
    height, width = canvas.shape[:2]
    channels, size = 1 if canvas.ndim == 2 else 3, glimpse.shape[-1]
    levels = np.rint(glimpse * 255).astype(np.uint8).reshape(-1, channels, size, size)
    tiles = levels.transpose(0, 2, 3, 1).repeat(3 // channels, axis=3)  # (S, G, G, 3)
    colors = canvas.reshape(height, width, channels).repeat(3 // channels, axis=2)  # (h, w, 3)
    half = np.array([width, height], np.float32) / np.float32(2)
    # Canvas pixels (x, y), rounded as the retina rounds them
    centres = [(int(x), int(y)) for x, y in np.rint((path + np.float32(1)) * half)]

    picture = _Picture(height, width, len(tiles), size)
    text = f"glimpse {len(path)} / {num_glimpses}" + (", stopped" if stopped else "")
    picture.write((_MARGIN, _MARGIN), text, 15, TEXT)
    picture.canvas(colors, [size * 2**s // 2 for s in range(len(tiles))], centres[-1])
    picture.path(centres)
    picture.retina(tiles)
    if scores is None:
        picture.write((picture.left, picture.below), "prediction", 15, MUTED)
        what = ("none yet", 18, MUTED) if prediction is None else (str(prediction), 64, TEXT)
        picture.write((picture.left, picture.below + _TITLE), *what)
    else:
        answered = len(path) - (correct is None)  # glimpses seen before the last action
        picture.scores(np.exp(log_softmax(scores[None])[0]), prediction, label, answered)
    middle = picture.bottom - 8
    if label is not None:
        picture.mark(middle)
        picture.write((picture.left + 16, middle), f"label {label}", 18, TEXT, "lm")
    if correct is not None:
        verdict = ("correct", 18, RIGHT) if correct else ("wrong", 18, WRONG)
        picture.write((picture.right, middle), *verdict, "rm")
    return np.array(picture.image)


def _enlarged(pixels: NDArray[np.uint8], zoom: int) -> Image.Image:
    """Enlarge a picture without smoothing: the agent's pixels stay squares."""
    return Image.fromarray(pixels.repeat(zoom, axis=0).repeat(zoom, axis=1))


class _Picture:
    """A frame in the making, in a layout [px] that depends on the settings alone."""

    def __init__(self, height: int, width: int, num_scales: int, glimpse_size: int) -> None:
        self.zoom = max(1, 420 // max(height, width))  # of the canvas, at (_MARGIN, top)
        self.tile_zoom = max(1, min(128, (400 + _GAP) // num_scales - _GAP) // glimpse_size)
        self.tile = self.tile_zoom * glimpse_size  # side of a retina tile
        self.left = _MARGIN + width * self.zoom + _MARGIN + _GAP  # of the retina and the scores
        self.right = self.left + max(310, num_scales * (self.tile + _GAP) - _GAP)
        self.top = _MARGIN + _TITLE
        self.below = self.top + self.tile + _CAPTION  # of the retina
        reach = max(400, height * self.zoom, self.tile + _CAPTION + 200 + _FOOTER)
        self.bottom = self.top + reach
        even = [(side + _MARGIN + 1) // 2 * 2 for side in (self.right, self.bottom)]  # for videos
        self.image = Image.new("RGB", (even[0], even[1]), BACKGROUND)
        self.draw = ImageDraw.Draw(self.image)

    def write(
        self, place: tuple[int, int], text: str, size: int, color: Color, anchor: str = "lt"
    ) -> None:
        self.draw.text(place, text, color, ImageFont.load_default(size=size), anchor=anchor)

    def mark(self, middle: int) -> None:
        """Draw the triangle that stands for the true label."""
        left = self.left
        self.draw.polygon([(left, middle - 5), (left + 8, middle), (left, middle + 5)], RIGHT)

    def canvas(
        self, colors: NDArray[np.uint8], reaches: list[int], centre: tuple[int, int]
    ) -> None:
        """Draw the canvas with a box for each scale; what leaves the canvas is cut off."""
        panel = _enlarged(colors, self.zoom)
        draw = ImageDraw.Draw(panel)
        for scale, reach in reversed(list(enumerate(reaches))):
            left, top = ((c - reach) * self.zoom for c in centre)
            right, bottom = ((c + reach) * self.zoom - 1 for c in centre)
            width = 3 if scale == 0 else 2
            draw.rectangle((left - 1, top - 1, right + 1, bottom + 1), None, BACKGROUND, width + 2)
            draw.rectangle((left, top, right, bottom), None, _shade(scale), width)
        self.image.paste(panel, (_MARGIN, self.top))

    def path(self, centres: list[tuple[int, int]]) -> None:
        """Join the glimpses so far by a line and number them, the current one in orange."""
        origin = np.array([_MARGIN, self.top])
        dots = [(origin + np.array(centre) * self.zoom) * _SMOOTH for centre in centres]
        # Drawn enlarged and averaged down: this smooths lines and changes nothing else.
        large = self.image.crop((0, 0, self.left, self.image.height))
        size = large.width * _SMOOTH, large.height * _SMOOTH
        large = large.resize(size, Image.Resampling.NEAREST)
        draw = ImageDraw.Draw(large)
        for color, width in ((BACKGROUND, 4), (PATH, 2)):
            draw.line([tuple(dot.tolist()) for dot in dots], color, width * _SMOOTH)
        for number, dot in enumerate(dots, start=1):
            radius, color = (9, BOX) if number == len(dots) else (7, PATH)
            for reach, fill in (((radius + 1) * _SMOOTH, BACKGROUND), (radius * _SMOOTH, color)):
                draw.ellipse((*(dot - reach).tolist(), *(dot + reach).tolist()), fill)
            font = ImageFont.load_default(size=(radius + 3) * _SMOOTH)
            draw.text(tuple(dot.tolist()), str(number), BACKGROUND, font, anchor="mm")
        self.image.paste(large.reduce(_SMOOTH))

    def retina(self, tiles: NDArray[np.uint8]) -> None:
        """Draw what the agent sees, each scale framed in the colour of its box."""
        left, top, side = self.left, self.top, self.tile
        self.write((left, _MARGIN), "retina", 15, MUTED)
        for scale, tile in enumerate(tiles):
            frame = (left - 2, top - 2, left + side + 1, top + side + 1)
            self.draw.rectangle(frame, _shade(scale))
            self.image.paste(_enlarged(tile, self.tile_zoom), (left, top))
            self.write((left + side // 2, top + side + 8), f"{2**scale}x", 13, MUTED, "mt")
            left += side + _GAP

    def scores(
        self, chances: NDArray[Any], prediction: int | None, label: int | None, answered: int
    ) -> None:
        """Draw the ten likeliest classes' bars, the prediction bright, the label marked."""
        title = f"class probabilities after glimpse {answered}"
        self.write((self.left, self.below), title, 15, MUTED)
        classes: list[int] = sorted(np.argsort(-chances, kind="stable")[:10].tolist())
        top = self.below + _TITLE
        row = min(24, (self.bottom - _FOOTER - top) // len(classes))
        bright = chances.argmax() if prediction is None else prediction
        left, right = self.left + 42, self.right - 50
        for k in classes:
            middle, size, color = top + row // 2, min(14, row - 1), TEXT if k == bright else MUTED
            self.write((left - 8, middle), str(k), size, color, "rm")
            self.write((self.right, middle), f"{100 * chances[k]:.0f} %", size, color, "rm")
            self.draw.rectangle((left, top + 2, right - 1, top + row - 3), TRACK)
            if length := round(chances[k] * (right - left)):
                end, color = left + length - 1, PATH if k == bright else BAR
                self.draw.rectangle((left, top + 2, end, top + row - 3), color)
            if k == label:
                self.mark(middle)
            top += row


def _shade(scale: int) -> Color:
    """Return a scale's colour: the finest in full, the others fainter and fainter."""
    red, green, blue = (round(0.78**scale * part) for part in BOX)
    return red, green, blue
