"""The adapter returns what Stable-Baselines3's own DummyVecEnv does, and refuses what it can't."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers.vector import RecordEpisodeStatistics
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

import ram_env  # noqa: F401
from agents.sb3 import GlimpseVecEnv
from agents.sb3.vec_env import split_infos

N = 3
SAME_STEP = AutoresetMode.SAME_STEP
TOY: dict[str, Any] = {"dataset": "toy", "num_glimpses": 3}

# Scalars may be NumPy's or Python's, if they are of one kind
assert_same = partial(torch.testing.assert_close, rtol=0, atol=0)

pytestmark = pytest.mark.usefixtures("toy_dataset")


def cart_pole(monitored: bool = False) -> gym.Env:
    """Make an env whose episodes end by falling and, at 18 steps, by a time limit."""
    env = gym.make("CartPole-v1", max_episode_steps=18)
    return Monitor(env) if monitored else env


def signpost() -> gym.Env:
    return gym.make("ram_env:SignpostGlimpse-v0", allow_stop=True)


def native(env_id: str = "SignpostGlimpse-v0", num_envs: int = N, **keywords: Any) -> Any:
    return gym.make_vec(env_id, num_envs=num_envs, **keywords)


def walk_together(ours: VecEnv, theirs: VecEnv, steps: int) -> int:
    """Play the same actions in both, assert equal results, and return the episodes that ended."""
    ended = 0
    space = ours.action_space
    space.seed(0)
    ours.seed(7)
    theirs.seed(7)
    assert_same(ours.reset(), theirs.reset())
    assert_same(ours.reset_infos, theirs.reset_infos)
    for _ in range(steps):
        actions = np.stack([space.sample() for _ in range(N)])
        got, expected = ours.step(actions), theirs.step(actions)
        assert_same(got, expected)
        assert_same(ours.reset_infos, theirs.reset_infos)
        ended += int(got[2].sum())
    assert_same(ours.reset(), theirs.reset())
    return ended


# The same as DummyVecEnv


@pytest.mark.parametrize(
    ("kind", "single", "steps"),
    [
        (SyncVectorEnv, cart_pole, 200),
        (SyncVectorEnv, partial(cart_pole, monitored=True), 200),
        (AsyncVectorEnv, signpost, 40),
    ],
)
def test_it_equals_dummy_vec_env_on_single_environments(kind, single, steps, monkeypatch):
    monkeypatch.setattr("time.time", lambda: 0.0)  # which Monitor tells
    ours = GlimpseVecEnv(kind([single] * N, autoreset_mode=SAME_STEP))
    assert walk_together(ours, DummyVecEnv([single] * N), steps) > 10
    ours.close()


@pytest.mark.parametrize(
    ("env_id", "keywords"),
    [
        ("SignpostGlimpse-v0", {"allow_stop": True}),
        ("SignpostGlimpse-v0", {"action_format": "multidiscrete", "reward": "dense"}),
        ("MNISTGlimpse-v0", TOY),
    ],
)
def test_it_equals_dummy_vec_env_on_our_vector_env(env_id, keywords):
    ours = GlimpseVecEnv(native(env_id, **keywords))
    theirs = DummyVecEnv([lambda: gym.make(env_id, **keywords)] * N)
    assert walk_together(ours, theirs, 40) > 10


def test_what_is_returned_may_be_changed():
    env, other = GlimpseVecEnv(native()), GlimpseVecEnv(native())
    env.seed(1)
    other.seed(1)
    actions = np.zeros((N, 6), np.float32)
    assert_same(env.reset(), other.reset())
    for _ in range(9):
        got, expected = env.step(actions), other.step(actions)
        assert_same(got, expected)
        obs, reward, ended, infos = got
        assert isinstance(obs, dict)
        for array in (*obs.values(), reward, ended):
            array[...] = 0
        for info in infos:
            info["mine"] = info.pop("label")
        env.reset_infos[0]["mine"] = 1


# Infos


def test_infos_are_split_by_their_masks():
    infos = {
        "a": np.array([1, 2, 3]),
        "_a": np.ones(3, bool),
        "b": np.array([0.0, 5.0, 0.0]),
        "_b": np.array([False, True, False]),
        "c": {"d": np.eye(3), "_d": np.array([True, False, True])},
        "_c": np.array([True, False, True]),
        "e": "for all",
    }
    rows = split_infos(infos, 3)
    assert [sorted(row) for row in rows] == [["a", "c", "e"], ["a", "b", "e"], ["a", "c", "e"]]
    assert [row["a"] for row in rows] == [1, 2, 3]
    assert type(rows[0]["a"]) is int
    assert rows[1]["b"] == 5.0
    assert rows[2]["c"]["d"].tolist() == [0, 0, 1]
    assert split_infos({}, 2) == [{}, {}]


def test_gymnasiums_own_statistics_reach_stable_baselines():
    env = GlimpseVecEnv(RecordEpisodeStatistics(native()))
    env.reset()
    steps = [env.step(np.zeros((N, 6), np.float32)) for _ in range(4)]
    _, _, ended, infos = steps[-1]
    assert ended.all()
    assert [info["episode"]["l"] for info in infos] == [4] * N
    assert not any("episode" in info for info in env.reset_infos)


# What it refuses


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: native(autoreset_mode="NextStep"), "SAME_STEP: .* got .*NEXT_STEP"),
        (lambda: native(autoreset_mode="Disabled"), "SAME_STEP: .* got .*DISABLED"),
        (lambda: SyncVectorEnv([cart_pole], copy=False, autoreset_mode=SAME_STEP), "fresh arrays"),
        (signpost, "env must be a vector environment"),
        (lambda: native(device="cpu"), r"NumPy arrays, got \['Tensor'\]"),
    ],
)
def test_what_stable_baselines_would_misread_is_refused(make, message):
    with pytest.raises(ValueError, match=message):
        GlimpseVecEnv(make()).reset()


# Seeds, options, attributes


def test_seeds_hold_for_one_reset_and_then_episodes_continue():
    env, reference = GlimpseVecEnv(native()), native()
    seeds: Any = [(5, [5, 6, 7]), ([9, 9, 2], [9, 9, 2])]
    for seed, of_lanes in seeds:
        assert env.seed(seed) == of_lanes
        assert_same(env.reset(), reference.reset(seed=of_lanes)[0])
        assert_same(env.reset(), reference.reset()[0])
    assert len(set(env.seed(None))) == N


def test_options_hold_for_one_reset():
    env = GlimpseVecEnv(native())
    env.set_options({"index": np.array([4, 2, 0])})
    env.reset()
    assert [info["index"] for info in env.reset_infos] == [4, 2, 0]
    env.reset()
    assert [info["index"] for info in env.reset_infos] != [4, 2, 0]


def test_attributes_are_those_of_the_vector_environment_and_are_not_set_through_lanes():
    wrapped = RecordEpisodeStatistics(native())
    env = GlimpseVecEnv(wrapped)
    assert env.get_attr("num_classes") == [4] * N
    assert env.get_attr("episode_count", 1) == [0]  # the wrapper's
    assert env.get_attr("observation_space", 1) == [wrapped.single_observation_space]
    assert env.env_is_wrapped(Monitor) == [False] * N
    assert not env.has_attr("nothing")
    for ask in (env.set_attr, env.env_method):
        with pytest.raises(NotImplementedError, match="all lanes are one environment"):
            ask("episode_count", 5)


# What Stable-Baselines3 puts around it


def test_each_lane_has_a_frame_and_they_are_tiled():
    env = GlimpseVecEnv(native(render_mode="rgb_array", num_envs=4))
    env.reset()
    frames = env.get_images()
    assert len(frames) == 4
    assert env.metadata["render_fps"] == 4
    assert frames[0] is not None
    tiled = env.render()
    assert tiled is not None
    assert tiled.shape == (2 * frames[0].shape[0], 2 * frames[0].shape[1], 3)
    assert GlimpseVecEnv(native()).get_images() == [None] * N
