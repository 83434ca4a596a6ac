"""A checker for vector environments: Gymnasium has one for single environments only.

Dimension key:
    N: lanes (sub-environments)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from gymnasium import Env, Space, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

DISABLED, NEXT_STEP = AutoresetMode.DISABLED, AutoresetMode.NEXT_STEP
SAME_STEP = AutoresetMode.SAME_STEP
CHECKS = ("spaces", "outputs", "autoreset", "seeds", "lane_seeds", "distinct", "reset_mask")
CHECKS += ("arguments", "reuse", "single", "episodes")
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
    """Check that a NumPy vector environment keeps Gymnasium's API.

    Each check plays random actions, with resets of all kinds in between. By name:

    - ``spaces``: batched spaces, ``num_envs`` and ``metadata["autoreset_mode"]`` are right.
    - ``outputs``: observations lie in the space with its dtype; rewards are floats and flags bools
      of shape (N,); each entry of ``infos`` has N rows beside its mask, blank where that is False;
      its ``label``, if any, lies in 0 to K - 1 where the environment has ``num_classes``, K.
    - ``autoreset``: ``SAME_STEP`` reports ``final_obs`` and ``final_info`` of just the lanes that
      ended; ``NEXT_STEP`` rests for one step, with reward 0 and no flag.
    - ``seeds``: a seed decides everything, and an unseeded reset continues the random numbers.
    - ``lane_seeds``: an int seeds lane i with seed + i; a list seeds each lane, equal seeds alike.
    - ``distinct``: lanes with other seeds, and later episodes, start differently.
    - ``reset_mask``: ``options={"reset_mask": mask}`` resets these lanes and leaves the others.
    - ``arguments``: ``reset`` doesn't change the options that it is given.
    - ``reuse``: actions and returned arrays are the caller's: never changed, shared or read later.
    - ``single``: every output equals that of a ``SyncVectorEnv`` of ``make_single``, to the bit.
    - ``episodes``: each lane's episodes are those of another mode, given its actions one by one:
      ``DISABLED``, or ``SAME_STEP``, if it is among the modes.

    Args:
        make_vector: Makes the environment of N lanes in an autoreset mode.
        make_single: Makes the environment of one lane. None leaves out ``single``.
        modes: Autoreset modes to check.
        skip: Names of checks to leave out, such as ``arguments`` for Gymnasium's
            ``SyncVectorEnv``, which removes the mask from the options, or ``distinct`` if all
            episodes start alike. No environment is reset with a mask or with several seeds if
            ``reset_mask`` or ``lane_seeds`` is left out, and ``episodes`` is left out, too.
        num_envs: N, at least 2.
        num_steps: Steps of each check. An episode must end within them.
        reset_every: Steps between two resets, enough for an episode to end.
        seed: Seed of environments and actions.
        make_sampler: Takes an environment and a seed, returns a function that draws actions. By
            default the action space's ``sample``.
        options: Further options of ``reset`` to try.

    Raises:
        AssertionError: If the environment fails; the message begins with the name of the check.
            What the environment raises gets a note with that name.
        ValueError: If a check's name or a mode is unknown, there is no mode, or a number is too
            small.

    Example:
        >>> import gymnasium as gym
        >>> check_vector_env(
        ...     lambda n, mode: gym.make_vec(
        ...         "CartPole-v1", n, "sync", vector_kwargs={"autoreset_mode": mode}
        ...     ),
        ...     lambda: gym.make("CartPole-v1"),
        ...     skip=["arguments"],
        ...     num_steps=100,
        ...     reset_every=40,
        ... )
    """
    if unknown := sorted({*skip} - {*CHECKS}):
        raise ValueError(f"skip must name some of {', '.join(CHECKS)}, got {unknown}")
    if not isinstance(modes, Collection) or {*map(type, modes)} != {AutoresetMode}:
        raise ValueError(f"modes must be AutoresetModes, at least one, got {modes!r}")
    if num_envs < 2 or num_steps < 1 or reset_every < 1:
        least = "num_envs must be at least 2, num_steps and reset_every at least 1"
        raise ValueError(f"{least}, got {num_envs}, {num_steps} and {reset_every}")
    left_out = {*skip, *(() if make_single else ("single",))}
    if {"lane_seeds", "reset_mask"} & left_out:
        left_out.add("episodes")
    calls = num_steps, reset_every, seed, make_sampler or _from_space, options, left_out
    for mode, name in product(modes, [name for name in CHECKS if name not in left_out]):
        with ExitStack() as opened:

            def make(mode: AutoresetMode = mode, opened: ExitStack = opened) -> VectorEnv:
                opened.callback((env := make_vector(num_envs, mode)).close)
                return env

            try:
                getattr(_Checks(*calls, num_envs, modes, mode, make_single), name)(make(), make)
            except AssertionError as error:
                raise AssertionError(f"{name} ({mode.name}): {error}") from error
            except Exception as error:
                error.add_note(f"raised in the check {name!r} of autoreset mode {mode.name}")
                raise


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
    modes: Collection[AutoresetMode] = ()
    mode: AutoresetMode = SAME_STEP
    make_single: Callable[[], Env] | None = None

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

    def spaces(self, env: Any, make: Any) -> None:
        _require_equal("num_envs", env.num_envs, self.num_envs)
        _require_equal("metadata['autoreset_mode']", env.metadata.get("autoreset_mode"), self.mode)
        with closing(self.make_single()) if self.make_single else nullcontext() as single:
            for kind in ("observation_space", "action_space"):
                one = getattr(env, f"single_{kind}")
                _require_equal(f"single_{kind}", one, getattr(single, kind) if single else one)
                _require_equal(kind, getattr(env, kind), batch_space(one, self.num_envs))

    def outputs(self, env: Any, make: Any) -> None:
        ended, num_classes = False, getattr(env.unwrapped, "num_classes", None)
        for out in self.play(env):
            _check_member(env.observation_space, out["obs"], "obs")
            _check_infos(out["infos"], self.num_envs)
            if num_classes is not None and "label" in out["infos"]:
                labels, allowed = out["infos"]["label"], f"in 0..{num_classes - 1}"
                inside = (labels >= 0) & (labels < num_classes)
                _require(inside.all(), f"infos['label'] must be {allowed}, got", labels)
            for name, values in [*out.items()][1:-1]:
                kind, wanted = ("f", "floats") if name == "reward" else ("b", "bools")
                array = values if isinstance(values, np.ndarray) else np.array(None)
                fits = array.dtype.kind == kind and array.shape == (self.num_envs,)
                wanted = f"{name} must be {wanted} of shape ({self.num_envs},), got"
                _require(fits, wanted, getattr(values, "dtype", type(values)), np.shape(values))
            ended |= "reward" in out and bool((out["terminated"] | out["truncated"]).any())
        _require(ended, "no episode ended: raise num_steps and reset_every")

    def autoreset(self, env: Any, make: Any) -> None:
        rests = np.zeros(self.num_envs, bool)
        for out in self.play(env):
            if "reward" not in out:
                rests[:] = False
                continue
            ended, infos = out["terminated"] | out["truncated"], out["infos"]
            if self.mode is SAME_STEP:
                for name in ("final_obs", "final_info"):
                    told = np.array(infos.get(f"_{name}", np.zeros_like(ended)))
                    exact = (told == ended).all() and (name in infos or not ended.any())
                    _require(exact, f"infos[{name!r}] must be of the lanes that ended,", ended)
                for last in [infos["final_obs"][lane] for lane in np.flatnonzero(ended)]:
                    _check_member(env.single_observation_space, last, "final_obs")
            elif self.mode is NEXT_STEP:
                idle = not out["reward"][rests].any() and not ended[rests].any()
                _require(idle, "the step after an episode's end must have reward 0 and no flag")
                rests = ended

    def seeds(self, env: Any, make: Any) -> None:
        twin = make()
        twin.reset(seed=self.seed + 100)  # whatever came before
        self.compare(env, twin, "of the same seed: ")

    def lane_seeds(self, env: Any, make: Any) -> None:
        seed, num_envs = self.seed, self.num_envs
        begun, second = _starts(env, seed=seed), _starts(env)
        listed = _starts(env, seed=[seed + lane for lane in range(num_envs)])
        _require(listed == begun, "lane i of an int must be seeded seed + i, as by a list")
        mixed = _starts(env, seed=[seed, *[None] * (num_envs - 1)])
        _require(mixed[0] == begun[0], "a list must seed the lanes that it gives a number")
        _require(mixed[1:] == second[1:], "None in a list of seeds must not seed its lane")
        alike = {*_starts(env, seed=[seed] * num_envs)}
        _require(alike == {begun[0]}, "lanes of equal seeds must start alike")

    def distinct(self, env: Any, make: Any) -> None:
        begun = {*_starts(env, seed=self.seed)}
        _require(len(begun) == self.num_envs, "lanes seeded differently must not start alike")
        _require(not begun & {*_starts(env)}, "an unseeded reset must not start again")
        other = {*_starts(env, seed=self.seed + self.num_envs)}
        _require(not begun & other, "other seeds must not start alike")

    def reset_mask(self, env: Any, make: Any) -> None:
        first, second = _starts(env, seed=self.seed), _starts(env)
        env.reset(seed=self.seed)
        mask = np.arange(self.num_envs) % 2 == 0
        out = _reset(env, options={"reset_mask": mask})
        told = [(part == mask).all() for name, part in out["infos"].items() if name[0] == "_"]
        _require(all(told), "infos of a masked reset must be of the masked lanes")
        for lane, start in enumerate(_lanes(env, out)):
            if not mask[lane]:
                _require(start[0] == first[lane][0], f"lane {lane} of", mask, "must stay as it was")
            elif "lane_seeds" not in self.skip:  # else lanes may share random numbers
                what = "must start its next episode"
                _require(start == second[lane], f"lane {lane} of", mask, what)

    def arguments(self, env: Any, make: Any) -> None:
        for call in self.resets(np.arange(self.num_envs) % 2 == 0, 0):
            env.reset(seed=self.seed)
            given = copy.deepcopy(call)
            env.reset(**given)
            assert_same(given, call, "reset's arguments afterwards")

    def reuse(self, env: Any, make: Any) -> None:
        old, left, kept = [], [], []
        for out, expected in zip(self.play(env), self.play(make()), strict=True):
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

    def single(self, env: Any, make: Any) -> None:
        assert self.make_single is not None
        singles = [self.make_single] * self.num_envs
        with closing(SyncVectorEnv(singles, autoreset_mode=self.mode)) as single:
            self.compare(env, single)

    def episodes(self, env: Any, make: Any) -> None:
        others = [each for each in (DISABLED, SAME_STEP) if each in self.modes]
        for other in [each for each in others if each is not self.mode][:1]:
            sample = self.make_sampler(env, self.seed)
            batches = [copy.deepcopy(sample()) for _ in range(self.num_steps)]
            actions = [[*iterate(env.action_space, batch)] for batch in batches]
            mine = _episodes(env, actions, self.seed)
            theirs = _episodes(make(other), actions, self.seed)
            for lane, (steps, wanted) in enumerate(zip(mine, theirs, strict=True)):
                for k, (step, expected) in enumerate(zip(steps, wanted, strict=False)):
                    where = f"unlike the mode {other.name}, lane {lane}, action {k}: "
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


def _starts(env: VectorEnv, **call: Any) -> list[tuple[str, str]]:
    return _lanes(env, _reset(env, **call))


def _lanes(env: VectorEnv, out: Output) -> list[tuple[str, str]]:
    """Return each lane's observation and infos, frozen."""

    def lane_of(infos: dict[str, Any], lane: int) -> dict[str, Any]:
        parts = infos.items()
        return {k: lane_of(v, lane) if isinstance(v, dict) else v[lane] for k, v in parts}

    def frozen(tree: Any) -> str:
        return repr(sorted(_freeze(tree).items()))

    rows = enumerate(iterate(env.observation_space, out["obs"]))
    return [(frozen(row), frozen(lane_of(out["infos"], lane))) for lane, row in rows]


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


def _check_infos(infos: dict[str, Any], num_envs: int, where: str = "infos") -> None:
    """Each entry is (N, ...) beside its own bool mask (N,); masked-out rows are zero or None."""
    names = [name for name in infos if not name.startswith("_")]
    masks = {f"_{name}" for name in names}
    _require({*infos} == {*names, *masks}, f"{where} must have a mask _NAME for each entry NAME")
    for name in names:
        values, mask, entry = infos[name], infos[f"_{name}"], f"{where}[{name!r}]"
        _require_equal(f"the mask of {entry}", (mask.dtype, mask.shape), (bool, (num_envs,)))
        if isinstance(values, dict):
            _check_infos(values, num_envs, entry)
            continue
        _require_equal(f"the number of rows of {entry}", len(values), num_envs)
        rest = values[~mask]
        blank = [row is None for row in rest] if rest.dtype == object else rest == rest.dtype.type()
        _require(np.all(blank), f"{entry} must be None or 0 where its mask is False")


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
