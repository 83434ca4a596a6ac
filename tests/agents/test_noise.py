"""The noise of training belongs to seed, lane, episode and place, and has its distributions."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from agents import noise
from agents.noise import Noise
from ram_env.draws import draw_words
from tests.pretend_gpu import GPUS

SIZES: dict[str, Any] = {"num_glimpses": 3, "num_classes": 5, "num_shared": 2}


def test_a_lane_draws_the_same_whichever_lanes_are_beside_it():
    whole = Noise(7, range(6), **SIZES).draw(4)
    part = Noise(7, (5, 1), **SIZES).draw(torch.tensor(4))
    for name, lanes_axis in (("normal", 1), ("uniform", 1), ("clocks", 1), ("shift", 0)):
        mine = getattr(whole, name).index_select(lanes_axis, torch.tensor([5, 1]))
        assert torch.equal(mine, getattr(part, name)), name
    assert torch.equal(whole.shared, part.shared)


def test_no_two_seeds_lanes_episodes_or_places_share_a_draw():
    drawn = [Noise(s, range(50), **SIZES).draw(e) for s in (0, 1) for e in (0, 1, 2)]
    uniform = torch.cat([torch.cat([each.uniform.flatten(), each.shared]) for each in drawn])
    assert len(uniform.unique()) == len(uniform)


def test_words_are_those_of_the_environments():
    source = Noise(7, range(6), **SIZES)
    keys = source._keys.numpy().view(np.uint64)
    words = draw_words(keys, np.full(len(keys), 4), 2)[0]
    shared = ((words >> np.uint64(11)).astype(np.float64) + 0.5) / 2**53
    assert source.draw(4).shared.tolist() == shared.astype(np.float32).tolist()


def test_a_long_replay_needs_more_words_than_an_episode_and_changes_no_other():
    usual, more = (Noise(7, range(6), **{**SIZES, "num_shared": n}).draw(4) for n in (2, 1000))
    assert more.shared.shape == (1000,)
    for name, part in usual._asdict().items():
        assert torch.equal(part, getattr(more, name)[: len(part)])


def test_moments_are_those_of_the_distributions():
    drawn = Noise(0, range(20_000), **SIZES).draw(0)
    assert drawn.normal.shape == drawn.uniform.shape == (3, 20_000, 2)
    assert drawn.clocks.shape == (3, 20_000, 5)
    assert drawn.shift.shape == (20_000, 2)
    # mean, variance and fourth central moment, by hand
    for part, mean, variance, fourth in (
        (drawn.normal, 0, 1, 3),
        (drawn.uniform, 0, 1 / 3, 1 / 5),
        (drawn.clocks, 1, 1, 9),
        (drawn.shift, 1 / 2, 1 / 12, 1 / 80),
    ):
        n = part.numel()
        assert part.mean().item() == pytest.approx(mean, abs=5 * (variance / n) ** 0.5)
        error = 5 * ((fourth - variance**2) / n) ** 0.5
        assert part.var().item() == pytest.approx(variance, abs=error)
    together = torch.cat([part.movedim(1, 0).flatten(1).T for part in drawn[:3]])
    assert (torch.corrcoef(together) - torch.eye(len(together))).abs().max() < 0.04
    assert drawn.clocks.min() > 0


@pytest.mark.parametrize("device", GPUS, indirect=True)
def test_a_gpu_draws_what_the_cpu_draws(device):
    there = Noise(7, range(6), device=device, **SIZES).draw(4)
    for mine, theirs in zip(Noise(7, range(6), **SIZES).draw(4), there, strict=True):
        torch.testing.assert_close(theirs.cpu(), mine)


def test_a_share_is_below_1_although_float32_would_round_up_to_it(monkeypatch):
    monkeypatch.setattr(noise, "_mix", lambda words: torch.full_like(words, -1))  # all bits set
    drawn = Noise(0, range(2), **SIZES).draw(0)
    assert drawn.shift.max() < 1
    assert drawn.shared.max() < 1
    assert drawn.normal.isfinite().all()
