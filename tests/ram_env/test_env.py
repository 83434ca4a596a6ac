"""The rules of an episode, what users get wrong, and what other libraries demand."""

import ast
import inspect
import json
import math
import subprocess
import sys
import warnings
from dataclasses import asdict
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ResetNeeded
from gymnasium.utils.env_checker import check_env

import ram_env
from ram_env import TASKS, GlimpseEnv, extract_glimpses, load_digits
from ram_env.draws import lane_key, named_key, uniform_locations
from ram_env.tasks import ImageTask
from tests.ram_env.test_canvas import slow_canvas
from tests.ram_env.test_draws import slow_below, slow_words

ROOT = Path(__file__).parents[2]
HIDDEN = {"label", "index", "position", "object_size"}


@pytest.fixture(params=TASKS)
def any_id(request, toy_dataset) -> tuple[str, dict[str, Any]]:
    """Every registered id, with keywords that replace its images by random ones."""
    colour = np.random.default_rng(0).integers(0, 256, (60, 32, 32, 3), np.uint8)
    ram_env.register_dataset("colour", lambda: {"train": (colour, np.arange(60) % 10)})
    dataset = {"dataset": "colour" if request.param.startswith("CIFAR10") else toy_dataset}
    return request.param, dataset if TASKS[request.param][0] is ImageTask else {}


@pytest.fixture
def make(toy_dataset):
    """Make a bare ``MNISTGlimpse-v0`` of toy images, with dict actions and four glimpses."""
    own = {"dataset": toy_dataset, "action_format": "dict", "num_glimpses": 4}
    return lambda **keywords: gym.make("MNISTGlimpse-v0", **{**own, **keywords}).unwrapped


def act(label: int, location: Any = (0, 0), **more: Any) -> dict[str, Any]:
    return {"location": location, "label": label, **more}


# An episode


@pytest.mark.parametrize("num_glimpses", [1, 2, 7])
def test_an_episode_is_exactly_num_glimpses_steps(make, num_glimpses):
    env = make(num_glimpses=num_glimpses)
    for episode in range(3):
        obs, info = env.reset(seed=episode)
        step_info = info
        assert {*info} == HIDDEN
        for t in range(1, num_glimpses + 1):
            # time is t / T when glimpse t is shown: 1/T after reset, 1 at the scored action.
            assert obs["time"].tolist() == [np.float32(t / num_glimpses)]
            obs, *rest, step_info = env.step(act(info["label"]))
            ends = t == num_glimpses
            assert rest == [float(ends), ends, False]
            assert [*map(type, rest)] == [float, bool, bool]
            assert {*step_info} == HIDDEN | ({"correct", "prediction"} if ends else set())
        assert obs["time"].tolist() == [1]
        assert step_info["correct"] is True
        assert step_info["prediction"] == info["label"]
        with pytest.raises(ResetNeeded, match="after the end of an episode"):
            env.step(act(0))


def test_observations_lie_in_their_space_and_are_glimpses_of_the_canvas(any_id):
    env_id, keywords = any_id
    env = gym.make(env_id, action_format="dict", allow_stop=True, **keywords).unwrapped
    assert isinstance(env, GlimpseEnv)
    env.action_space.seed(0)
    for seed in range(3):
        obs, info = env.reset(seed=seed)
        canvas = env._episodes.canvas(0)
        assert canvas.shape[:2] == (env.task.side, env.task.side)
        terminated, shown, expected = False, obs, obs["location"]
        while not terminated:
            assert env.observation_space.contains(obs)
            assert (obs["location"] == expected).all()
            task, seen = env.task, (canvas[None], obs["location"][None])
            glimpses = extract_glimpses(*seen, size=task.glimpse_size, num_scales=task.num_scales)
            assert obs["glimpse"].tobytes() == glimpses.tobytes()
            action = {**env.action_space.sample(), "stop": int(seed == 2)}
            shown, expected = obs, np.clip(action["location"], -1, 1)
            obs, _, terminated, _, info = env.step(action)
        for name, part in obs.items():  # the last glimpse again, in fresh memory
            assert (part == shown[name]).all()
            assert not np.shares_memory(part, shown[name])
        if isinstance(env.task, ImageTask):
            assert info["label"] == load_digits(env.task.dataset, "train")[1][info["index"]]
            assert info["position"].dtype == np.int64


CELLS: dict[str, Any] = {"action_format": "multidiscrete"}
STYLE: dict[str, Any] = {"canvas_size": 40, "translate": True, "num_clutter": 3, "clutter_size": 8}


@pytest.mark.parametrize("order", ["random", "sequential"])
@pytest.mark.parametrize("split", ["train", "train+validation", "validation", "test"])
def test_canvases_and_first_locations_are_those_of_the_written_rule(make, split, order):
    # Word 0 of episode e is the image, 1 and 2 the first location, the rest the canvas; an option
    # moves no other draw. Visit v of a sequential env is of image v mod n, with the words of a
    # pinned stream at counter v. Frozen splits use the pinned stream in any order: the first
    # location's counter is pass * n + image, the canvas's is the image.
    splits = {name: load_digits("toy", name) for name in ("train", "validation", "test")}
    wide = {name: (images[:, :20], labels) for name, (images, labels) in splits.items()}
    ram_env.register_dataset("wide", lambda: wide)
    images, _ = load_digits("wide", split)
    env = make(dataset="wide", split=split, order=order, **STYLE)
    n, frozen = len(images), "train" not in split
    for episode in (0, 1, 2, 3, 78, 79, 80):
        if episode == 78:
            env.set_state({**env.get_state(), "episode": [77]})
        fixed = {1: {"index": 7}, 2: {"location": (0.5, -0.25)}}.get(episode, {})
        obs, info = env.reset(seed=None if episode else 11, options=fixed)
        key, index, passes = lane_key(11), slow_below(slow_words(lane_key(11), episode, 1)[0], n), 0
        if order == "sequential":
            key, index, passes = named_key(split), episode % n, episode // n
        index = fixed.get("index", index)
        place = words = slow_words(key, episode, 3 + 2 + 5 * 3)
        if frozen:
            place = slow_words(named_key(split), passes * n + index, 3)
            words = slow_words(named_key(split), index, 3 + 2 + 5 * 3)
        wanted, position = slow_canvas(images[..., None], index, words[3:], **STYLE)
        assert info["index"] == index
        assert (*info["position"], *info["object_size"]) == (*position, 28, 20)
        assert (env._episodes.canvas(0) == wanted[..., 0]).all()
        location = uniform_locations(np.array(place[1:3], np.uint64))
        assert (obs["location"] == fixed.get("location", location)).all()
        for step in range(episode % 4 + 1):  # on which the next episode does not depend
            env.step(act(step, (0.3 * step, -1)))


# Rewards, by hand, for four glimpses


def play(env, labels, stops=None) -> list[float]:
    """Name labels relative to the true one (0: right); return the rewards."""
    _, info = env.reset(seed=0)
    rewards, terminated = [], False
    for t, offset in enumerate(labels):
        stop = {} if stops is None else {"stop": stops[t]}
        _, reward, terminated, _, _ = env.step(act((info["label"] + offset) % 4, **stop))
        rewards.append(reward)
    assert terminated
    return rewards


@pytest.mark.parametrize(
    ("labels", "final", "dense"),
    [
        ([0, 0, 0, 0], [0, 0, 0, 1], [0.25] * 4),  # T = 4: 1/4 a step
        ([1, 0, 2, 0], [0, 0, 0, 1], [0, 0.25, 0, 0.25]),
        ([0, 0, 0, 3], [0, 0, 0, 0], [0.25, 0.25, 0.25, 0]),
        ([0], [1], [1]),  # a stop at t = 1: (4 - 1 + 1) / 4
        ([0, 0], [0, 1], [0.25, 0.75]),  # t = 2: (4 - 2 + 1) / 4
        ([1, 1, 0], [0, 0, 1], [0, 0, 0.5]),  # t = 3: (4 - 3 + 1) / 4
        ([0, 1], [0, 0], [0.25, 0]),
    ],
)
@pytest.mark.parametrize("cost", [0, 0.125])
def test_final_and_dense_rewards_by_hand_with_and_without_a_stop(make, labels, final, dense, cost):
    for reward, earned in (("final", final), ("dense", dense)):
        paid = [each - cost for each in earned]  # every step costs
        stops = [0] * (len(labels) - 1) + [1]
        assert play(make(allow_stop=True, reward=reward, glimpse_cost=cost), labels, stops) == paid
        if len(labels) == 4:
            assert play(make(reward=reward, glimpse_cost=cost), labels) == paid


@pytest.mark.parametrize(
    ("scores", "log_p"),
    [
        ([0, 0, 0, 0], -math.log(4)),  # the first is the true class
        ([math.log(3), 0, 0, 0], -math.log(2)),  # 3 / (3 + 1 + 1 + 1)
        ([1e30, 0, 0, 0], 0),
        ([0, 1e30, 0, 0], -7),  # the floor
        ([0, 6, 0, 0], -math.log(math.exp(6) + 3)),  # -6.0074, just above it
        ([-3e38, 3e38, 0, 0], -7),
    ],
)
@pytest.mark.parametrize("stop_at", [None, 2])
def test_log_score_pays_the_log_probability_of_the_truth(make, scores, log_p, stop_at):
    env = make(action_format="box", reward="log_score", allow_stop=True, glimpse_cost=0.5)
    _, info = env.reset(seed=0)
    terminated = False
    for t in range(1, (stop_at or 4) + 1):
        assert not terminated
        action = [0, 0, *np.roll(scores, info["label"]), 1 if t == stop_at else -1]
        _, reward, terminated, _, _ = env.step(action)
        weight = 3 / 4 if t == stop_at else 1 / 4
        assert reward == pytest.approx(log_p * weight - 0.5, rel=1e-6, abs=1e-9)
    assert terminated


# Bad arguments


BAD_KEYWORDS: list[tuple[dict[str, Any], str]] = [
    ({"split": "dev"}, "split must be one of 'train', 'validation',.* got 'dev'"),
    ({"order": "shuffled"}, "order must be one of 'random', 'sequential', got 'shuffled'"),
    ({"reward": "sparse"}, "reward must be one of 'final', 'dense', 'log_score'"),
    ({"action_format": "tuple"}, "action_format must be one of 'box', 'dict', 'multi.*'tuple'"),
    ({"reward": "log_score"}, "'log_score'.*action_format='box'.*action_format='dict'"),
    ({"dataset": "EMNIST"}, "dataset must be one of MNIST, .* got 'EMNIST'"),
    ({"num_glimpses": 0}, "num_glimpses must be a Python int in 1..10000, got 0"),
    ({"glimpse_size": 7}, "glimpse_size must be even, got 7"),
    ({"glimpse_size": 30}, "glimpse_size must be a Python int in 2..28, got 30"),
    ({"data_dir": 3}, "data_dir must be None or a path, got 3"),
    ({"num_scales": 4}, "num_scales=4 makes the coarsest patch 64 px wide"),
    ({"canvas_size": 27}, "canvas_size must be at least the images' side, 28 px, got 27"),
    ({"canvas_size": 41, "object_scale": (0.5, 1.5)}, "at object_scale=1.5, 42 px, got 41"),
    ({**STYLE, "clutter_size": 29}, "clutter_size must be in 1..28, .* got 29"),
    ({"allow_stop": "yes"}, "allow_stop must be True or False, got 'yes'"),
    ({"grid_size": (9, 9)}, "grid_size needs action_format='multidiscrete'"),
    ({**CELLS, "grid_size": 9}, r"grid_size must be \(columns, rows\), got 9"),
    ({**CELLS, "grid_size": (9, 0)}, "grid_size rows must be a Python int in 1..1000, got 0"),
]
BAD_KEYWORDS += [
    ({"glimpse_cost": cost}, "glimpse_cost must be a finite float32 >= 0")
    for cost in (-0.1, math.nan, 10**400, 1e39, "0", True)
]
BAD_KEYWORDS += [
    ({"object_scale": scale}, "object_scale must be a number in 0.5..1.5, or")
    for scale in (0, 0.49, 1.51, math.nan, "1", None, True, (1, 0.9), (0.5,), ([0.5], 1))
]


@pytest.mark.parametrize(("keywords", "message"), BAD_KEYWORDS, ids=str)
def test_bad_keywords_are_refused_by_name_value_and_what_is_allowed(make, keywords, message):
    with pytest.raises(ValueError, match=message):
        make(**keywords)


def test_numbers_of_numpy_are_taken_as_pythons():
    numbers = {"num_glimpses": np.int64(3), "glimpse_cost": np.float32(0.5)}
    numbers |= {"allow_stop": np.bool_(True), "action_format": "multidiscrete"}
    for grid in (np.array([5, 5]), (np.int64(5), np.int8(5))):
        task = ram_env.find_task("MNISTGlimpse-v0", grid_size=grid, **numbers)
        assert task == ImageTask(
            num_glimpses=3,
            glimpse_cost=0.5,
            allow_stop=True,
            action_format="multidiscrete",
            grid_size=(5, 5),
        )
        json.dumps(asdict(task))


@pytest.mark.parametrize(
    ("env_id", "name"), [("MNISTGlimpse-v0", "num_glimpse"), ("SignpostGlimpse-v0", "device")]
)
def test_unknown_keywords_are_refused(env_id, name):
    keywords: dict[str, Any] = {name: 3}
    message = rf"^unknown keywords \['{name}'\]; allowed: \[.*'num_glimpses'.*\]$"
    with pytest.raises(ValueError, match=message):
        gym.make(env_id, **keywords)


# Registration


def test_every_id_is_registered_by_entry_points_that_are_strings_and_without_a_time_limit():
    families = ["MNIST", "TranslatedMNIST", "ClutteredMNIST", "LargeClutteredMNIST", "SearchMNIST"]
    families += ["FashionMNIST", "KMNIST", "CIFAR10", "Signpost"]
    assert [*TASKS] == [f"{family}Glimpse-v0" for family in families]
    for env_id in TASKS:
        spec = gym.spec(env_id)
        assert isinstance(spec.entry_point, str)
        assert isinstance(spec.vector_entry_point, str)
        assert spec.max_episode_steps is None
        assert EnvSpec.from_json(spec.to_json()) == spec


def test_ids_work_without_the_import_and_need_no_heavy_library():
    code = """
import sys, gymnasium as gym
env = gym.make("ram_env:SignpostGlimpse-v0")
env.reset(seed=0)
env.step(env.action_space.sample())
heavy = "torch torchvision PIL pygame matplotlib stable_baselines3 mlxtend filelock"
print([name for name in heavy.split() if name in sys.modules])
"""
    command = [sys.executable, "-W", "error", "-c", code]
    assert subprocess.check_output(command, cwd=ROOT, text=True) == "[]\n"


def test_the_page_has_gymnasiums_headings():
    headings = ["Description", "Action Space", "Observation Space", "Rewards", "Starting State"]
    headings += ["Episode End", "Arguments", "Version History"]
    for env in (ram_env.GlimpseEnv, ram_env.SignpostEnv, ram_env.GlimpseVectorEnv):
        page = inspect.getdoc(env) or ""
        places = [page.find(f"\n{heading}:\n") for heading in headings]
        assert min(places) >= 0, headings[places.index(min(places))]
        assert places == sorted(places)


# Layering


def imported(folder: str) -> set[str]:
    """Top-level names that a package's files import anywhere, lazily too."""
    names = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                names |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0, f"{path}: relative import"
                names.add((node.module or "").partition(".")[0])
    return names


def test_task_and_agents_do_not_know_each_other():
    assert {"numpy", "gymnasium"} <= imported("ram_env")
    assert not {"agents", "train", "tests", "stable_baselines3"} & imported("ram_env")
    assert "torch" in imported("agents")
    assert not {"ram_env", "train", "tests"} & imported("agents")


# What other libraries demand


def test_gymnasiums_and_stable_baselines_checkers_are_content(any_id):
    from stable_baselines3.common.env_checker import check_env as check_for_sb3

    env_id, keywords = any_id
    check_env(gym.make(env_id, render_mode="rgb_array", **keywords).unwrapped)
    for action_format in ("box", "dict", "multidiscrete"):
        env = gym.make(env_id, action_format=action_format, allow_stop=True, **keywords)
        check_env(env.unwrapped, skip_render_check=True)
        if action_format != "dict":  # which SB3 lacks
            with warnings.catch_warnings():
                # Said of every three-dimensional float Box, which SB3 takes for an image.
                warnings.filterwarnings("ignore", "It seems that your observation ")
                warnings.filterwarnings("ignore", "The minimal resolution ")
                check_for_sb3(env.unwrapped)
