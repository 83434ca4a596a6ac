"""The determinism contract: what an episode depends on, and that a state holds all of it.

Dimension key:
    N: lanes (sub-environments)
    n: images in a split
"""

from __future__ import annotations

import copy
import json
import math
import pickle
from contextlib import suppress
from dataclasses import asdict
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import ram_env
from ram_env.frozen import FROZEN_SHA256, digest, frozen_canvases
from ram_env.signpost import SignpostScenes
from ram_env.states import join_states, split_state
from ram_env.tasks import SignpostTask
from ram_env.testing import assert_same
from tests.script_helpers import register_variant
from tests.vector_envs import make_single, make_vector, sampler

NUM_TOY = 40  # images in each of its splits

pytestmark = pytest.mark.usefixtures("toy_dataset")


def visits(env: Any, count: int, seed: int | None = None) -> list[tuple[int, bytes, bytes]]:
    """Return (index, scene, first location) of visits 0 .. count - 1 of a sequential env."""
    seen: list[tuple[int, bytes, bytes]] = []
    while len(seen) < count:
        obs, infos = env.reset(seed=None if seen else seed)
        glimpses = [glimpse.tobytes() for glimpse in obs["glimpse"]]
        locations = [location.tobytes() for location in obs["location"]]
        seen += zip(infos["index"].tolist(), glimpses, locations, strict=True)
    return seen[:count]


# Order, splits and options


@pytest.mark.parametrize("split", ["train", "validation", "test", "train+validation"])
def test_sequential_visits_are_the_same_for_any_num_envs_and_seed(split):
    keywords = {"order": "sequential", "split": split}
    expected = visits(make_vector("whole", 1, **keywords), 100)
    num_images = 2 * NUM_TOY if "+" in split else NUM_TOY
    assert [index for index, _, _ in expected] == [visit % num_images for visit in range(100)]
    for num_envs, seed in ((3, 0), (40, 1), (64, None)):
        assert visits(make_vector("whole", num_envs, **keywords), 100, seed) == expected


def test_the_scale_of_the_object_moves_no_other_draw():
    images = np.random.default_rng(0).integers(1, 256, (40, 28, 28), np.uint8)
    images[7] = 0  # leaves the clutter alone on its canvas
    ram_env.register_dataset("one-black", lambda: {"train": (images, np.arange(40) % 4)})
    shown = []
    for scale in (1, 0.6, (0.5, 1.1)):
        env = make_vector("whole", dataset="one-black", num_envs=6, object_scale=scale)
        obs, infos = env.reset(seed=3)
        env.reset(seed=3, options={"index": 7})
        canvases = [env._episodes.canvas(lane) for lane in range(6)]
        shown.append([obs["location"], infos["index"], infos["label"], canvases])
    assert_same(shown[1:], shown[:1] * 2)
    assert np.any(shown[0][-1])


# Saved states


COPIES = {
    "json": lambda env: None,
    "deepcopy": copy.deepcopy,
    "pickle": lambda env: pickle.loads(pickle.dumps(env)),
}


def future(env: Any, actions: list[Any]) -> list[Any]:
    """Return all that happens under these actions, and in two resets after them."""
    seen = []
    for action in actions:
        if not env.unwrapped._episodes.running.any():  # a single env's end
            seen.append(env.reset())
        seen.append(env.step(copy.deepcopy(action)))
    return [*seen, env.reset(), env.reset(), env.reset(seed=77)]


@pytest.mark.parametrize("steps", [0, 5])
@pytest.mark.parametrize("kind", ["single", "SameStep", "NextStep", "cpu"])
@pytest.mark.parametrize("way", COPIES)
@pytest.mark.parametrize("task", ["signpost", "whole", "whole-test", "whole-sequential"])
def test_a_saved_env_continues_exactly(task, way, kind, steps):
    def make():
        if kind == "single":
            return make_single(task, allow_stop=True)
        if kind == "cpu":
            return make_vector(task, 3, allow_stop=True, device="cpu")
        return make_vector(task, 3, allow_stop=True, autoreset_mode=kind)

    env, sample = make(), sampler(make_vector(task, 3, allow_stop=True), 1)
    actions = [sample()[0] if kind == "single" else sample() for _ in range(steps + 10)]
    env.reset(seed=6)
    obs, info = env.reset(options={"index": 3, "location": (0.5, 0)})  # a state holds these, too
    for action in actions[:steps]:
        if not env._episodes.running.any():
            env.reset()
        obs, *_, info = env.step(action)
    again = COPIES[way](env)
    if again is None:
        again = make()
        again.reset(seed=99)  # whatever it was before
        shown = again.set_state(json.loads(json.dumps(env.get_state())))
        described = {name: info[name] for name in shown[1]}  # the end of an episode tells more
        assert_same(shown, (obs, described))
    assert again.get_state() == env.get_state()
    assert_same(future(again, actions[steps:]), future(env, actions[steps:]))


def test_the_state_of_an_env_that_was_never_reset_brings_it_back_to_there():
    fresh, env = make_single("whole"), make_single("whole")
    env.reset(seed=3)
    assert env.set_state(fresh.get_state()) is None
    assert env.get_state() == fresh.get_state()
    with pytest.raises(gym.error.ResetNeeded):
        env.step(env.action_space.sample())


def test_the_lanes_states_can_be_split_and_joined():
    def play(seeds: list[int]) -> Any:
        env: Any = gym.make_vec("SignpostGlimpse-v0", num_envs=len(seeds))
        env.reset(seed=seeds)
        for _ in range(6):
            env.step(np.zeros((len(seeds), 6), np.float32))
        return env

    whole, *parts = map(play, ([5, 6, 7, 8], [5, 6], [7, 8]))
    states = [part.get_state() for part in parts]
    assert join_states(states) == whole.get_state()
    assert [split_state(whole.get_state(), part, 2) for part in range(2)] == states
    with pytest.raises(ValueError, match="order='random' to be joined"):
        join_states([make_vector("whole-sequential").get_state()] * 2)
    with pytest.raises(ValueError, match=r"must have shape \(2,\), got \(4,\)"):
        parts[0].set_state(split_state(whole.get_state(), 0, 3))  # 4 lanes in 3 parts


# Seeds from outside


@pytest.mark.parametrize("make", [make_single, make_vector])
def test_an_unseeded_reset_takes_its_key_from_np_random(make):
    def begin(generator_seed: int | None) -> list[Any]:
        env = make("whole")
        if generator_seed is not None:
            env.np_random = np.random.default_rng(generator_seed)
        return [env.reset()[0]["location"], env.reset()[0]["location"]]

    assert_same(begin(3), begin(3))
    places = np.concatenate([*map(np.ravel, (*begin(3), *begin(4), *begin(None), *begin(None)))])
    assert len({*places.tolist()}) == len(places)  # unseeded lanes and envs differ


# Frozen canvases


@pytest.mark.parametrize("split", ["validation", "test"])
@pytest.mark.parametrize("env_id", [*FROZEN_SHA256, "SignpostGlimpse-v0"])
def test_frozen_canvases_never_change_and_are_what_a_sequential_env_shows(env_id, split, request):
    if env_id in FROZEN_SHA256:
        is_fashion = env_id.startswith("Fashion")
        request.getfixturevalue("full_fashion_mnist" if is_fashion else "full_mnist")
    canvases, labels = frozen_canvases(env_id, split)
    if env_id in FROZEN_SHA256:
        assert digest(canvases) == FROZEN_SHA256[env_id][split]
    keywords: dict[str, Any] = {"split": split, "order": "sequential", "num_scales": 1}
    env: Any = gym.make_vec(env_id, 300, glimpse_size=canvases.shape[1], **keywords)
    obs, infos = env.reset(seed=1, options={"location": (0, 0)})
    planes = canvases[:300, None] if canvases.ndim == 3 else canvases[:300].transpose(0, 3, 1, 2)
    assert_same(obs["glimpse"], planes * np.float32(1 / 255))
    assert_same(infos["label"], labels[:300])
    assert_same(infos["index"], np.arange(300))
    num_images = {"validation": 5_000, "test": 10_000}[split]
    assert len(canvases) == len(labels) == env.num_images == num_images


def test_frozen_canvases_use_the_keywords_that_the_id_is_registered_with(monkeypatch):
    register_variant(monkeypatch, "Own-v0", "MNISTGlimpse-v0", dataset="toy", canvas_size=40)
    assert frozen_canvases("Own-v0", "test")[0].shape == (NUM_TOY, 40, 40)
    assert frozen_canvases("Own-v0", "test", canvas_size=30)[0].shape == (NUM_TOY, 30, 30)
    with pytest.raises(ValueError, match="env_id"):
        frozen_canvases("CartPole-v1", "test")
    with pytest.raises(ValueError, match="split"):
        frozen_canvases("SignpostGlimpse-v0", "train")
    monkeypatch.setattr(SignpostScenes, "frozen", False)
    with pytest.raises(ValueError, match="SignpostGlimpse-v0 draws a scene anew at each visit"):
        frozen_canvases("SignpostGlimpse-v0", "test")


NESTED = json.loads("[" * 900 + "]" * 900)
BAD_ENTRIES: dict[str, list[Any]] = {
    "version": [1, NESTED],
    "data": [{"num_scenes": 5, "is_sample": False}, NESTED],
    "task": [{**asdict(SignpostTask()), "grid_size": [3, 3], "num_marks": 5}, [], NESTED],
    "keyed": [[], [False, True, True]],
    "key": [[1], [-1, 0, 0], ["a", "b", "c"], NESTED],  # the first of another number of lanes
    "episode": [[0.5, None, 1], [True, 0, 0], [-1, 0, 0]],
    "index": [[-5, 0, 0], [2**40, 0, 0], [2**31, 0, 0], NESTED],  # 2**31 is one past the last
    "seen": [[99, 1, 1], [1.7, 1, 1], [0, 1, 1]],
    "running": [None, "x", [1, 1, 1], NESTED],
    "location": [3, *([place, [0, 0], [0, 0]] for place in ([5, 5], [math.nan, 0])), NESTED],
}


@pytest.mark.parametrize(
    ("entry", "value"), [(entry, value) for entry in BAD_ENTRIES for value in BAD_ENTRIES[entry]]
)
def test_a_bad_state_is_refused_and_nothing_has_changed(entry, value):
    env = ram_env.SignpostVectorEnv(3)
    env.reset(seed=0)
    before = env.get_state()
    with pytest.raises(ValueError, match=entry):
        env.set_state({**before, entry: value})
    assert env.get_state() == before


def test_a_state_is_a_dict_of_lanes_that_have_a_key_an_episode_and_a_glimpse_or_none_of_these():
    env = ram_env.SignpostVectorEnv(1)
    with pytest.raises(ValueError, match="state must be a dict"):
        env.set_state(None)  # pyright: ignore[reportArgumentType]
    state, taken = env.get_state(), []
    for lane in product([False, True], [-1, 0], [0, 3], [False, True]):
        names = ("keyed", "episode", "seen", "running")
        with suppress(ValueError):
            env.set_state({**state, **{name: [k] for name, k in zip(names, lane, strict=True)}})
            taken.append(lane)
    assert taken == [(False, -1, 0, False), (True, 0, 3, False), (True, 0, 3, True)]


def test_a_state_of_an_image_task_has_its_keywords_but_not_its_folder_or_a_scale_of_one():
    def make(scale: Any) -> Any:
        keywords = {"dataset": "toy", "data_dir": "elsewhere", "object_scale": scale}
        return gym.make_vec("MNISTGlimpse-v0", **keywords)

    stored = {"split": "train", "order": "random", "glimpse_size": 8, "num_scales": 1}
    stored |= {"num_glimpses": 7, "action_format": "box", "grid_size": [9, 9], "reward": "final"}
    stored |= {"allow_stop": False, "glimpse_cost": 0.0, "dataset": "toy", "canvas_size": 28}
    stored |= {"translate": False, "num_clutter": 0, "clutter_size": 8}
    for scale in (1, 1.0, (1, 1), [1, 1.0]):
        assert make(scale).get_state()["task"] == stored
    with pytest.raises(ValueError, match=r"must be {'object_scale': \[0.5, 0.9\]}, got .* None}"):
        make((0.5, 0.9)).set_state(make(1).get_state())


def test_a_state_stored_by_the_first_release_still_continues():
    task = {"split": "train", "order": "random", "glimpse_size": 4, "num_scales": 1}
    task |= {"num_glimpses": 4, "action_format": "box", "grid_size": [3, 3], "reward": "final"}
    task |= {"allow_stop": False, "glimpse_cost": 0.0, "board_size": 3, "chain": 1, "parts": 1}
    stored = {
        "version": 2,
        "task": {**task, "num_marks": 4},
        "data": {"num_scenes": 2147483648, "is_sample": False},
        "keyed": [True, True],
        "key": [7434755675892716031, 10128210881749538955],
        "episode": [0, 0],
        "index": [1771174052, 684426372],
        "seen": [2, 2],
        "running": [True, True],
        "location": [[0.25, 0.25], [0.25, 0.25]],
    }
    env = ram_env.SignpostVectorEnv(2)
    env.set_state(stored)
    assert env.get_state() == stored
    obs, *_, infos = env.step(np.full((2, 6), -0.5, np.float32))
    assert infos["label"].tolist() == [3, 2]
    assert (obs["glimpse"][:, :, 0, 0] * 255).round().tolist() == [[255, 0, 0], [0, 127, 0]]
