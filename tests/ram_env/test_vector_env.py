"""The vector environment keeps Gymnasium's API, equals its single environment, refuses nonsense."""

from __future__ import annotations

import copy
import re
from itertools import product
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.envs.registration import EnvSpec
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode
from gymnasium.wrappers import vector as wrappers
from torch.utils._pytree import tree_leaves, tree_map

from ram_env import GlimpseVectorEnv, SignpostVectorEnv, rendering
from ram_env.testing import assert_same, check_vector_env, leaves
from tests.pretend_gpu import GPUS
from tests.script_helpers import note_calls
from tests.vector_envs import OPTIONS, checks, make_single, make_vector, sampler

TASKS = ["signpost", "toy"]
# Formats and rewards don't depend on each other, so each occurs, but not each pair.
PAYMENTS = [("box", "final"), ("dict", "dense"), ("multidiscrete", "final"), ("box", "log_score")]
RULES = [
    {"action_format": name, "reward": reward, "allow_stop": cost > 0, "glimpse_cost": cost}
    for (name, reward), cost in product(PAYMENTS, (0.0, 0.1))
]
# A rule knows nothing of images: two of them are enough there.
TASKS_AND_RULES = [*product(["signpost"], RULES), *product(["toy"], (RULES[2], RULES[-1]))]
MODES = list(AutoresetMode)
DEVICES = ["cpu", *GPUS]

pytestmark = pytest.mark.usefixtures("toy_dataset")


# The API, and equality with the single environment


@pytest.mark.parametrize(
    ("task", "keywords"),
    [
        *TASKS_AND_RULES,
        ("signpost", {"num_glimpses": 1}),
        ("signpost", {"chain": 2, "parts": 2, "num_marks": 2, "board_size": 4, "num_scales": 2}),
        ("signpost", {"split": "validation", "render_mode": "rgb_array", "allow_stop": True}),
        ("toy", {"split": "test", "action_format": "multidiscrete", "grid_size": (2, 5)}),
        ("toy", {"num_glimpses": 1, "allow_stop": True, "glimpse_cost": 1}),
    ],
    ids=str,
)
def test_the_vector_env_passes_the_checker(task, keywords):
    check_vector_env(
        lambda num_envs, mode: make_vector(task, num_envs, autoreset_mode=mode, **keywords),
        lambda: make_single(task, **keywords),
        make_sampler=sampler,
        options=OPTIONS,
    )
    env, counts, correct = make_vector(task, 4, **keywords), set(), set()
    for out in checks(26, 7).play(env):  # what such calls show
        if "reward" in out and out["terminated"].any():
            outcome = out["infos"].get("final_info", out["infos"])
            correct |= {*outcome["correct"][outcome["_correct"]].tolist()}
            counts.add(int(out["terminated"].sum()))
    assert correct == {True, False}
    if env.task.allow_stop and env.task.num_glimpses > 1:
        assert counts & {1, 2, 3}, "lanes never out of step"


def test_an_order_of_memory_does_not_change_the_reward():
    plain, turned = (make_vector(reward="log_score", num_marks=16) for _ in range(2))
    for each in (plain, turned):
        each.reset(seed=0)
    for action in [sampler(plain, seed)() for seed in range(20)]:
        assert_same(plain.step(action)[1], turned.step(np.asfortranarray(action))[1])


def test_make_vec_picks_the_native_class_and_a_mode_goes_by_its_value_and_its_name():
    env = gym.make_vec("ram_env:ClutteredMNISTGlimpse-v0", num_envs=3, dataset="toy")
    assert type(env) is GlimpseVectorEnv
    assert type(make_vector()) is SignpostVectorEnv
    assert env.metadata["autoreset_mode"] is AutoresetMode.SAME_STEP
    assert type(gym.make_vec("SignpostGlimpse-v0", np.int64(2)).num_envs) is int  # pyright: ignore[reportArgumentType]
    for mode in MODES:
        for given in (mode, mode.value, mode.name):  # such as "SameStep" and "SAME_STEP"
            assert make_vector(autoreset_mode=given).metadata["autoreset_mode"] is mode


def test_a_spec_survives_json_and_makes_an_equal_env():
    keywords = {"action_format": "multidiscrete", "grid_size": (4, 3), "glimpse_cost": 0.1}
    env = make_vector("toy", autoreset_mode="SAME_STEP", allow_stop=True, **keywords)
    text = env.spec.to_json()
    again: Any = gym.make_vec(EnvSpec.from_json(text))
    assert again.num_envs == 3
    assert again.autoreset_mode is AutoresetMode.SAME_STEP
    assert again.spec.to_json() == text
    checks(10, 0).compare(env, again)


# What is refused, and that it changes nothing


BAD_SEEDS = [-1, 1.5, "1", b"123", True, (-1,), np.arange(3), [1, 2], [0, 1, -2], [0, 1, 2.5]]
BAD_OPTIONS: dict[str, list[Any]] = {
    r"options must be None or a dict of .*'index'": [5, {"indx": 1, 0: 1}],
    r"options\['index'\] must be in 0\.\.39, of shape \(\) or": [
        {"index": index} for index in (-1, 40, 1.0, True, "1", [0, 1])
    ],
    r"options\['location'\] must be in -1\.\.1, of shape \(2,\) or": [
        {"location": location}
        for location in ((0, 1.01), (0, np.nan), (1e300, 0), 0, ("0", "0"), (0j, 0j), (0, 0, 0))
    ],
    "reset_mask": [
        {"reset_mask": mask} for mask in (np.ones(3, int), np.ones(2, bool), np.zeros(3, bool))
    ],
    "can't be read as an array": [
        *({name: [[True], [True, False]]} for name in ("index", "location", "reset_mask"))
    ],
}
BAD_RESETS = [("seed must", {"seed": seed}) for seed in BAD_SEEDS]
BAD_RESETS += [(m, {"seed": 5, "options": bad}) for m in BAD_OPTIONS for bad in BAD_OPTIONS[m]]


@pytest.mark.parametrize(("message", "keywords"), BAD_RESETS, ids=str)
@pytest.mark.parametrize("make", [make_single, make_vector])
def test_a_bad_seed_or_reset_option_is_refused_by_name_and_leaves_no_trace(make, message, keywords):
    if make is make_single and "reset_mask" in str(keywords):
        message = "options must be"
    env, twin = (make("toy") for _ in range(2))
    for each in (env, twin):
        each.reset(seed=1)
    before, generator = env.get_state(), env.np_random.bit_generator.state
    with pytest.raises(ValueError, match=message):
        env.reset(**keywords)
    assert env.get_state() == before
    assert env.np_random.bit_generator.state == generator
    env.action_space.seed(0)
    action = env.action_space.sample()
    assert_same(env.step(action), twin.step(action))
    assert_same(env.reset(), twin.reset())


@pytest.mark.parametrize(
    ("argument", "value"),
    [
        *product(["num_envs"], [0, -1, 2.0, True, "3"]),
        *product(["autoreset_mode"], ["nope", None, 3]),
        *product(["device"], ["nope", 1.5, "cuda:99", "meta"]),
        *product(["render_mode"], ["ansi", 1]),
    ],
)
def test_a_bad_keyword_of_the_vector_env_is_refused_by_name(argument, value):
    with pytest.raises(ValueError, match=argument):
        SignpostVectorEnv(**{argument: value})


# When a call is out of place


@pytest.mark.parametrize("make", [make_single, make_vector])
def test_nothing_works_before_a_reset_or_after_close(make):
    env = make(render_mode="rgb_array")
    action = env.action_space.sample()
    for call in (lambda: env.step(action), env.render):
        with pytest.raises(ResetNeeded):
            call()
    env.reset(seed=0)
    env.step(action)
    state = env.get_state()
    env.close()
    env.close()
    calls = [lambda: env.step(action), env.render, lambda: env.set_state(state)]
    for call in calls if make is make_single else [*calls, env.reset]:
        with pytest.raises(ClosedEnvironmentError):
            call()
    if make is make_single:  # a reset reopens it
        env.reset()
        env.step(action)


def test_a_masked_reset_follows_a_full_one_and_under_disabled_autoreset_covers_every_ended_lane():
    env = make_vector(autoreset_mode="Disabled", num_glimpses=1)
    action = env.action_space.sample()
    with pytest.raises(ResetNeeded, match="reset_mask"):
        env.reset(seed=3, options={"reset_mask": np.array([True, False, True])})
    assert not any(env.get_state()["keyed"])
    env.reset(seed=0)
    env.step(action)
    with pytest.raises(ResetNeeded, match=re.escape("[0, 1, 2]")):
        env.step(action)
    env.reset(options={"reset_mask": np.array([True, False, True])})
    with pytest.raises(ResetNeeded, match=re.escape("[1]")):
        env.step(action)
    env.reset(options={"reset_mask": np.array([False, True, False])})
    env.step(action)


@pytest.mark.parametrize("device", [None, *DEVICES], indirect=True)
@pytest.mark.parametrize("action_format", ["box", "dict", "multidiscrete"])
def test_next_step_ignores_the_actions_of_resting_lanes_alone(action_format, device):
    keywords = {"autoreset_mode": "NextStep", "action_format": action_format, "allow_stop": True}
    env, twin = (make_vector(device=device, glimpse_cost=0.1, **keywords) for _ in range(2))
    stop = np.array([1, 0, 1])
    legal: Any = {
        "box": np.array([[0, 0, 1, 0, 0, 0, number] for number in (1.0, -1.0, 1.0)]),
        "dict": {"location": np.zeros((3, 2)), "label": 0 * stop, "stop": stop},
        "multidiscrete": np.array([[0, 0, 0, number] for number in stop]),
    }[action_format]
    wild, bad = (copy.deepcopy(legal) for _ in range(2))
    for part, worse in zip(leaves(wild), leaves(bad), strict=True):
        worse[:] = part[[0, 2]] = np.nan if part.dtype.kind == "f" else -9
    for each in (env, twin):
        each.reset(seed=0)
        assert each.step(legal)[2].tolist() == [True, False, True]
    before = env.get_state()
    with pytest.raises(ValueError, match="lane 1"):
        env.step(bad)
    assert env.get_state() == before
    out = env.step(wild)
    assert_same(out, twin.step(legal))
    assert out[1].tolist() == pytest.approx([0, -0.1, 0])
    assert out[0]["time"][:, 0].tolist() == [0.25, 0.75, 0.25]
    with pytest.raises(ValueError, match="action"):
        env.step(wild)  # now all lanes count


# Gymnasium's wrappers, and showing


def test_record_video_writes_a_file(tmp_path):
    pytest.importorskip("moviepy", reason="needs moviepy")
    env: Any = make_vector(num_envs=2, render_mode="rgb_array", autoreset_mode="NextStep")
    env = wrappers.RecordVideo(env, str(tmp_path / "videos"))
    env.action_space.seed(0)
    env.reset(seed=0)
    for _ in range(4):
        env.step(env.action_space.sample())
    env.close()
    (video,) = (tmp_path / "videos").glob("*.mp4")
    assert video.stat().st_size > 1000


@pytest.mark.parametrize("device", [None, *DEVICES], indirect=True)
def test_render_returns_one_frame_per_lane(device):
    env = make_vector("toy", 3, render_mode="rgb_array", device=device)
    alone = make_single("toy", render_mode="rgb_array")
    for each, seed, lanes in ((env, 0, (3,)), (alone, 1, ())):
        each.reset(seed=seed)
        each.step(np.zeros((*lanes, 6), np.float32))
    frames = env.render()
    assert isinstance(frames, tuple)
    assert [(frame.shape[2], frame.dtype) for frame in frames] == [(3, np.uint8)] * 3
    assert (alone.render() == frames[1]).all()
    silent = make_vector()
    silent.reset(seed=0)
    with pytest.warns(UserWarning, match="render_mode"):
        assert silent.render() is None


def test_a_frame_shows_its_own_lane_and_episode(monkeypatch):
    frames = note_calls(monkeypatch, rendering, "draw_frame")
    keywords = {"render_mode": "rgb_array", "allow_stop": True, "autoreset_mode": "NextStep"}
    env = make_vector(num_envs=2, **keywords)
    obs, infos = env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (3, 2, 7)).astype(np.float32)
    actions[..., -1] = -1
    actions[-1, 1, -1] = 1  # lane 1 stops
    path = [obs["location"], *(env.step(action)[0]["location"] for action in actions)]
    env.render()
    for lane, (shown, say, _) in enumerate(frames):
        assert_same(shown[1], np.stack(path)[: 4 - lane, lane])
        assert_same(say["scores"], actions[-1, lane, 2:-1])
        assert (say["label"], say["stopped"]) == (infos["label"][lane], lane == 1)
        assert say["prediction"] == actions[-1, lane, 2:-1].argmax()
        right = bool(say["prediction"] == say["label"])
        assert say["correct"] == (right if lane == 1 else None)  # lane 0 goes on
    for show in (env.reset, lambda: env.set_state(env.get_state())):  # which know no verdict
        show()
        env.render()
    assert [(say["prediction"], say["correct"]) for _, say, _ in frames[2:]] == [(None, None)] * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("device", DEVICES, indirect=True)
def test_reset_options_may_be_tensors_of_the_device(device, dtype):
    env = make_vector(device=device)
    location = torch.full((3, 2), 0.5, device=device, dtype=dtype, requires_grad=True)
    index = torch.tensor([5, 6, 7], device=device)
    obs, infos = env.reset(seed=0, options={"location": location, "index": index})
    assert torch.equal(obs["location"], location.detach().float())
    assert torch.equal(infos["index"], index)


def test_an_env_that_stepped_in_inference_mode_goes_on_outside():
    env = make_vector(device="cpu")
    actions = torch.zeros(3, env.single_action_space.shape[0])
    env.reset(seed=0)
    with torch.inference_mode():
        env.step(actions)
        env.set_state(env.get_state())
    env.step(actions)
    env.reset()


def test_options_of_a_masked_reset_are_those_of_its_lanes():
    env = make_vector("toy", 3)
    env.reset(seed=0)
    options = {"reset_mask": np.array([False, True, True])}
    options |= {"index": [-5, 6, 7], "location": [(np.nan, 9), (0, 0.5), (-0.5, 0)]}
    given = copy.deepcopy(options)
    obs, infos = env.reset(options=options)
    assert_same(options, given)  # read, never changed
    assert infos["index"].tolist() == [0, 6, 7]
    assert obs["location"][1:].tolist() == [[0, 0.5], [-0.5, 0]]


# On a device


def as_on_device(out: dict[str, Any], device: str) -> Any:
    """Turn a NumPy env's output into what its device twin must return."""
    infos = dict(out["infos"])
    if "final_obs" in infos:  # one batched dict, zeros where absent
        rows = infos["final_obs"]
        some = next(row for row in rows if row is not None)
        blank = {name: np.zeros_like(part) for name, part in some.items()}
        rows = [blank if row is None else row for row in rows]
        infos["final_obs"] = {name: np.stack([row[name] for row in rows]) for name in some}
    reward = {"reward": out["reward"].astype(np.float32)} if "reward" in out else {}
    parts = {**out, **reward, "infos": infos}
    return tree_map(lambda part: torch.as_tensor(np.array(part), device=device), parts)


@pytest.fixture
def default_dtype(request):
    """The default dtype of torch during a test."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(request.param)
    yield request.param
    torch.set_default_dtype(before)


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize(("task", "rule"), TASKS_AND_RULES, ids=str)
@pytest.mark.parametrize("default_dtype", [torch.float32, torch.bfloat16], indirect=True)
def test_a_device_env_returns_the_same_bits_as_tensors(task, rule, device, default_dtype):
    modes = [*MODES]
    if device in GPUS or default_dtype is torch.bfloat16:  # which are slow: a mode each
        modes = [MODES[RULES.index(rule) % len(MODES)]]
    for mode in modes:
        host = make_vector(task, 4, autoreset_mode=mode, **rule)
        other = make_vector(task, 4, autoreset_mode=mode, device=device, **rule)
        calls = checks(15, 0)
        for expected, out in zip(calls.play(host), calls.play(other), strict=True):
            want = as_on_device(expected, str(torch.empty(0, device=device).device))
            if rule["reward"] == "log_score" and "reward" in out:  # but for rounding
                torch.testing.assert_close(out["reward"], want["reward"], rtol=0, atol=1e-6)
                want["reward"] = out["reward"]
            assert_same(out, want)


def test_a_device_env_reuses_nothing_that_it_returned():
    for mode in MODES:
        keywords = {"autoreset_mode": mode, "allow_stop": True, "device": "cpu"}
        checks(15, 0).reuse(make_vector(**keywords), make_vector(**keywords))


@pytest.mark.parametrize("device", DEVICES, indirect=True)
@pytest.mark.parametrize("action_format", ["box", "dict", "multidiscrete"])
def test_a_device_env_takes_tensors_and_cuts_their_graph(action_format, device):
    keywords = {"action_format": action_format, "allow_stop": True, "device": device}
    env, twin = (make_vector(**keywords) for _ in range(2))
    env.reset(seed=0)
    twin.reset(seed=0)
    for action in [sampler(env, seed)() for seed in range(3)]:
        tensors = tree_map(lambda part: torch.as_tensor(np.asarray(part), device=device), action)
        for part in tree_leaves(tensors):
            part.requires_grad_(part.is_floating_point())
        obs, reward, *_ = out = env.step(tensors)
        assert not obs["location"].requires_grad
        assert not reward.requires_grad
        assert_same(out, twin.step(action))


@pytest.mark.parametrize("device", GPUS, indirect=True)
def test_both_names_of_a_gpu_are_the_same_device(device):
    envs = [make_vector("toy", device=name) for name in (device, f"{device}:0")]
    assert [env.device for env in envs] == [f"{device}:0"] * 2


@pytest.mark.parametrize("task", TASKS)
def test_on_a_gpu_a_step_waits_once_and_draws_new_episodes_there(pretend_gpu, task):
    env = make_vector(task, 4, device="pretend", action_format="dict")
    action = {"location": torch.zeros(4, 2, device="pretend")}
    action["label"] = torch.zeros(4, dtype=torch.int64, device="pretend")
    env.reset(seed=0)
    for _ in range(4):  # an episode
        pretend_gpu.waits.clear()
        pretend_gpu.uploads.clear()
        env.step(action)
        assert (pretend_gpu.waits.total(), pretend_gpu.uploads.total()) == (1, 0)
