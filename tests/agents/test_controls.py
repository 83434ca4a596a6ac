"""Location controls: where they look, and what the oracle means."""

from types import SimpleNamespace

import pytest
import torch

from agents.controls import CONTROLS, Control, oracle_location, raster_locations

LEARNED = torch.tensor([[0.1, 0.2], [0.3, 1.7], [-0.5, 0.0]])
BOX = torch.tensor([[32, 0, 28, 28], [0, 8, 14, 21], [16, 16, 28, 28]])
UNIFORM = torch.tensor([[-0.9, 0.9], [0.0, 0.4], [0.7, -0.2]])


def make_control(name: str, num_glimpses: int = 8) -> Control:
    task = SimpleNamespace(num_glimpses=num_glimpses, side=60)
    return Control(name, SimpleNamespace(task=task))


def test_each_control_looks_where_its_name_says():
    assert torch.equal(make_control("learned")(0, LEARNED, BOX, UNIFORM), LEARNED)
    assert torch.equal(make_control("random")(0, LEARNED, BOX, UNIFORM), UNIFORM)
    assert torch.equal(make_control("centre")(6, LEARNED, BOX, UNIFORM), torch.zeros(3, 2))
    third = make_control("raster")(2, LEARNED, BOX, UNIFORM)
    assert torch.equal(third, torch.tensor([[2 / 3, 0.0]] * 3))
    # on 60 px: centres at (32 + 28/2, 28/2), (14/2, 8 + 21/2) and (30, 30) px
    centres = torch.tensor([[46, 14], [7, 18.5], [30, 30]]) / 30 - 1
    torch.testing.assert_close(make_control("oracle")(3, LEARNED, BOX, UNIFORM), centres)


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("num_glimpses", [1, 2, 8])
def test_every_step_of_an_episode_has_a_location_even_the_last(name, num_glimpses):
    control = make_control(name, num_glimpses)
    for step in range(num_glimpses):
        location = control(step, LEARNED, BOX, UNIFORM)
        assert (location.shape, location.dtype) == ((3, 2), torch.float32)


def test_the_raster_of_seven_walks_rows_of_two_three_and_two_in_turns():
    x = [-1 / 2, 1 / 2, 2 / 3, 0, -2 / 3, -1 / 2, 1 / 2]
    y = [-2 / 3, -2 / 3, 0, 0, 0, 2 / 3, 2 / 3]
    torch.testing.assert_close(raster_locations(7), torch.tensor([x, y]).T)


@pytest.mark.parametrize("num_locations", range(1, 30))
def test_a_raster_has_the_number_of_different_locations_in_cells_that_fill_it(num_locations):
    locations = raster_locations(num_locations)
    assert len({(x, y) for x, y in locations.tolist()}) == num_locations
    rows = locations[:, 1].unique()
    widths = [int((locations[:, 1] == row).sum()) for row in rows]
    assert max(widths) - min(widths) <= 1
    torch.testing.assert_close(rows, 2 * (torch.arange(len(rows)) + 0.5) / len(rows) - 1)
    for row, width in zip(rows, widths, strict=True):
        x = locations[locations[:, 1] == row, 0].sort().values
        torch.testing.assert_close(x, 2 * (torch.arange(width) + 0.5) / width - 1)


@pytest.mark.parametrize(("object_side", "canvas_side"), [(28, 60), (28, 100), (32, 32)])
def test_the_oracle_looks_at_the_pixel_in_the_objects_middle_wherever_it_stands(
    object_side, canvas_side
):
    corner = torch.arange(canvas_side - object_side + 1)
    position = torch.cartesian_prod(corner, corner)
    box = torch.cat([position, torch.full_like(position, object_side)], 1)
    location = oracle_location(box, canvas_side)
    pixel = ((location + 1) * (canvas_side / 2)).round().to(torch.int64)  # as the retina does
    assert torch.equal(pixel, position + object_side // 2)


def test_an_unknown_control_is_refused():
    with pytest.raises(ValueError, match=f"one of {', '.join(CONTROLS)}, got 'best'"):
        make_control("best")
