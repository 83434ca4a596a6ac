"""Any action is a step or a ValueError that changes nothing; long runs need no more memory."""

import json
import tracemalloc
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from ram_env import SignpostEnv, SignpostVectorEnv

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
    ("TranslatedMNISTGlimpse-v0", {"action_format": "box", "reward": "log_score"}),
    ("MNISTGlimpse-v0", {"action_format": "dict", "order": "sequential", "allow_stop": True}),
]


@pytest.mark.parametrize(("env_id", "keywords"), RUNS)
def test_memory_and_state_do_not_grow_in_a_long_run(
    env_id: str, keywords: dict[str, Any], toy_dataset: str, fault_rounds: int
):
    env: Any = gymnasium.make_vec(env_id, num_envs=20, dataset=toy_dataset, **keywords)
    env.reset(seed=1)
    env.action_space.seed(0)
    memory, sizes = [], set()
    tracemalloc.start()
    for _ in range(50 * fault_rounds):
        env.step(env.action_space.sample())
        memory.append(tracemalloc.get_traced_memory()[0])
        sizes.add(json.dumps(env.get_state()).count(","))
    tracemalloc.stop()
    assert max(memory[len(memory) // 2 :]) - memory[len(memory) // 2] < 2000 * len(memory)
    assert len(sizes) == 1  # of the state, in numbers
