"""A checker for vector environments: Gymnasium has one for single environments only.

Dimension key:
    N: lanes (sub-environments)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from gymnasium import Env, Space, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

DISABLED, NEXT_STEP = AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP
SAME_STEP = AutoresetMode.SAME_STEP
CHECKS = ("spaces", "seeds", "lane_seeds", "reset_mask", "reuse", "single", "episodes")
"""Names of the checks, which ``skip`` takes; :func:`check_vector_env` describes them."""

MakeSampler = Callable[[VectorEnv, int], Callable[[], Any]]
STEP = ("obs", "reward", "terminated", "truncated", "infos")
Output = dict[str, Any]  # what a reset or a step returned, by name


def check_vector_env(
    make_vector: Callable[[int, AutoresetMode], VectorEnv],
    make_single: Callable[[], Env] | None = None,
    *,
    modes: Collection[AutoresetMode] = tuple(AutoresetMode),
    skip: Collection[str] = (),
    num_envs: int = 4,
    num_steps: int = 26,
    reset_every: int = 5,
    seed: int = 7,
    make_sampler: MakeSampler | None = None,
    options: Sequence[dict[str, Any]] = (),
) -> None:
    """Check a NumPy vector environment by random actions, with resets of all kinds in between.

    - ``spaces``: spaces are batched and observations lie in them, with their dtype; rewards are
      floats and flags bools of shape (N,).
    - ``seeds``: a seed decides everything that follows it.
    - ``lane_seeds``: an int s seeds lane i as the list of s + i does.
    - ``reset_mask``: ``options={"reset_mask": mask}`` resets these lanes and leaves the others.
    - ``reuse``: actions and returned arrays are the caller's: never changed, shared or read later.
    - ``single``: every output equals that of a ``SyncVectorEnv`` of ``make_single``, to the bit.
    - ``episodes``: all autoreset modes play the same episodes, given their actions one by one.

    Args:
        make_vector: Makes the environment of N lanes in an autoreset mode.
        make_single: Makes the environment of one lane. None leaves out ``single``.
        modes: Autoreset modes to check.
        skip: Names of checks to leave out. Without ``reset_mask`` or ``lane_seeds``, no reset has
            a mask or a list of seeds, and ``episodes`` is left out, too.
        num_envs: N, at least 2.
        num_steps: Steps of each check. An episode must end within them.
        reset_every: Steps between two resets, enough for an episode to end.
        seed: Seed of environments and actions.
        make_sampler: Takes an environment and a seed, returns a function that draws actions.
        options: Further options of ``reset`` to try.

    Raises:
        AssertionError: If the environment fails; the message begins with the check's name.
        ValueError: If ``skip`` has an unknown name.
    """
    if unknown := sorted({*skip} - {*CHECKS}):
        raise ValueError(f"skip must name some of {', '.join(CHECKS)}, got {unknown}")
    left_out = {*skip, *([] if make_single else ["single"])}
    left_out |= {"episodes"} if {"lane_seeds", "reset_mask"} & left_out else set()
    calls = num_steps, reset_every, seed, make_sampler or _from_space, options, left_out

    def make_twin(name: str, mode: AutoresetMode) -> VectorEnv:
        if name == "single" and make_single:
            return SyncVectorEnv([make_single] * num_envs, autoreset_mode=mode)
        others = [each for each in (DISABLED, SAME_STEP) if each in modes and each is not mode]
        return make_vector(num_envs, others[0] if name == "episodes" and others else mode)

    for mode, name in product(modes, [name for name in CHECKS if name not in left_out]):
        with closing(make_vector(num_envs, mode)) as env, closing(make_twin(name, mode)) as twin:
            try:
                getattr(_Checks(*calls, num_envs, mode), name)(env, twin)
            except AssertionError as error:
                raise AssertionError(f"{name} ({mode.name}): {error}") from error


@dataclass(frozen=True)
class _Checks:
    """The checks of one autoreset mode, by name, and the calls that they make."""

    num_steps: int
    reset_every: int
    seed: int
    make_sampler: MakeSampler
    options: Sequence[dict[str, Any]] = ()
    skip: Collection[str] = ()
    num_envs: int = 4
    mode: AutoresetMode = SAME_STEP

    def play(self, env: VectorEnv, like: VectorEnv | None = None) -> Iterator[Output]:
        """Yield what steps with random actions return, and resets of all kinds between them.

        The actions are those drawn for ``like``; by default for the environment itself.
        """
        num_envs, rng = env.num_envs, np.random.default_rng(self.seed)
        sample, ended = self.make_sampler(like or env, self.seed), np.zeros(num_envs, bool)
        yield _reset(env, seed=self.seed)
        for step in range(self.num_steps):
            if env.metadata["autoreset_mode"] is DISABLED and ended.any():
                masked = "reset_mask" not in self.skip
                yield _reset(env, options={"reset_mask": ended} if masked else None)
            if step % self.reset_every == self.reset_every - 1:
                mask = rng.random(num_envs) < 0.5
                mask[rng.integers(num_envs)] = True
                kinds = self.resets(mask, step)
                yield _reset(env, **kinds[step // self.reset_every % len(kinds)])
            action = sample()
            given = copy.deepcopy(action)
            out = env.step(given)
            _require(len(out) == 5, "step must return 5 parts, got", len(out))
            assert_same(given, action, "the action after the step")
            for leaf in leaves(given):
                leaf[...] = 1  # to be noticed if it is read later
            ended = np.array((out[2] | out[3]).tolist())
            yield dict(zip(STEP, out, strict=True))

    def resets(self, mask: np.ndarray, step: int) -> list[dict[str, Any]]:
        """Return the arguments of resets of all kinds that are not left out."""
        seed, odd = self.seed + step, np.arange(len(mask)) % 2 == 1
        kinds: list[dict[str, Any]] = [{}, {"seed": seed}]
        kinds += [{"options": each} for each in self.options]
        if "lane_seeds" not in self.skip:
            kinds.append({"seed": [None if out else seed for out in mask]})
        if "reset_mask" not in self.skip:
            kinds.append({"options": {"reset_mask": mask}})
            kinds.append({"options": {"reset_mask": odd}, "seed": step})
        return kinds[::-1]

    def compare(self, env: VectorEnv, reference: VectorEnv, where: str = "") -> None:
        """Two environments return the same bytes at every call."""
        for out, expected in zip(self.play(env), self.play(reference, env), strict=True):
            assert_same(out, expected, where)

    def spaces(self, env: Any, twin: Any) -> None:
        _require_equal("num_envs", env.num_envs, self.num_envs)
        _require_equal("metadata['autoreset_mode']", env.metadata.get("autoreset_mode"), self.mode)
        for kind in ("observation_space", "action_space"):
            one = getattr(env, f"single_{kind}")
            _require_equal(kind, getattr(env, kind), batch_space(one, self.num_envs))
        has_ended = False
        for out in self.play(env):
            _check_member(env.observation_space, out["obs"], "obs")
            for name, values in [*out.items()][1:-1]:
                kind, wanted = ("f", "floats") if name == "reward" else ("b", "bools")
                array = values if isinstance(values, np.ndarray) else np.array(None)
                fits = array.dtype.kind == kind and array.shape == (self.num_envs,)
                wanted = f"{name} must be {wanted} of shape ({self.num_envs},), got"
                _require(fits, wanted, getattr(values, "dtype", type(values)), np.shape(values))
            has_ended |= "reward" in out and bool((out["terminated"] | out["truncated"]).any())
        _require(has_ended, "no episode ended: raise num_steps and reset_every")

    def seeds(self, env: Any, twin: Any) -> None:
        twin.reset(seed=self.seed + 100)  # whatever came before
        self.compare(env, twin, "of the same seed: ")

    def lane_seeds(self, env: Any, twin: Any) -> None:
        seeds = [self.seed + lane for lane in range(self.num_envs)]
        same = _starts(env, seed=seeds) == _starts(env, seed=self.seed)
        _require(same, "lane i of an int must be seeded seed + i, as by a list")

    def reset_mask(self, env: Any, twin: Any) -> None:
        first, second = _starts(env, seed=self.seed), _starts(env)
        env.reset(seed=self.seed)
        mask = np.arange(self.num_envs) % 2 == 0
        for lane, start in enumerate(_starts(env, options={"reset_mask": mask})):
            if not mask[lane]:
                _require(start == first[lane], f"lane {lane} of", mask, "must stay as it was")
            elif "lane_seeds" not in self.skip:  # else lanes may share random numbers
                what = "must start its next episode"
                _require(start == second[lane], f"lane {lane} of", mask, what)

    def reuse(self, env: Any, twin: Any) -> None:
        old, left, kept = [], [], []
        for out, expected in zip(self.play(env), self.play(twin), strict=True):
            assert_same(out, expected, "after the caller wrote to earlier outputs: ")
            assert_same(old, left, "a later call changed an array returned before: ")
            new = leaves(out)
            for a, b in [*combinations(new, 2), *product(old, new)]:
                _require(not np.shares_memory(a, b), "two returned arrays share memory")
            for leaf in new:
                leaf[...] = leaf == 0  # never what it was
            for part in kept:
                part.clear()
            kept = [part for part in (out["obs"], out["infos"]) if isinstance(part, dict)]
            old, left = new, copy.deepcopy(new)

    def single(self, env: Any, twin: Any) -> None:
        self.compare(env, twin)

    def episodes(self, env: Any, twin: Any) -> None:
        sample = self.make_sampler(env, self.seed)
        batches = [copy.deepcopy(sample()) for _ in range(self.num_steps)]
        actions = [[*iterate(env.action_space, batch)] for batch in batches]
        mine, theirs = (_episodes(each, actions, self.seed) for each in (env, twin))
        other = twin.metadata["autoreset_mode"].name
        for lane, (steps, wanted) in enumerate(zip(mine, theirs, strict=True)):
            for k, (step, expected) in enumerate(zip(steps, wanted, strict=False)):
                where = f"unlike the mode {other}, lane {lane}, action {k}: "
                assert_same(step, expected, where, types=False)


def _episodes(env: VectorEnv, actions: list[list[Any]], seed: int) -> list[list[Any]]:
    """Return each lane's steps but for rests, where ``actions[k][lane]`` is its action k."""
    mode, space, num_envs = env.metadata["autoreset_mode"], env.single_action_space, env.num_envs
    lanes, rests = [[] for _ in range(num_envs)], np.zeros(num_envs, bool)
    before = [*iterate(env.observation_space, copy.deepcopy(env.reset(seed=seed)[0]))]
    for _ in actions:
        if mode is DISABLED and rests.any():
            obs, _ = env.reset(options={"reset_mask": rests})
            before = [*iterate(env.observation_space, copy.deepcopy(obs))]
        given = [actions[len(steps)][lane] for lane, steps in enumerate(lanes)]
        out = env.step(concatenate(space, given, create_empty_array(space, num_envs)))
        obs, reward, terminated, truncated, infos = copy.deepcopy(out)
        ended, after = terminated | truncated, [*iterate(env.observation_space, obs)]
        for lane, steps in enumerate(lanes):
            if mode is not NEXT_STEP or not rests[lane]:
                final = mode is SAME_STEP and ended[lane]
                last = infos["final_obs"][lane] if final else after[lane]
                step = (before[lane], last, reward[lane], terminated[lane], truncated[lane])
                steps.append(dict(zip(("obs before", "obs after", *STEP[1:4]), step, strict=True)))
        before, rests = after, ended
    return lanes


def _reset(env: VectorEnv, **call: Any) -> Output:
    return dict(zip(("obs", "infos"), env.reset(**copy.deepcopy(call)), strict=True))


def _starts(env: VectorEnv, **call: Any) -> list[Any]:
    """Reset; return each lane's observation, frozen."""
    return [*map(_freeze, iterate(env.observation_space, _reset(env, **call)["obs"]))]


def _require(holds: Any, *message: Any) -> None:
    if not holds:  # arrays take long to print
        raise AssertionError(" ".join(map(str, message)))


def _require_equal(name: str, got: Any, expected: Any) -> None:
    _require(got == expected, f"{name} must be", expected, "but is", got)


def _check_member(space: Space, value: Any, where: str) -> None:
    """An observation lies in its space, and so do its parts, with the space's dtype."""
    if isinstance(space, spaces.Dict) and isinstance(value, dict):
        for name in {*value} & {*space}:
            _check_member(space[name], value[name], f"{where}[{name!r}]")
    elif isinstance(value, np.ndarray) and space.dtype is not None:
        _require_equal(f"the dtype of {where}", value.dtype, space.dtype)
    _require(space.contains(value), f"{where} must lie in", space, "but is", value)


def _from_space(env: VectorEnv, seed: int) -> Callable[[], Any]:
    """Return a source of random actions of the batched space."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return space.sample


def assert_same(got: Any, expected: Any, where: str = "", types: bool = True) -> None:
    """Compare nested outputs by type, dtype, shape and bytes; only the order of keys is free."""
    a, b = _freeze(got, types), _freeze(expected, types)
    for place in {**b, **a}:
        if a.get(place) != b.get(place):
            found, wanted = (dict(_walk(tree)).get(place) for tree in (got, expected))
            raise AssertionError(f"{where}{place} {found!r} is not {wanted!r}")


def leaves(tree: Any) -> list[np.ndarray]:
    """Return all arrays of a nested output; of CPU tensors, views as arrays."""
    arrays = [leaf.numpy() if hasattr(leaf, "numpy") else leaf for _, leaf in _walk(tree)]
    return [leaf for leaf in arrays if isinstance(leaf, np.ndarray)]


def _walk(tree: Any, where: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the place and value of each leaf of a nested output, and the type of each branch."""
    is_object = isinstance(tree, np.ndarray) and tree.dtype == object
    if is_object or isinstance(tree, (dict, tuple, list)):
        yield where, type(tree)
        for name, branch in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from _walk(branch, f"{where}[{name!r}]")
    else:
        yield where, tree


def _freeze(tree: Any, types: bool = False) -> dict[str, tuple[Any, ...]]:
    """Return what each part of a nested output is now, by place."""
    frozen = {}
    for where, leaf in _walk(tree):
        device = str(leaf.device) if hasattr(leaf, "numpy") else ""
        array = np.asarray(leaf.cpu() if device else leaf)
        content = repr(leaf) if array.dtype == object else array.tobytes()
        frozen[where] = (type(leaf) if types else "", device, array.dtype, array.shape, content)
    return frozen
