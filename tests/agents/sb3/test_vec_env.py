"""The adapter returns what Stable-Baselines3's own DummyVecEnv does, and refuses what it can't."""

from __future__ import annotations

from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.classic_control import CartPoleEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv
from gymnasium.wrappers import TimeLimit
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


@pytest.mark.parametrize("mode", [AutoresetMode.NEXT_STEP, AutoresetMode.DISABLED])
def test_other_autoreset_modes_are_refused_with_the_keyword_to_pass(mode):
    env = gym.make_vec("CartPole-v1", 2, "sync", vector_kwargs={"autoreset_mode": mode})
    with pytest.raises(
        ValueError, match=r'SAME_STEP, got .*vector_kwargs=\{"autoreset_mode": Auto'
    ):
        GlimpseVecEnv(env)
    with pytest.raises(ValueError, match=r'pass autoreset_mode="SameStep" to gymnasium\.make_vec'):
        GlimpseVecEnv(native(autoreset_mode=mode))
    assert GlimpseVecEnv(native(autoreset_mode="SameStep")).num_envs == N
    keywords = {"autoreset_mode": AutoresetMode.SAME_STEP}
    assert GlimpseVecEnv(gym.make_vec("CartPole-v1", 2, "sync", vector_kwargs=keywords))


def test_a_single_environment_tensors_and_arrays_that_would_change_are_refused():
    with pytest.raises(ValueError, match="env must be a vector environment"):
        GlimpseVecEnv(signpost())  # pyright: ignore[reportArgumentType]
    env = SyncVectorEnv([cart_pole], copy=False, autoreset_mode=SAME_STEP)
    with pytest.raises(ValueError, match="copy=True"):
        GlimpseVecEnv(env)
    env = GlimpseVecEnv(native(device="cpu"))
    with pytest.raises(ValueError, match=r"NumPy arrays, got \['Tensor'\]"):
        env.reset()


# Seeds and options


def test_seeds_hold_for_one_reset_and_then_episodes_continue():
    env, reference = GlimpseVecEnv(native()), native()
    seeds: Any = [(5, [5, 6, 7]), (np.int64(3), [3, 4, 5]), (np.arange(N), [0, 1, 2])]
    for seed, of_lanes in [*seeds, ([9, 9, 2], [9, 9, 2])]:
        assert env.seed(seed) == of_lanes
        assert_same(env.reset(), reference.reset(seed=of_lanes)[0])
        assert_same(env.reset(), reference.reset()[0])
    assert len(set(env.seed(None))) == N
    for wrong in ([1, 2], [1, 2, 1.5], [1, 2, True], -1, np.array([1, -2, 3])):
        with pytest.raises(ValueError, match="seed must be None or an int >= 0, or a list of 3"):
            env.seed(wrong)  # pyright: ignore[reportArgumentType]


def test_options_hold_for_one_reset():
    env, own = GlimpseVecEnv(native()), np.array([4, 2, 0])
    for options in ({"index": own}, [{"index": own.copy()} for _ in range(N)]):
        env.set_options(options)
        env.reset()
        assert [info["index"] for info in env.reset_infos] == [4, 2, 0]
        env.reset()
        assert [info["index"] for info in env.reset_infos] != [4, 2, 0]
    env.set_options([{"index": lane} for lane in range(N)])
    with pytest.raises(ValueError, match="same for all lanes"):
        env.reset()


# Attributes and methods


@pytest.mark.parametrize("kind", [SyncVectorEnv, AsyncVectorEnv])
def test_attributes_of_single_environments_are_their_own(kind):
    limits = [lambda limit=limit: TimeLimit(CartPoleEnv(), limit) for limit in (5, 6, 7)]
    env = GlimpseVecEnv(kind(limits, autoreset_mode=SAME_STEP))
    assert env.get_attr("_max_episode_steps") == [5, 6, 7]
    assert env.env_method("get_wrapper_attr", "_max_episode_steps") == [5, 6, 7]
    env.set_attr("gravity", 1.0)
    assert env.get_attr("gravity", [2]) == [1.0]
    assert env.get_attr("action_space", 0) == [env.action_space]
    assert env.env_is_wrapped(TimeLimit) == [True] * N
    assert env.env_is_wrapped(Monitor, 0) == [False]  # pyright: ignore[reportArgumentType]
    for ask in (env.set_attr, env.env_method):
        with pytest.raises(ValueError, match="in all lanes only: leave indices out"):
            ask("gravity", 1.0, indices=[0])
    env.close()


def test_attributes_of_a_native_vector_env_hold_for_every_lane():
    wrapped = RecordEpisodeStatistics(native())
    env = GlimpseVecEnv(wrapped)
    assert env.get_attr("num_classes") == [4] * N
    assert env.get_attr("episode_count", 1) == [0]  # the wrapper's
    assert env.get_attr("observation_space", 1) == [wrapped.single_observation_space]
    env.set_attr("episode_count", 5)
    assert wrapped.episode_count == 5
    assert len(env.env_method("get_state")) == N
    assert env.env_is_wrapped(Monitor) == [False] * N
    assert not env.has_attr("nothing")
    for ask in (env.set_attr, env.env_method):
        with pytest.raises(ValueError, match="in all lanes only: leave indices out"):
            ask("episode_count", 5, indices=0)


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
