"""A checker for vector environments: Gymnasium has one for single environments only.

Dimension key:
    N: lanes (sub-environments)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from itertools import combinations, product
from typing import Any

import numpy as np
from gymnasium import Env, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space

MakeVector = Callable[[int, AutoresetMode], VectorEnv]
MakeSingle = Callable[[], Env]
DISABLED = AutoresetMode.DISABLED


def check_vector_env(
    make_vector: MakeVector, make_single: MakeSingle, num_envs: int = 4, num_steps: int = 26
) -> None:
    """Hold a NumPy vector environment against the API and against its single environment.

    ``make_vector`` takes N and the autoreset mode, ``make_single`` makes one lane's environment.
    """
    seed = 7  # of the environments and of the random actions
    check_seeds(lambda: make_vector(num_envs, DISABLED), seed)
    for mode in AutoresetMode:
        envs = [make_vector(num_envs, mode) for _ in range(6)]
        check_spaces(envs[0], make_single(), num_envs, mode)
        check_outputs(envs[1], num_steps, seed)
        check_mask(envs[2], seed)
        check_no_reuse((envs[3], envs[4]), num_steps, seed)
        sync = SyncVectorEnv([make_single] * num_envs, autoreset_mode=mode)
        check_equal(envs[5], sync, num_steps, seed)
    check_lanes(make_vector(num_envs, DISABLED), make_single, seed)


def check_spaces(env: VectorEnv, single: Env, num_envs: int, mode: AutoresetMode) -> None:
    """Spaces are the single environment's and their batches; the metadata names the mode."""
    assert env.num_envs == num_envs
    assert env.metadata["autoreset_mode"] is mode
    assert env.single_observation_space == single.observation_space
    assert env.single_action_space == single.action_space
    assert env.observation_space == batch_space(single.observation_space, num_envs)
    assert env.action_space == batch_space(single.action_space, num_envs)


def check_outputs(env: VectorEnv, num_steps: int, seed: int) -> None:
    """Every call returns members of the spaces, float64 rewards, bool flags, masked infos."""
    ended, correct = [], []
    for (out,) in lockstep((env,), num_steps, seed):
        assert env.observation_space.contains(out[0])
        assert isinstance(env.observation_space, spaces.Dict)
        for name, space in env.observation_space.items():
            assert (out[0][name].dtype, out[0][name].shape) == (space.dtype, space.shape)
        check_infos(out[-1], env.num_envs)
        if len(out) == 2:
            continue
        for values, dtype in zip(out[1:4], ("float64", "bool", "bool"), strict=True):
            assert (values.dtype, values.shape) == (dtype, (env.num_envs,))
        assert not out[3].any()
        ended.append(out[2])
        outcome = out[4].get("final_info", out[4])
        correct += outcome["correct"][outcome["_correct"]].tolist() if out[2].any() else []
    assert {*correct} == {True, False}, "this rollout shows too little: take another seed"
    task = env.unwrapped.task  # pyright: ignore[reportAttributeAccessIssue]
    if task.allow_stop and task.num_glimpses > 1:
        assert any(0 < flags.sum() < env.num_envs for flags in ended), "lanes never out of step"


def check_infos(infos: dict[str, Any], num_envs: int) -> None:
    """Each entry is (N, ...) beside its own bool mask (N,); masked-out rows are zero or None."""
    names = [name for name in infos if not name.startswith("_")]
    assert {*infos} == {*names, *(f"_{name}" for name in names)}
    for name in names:
        values, mask = infos[name], infos[f"_{name}"]
        assert (mask.dtype, mask.shape) == ("bool", (num_envs,))
        if isinstance(values, dict):
            check_infos(values, num_envs)
        elif values.dtype == object:
            assert [row is not None for row in values] == mask.tolist()
        else:
            assert len(values) == num_envs
            assert not values[~mask].any()


def check_seeds(make: Callable[[], Any], seed: int) -> None:
    """An int, a list, a list with None and None seed the lanes that they name, and no other."""
    env, twin = make(), make()
    num_envs = env.num_envs
    first = env.reset(seed=seed)
    begun = scenes(first)
    assert len({*begun}) == num_envs, "lanes seeded differently look alike"
    assert_same(twin.reset(seed=[seed + lane for lane in range(num_envs)]), first)
    second = scenes(env.reset())
    assert not {*second} & {*begun}, "an unseeded reset goes on"
    assert_same(env.reset(seed=seed), first)
    seeds: list[int | None] = [None] * num_envs
    seeds[0] = seed
    assert scenes(env.reset(seed=seeds)) == [begun[0], *second[1:]]
    assert scenes(env.reset(seed=seed + 1))[:-1] == begun[1:]
    assert not {*scenes(env.reset(seed=seed + num_envs))} & {*begun}


def check_mask(env: VectorEnv, seed: int) -> None:
    """``reset_mask`` is read and kept; infos tell of masked lanes; the others stay put."""
    before = env.reset(seed=seed)
    mask = np.arange(env.num_envs) % 2 == 0
    options = {"reset_mask": mask.copy()}
    after = env.reset(options=options)
    assert [*options] == ["reset_mask"]
    assert (options["reset_mask"] == mask).all()
    check_infos(after[1], env.num_envs)
    assert all((after[1][name] == mask).all() for name in after[1] if name.startswith("_"))
    for lane in range(env.num_envs):
        if mask[lane]:
            assert scenes(after)[lane] != scenes(before)[lane]
        else:
            assert_same(row(after[0], lane), row(before[0], lane))


def check_no_reuse(twins: tuple[VectorEnv, VectorEnv], num_steps: int, seed: int) -> None:
    """What was returned is the caller's: never shared, never changed, never read again."""
    old: list[np.ndarray] = []
    left = []
    for out, expected in lockstep(twins, num_steps, seed):
        assert_same(out, expected)
        for leaf, content in zip(old, left, strict=True):
            assert leaf.tobytes() == content, "a later call changed what was returned"
        new = [*leaves(out)]
        for a, b in [*combinations(new, 2), *product(old, new)]:
            assert not np.shares_memory(a, b)
        for leaf in new:
            leaf[...] = ~leaf if leaf.dtype == bool else leaf * 3 + 1
        out[0].clear()
        out[-1].clear()
        old, left = new, [leaf.tobytes() for leaf in new]


def check_equal(env: VectorEnv, reference: VectorEnv, num_steps: int, seed: int) -> None:
    """Two vector environments return the same bytes at every call."""
    for out, expected in lockstep((env, reference), num_steps, seed):
        assert_same(out, expected)
    reference.close()


def check_lanes(env: VectorEnv, make_single: MakeSingle, seed: int) -> None:
    """Lane i seeded s is the single environment seeded s + i, through one episode."""
    singles = [make_single() for _ in range(env.num_envs)]
    obs, _ = env.reset(seed=seed)
    sample, over = sampler(env, seed), np.zeros(env.num_envs, bool)
    for lane, single in enumerate(singles):
        assert_same(row(obs, lane), single.reset(seed=seed + lane)[0])
    while not over.any():
        action = sample()
        obs, reward, over, _, infos = env.step(copy.deepcopy(action))
        for lane, single in enumerate(singles):
            alone = single.step(row(action, lane))
            assert_same(row(obs, lane), alone[0])
            assert alone[1:4] == (reward[lane], over[lane], False)
            assert all(np.all(infos[name][lane] == value) for name, value in alone[4].items())


def lockstep(
    envs: Sequence[VectorEnv], num_steps: int, seed: int
) -> Iterator[list[tuple[Any, ...]]]:
    """Make the same calls on several environments and yield what each returned.

    Steps with random actions, and between them resets of all kinds: full and masked, seeded
    and not, with and without options. Actions must be neither changed nor kept.
    """
    rng, sample, num_envs = np.random.default_rng(seed), sampler(envs[0], seed), envs[0].num_envs
    ended = np.zeros(num_envs, bool)

    def reset(**call: Any) -> list[tuple[Any, ...]]:
        return [env.reset(**copy.deepcopy(call)) for env in envs]

    yield reset(seed=seed)
    for step in range(num_steps):
        if envs[0].metadata["autoreset_mode"] is DISABLED and ended.any():
            yield reset(options={"reset_mask": ended})
        if step % 5 == 4:
            mask = rng.random(num_envs) < 0.5
            mask[rng.integers(num_envs)] = True
            calls: list[dict[str, Any]] = [
                {"options": {"reset_mask": mask}},
                {"seed": [None if out else seed + step for out in mask]},
                {"options": {"reset_mask": np.arange(num_envs) % 2 == 1}, "seed": step},
                {"options": {"index": 3, "location": (0.5, -1)}},
                {},
            ]
            yield reset(**calls[step // 5 % len(calls)])
        action = sample()
        outputs = []
        for env in envs:
            given = copy.deepcopy(action)
            outputs.append(env.step(given))
            assert_same(given, action)
            for leaf in leaves(given):
                leaf[...] = 1
        ended = np.array(outputs[0][2].tolist())
        yield outputs


def sampler(env: VectorEnv, seed: int) -> Callable[[], Any]:
    """Return a source of random actions: often out of bounds, rarely stopping."""
    task = env.unwrapped.task  # pyright: ignore[reportAttributeAccessIssue]
    space, rng = copy.deepcopy(env.action_space), np.random.default_rng(seed)
    space.seed(seed)

    def sample() -> Any:
        action = space.sample()
        stays = rng.random(env.num_envs) < 0.7 * task.allow_stop
        if task.action_format == "dict":
            action["location"] *= 1.3
            if task.allow_stop:
                action["stop"][stays] = 0
        elif task.action_format == "box":
            action[:, :2] *= 1.3
            action[:, 2:] *= 9
            action[stays, -1] = -1
        else:
            action[stays, -1] = 0
        return action

    return sample


def assert_same(got: Any, expected: Any, where: str = "output") -> None:
    """Compare nested outputs by type, dtype, shape and bytes; only the order of keys is free."""
    assert type(got) is type(expected), f"{where}: {type(got)} is not {type(expected)}"
    if isinstance(got, dict):
        assert {*got} == {*expected}, where
        for name in got:
            assert_same(got[name], expected[name], f"{where}[{name!r}]")
    elif isinstance(got, (tuple, list)) or (isinstance(got, np.ndarray) and got.dtype == object):
        assert len(got) == len(expected), where
        for place, (a, b) in enumerate(zip(got, expected, strict=True)):
            assert_same(a, b, f"{where}[{place}]")
    elif isinstance(got, np.ndarray):
        assert (got.dtype, got.shape) == (expected.dtype, expected.shape), where
        assert got.tobytes() == expected.tobytes(), f"{where}:\n{got}\nis not\n{expected}"
    elif hasattr(got, "numpy"):
        assert got.device == expected.device, where
        assert_same(got.cpu().numpy(), expected.cpu().numpy(), where)
    else:
        assert got == expected, where


def leaves(tree: Any) -> Iterator[np.ndarray]:
    """Yield all arrays of a nested output; of CPU tensors, views as arrays."""
    if isinstance(tree, dict):
        tree = [*tree.values()]
    if hasattr(tree, "numpy"):
        tree = tree.numpy()
    if isinstance(tree, (tuple, list)) or (isinstance(tree, np.ndarray) and tree.dtype == object):
        for branch in tree:
            yield from leaves(branch)
    elif isinstance(tree, np.ndarray):
        yield tree


def row(batch: Any, lane: int) -> Any:
    """Return one lane of a batched observation or action."""
    if isinstance(batch, dict):
        return {name: part[lane] for name, part in batch.items()}
    return batch[lane]


def scenes(out: tuple[Any, ...]) -> list[bytes]:
    """Return each lane's scene and what is seen of it, as bytes."""
    parts = [*out[0].values(), out[-1]["index"], out[-1]["position"]]
    return [b"".join(part[lane].tobytes() for part in parts) for lane in range(len(parts[0]))]
