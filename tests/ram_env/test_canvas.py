"""Canvases are what a slow loop paints, and nothing on them tells the label."""

from typing import Any

import numpy as np
import pytest
import torch

from ram_env import arrays as xp
from ram_env.canvas import CanvasStyle, draw_canvases, paint
from ram_env.draws import draw_words, lane_key, to_words
from tests.pretend_gpu import GPUS
from tests.ram_env.test_draws import slow_below, slow_words


def slow_canvas(images, index, words, *, canvas_size, translate, num_clutter, clutter_size):
    """Paint clutter, then the object, one pixel at a time, in unbounded integers; clip last."""
    num_images, height, width, colours = images.shape
    canvas = np.zeros((canvas_size, canvas_size, colours), int)
    for j in range(num_clutter):
        word, cut_x, cut_y, drop_x, drop_y = words[2 + 5 * j : 7 + 5 * j]
        others = [k for k in range(num_images) if k != index]  # its own would tell the label
        source = images[others[slow_below(word, len(others))]]
        x, y = (
            slow_below(w, side - clutter_size + 1) for w, side in ((cut_x, width), (cut_y, height))
        )
        left, top = (slow_below(w, canvas_size - clutter_size + 1) for w in (drop_x, drop_y))
        for row, column in np.ndindex(clutter_size, clutter_size):
            canvas[top + row, left + column] += source[y + row, x + column]
    if translate:
        left = slow_below(words[0], canvas_size - width + 1)
        top = slow_below(words[1], canvas_size - height + 1)
    else:
        left, top = (canvas_size - width) // 2, (canvas_size - height) // 2
    for row, column in np.ndindex(height, width):
        canvas[top + row, left + column] += images[index, row, column]
    return np.minimum(canvas, 255), (left, top)


STYLES = [  # canvas_size, translate, num_clutter, clutter_size; in the last, sums pass 255
    *[(9, True, 0, 3), (8, False, 0, 3), (15, False, 3, 4), (15, True, 4, 1), (13, True, 2, 5)],
    (20, True, 12, 6),
]


@pytest.mark.parametrize("shape", [(7, 7), (6, 8), (8, 6), (7, 6, 3)])
@pytest.mark.parametrize("style", STYLES)
def test_canvases_equal_a_slow_loop(shape, style):
    names = ("canvas_size", "translate", "num_clutter", "clutter_size")
    keywords = dict(zip(names, style, strict=True))
    images = np.random.default_rng(0).integers(0, 256, (5, *shape), np.uint8)
    coloured = images.reshape(5, *shape[:2], -1)
    indices, clipped = [4, 0, 2, 2, 1, 3] * 3, 0
    for seed, ids in ((7, None), (8, [2**40 - i for i in range(18)])):
        canvases, positions = draw_canvases(images, indices, seed=seed, ids=ids, **keywords)
        assert canvases.dtype == np.uint8
        assert positions.dtype == np.int64
        for i, (index, number) in enumerate(zip(indices, ids or range(18), strict=True)):
            words = slow_words(lane_key(seed), number, 2 + 5 * keywords["num_clutter"])
            wanted, position = slow_canvas(coloured, index, words, **keywords)
            assert (canvases[i].reshape(wanted.shape) == wanted).all()
            assert tuple(positions[i]) == position
            clipped += (wanted == 255).sum()
    assert clipped > 100 or keywords["num_clutter"] < 12  # the crowded style shows the clip


def slow_resize(image, width, height):
    """Split each pixel into width x height parts, and take means over blocks of them."""
    h, w, colours = image.shape
    parts = image.astype(int).repeat(height, 0).repeat(width, 1)
    sums = parts.reshape(height, h, width, w, colours).sum((1, 3))
    return (2 * sums + h * w) // (2 * h * w)  # half up


@pytest.mark.parametrize("device", [None, "cpu", *GPUS], indirect=True)
@pytest.mark.parametrize("shape", [(10, 10), (7, 14), (9, 8), (1, 5), (7, 6, 3)])
@pytest.mark.parametrize("scale", [0.5, 0.83, (0.5, 1.5), (1, 1.2)])
def test_a_scaled_object_is_the_mean_of_its_image_over_each_pixel(shape, scale, device):
    height, width = shape[:2]
    images = np.random.default_rng(0).integers(0, 256, (3, *shape), np.uint8).reshape(3, *shape, -1)
    images = images[..., 0] if len(shape) == 3 else images
    side, n = 21, 200
    style = CanvasStyle(side, translate=True, object_scale=scale)
    planes, index = np.ascontiguousarray(images.transpose(0, 3, 1, 2)), np.arange(n) % 3
    words = draw_words(np.full(n, lane_key(0), np.uint64), np.arange(n), style.num_words)
    canvases = np.full((n, planes.shape[1], side + 2, side + 2), 7, np.uint8)
    images_here, painted, lanes, index_here = (
        xp.to_device(part, device) for part in (planes, canvases, np.arange(n), index)
    )
    with torch.autocast("cpu", torch.bfloat16):  # as a trainer steps it
        drawn = paint(style, images_here, painted, 1, lanes, index_here, to_words(words, device))
    canvases = xp.to_host(painted)
    positions, sizes = map(xp.to_host, drawn)
    lengths = (np.array(style.scales) * max(height, width) + 0.5).astype(int)
    assert {*sizes.max(1)} == {*range(lengths[0], lengths[1] + 1)}
    for k, ((x, y), (w, h)) in enumerate(zip(positions, sizes, strict=True)):
        drawn_size = slow_below(int(words[k, -1]), lengths[1] - lengths[0] + 1)
        assert max(w, h) == lengths[0] + drawn_size  # all alike
        assert min(x, y) >= 0
        assert max(x + w, y + h) <= side
        assert abs(w * max(height, width) - width * max(w, h)) * 2 <= max(height, width) or w == 1
        shown = slow_resize(images[index[k]], w, h)
        wanted = np.pad(shown, ((1 + y, side + 1 - y - h), (1 + x, side + 1 - x - w), (0, 0)))
        assert (canvases[k].transpose(1, 2, 0) == wanted).all()
        assert abs(shown.mean() - images[index[k]].mean()) <= 0.5  # however large it is
        if (w, h) == (width, height):
            assert (shown == images[index[k]]).all()


def test_images_may_be_strided_and_are_left_alone():
    images = np.random.default_rng(0).integers(0, 256, (12, 9, 10), np.uint8)
    before = images.copy()
    style: dict[str, Any] = {"seed": 0, "canvas_size": 20, "num_clutter": 5, "clutter_size": 4}
    for view in (images[::2], images[:, ::-1], np.asfortranarray(images), images[:, :, 1:]):
        canvases, _ = draw_canvases(view, np.arange(3), **style)
        assert (canvases == draw_canvases(view.copy("C"), np.arange(3), **style)[0]).all()
    assert (images == before).all()


def test_one_image_without_clutter_and_no_canvas_at_all_work():
    images = np.full((1, 4, 4), 9, np.uint8)
    style: Any = {"seed": 0, "canvas_size": 6, "translate": np.False_}
    canvases, positions = draw_canvases(images, np.array([0]), **style)
    assert (canvases[0] == np.pad(images[0], 1)).all()
    assert positions.tolist() == [[1, 1]]
    canvases, positions = draw_canvases(images, np.array([]), seed=0, canvas_size=6)
    assert canvases.shape == (0, 6, 6)
    assert positions.shape == (0, 2)
    with pytest.raises(ValueError, match="num_clutter=1 needs at least 2 images"):
        draw_canvases(images, [0], seed=0, canvas_size=6, num_clutter=1, clutter_size=2)


GOOD: dict[str, Any] = {"images": np.zeros((3, 8, 6), np.uint8), "indices": [0, 2], "seed": 0}
GOOD |= {"canvas_size": 12, "num_clutter": 1, "clutter_size": 4}
BAD = {
    "images": [np.zeros((3, 8, 6)), np.zeros((8, 6), np.uint8), [[[1.0]]], None],
    "indices": [[0, 3], [-1], 0, [[0]], [0.0], [True], ["0"], [[0], [1, 2]], None],
    "ids": [[0], [0, -1], [0, 0.5]],
    "seed": [-1, 1.5, "a", None],
    "canvas_size": [7, 12.0],
    "translate": ["no"],
    "num_clutter": [-1, 1.5],
    "clutter_size": [0, 7, 2.0],
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
def test_refusals_name_the_argument(name, value):
    with pytest.raises(ValueError, match=name):
        draw_canvases(**{**GOOD, name: value})
