"""Flat histories hold what the dict observations do, and features of both are the same."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch
from gymnasium import spaces

import ram_env  # noqa: F401
from agents.sb3 import GlimpseVecEnv, HistoryFeatures, VectorGlimpseHistory
from agents.sb3.flat import FlatHistoryFeatures, FlatVecEnv, flatten

N, T = 3, 4


def make_lanes() -> GlimpseVecEnv:
    env: Any = gym.make_vec("SignpostGlimpse-v0", num_envs=N)
    return GlimpseVecEnv(VectorGlimpseHistory(env))


def test_flat_lanes_hold_the_numbers_of_the_dict_in_the_spaces_order_final_ones_too():
    flat, lanes = FlatVecEnv(make_lanes()), make_lanes()
    space: Any = lanes.observation_space
    for each in (flat, lanes):
        each.seed(0)
    pairs, rng = [(flat.reset(), lanes.reset())], np.random.default_rng(0)
    for _ in range(2 * T):
        actions = rng.uniform(-1, 1, (N, 6)).astype(np.float32)
        (obs, *_, infos), (expected, _, ended, dicts) = flat.step(actions), lanes.step(actions)
        pairs.append((obs, expected))
        for i in np.flatnonzero(ended):
            final: Any = dicts[i]["terminal_observation"]
            assert final["mask"].sum() == T
            flat_final = infos[i]["terminal_observation"]
            assert flat.observation_space.contains(flat_final)
            assert (flat_final == spaces.flatten(space, final)).all()
    assert flat.observation_space == spaces.flatten_space(space)
    for obs, expected in pairs:
        one_by_one: Any = expected
        for i in range(N):
            lane = {name: part[i] for name, part in one_by_one.items()}
            assert (obs[i] == spaces.flatten(space, lane)).all()


def test_flat_features_are_those_of_the_dict():
    lanes = make_lanes()
    space: Any = lanes.observation_space
    torch.manual_seed(0)
    features = HistoryFeatures(space, num_features=16)
    box: Any = spaces.flatten_space(space)
    flat = FlatHistoryFeatures(box, history=space, num_features=16)
    flat.load_state_dict(features.state_dict())
    obs: Any = lanes.reset()
    for _ in range(T - 1):
        obs = lanes.step(np.zeros((N, 6), np.float32))[0]
    expected = features({name: torch.as_tensor(part) for name, part in obs.items()})
    assert expected.count_nonzero() > 0
    assert flat(torch.as_tensor(flatten(obs, space))).equal(expected)
