"""Frames show the episode as it is, at the places computed by hand."""

from typing import Any

import numpy as np
import pytest

from ram_env.rendering import BOX, PATH, RIGHT, TRACK, WRONG, draw_frame

# By hand, for a 28x28 canvas and an 8x8 glimpse of one scale: the canvas is enlarged 420 // 28 = 15
# times with its corner at (20, 20 + 28), the retina 128 // 8 = 16 times at 20 + 420 + 30 = 470.
LEFT, TOP, ZOOM = 20, 48, 15
RETINA_LEFT, TILE_ZOOM = 470, 16
BARS_LEFT, BARS_RIGHT = 470 + 42, 470 + 310 - 50
BARS_TOP = 48 + 128 + 34 + 28

CANVAS = np.zeros((28, 28), np.uint8)
CENTRE = np.zeros((1, 2), np.float32)
GLIMPSE = np.zeros((1, 8, 8), np.float32)


def draw(canvas: Any = CANVAS, path: Any = CENTRE, glimpse: Any = GLIMPSE, **keywords: Any):
    return draw_frame(canvas, path, glimpse, num_glimpses=7, **keywords)


def is_color(frame, color):
    return (frame == color).all(axis=-1)


def enlarged(pixels, zoom):
    return np.kron(pixels, np.ones((zoom, zoom, 1), np.uint8))


@pytest.mark.parametrize("side", [1, 60, 101, 500])
def test_an_episodes_frames_have_one_even_shape(side):
    canvas = np.zeros((side, side), np.uint8)
    path = np.linspace(-1, 1, 14, dtype=np.float32).reshape(7, 2)
    frames = [draw(canvas, path[:t], scores=np.arange(10.0), label=1) for t in (1, 4, 7)]
    frames += [draw(canvas, path[:1])]
    frames += [draw(canvas, path, prediction=3, label=3, correct=True, stopped=True)]
    ((height, width, _),) = {frame.shape for frame in frames}
    assert (height % 2, width % 2, frames[0].dtype) == (0, 0, np.uint8)


def test_the_finest_box_lies_where_computed_by_hand():
    # c = rint((0.5 + 1) * 14) = 21, rint((-0.5 + 1) * 14) = 7; the patch covers 17..24, 3..10.
    frame = draw(path=np.array([[0.5, -0.5]], np.float32))
    left, right, top, bottom = LEFT + 17 * 15, LEFT + 25 * 15, TOP + 3 * 15, TOP + 11 * 15
    panel = is_color(frame[:, : LEFT + 420], BOX)
    panel[TOP + 95 : TOP + 116, LEFT + 305 : LEFT + 326] = False  # the current dot
    rows, columns = panel.nonzero()
    assert (columns.min(), columns.max() + 1) == (left, right)
    assert (rows.min(), rows.max() + 1) == (top, bottom)
    assert panel[top : top + 3, left:right].all()
    assert panel[top:bottom, right - 3 : right].all()


@pytest.mark.parametrize("shape", [(28, 28), (28, 28, 3)])
def test_the_canvas_is_enlarged_unchanged_where_nothing_is_drawn(shape):
    canvas = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    glimpse = np.zeros((1 if len(shape) == 2 else 3, 8, 8), np.float32)
    panel = draw(canvas, -np.ones((1, 2), np.float32), glimpse)[TOP : TOP + 420, LEFT : LEFT + 420]
    expected = enlarged(np.broadcast_to(canvas.reshape(28, 28, -1), (28, 28, 3)), ZOOM)
    np.testing.assert_array_equal(panel[5 * ZOOM :], expected[5 * ZOOM :])
    np.testing.assert_array_equal(panel[:, 5 * ZOOM :], expected[:, 5 * ZOOM :])


@pytest.mark.parametrize("channels", [1, 3])
def test_the_retina_shows_the_glimpse_finest_first(channels):
    levels = np.random.default_rng(0).integers(0, 256, (2, channels, 8, 8), np.uint8)
    canvas = CANVAS if channels == 1 else np.zeros((28, 28, 3), np.uint8)
    frame = draw(canvas, glimpse=(levels / np.float32(255)).reshape(-1, 8, 8))
    for scale in range(2):
        left = RETINA_LEFT + scale * (128 + 10)
        tile = np.broadcast_to(levels[scale].transpose(1, 2, 0), (8, 8, 3))
        np.testing.assert_array_equal(
            frame[TOP : TOP + 128, left : left + 128], enlarged(tile, TILE_ZOOM)
        )


def test_a_bar_is_as_long_as_its_softmax():
    # scores (0, log 4) -> (1/5, 4/5); the bars are 730 - 512 = 218 px long: round(174.4) = 174.
    frame = draw(scores=np.log([1.0, 4.0]))
    row = is_color(frame[BARS_TOP + 24 + 12, BARS_LEFT:BARS_RIGHT], PATH)
    assert row[:174].all()
    assert not row[174:].any()
    assert not is_color(frame[BARS_TOP + 12, BARS_LEFT:BARS_RIGHT], PATH).any()
    huge = draw(scores=np.array([3e38, -3e38, 0], np.float32))
    assert is_color(huge[BARS_TOP + 12, BARS_LEFT:BARS_RIGHT], PATH).all()


def test_of_many_classes_the_ten_likeliest_are_shown_in_order():
    frame = draw(scores=np.log(np.arange(1.0, 13)))
    edge = is_color(frame[BARS_TOP:], TRACK)[:, BARS_RIGHT - 1]
    assert (np.diff(edge.astype(int)) == 1).sum() == 10
    # (48 + 420 - 32 - 238) // 10 = 19 px a bar
    rows = [is_color(frame[BARS_TOP + 19 * k + 9, BARS_LEFT:], PATH).any() for k in range(10)]
    assert rows == [False] * 9 + [True]


def test_the_prediction_is_bright_the_label_marked_and_the_verdict_has_a_colour():
    frame = draw(scores=np.zeros(4), prediction=2, label=1)
    rows = [frame[BARS_TOP + 24 * k + 12] for k in range(4)]
    assert [is_color(row[BARS_LEFT:], PATH).any() for row in rows] == [False, False, True, False]
    assert [is_color(row[:BARS_LEFT], RIGHT).any() for row in rows] == [False, True, False, False]
    assert not is_color(draw(scores=np.zeros(4)), RIGHT).any()  # hidden unless given
    written = {draw(prediction=answer).tobytes() for answer in (None, 1, 2)}
    assert len(written) == 3
    right, wrong = draw(label=1, correct=True), draw(label=1, correct=False)
    assert is_color(wrong, WRONG).any() > is_color(right, WRONG).any()
    assert is_color(right, RIGHT).sum() > is_color(wrong, RIGHT).sum()
