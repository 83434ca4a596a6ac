"""Diagnostics: coverage as the retina sees it, gains by hand, hindsight against a slow loop."""

from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import ram_env
from agents.diagnostics import behaviour, bits_gained, coverage, location_spread, play_in_hindsight
from agents.evaluation import Beliefs, play_split, score_by_glimpse
from agents.ram import RAMConfig, RecurrentAttentionModel

TASK = SimpleNamespace(side=60, glimpse_size=12)


def make_beliefs(
    locations, positions: Any = 16, log_p=None, labels: Any = 0, sizes: Any = 28
) -> Beliefs:
    """Make beliefs from locations (M, n, T, 2); the rest is the same for all, or a tensor."""
    m, n, t, _ = locations.shape
    if log_p is None:
        log_p = torch.zeros(m, n, t, 3)
    corners, sizes = (torch.as_tensor(part).expand(n, 2) for part in (positions, sizes))
    label, boxes = torch.as_tensor(labels).expand(n), torch.cat([corners, sizes], 1)
    return Beliefs(log_p, label, locations, boxes)


def test_behaviour_by_hand():
    # two passes over two images, three glimpses; the first glimpse counts nowhere
    locations = torch.tensor([[-0.9, 0.0, 0.0], [0.9, 0.0, 1.0]])  # of both passes, x and y
    locations = locations[None, :, :, None].expand(2, 2, 3, 2)
    prediction = torch.tensor([[0, 1], [1, 1]])  # (M, n)
    log_p = torch.nn.functional.one_hot(prediction, 3).float().log()[:, :, None].expand(2, 2, 3, 3)
    beliefs = make_beliefs(locations, log_p=log_p)
    assert behaviour(beliefs, TASK) == {
        "eval/most_named": 75.0,
        "eval/centre_coverage": 75.0,
        "eval/location_spread": 0.25,  # 0 at the second glimpse, half of 1 at the third
    }
    first = beliefs._replace(log_p=log_p[:, :, :1], locations=locations[:, :, :1])
    assert behaviour(first, TASK) == {"eval/most_named": 75.0}


def test_coverage_is_the_share_of_images_and_passes_in_which_the_retina_sees_it():
    """Light the objects' pixels, or their middle ones: covered is what reads above 0."""
    rng = torch.Generator().manual_seed(0)
    n = 500
    locations = torch.rand(2, n, 2, generator=rng) * 2 - 1  # of two passes
    positions = torch.randint(0, 33, (n, 2), generator=rng)
    sizes = torch.randint(14, 29, (n, 2), generator=rng)
    beliefs = make_beliefs(locations[:, :, None], positions, sizes=sizes)
    middles = torch.cat([positions + sizes // 2, torch.ones_like(sizes)], 1)
    parts: Any = (("object", beliefs.boxes), ("centre", middles))
    for part, boxes in parts:
        canvases = torch.zeros(n, 60, 60, dtype=torch.uint8)
        for canvas, (x, y, width, height) in zip(canvases, boxes.tolist(), strict=True):
            canvas[y : y + height, x : x + width] = 255
        passes = [ram_env.extract_glimpses(canvases, each, size=12) for each in locations]
        seen = torch.as_tensor(np.stack(passes))  # (M, n, S, G, G)
        share = coverage(beliefs, part, TASK)[0]
        assert 0.02 < share < 0.98
        assert share == seen.flatten(2).any(2).float().mean()


def test_spread_by_hand():
    locations = torch.tensor([[[[0.0, 0.5], [1, 0]], [[0, -0.5], [1, 1]]]])  # (1, 2, T, 2)
    # glimpse 1: x always 0, y +-0.5; glimpse 2: x always 1, y 0 and 1
    assert location_spread(make_beliefs(locations)).tolist() == [[0, 0.5], [0, 0.5]]
    two_passes = locations.transpose(0, 1)  # of one image: all episodes count alike
    assert location_spread(make_beliefs(two_passes)).tolist() == [[0, 0.5], [0, 0.5]]


def test_bits_by_hand():
    # The label's probability: image 0 1/4, 1/2, 1; image 1 1/2, 1/8, 1/8. Gains: 1, 1; -2, 0.
    of_label = torch.tensor([[[0.25, 0.5, 1], [0.5, 0.125, 0.125]]])
    log_p = torch.full((1, 2, 3, 3), -9.0)
    log_p[:, 0, :, 2], log_p[:, 1, :, 0] = of_label[:, 0].log(), of_label[:, 1].log()
    beliefs = make_beliefs(torch.zeros(1, 2, 3, 2), log_p=log_p, labels=torch.tensor([2, 0]))
    assert bits_gained(beliefs).tolist() == pytest.approx([-0.5, 0.5])


def play(num_images: int) -> tuple[RecurrentAttentionModel, Beliefs, torch.Tensor]:
    """Return a model, its beliefs about some signpost boards, and the boards."""
    torch.manual_seed(0)
    config = RAMConfig((3, 4, 4), 4, what_size=8, where_size=8, hidden_size=8)
    model = RecurrentAttentionModel(config)
    for weight in model.parameters():  # larger weights, livelier beliefs
        weight.data *= 3
    keywords: Any = {"split": "validation", "order": "sequential", "action_format": "dict"}
    env = gymnasium.make_vec("SignpostGlimpse-v0", num_envs=num_images, **keywords)
    canvases, _ = ram_env.frozen_canvases("SignpostGlimpse-v0", "validation")
    return model, play_split(model, env, num_images), torch.from_numpy(canvases[:num_images])


def sense(canvases, locations) -> torch.Tensor:
    return torch.as_tensor(ram_env.extract_glimpses(canvases, locations, size=4))


@torch.no_grad()
@pytest.mark.parametrize("chunk_size", [1, 2, 100])  # 2 does not divide 5
def test_hindsight_is_the_slow_loop_for_some_of_the_images_in_chunks_of_any_size(chunk_size):
    model, start, canvases = play(8)
    canvases = canvases[:5]
    beliefs = play_in_hindsight(model, start, canvases, sense, grid_size=3, chunk_size=chunk_size)
    assert torch.equal(beliefs.labels, start.labels[:5])
    assert [score.total for score in score_by_glimpse(beliefs)] == [5] * 4
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


@pytest.mark.parametrize("num_canvases", [0, 6])
def test_hindsight_needs_canvases_that_have_labels(num_canvases):
    model, start, canvases = play(5)
    canvases = torch.cat((canvases, canvases))[:num_canvases]
    with pytest.raises(ValueError, match="canvases must be 1 to 5"):
        play_in_hindsight(model, start, canvases, sense)
