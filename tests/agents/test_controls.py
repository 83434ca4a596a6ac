"""Location controls: where they look, and what the oracle and the score mean."""

from typing import Any

import pytest
import torch

from agents.controls import (
    CONTROLS,
    make_control,
    make_placer,
    normalised_score,
    oracle_location,
    raster_places,
)

LEARNED = torch.tensor([[0.1, 0.2], [0.3, 1.7], [-0.5, 0.0]])
ORACLE = torch.tensor([[0.9, -0.9], [0.0, 0.5], [0.25, 0.25]])


def test_each_control_looks_where_its_name_says():
    assert torch.equal(make_control("learned", 8)(0, LEARNED, ORACLE), LEARNED)
    assert torch.equal(make_control("oracle", 8)(3, LEARNED, ORACLE), ORACLE)
    assert torch.equal(make_control("centre", 8)(6, LEARNED, ORACLE), torch.zeros(3, 2))
    third = make_control("raster", 8)(2, LEARNED, ORACLE)
    assert torch.equal(third, torch.tensor([[2 / 3, 0.0]] * 3))


@pytest.mark.parametrize("name", CONTROLS)
@pytest.mark.parametrize("num_glimpses", [1, 2, 8])
def test_every_step_of_an_episode_has_a_location_the_last_one_too(name, num_glimpses):
    control = make_control(name, num_glimpses)
    for step in range(num_glimpses):
        location = control(step, LEARNED, ORACLE)
        assert location.shape == (3, 2)
        assert location.dtype == torch.float32


def test_random_locations_are_uniform_and_repeat_with_their_generator():
    def draw(seed):
        control = make_control("random", 8, torch.Generator().manual_seed(seed))
        return control(0, torch.zeros(20_000, 2), torch.zeros(20_000, 2))

    locations = draw(0)
    assert torch.equal(draw(0), locations)
    assert not torch.equal(draw(1), locations)
    assert locations.abs().max() <= 1
    # a uniform coordinate has mean 0 and variance 1/3; their standard errors here are below 0.005
    assert locations.mean(0).abs().max() < 0.02
    assert (locations.var(0) - 1 / 3).abs().max() < 0.02
    assert torch.corrcoef(locations.T)[0, 1].abs() < 0.03


def test_the_raster_of_seven_walks_rows_of_two_three_and_two_in_turns():
    expected = [(-1 / 2, -2 / 3), (1 / 2, -2 / 3)]
    expected += [(2 / 3, 0), (0, 0), (-2 / 3, 0)]
    expected += [(-1 / 2, 2 / 3), (1 / 2, 2 / 3)]
    torch.testing.assert_close(raster_places(7), torch.tensor(expected))


@pytest.mark.parametrize("num_places", range(1, 30))
def test_a_raster_has_as_many_different_places_as_asked_for_in_cells_that_fill_the_image(
    num_places,
):
    places = raster_places(num_places)
    assert len({(x, y) for x, y in places.tolist()}) == num_places
    rows = places[:, 1].unique()
    widths = [int((places[:, 1] == row).sum()) for row in rows]
    assert max(widths) - min(widths) <= 1
    torch.testing.assert_close(rows, 2 * (torch.arange(len(rows)) + 0.5) / len(rows) - 1)
    for row, width in zip(rows, widths, strict=True):
        x = places[places[:, 1] == row, 0].sort().values
        torch.testing.assert_close(x, 2 * (torch.arange(width) + 0.5) / width - 1)


@pytest.mark.parametrize(("object_side", "canvas_side"), [(28, 60), (28, 100), (32, 32)])
def test_the_oracle_looks_at_the_pixel_in_the_objects_middle_wherever_it_stands(
    object_side, canvas_side
):
    corner = torch.arange(canvas_side - object_side + 1)
    position = torch.cartesian_prod(corner, corner)
    location = oracle_location(position, (object_side, object_side), canvas_side)
    pixel = ((location + 1) * (canvas_side / 2)).round().to(torch.int64)  # as the retina does
    assert torch.equal(pixel, position + object_side // 2)


def test_the_oracle_has_x_before_y():
    # 60 px, an object of 28 px at x = 32, y = 0: its centre is (46, 14) px
    location = oracle_location(torch.tensor([[32, 0]]), (28, 28), 60)
    torch.testing.assert_close(location, torch.tensor([[2 * 46 / 60 - 1, 2 * 14 / 60 - 1]]))


def test_a_placer_finds_the_oracle_by_itself_and_repeats_with_its_seed():
    position = torch.tensor([[32, 0], [0, 8], [16, 16]])
    sides: dict[str, Any] = {"object_size": (28, 28), "canvas_side": 60}
    oracle = make_placer("oracle", 8, **sides)
    assert oracle is not None
    assert torch.equal(oracle(0, LEARNED, position), oracle_location(position, (28, 28), 60))
    draws = []
    for seed in (0, 0, 1):
        generator = torch.Generator().manual_seed(seed)
        random = make_placer("random", 8, **sides, generator=generator)
        assert random is not None
        draws.append(random(0, LEARNED, position))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    assert make_placer("learned", 8, **sides) is None


@pytest.mark.parametrize("name", ["random", "centre", "raster"])
def test_only_the_oracle_asks_where_the_object_is(name):
    placer = make_placer(name, 8, object_size=(28, 28), canvas_side=60)
    assert placer is not None
    assert placer(0, LEARNED, torch.full((3, 2), -1)).shape == (3, 2)  # nowhere


def test_the_score_is_0_at_random_1_at_the_oracle_and_straight_between():
    assert normalised_score(0.75, 0.5, 1.0) == 0.5
    assert normalised_score(84.0, 84.0, 96.0) == 0
    assert normalised_score(96.0, 84.0, 96.0) == 1
    assert normalised_score(78.0, 84.0, 96.0) == -0.5
    with pytest.raises(ValueError, match="oracle_accuracy must be above random_accuracy"):
        normalised_score(0.5, 0.7, 0.7)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(ValueError, match=f"one of {', '.join(CONTROLS)}, got 'best'"):
        make_control("best", 8)
    with pytest.raises(ValueError, match="num_glimpses"):
        make_control("centre", 0)
    with pytest.raises(ValueError, match="num_places"):
        raster_places(0)
    control = make_control("learned", 8)
    for step in (-1, 8):
        with pytest.raises(ValueError, match=r"step must be in 0\.\.7"):
            control(step, LEARNED, ORACLE)
    with pytest.raises(ValueError, match=r"learned must have shape \(N, 2\)"):
        control(0, LEARNED.T, ORACLE)
    with pytest.raises(ValueError, match=r"oracle must have shape \(N, 2\)"):
        control(0, LEARNED, ORACLE[:, :1])
    with pytest.raises(ValueError, match="got 3 and 1"):
        control(0, LEARNED, ORACLE[:1])
    with pytest.raises(ValueError, match="position"):
        oracle_location(torch.zeros(2), (28, 28), 60)
    with pytest.raises(ValueError, match="outside the canvas of 60 px"):
        oracle_location(torch.tensor([[33, 0]]), (28, 28), 60)
