"""Diagnostics: coverage and gains by hand, and hindsight against a slow loop."""

from typing import Any

import gymnasium
import pytest
import torch

import ram_env
from agents.diagnostics import (
    behaviour,
    bits_gained,
    coverage,
    location_spread,
    play_in_hindsight,
    sizes_of,
)
from agents.evaluation import Beliefs, play_split, score_by_glimpse
from agents.ram import RAMConfig, RecurrentAttentionModel

SIZES: dict[str, Any] = {"canvas_side": 60, "object_size": (28, 28), "glimpse_size": 12}


def at_pixels(pixels, position) -> Beliefs:
    """Make beliefs of one pass over one image whose glimpses lie at pixels (T, 2) of 60."""
    locations = torch.tensor(pixels, dtype=torch.float32)[None, None] / 30 - 1  # (1, 1, T, 2)
    log_p = torch.zeros(*locations.shape[:3], 2)
    return Beliefs(log_p, torch.zeros(1).long(), locations, torch.tensor([position]))


def test_the_fovea_covers_the_middle_by_hand():
    # The digit at (10, 20) covers x 10..37 and y 20..47; its middle pixel is (24, 34). A fovea
    # at c covers c - 6 .. c + 5, so it holds 24 for c = 19..30, and 34 for 29..40.
    inside = [(24, 34), (19, 29), (30, 40)]
    outside = [(18, 34), (31, 34), (24, 28), (24, 41), (60, 60)]
    beliefs = at_pixels([*inside, *outside], (10, 20))
    assert coverage(beliefs, "centre", **SIZES).tolist() == [1] * 3 + [0] * 5


def test_the_fovea_touches_the_object_by_hand():
    # c - 6 <= 37 and c + 5 >= 10: c = 5..43 in x; likewise 15..53 in y
    inside = [(5, 15), (43, 53), (24, 34), (5, 53)]
    outside = [(4, 34), (44, 34), (24, 14), (24, 54)]
    beliefs = at_pixels([*inside, *outside], (10, 20))
    assert coverage(beliefs, "object", **SIZES).tolist() == [1] * 4 + [0] * 4


def test_coverage_is_a_share_of_images_and_passes():
    # of four episodes one looks at the object, another at its corner
    locations = torch.ones(2, 2, 1, 2)
    locations[0, 1], locations[1, 0] = 0, -0.5  # pixels (30, 30) and (15, 15)
    positions = torch.tensor([[16, 16], [16, 16]])  # x and y 16..43, middle 30
    beliefs = Beliefs(torch.zeros(2, 2, 1, 2), torch.zeros(2).long(), locations, positions)
    assert coverage(beliefs, "centre", **SIZES).tolist() == [0.25]
    assert coverage(beliefs, "object", **SIZES).tolist() == [0.5]


def test_behaviour_tells_collapsed_labels_and_places_by_hand():
    # two passes over two images, three glimpses; the first glimpse counts nowhere
    locations = torch.tensor([[-0.9, 0.0, 0.0], [0.9, 0.0, 1.0]])  # of both passes, x and y
    locations = locations[None, :, :, None].expand(2, 2, 3, 2)
    named = torch.tensor([[0, 1], [1, 1]])  # (M, n)
    log_p = torch.nn.functional.one_hot(named, 3).float().log()[:, :, None].expand(2, 2, 3, 3)
    positions = torch.tensor([[16, 16], [16, 16]])  # middle 30
    beliefs = Beliefs(log_p, torch.zeros(2).long(), locations, positions)
    assert behaviour(beliefs, **SIZES) == {
        "eval/most_named": 75.0,
        "eval/centre_coverage": 75.0,
        "eval/location_spread": 0.25,  # 0 at the second glimpse, half of 1 at the third
    }
    first = beliefs._replace(log_p=log_p[:, :, :1], locations=locations[:, :, :1])
    assert behaviour(first, **SIZES) == {"eval/most_named": 75.0}


def test_the_sizes_are_those_of_the_environment(toy_dataset):
    env = gymnasium.make_vec("ClutteredMNISTGlimpse-v0", num_envs=1, dataset=toy_dataset)
    assert sizes_of(env) == SIZES


def test_coverage_agrees_with_the_retina():
    """Light the object's pixels, or its middle one: covered is what reads above 0."""
    rng = torch.Generator().manual_seed(0)
    n = 500
    locations = torch.rand(n, 2, generator=rng) * 2 - 1
    positions = torch.randint(0, 33, (n, 2), generator=rng)
    beliefs = Beliefs(
        torch.zeros(1, n, 1, 2), torch.zeros(n).long(), locations[None, :, None], positions
    )
    for part, offset, width in (("object", 0, 28), ("centre", 14, 1)):
        canvases = torch.zeros(n, 60, 60, dtype=torch.uint8)
        for canvas, (x, y) in zip(canvases, (positions + offset).tolist(), strict=True):
            canvas[y : y + width, x : x + width] = 255
        seen = torch.as_tensor(ram_env.extract_glimpses(canvases, locations, size=12))
        share = coverage(beliefs, part, **SIZES)[0]
        assert 0.02 < share < 0.98
        assert share == seen.flatten(1).any(1).float().mean()


def test_spread_by_hand():
    locations = torch.tensor([[[[0.0, 0.5], [1, 0]], [[0, -0.5], [1, 1]]]])  # (1, 2, T, 2)
    beliefs = Beliefs(
        torch.zeros(1, 2, 2, 2), torch.zeros(2).long(), locations, torch.zeros(2, 2).long()
    )
    # glimpse 1: x always 0, y +-0.5; glimpse 2: x always 1, y 0 and 1
    assert location_spread(beliefs).tolist() == [[0, 0.5], [0, 0.5]]


def test_bits_by_hand():
    # The label's probability: image 0 1/4, 1/2, 1; image 1 1/2, 1/8, 1/8. Gains: 1, 1; -2, 0.
    of_label = torch.tensor([[[0.25, 0.5, 1], [0.5, 0.125, 0.125]]])
    log_p = torch.full((1, 2, 3, 3), -9.0)
    log_p[:, 0, :, 2], log_p[:, 1, :, 0] = of_label[:, 0].log(), of_label[:, 1].log()
    beliefs = Beliefs(
        log_p, torch.tensor([2, 0]), torch.zeros(1, 2, 3, 2), torch.zeros(2, 2).long()
    )
    assert bits_gained(beliefs).tolist() == pytest.approx([-0.5, 0.5])


def make_model(num_classes=4) -> RecurrentAttentionModel:
    torch.manual_seed(0)
    config = RAMConfig((3, 4, 4), num_classes, what_size=8, where_size=8, hidden_size=8)
    model = RecurrentAttentionModel(config)
    for weight in model.parameters():  # larger weights, livelier beliefs
        weight.data *= 3
    return model


def play(model, num_images=60, **keywords) -> tuple[Beliefs, torch.Tensor]:
    """Return beliefs about some signpost boards, and the boards."""
    env = gymnasium.make_vec(
        "SignpostGlimpse-v0",
        num_envs=num_images,
        split="validation",
        order="sequential",
        action_format="dict",
        **keywords,
    )
    canvases, _ = ram_env.frozen_canvases("SignpostGlimpse-v0", "validation")
    return play_split(model, env, num_images), torch.from_numpy(canvases[:num_images])


def sense(canvases, locations) -> torch.Tensor:
    return torch.as_tensor(ram_env.extract_glimpses(canvases, locations, size=4))


def test_a_model_that_ignores_its_glimpses_gains_nothing():
    model = make_model()
    model.action_network.weight.data.zero_()
    beliefs, _ = play(model)
    assert bits_gained(beliefs).tolist() == [0, 0, 0]


@torch.no_grad()
def test_hindsight_is_the_slow_loop():
    model = make_model()
    start, canvases = play(model, 5)
    beliefs = play_in_hindsight(model, start, canvases, sense, grid_size=3, chunk_size=2)
    centres = [-2 / 3, 0.0, 2 / 3]
    places = [torch.tensor([[x, y]]) for x in centres for y in centres]
    for k in range(5):
        canvas, label = canvases[k : k + 1], start.labels[k]
        location, state = start.locations[0, k, :1], model.initial_state(1)
        output, state = model(sense(canvas, location), location, state)
        for t in range(4):
            assert torch.allclose(beliefs.locations[0, k, t], location[0], atol=1e-6)
            log_p = output.logits.log_softmax(1)[0]
            assert torch.allclose(beliefs.log_p[0, k, t], log_p, atol=1e-4)
            tried = [(model(sense(canvas, place), place, state), place) for place in places]
            (output, state), location = max(
                tried, key=lambda trial: float(trial[0][0].logits.log_softmax(1)[0, label])
            )


def log_p_of_label(beliefs: Beliefs) -> torch.Tensor:
    """Return the label's log-probabilities, (n, T)."""
    return beliefs.log_p[0, torch.arange(len(beliefs.labels)), :, beliefs.labels]


def test_hindsight_begins_where_the_agent_did_and_a_finer_grid_never_hurts_at_first():
    model = make_model()
    start, canvases = play(model)
    coarse, fine = (
        play_in_hindsight(model, start, canvases, sense, grid_size=size) for size in (3, 9)
    )  # every centre of 3 x 3 cells is one of 9 x 9
    assert torch.equal(fine.locations[:, :, 0], start.locations[:, :, 0])
    assert torch.allclose(fine.log_p[:, :, 0], start.log_p[:, :, 0], atol=1e-5)
    assert (log_p_of_label(fine)[:, 1] >= log_p_of_label(coarse)[:, 1] - 1e-5).all()
    assert (log_p_of_label(fine)[:, 1] > log_p_of_label(coarse)[:, 1]).any()


def test_of_two_glimpses_hindsight_chooses_no_worse_than_an_agent_with_the_same_places():
    model = make_model()  # that always looks at a centre of the grid
    model.location_network.mean.weight.data.zero_()
    model.location_network.mean.bias.data.zero_()
    start, canvases = play(model, num_glimpses=2)
    hindsight = play_in_hindsight(model, start, canvases, sense, grid_size=3)
    assert (log_p_of_label(hindsight) >= log_p_of_label(start) - 1e-5).all()


@pytest.mark.parametrize("chunk_size", [1, 7, 100])  # 7 does not divide 10
def test_hindsight_takes_fewer_images_in_chunks_of_any_size(chunk_size):
    model = make_model()
    start, canvases = play(model)
    expected = play_in_hindsight(model, start, canvases, sense, grid_size=3)
    some = play_in_hindsight(model, start, canvases[:10], sense, grid_size=3, chunk_size=chunk_size)
    assert torch.allclose(some.log_p, expected.log_p[:, :10], atol=1e-4)
    assert torch.equal(some.labels, expected.labels[:10])
    assert [score.total for score in score_by_glimpse(some)] == [10] * 4


@pytest.mark.parametrize(
    ("num_canvases", "sizes", "named"),
    [(0, {}, "canvases"), (6, {}, "canvases"), (5, {"grid_size": 0}, "grid_size")],
)
def test_what_hindsight_cannot_play_is_named(num_canvases, sizes, named):
    model = make_model()
    start, canvases = play(model, 6)
    start = Beliefs(start.log_p[:, :5], start.labels[:5], start.locations, start.positions)
    with pytest.raises(ValueError, match=named):
        play_in_hindsight(model, start, canvases[:num_canvases], sense, **sizes)
