"""Lanes in step are the vector environment's, and nothing in a step waits."""

from typing import Any

import numpy as np
import pytest
import torch
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import VectorWrapper

from ram_env.lockstep import LockstepEnv
from ram_env.vector_env import GlimpseVectorEnv
from tests.pretend_gpu import GPUS
from tests.vector_envs import make_vector

N, T = 4, 3
TASKS = ["signpost", "toy"]

pytestmark = pytest.mark.usefixtures("toy_dataset")


def make(task: str, device: str | None, **more: Any) -> Any:
    keywords = {"num_glimpses": T, "action_format": "dict", "device": device, **more}
    return make_vector(task, N, **keywords)


def act(device: str | None, step: int) -> dict[str, Any]:
    rng = np.random.default_rng(step)
    location = rng.uniform(-1.2, 1.2, (N, 2)).astype(np.float32)
    action = {"location": location, "label": rng.integers(0, 4, N)}
    if device is None:
        return action
    return {name: torch.as_tensor(part, device=device) for name, part in action.items()}


def equal(there: dict[str, Any], here: dict[str, Any]) -> bool:
    return all((part.cpu().numpy() == here[name]).all() for name, part in there.items())


@pytest.mark.parametrize("device", ["cpu", *GPUS], indirect=True)
@pytest.mark.parametrize("task", TASKS)
def test_every_episode_is_the_environments_to_the_bit_and_so_is_its_state(task, device):
    host, lanes = make(task, None), LockstepEnv(make(task, device))
    here, there = host.reset(seed=3), lanes.reset(seed=3)
    assert {*there[1]} == {"label", "index", "position", "object_size"}
    for step in range(3 * T):
        assert equal(there[0], here[0])
        assert equal(there[1], here[1])
        obs, reward, terminated, _, infos = host.step(act(None, step))
        seen, paid, ended, truncated, told = lanes.step(act(device, step))
        assert (paid.cpu().numpy() == reward).all()
        assert (ended == terminated).all()
        assert not truncated.any()
        assert lanes.get_state() == host.get_state()
        here, there = (obs, infos), (seen, told)
    assert lanes.valid.item()
    twin: Any = LockstepEnv(make(task, device))
    obs, infos = twin.set_state(host.get_state())
    assert equal(obs, here[0])
    assert equal(infos, here[1])


@pytest.mark.parametrize("task", TASKS)
def test_no_step_waits_for_a_gpu_or_copies_to_it_not_even_an_episodes_last(pretend_gpu, task):
    lanes = LockstepEnv(make(task, "pretend"))
    lanes.reset(seed=0)
    actions = [act("pretend", step) for step in range(2 * T)]
    pretend_gpu.uploads.clear()
    pretend_gpu.forbid_waits = True
    for action in actions:
        lanes.step(action)
    assert not pretend_gpu.uploads


@pytest.mark.parametrize("device", ["cpu", *GPUS], indirect=True)
@pytest.mark.parametrize(
    ("name", "value"), [("location", float("nan")), ("location", float("inf")), ("label", 4)]
)
def test_an_action_that_is_not_allowed_counts_as_zero_and_clears_the_flag_for_good(
    device, name, value
):
    lanes, twin = (LockstepEnv(make("toy", device)) for _ in range(2))
    for each in (lanes, twin):
        each.reset(seed=0)
    bad = act(device, 0)
    good = {part: entries.clone() for part, entries in bad.items()}
    bad[name][1] = value
    for part in good.values():
        part[1] = 0
    seen, expected = lanes.step(bad), twin.step(good)
    for part in ("glimpse", "location"):
        assert torch.equal(seen[0][part], expected[0][part])
    lanes.step(act(device, 1))
    assert (lanes.valid.item(), twin.valid.item()) == (False, True)


@pytest.mark.parametrize(
    "keywords", [{"device": None}, {"autoreset_mode": "NextStep"}, {"allow_stop": True}], ids=str
)
def test_lanes_that_a_graph_could_not_hold_are_refused(keywords):
    with pytest.raises(ValueError, match="need a device, autoreset_mode='SameStep'"):
        LockstepEnv(make("toy", **{"device": "cpu", **keywords}))


def test_lanes_out_of_step_and_steps_out_of_place_are_refused():
    lanes, env = LockstepEnv(make("toy", "cpu")), make("toy", "cpu")
    with pytest.raises(ResetNeeded):
        lanes.step(act("cpu", 0))
    for each in (lanes, env):
        each.reset(seed=0)
        each.step(act("cpu", 0))
    first = {"reset_mask": np.arange(N) == 0}
    with pytest.raises(ValueError, match="lanes in step are reset together"):
        lanes.reset(options=first)
    env.reset(options=first)
    for join in (lambda: lanes.set_state(env.get_state()), lambda: LockstepEnv(env)):
        with pytest.raises(ValueError, match=r"many glimpses as each other, got \[1, 2, 2, 2\]"):
            join()
    lanes.close()
    with pytest.raises(ClosedEnvironmentError):
        lanes.step(act("cpu", 0))


def test_an_environment_of_another_class_is_refused_since_a_replay_would_not_run_it():
    env, priced = make("toy", "cpu"), type("Priced", (GlimpseVectorEnv,), {})
    other = make("toy", "cpu")
    other._episodes.scenes = type("MyScenes", (type(env._episodes.scenes),), {})
    for each in (priced(4, dataset="toy", device="cpu"), VectorWrapper(env), other):
        with pytest.raises(ValueError, match="own classes, not subclasses"):
            LockstepEnv(each)  # pyright: ignore[reportArgumentType]
