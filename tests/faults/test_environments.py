"""Any action is a step or a ValueError that changes nothing; long runs stay right and bounded."""

import json
import math
import tracemalloc
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ram_env import SignpostEnv, SignpostVectorEnv
from ram_env.data import open_split
from tests.ram_env.test_retina import slow_glimpses

# Actions of all sorts

NUMBERS = st.one_of(
    *(st.integers(0, 3), st.floats(-2, 2), st.floats(), st.integers(), st.booleans(), st.none())
)
DTYPES = st.one_of(hnp.floating_dtypes(), hnp.integer_dtypes(), hnp.scalar_dtypes())
ANYTHING = st.one_of(
    NUMBERS,
    st.text(max_size=3),
    hnp.arrays(DTYPES, hnp.array_shapes(max_side=7)),
    st.recursive(NUMBERS, lambda inner: st.lists(inner, max_size=4), max_leaves=12),
)


def small_numbers(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    arrays = hnp.arrays(st.sampled_from(["i8", "u1"]), shape, elements=st.integers(0, 1))
    return arrays | arrays.map(np.ndarray.tolist)


def arrays_like(shape: tuple[int, ...]) -> st.SearchStrategy[Any]:
    real = hnp.arrays("f4", shape, elements=st.floats(-2, 2, width=32))
    return small_numbers(shape) | real | hnp.arrays(DTYPES, shape)


def draw_actions(form: str, stop: bool, batch: tuple[int, ...]) -> st.SearchStrategy[Any]:
    if form == "dict":
        shapes = {"location": (*batch, 2), "label": batch} | ({"stop": batch} if stop else {})
        parts = {name: small_numbers(shape) for name, shape in shapes.items()}
        strange = {name: arrays_like(shape) | ANYTHING for name, shape in shapes.items()}
        odd = st.dictionaries(st.sampled_from(["location", "label", "stop", 0]), ANYTHING)
        return st.one_of(
            st.fixed_dictionaries(parts), st.fixed_dictionaries(strange), odd, ANYTHING
        )
    width = (6 if form == "box" else 3) + stop
    shapes = [(*batch, width), (*batch, width), (*batch, width + 1), (1, *batch, width)]
    return st.one_of(*map(arrays_like, shapes), ANYTHING)


def plain(result: Any) -> str:
    return json.dumps(result, default=lambda value: np.asarray(value).tolist())


@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's own, of strange numbers
@pytest.mark.parametrize("batch", [(), (3,)], ids=["single", "vector"])
@pytest.mark.parametrize("stop", [False, True], ids=["", "stop"])
@pytest.mark.parametrize("form", ["box", "dict", "multidiscrete"])
def test_an_action_is_a_step_or_an_error_that_changes_nothing(
    form: str, stop: bool, batch: tuple[int, ...], fault_rounds: int
):
    keywords: Any = {"action_format": form, "allow_stop": stop}
    env, twin = (  # the twin never sees an invalid action
        SignpostVectorEnv(*batch, **keywords) if batch else SignpostEnv(**keywords)
        for _ in range(2)
    )
    accepted: list[bool] = []

    def step(env: Any, action: Any) -> str:
        result = env.step(action)
        if not batch and result[2]:
            env.reset()
        return plain(result)

    @settings(max_examples=40 * fault_rounds, deadline=None, derandomize=True, database=None)
    @given(draw_actions(form, stop, batch))
    def try_it(action: Any) -> None:
        before = env.get_state()
        try:
            result = step(env, action)
        except ValueError as error:
            message = str(error)
        else:
            message = ""
            assert step(twin, action) == result
        accepted.append(not message)
        assert not message or "action" in message
        assert not message or env.get_state() == before
        env.action_space.seed(0)
        usual = env.action_space.sample()
        assert step(env, usual) == step(twin, usual)

    for each in (env, twin):
        each.reset(seed=0)
    try_it()
    assert set(accepted) == {True, False}


# Long runs

RUNS: list[tuple[str, dict[str, Any]]] = [
    ("MNISTGlimpse-v0", {"action_format": "box", "reward": "log_score", "allow_stop": True}),
    ("TranslatedMNISTGlimpse-v0", {"action_format": "dict", "reward": "dense"}),
    ("TranslatedMNISTGlimpse-v0", {"action_format": "box", "glimpse_cost": 0.05}),
    ("MNISTGlimpse-v0", {"action_format": "dict", "order": "sequential", "allow_stop": True}),
]


def slow_reward(task: Any, t: int, ends: bool, right: bool, log_p: float) -> float:
    """Return the reward of step t, from 1, as the environment's page says."""
    shares = (task.num_glimpses - t + 1 if ends else 1) / task.num_glimpses
    paid = {"final": right and ends, "dense": right * shares, "log_score": max(log_p, -7) * shares}
    return paid[task.reward] - task.glimpse_cost


@pytest.mark.parametrize(("env_id", "keywords"), RUNS)
def test_a_long_run_follows_the_page_in_bounded_memory(
    env_id: str, keywords: dict[str, Any], toy_dataset: str, fault_rounds: int
):
    n, rng = 20, np.random.default_rng(0)
    env: Any = gymnasium.make_vec(env_id, num_envs=n, dataset=toy_dataset, **keywords)
    task, images = env.unwrapped.task, open_split(toy_dataset, "train").images
    obs, info = env.reset(seed=1)
    t, memory, sizes = np.ones(n, int), [], set()
    tracemalloc.start()
    for call in range(50 * fault_rounds):
        kept = {name: info[name].copy() for name in ("label", "index", "position", "object_size")}
        stop = (rng.random(n) < 0.1) & task.allow_stop
        location = rng.uniform(-1.5, 1.5, (n, 2)).astype(np.float32)
        scores = rng.normal(0, 3, (n, 4)).astype(np.float32)
        label = scores.argmax(1)
        log_p = np.asarray(scores - np.log(np.exp(scores).sum(1, keepdims=True))).tolist()
        if task.action_format == "dict":
            action: Any = {"location": location, "label": label}
            action |= {"stop": stop.astype(int)} if task.allow_stop else {}
        else:
            columns = [location, scores] + [np.where(stop, 1, -1)[:, None]] * task.allow_stop
            action = np.concatenate(columns, 1, dtype=np.float32)

        obs, reward, terminated, truncated, info = env.step(action)
        ends = (t == task.num_glimpses) | stop
        assert terminated.tolist() == ends.tolist()
        assert not truncated.any()
        for i in range(n):
            truth = int(kept["label"][i])
            facts = (int(t[i]), bool(ends[i]), bool(label[i] == truth))
            assert math.isclose(reward[i], slow_reward(task, *facts, log_p[i][truth]), abs_tol=1e-5)
            if not ends[i]:
                assert all((info[name][i] == kept[name][i]).all() for name in kept)
                assert (obs["location"][i] == location[i].clip(-1, 1)).all()
        t = np.where(ends, 1, t + 1)
        assert np.allclose(obs["time"][:, 0], t / task.num_glimpses)

        i = call % n
        assert env.single_observation_space.contains({name: obs[name][i] for name in obs})
        canvas, (x, y) = np.zeros((1, task.side, task.side), np.uint8), info["position"][i]
        canvas[0, y : y + 28, x : x + 28] = np.asarray(images[info["index"][i]]).squeeze()
        place = (obs["location"][i : i + 1], task.glimpse_size, task.num_scales)
        assert np.allclose(obs["glimpse"][i], slow_glimpses(canvas, *place)[0], atol=1e-6)
        memory.append(tracemalloc.get_traced_memory()[0])
        sizes.add(json.dumps(env.get_state()).count(","))
    tracemalloc.stop()
    assert max(memory[len(memory) // 2 :]) - memory[len(memory) // 2] < 2**20
    assert len(sizes) == 1  # of the state, in numbers
