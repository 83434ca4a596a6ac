"""Glimpses are what a slow loop over pixels says they are, in NumPy and in torch."""

from typing import Any

import numpy as np
import pytest
import torch

from ram_env.retina import extract_glimpses

# Corners, edges, the centre; pixel ties (x.5) of sides 10, 12 and 28; and anything.
LOCATIONS = np.array(
    [
        *[(-1, -1), (1, -1), (-1, 1), (1, 1), (0, 0), (-1, 0), (0, 1), (0.1, -0.1), (0.3, -0.7)],
        *[(1 / 12, 0.25), (-0.75, 0.75), (1 / 28, -1 / 28), (0.9999999, -0.0), (-1e-45, 1e-8)],
        *np.random.default_rng(0).uniform(-1, 1, (6, 2)),
    ],
    np.float32,
)


def slow_pixel(coordinate: np.float32, side: int) -> int:
    """rint((l + 1) * (side / 2)) in float32; Python's round is half to even, too."""
    return round(float(np.float32(coordinate + np.float32(1)) * np.float32(side / 2)))


def slow_glimpses(images, locations, size, num_scales):
    """Add up every pixel of every cell, one by one."""
    colour = images if images.ndim == 4 else images[..., None]
    height, width, channels = colour.shape[1:]
    result = np.zeros((len(images), num_scales * channels, size, size), np.float32)
    for n, s, c in np.ndindex(len(images), num_scales, channels):
        x = slow_pixel(locations[n, 0], width) - size * 2**s // 2
        y = slow_pixel(locations[n, 1], height) - size * 2**s // 2
        pixels = colour[n, :, :, c].tolist()
        for i, j in np.ndindex(size, size):
            total = sum(
                pixels[row][column]
                for row in range(y + i * 2**s, y + (i + 1) * 2**s)
                for column in range(x + j * 2**s, x + (j + 1) * 2**s)
                if 0 <= row < height and 0 <= column < width
            )
            result[n, s * channels + c, i, j] = np.float32(total) * np.float32(1 / (255 * 4**s))
    return result


def random_images(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, np.uint8)


SHAPES = [  # H, W, colours, G, S
    *[(10, 10, None, 2, 1), (10, 10, None, 2, 3), (12, 12, None, 4, 2), (28, 28, None, 8, 1)],
    *[(28, 28, None, 12, 2), (12, 20, None, 6, 3), (21, 13, None, 10, 2), (12, 17, 3, 2, 4)],
    *[(32, 32, 3, 8, 2), (9, 9, 2, 4, 3), (16, 18, None, 2, 5), (48, 50, None, 6, 5)],
]


@pytest.mark.parametrize(("height", "width", "colours", "size", "num_scales"), SHAPES)
def test_glimpses_equal_a_slow_loop_over_pixels_in_both_libraries(
    height, width, colours, size, num_scales
):
    shape = (height, width) if colours is None else (height, width, colours)
    images = random_images(len(LOCATIONS), *shape)
    glimpses = extract_glimpses(images, LOCATIONS, size=size, num_scales=num_scales)
    assert glimpses.dtype == np.float32
    assert glimpses.tobytes() == slow_glimpses(images, LOCATIONS, size, num_scales).tobytes()
    for locations in (LOCATIONS, torch.from_numpy(LOCATIONS), LOCATIONS.tolist()):
        theirs = extract_glimpses(
            torch.from_numpy(images), locations, size=size, num_scales=num_scales
        )
        assert isinstance(theirs, torch.Tensor)
        assert theirs.numpy().tobytes() == glimpses.tobytes()


def test_batch_size_does_not_matter():
    images = random_images(129, 14, 14)
    locations = np.random.default_rng(1).uniform(-1, 1, (129, 2))
    for convert in (np.asarray, torch.from_numpy):
        batch = extract_glimpses(convert(images), locations, size=4, num_scales=2)
        for n in range(129):
            alone = extract_glimpses(
                convert(images[n : n + 1]), locations[n : n + 1], size=4, num_scales=2
            )
            assert (alone[0] == batch[n]).all()
        none = extract_glimpses(convert(images[:0]), locations[:0], size=4, num_scales=2)
        assert none.shape == (0, 2, 4, 4)


def test_numbers_by_hand():
    # 4x4 pixels 0, 17, 34, ..., 255 = 17 k. The location (0.5, -0.5) is the corner
    # x = 1.5 * 2 = 3, y = 0.5 * 2 = 1.
    image = (17 * np.arange(16, dtype=np.uint8)).reshape(1, 4, 4)
    glimpses = extract_glimpses(image, [(0.5, -0.5)], size=2, num_scales=2)
    # Scale 0: columns 2..3, rows 0..1: pixels 2, 3, 6, 7, each 17 k / 255 = k / 15.
    # Scale 1: columns 1..4, rows -1..2; cells of 2x2, divided by 4, outside is 0:
    #   top left (1 + 2) / 4, top right 3 / 4;
    #   bottom left (5 + 6 + 9 + 10) / 4, bottom right (7 + 11) / 4, again / 15.
    expected = np.array([[[2, 3], [6, 7]], [[0.75, 0.75], [7.5, 4.5]]]) / 15
    np.testing.assert_allclose(glimpses[0], expected, rtol=1e-6)


@pytest.mark.parametrize("value", [1, 100, 254, 255])
@pytest.mark.parametrize("num_scales", [1, 3, 5])
def test_a_constant_image_stays_constant_at_every_scale(value, num_scales):
    # 96 = 6 * 2^4 px: at the centre the coarsest patch is the image, and none is cut off.
    image = np.full((1, 96, 96), value, np.uint8)
    glimpses = extract_glimpses(image, [(0, 0)], size=6, num_scales=num_scales)
    expected = np.float32(value) * np.float32(1 / 255)
    assert (glimpses == expected).all()


def test_strided_images_are_read_right_and_left_alone():
    images = random_images(6, 20, 24)
    views = images[::2, ::-1, 4:]
    before = images.copy()
    locations = LOCATIONS[:3]
    glimpses = extract_glimpses(views, locations, size=6, num_scales=2)
    assert (glimpses == extract_glimpses(views.copy(), locations, size=6, num_scales=2)).all()
    assert (images == before).all()


GOOD: dict[str, Any] = {"images": np.zeros((2, 8, 8), np.uint8), "size": 4, "num_scales": 1}
GOOD |= {"locations": np.zeros((2, 2), np.float32)}
BAD = {
    "images": [
        *(np.zeros((2, 8, 8), dtype) for dtype in ("f4", "i8")),
        *(np.zeros(shape, np.uint8) for shape in ((8, 8), (2, 8, 8, 3, 1))),
        [[[1, 2]], [[1]]],
        torch.zeros((2, 8, 8)),
        None,
    ],
    "locations": [
        *(np.zeros(shape) for shape in (2, (1, 2), (3, 2), (2, 3))),
        *([(0, 0), (0, y)] for y in (np.nan, np.inf, 1e300, 1.001, -1.001)),
        *(np.zeros((2, 2), dtype) for dtype in (bool, complex, str)),
        [(0, 0), (0,)],
        None,
    ],
    "size": [3, 0, -2, 10, 4.0, True, None],
    "num_scales": [0, 1.0, 4, 9, "2"],  # 4: 32 px on 8
}


@pytest.mark.parametrize(
    ("name", "value"), [(name, value) for name, values in BAD.items() for value in values]
)
@pytest.mark.parametrize("library", ["numpy", "torch"])
def test_refusals_name_the_argument(name, value, library):
    arguments = {**GOOD, name: value}
    if library == "torch" and isinstance(arguments["images"], np.ndarray):
        arguments["images"] = torch.from_numpy(arguments["images"])
    with pytest.raises(ValueError, match=name):
        extract_glimpses(arguments.pop("images"), arguments.pop("locations"), **arguments)
