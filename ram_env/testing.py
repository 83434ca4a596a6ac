"""A checker for vector environments: Gymnasium has one for single environments only.

Dimension key:
    N: lanes (sub-environments)
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from gymnasium import Env, Space, spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, concatenate, create_empty_array, iterate

CHECKS = ("spaces", "outputs", "autoreset", "seeds", "lane_seeds", "distinct", "reset_mask")
CHECKS += ("arguments", "reuse", "single", "episodes")
"""Names of the checks, which ``skip`` takes; :func:`check_vector_env` describes them."""

MakeSampler = Callable[[VectorEnv, int], Callable[[], Any]]


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
    - ``lane_seeds``: an int seeds lane i with seed + i; a list seeds each lane, equal seeds alike,
      None none of them.
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
        got = f"{num_envs}, {num_steps} and {reset_every}"
        least = "num_envs must be at least 2, num_steps and reset_every at least 1"
        raise ValueError(f"{least}, got {got}")
    left_out = {*skip, *(() if make_single else ("single",))}
    if {"lane_seeds", "reset_mask"} & left_out:
        left_out.add("episodes")
    calls = _Calls(num_steps, reset_every, seed, make_sampler or _from_space, options, left_out)
    for mode in modes:
        other = next((each for each in _WITHOUT_REST if each in modes and each is not mode), None)
        _check_mode(make_vector, make_single, num_envs, mode, other, calls)


@dataclass(frozen=True)
class _Calls:
    """The calls that :func:`_lockstep` makes."""

    num_steps: int
    reset_every: int
    seed: int
    make_sampler: MakeSampler
    options: Sequence[dict[str, Any]]
    skip: Collection[str] = ()


def _check_mode(
    make_vector: Callable[[int, AutoresetMode], VectorEnv],
    make_single: Callable[[], Env] | None,
    num_envs: int,
    mode: AutoresetMode,
    other: AutoresetMode | None,
    calls: _Calls,
) -> None:
    """Run all checks that are not left out, and close what they opened."""
    with ExitStack() as opened:

        def make(mode: AutoresetMode = mode) -> VectorEnv:
            env = make_vector(num_envs, mode)
            opened.callback(env.close)
            return env

        def check_single() -> None:
            assert make_single is not None
            single = SyncVectorEnv([make_single] * num_envs, autoreset_mode=mode)
            opened.callback(single.close)
            _check_equal(make(), single, calls)

        checks: dict[str, Callable[[], Any]] = {
            "spaces": lambda: _check_spaces(make(), make_single, num_envs, mode),
            "outputs": lambda: _check_outputs(make(), calls),
            "autoreset": lambda: _check_autoreset(make(), calls),
            "seeds": lambda: _check_seeds(make, calls.seed),
            "lane_seeds": lambda: _check_lane_seeds(make(), calls.seed),
            "distinct": lambda: _check_distinct(make(), calls.seed),
            "reset_mask": lambda: _check_mask(make(), calls),
            "arguments": lambda: _check_arguments(make(), calls),
            "reuse": lambda: _check_no_reuse((make(), make()), calls),
            "single": check_single,
            "episodes": lambda: other and _check_episodes(make(), make(other), calls),
        }
        assert (*checks,) == CHECKS
        for name in checks:
            if name not in calls.skip:
                with _named(name, mode):
                    checks[name]()


@contextmanager
def _named(check: str, mode: AutoresetMode) -> Iterator[None]:
    """Put the name of a check before what it finds."""
    try:
        yield
    except AssertionError as error:
        raise AssertionError(f"{check} ({mode.name}): {error}") from error
    except Exception as error:
        error.add_note(f"raised in the check {check!r} of autoreset mode {mode.name}")
        raise


def _require(holds: Any, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _check_spaces(
    env: VectorEnv, make_single: Callable[[], Env] | None, num_envs: int, mode: AutoresetMode
) -> None:
    """Spaces are the single environment's and their batches; the metadata names the mode."""
    _require(env.num_envs == num_envs, f"num_envs must be {num_envs}, got {env.num_envs}")
    found = env.metadata.get("autoreset_mode")
    _require(found is mode, f"metadata['autoreset_mode'] must be {mode}, got {found}")
    single = make_single() if make_single else None
    for kind in ("observation_space", "action_space"):
        one, many = getattr(env, f"single_{kind}"), getattr(env, kind)
        if single is not None:
            expected = getattr(single, kind)
            _require(one == expected, f"single_{kind} must be {expected}, got {one}")
        batch = batch_space(one, num_envs)
        _require(many == batch, f"{kind} must be {batch}, got {many}")
    if single is not None:
        single.close()


def _check_outputs(env: VectorEnv, calls: _Calls) -> None:
    """Every call returns members of the spaces, float rewards, bool flags, masked infos."""
    ended, num_classes = False, getattr(env.unwrapped, "num_classes", None)
    for (out,) in _lockstep((env,), calls):
        _check_member(env.observation_space, out[0], "obs")
        _check_infos(out[-1], env.num_envs)
        if num_classes is not None and "label" in out[-1]:
            labels, wanted = out[-1]["label"], f"infos['label'] must be in 0..{num_classes - 1}"
            _require(((labels >= 0) & (labels < num_classes)).all(), f"{wanted}, got {labels}")
        for name, values, kind in zip(_STEP[1:4], out[1:-1], "fbb", strict=False):
            found = f"got {getattr(values, 'dtype', type(values))}, {np.shape(values)}"
            wanted = {"f": "floats", "b": "bools"}[kind]
            fits = isinstance(values, np.ndarray) and values.dtype.kind == kind
            fits = fits and values.shape == (env.num_envs,)
            _require(fits, f"{name} must be {wanted} of shape ({env.num_envs},), {found}")
        ended |= len(out) == 5 and bool((out[2] | out[3]).any())
    _require(ended, "no episode ended: raise num_steps and reset_every")


def _check_member(space: Space, value: Any, where: str) -> None:
    """An observation lies in its space, and so do its parts, with the space's dtype and shape."""
    if isinstance(space, spaces.Dict) and isinstance(value, dict) and {*value} == {*space}:
        for name in value:
            _check_member(space[name], value[name], f"{where}[{name!r}]")
    elif isinstance(value, np.ndarray) and space.dtype is not None:
        found, expected = (value.dtype, value.shape), (space.dtype, space.shape)
        _require(found == expected, f"{where} must be of {expected}, got {found}")
    if not space.contains(value):
        raise AssertionError(f"{where} must lie in {space}, got {value}")


def _check_infos(infos: dict[str, Any], num_envs: int, where: str = "infos") -> None:
    """Each entry is (N, ...) beside its own bool mask (N,); masked-out rows are zero or None."""
    names = [name for name in infos if not name.startswith("_")]
    masks = {f"_{name}" for name in names}
    _require({*infos} == {*names, *masks}, f"{where} must have a mask _NAME for each entry NAME")
    for name in names:
        values, mask, entry = infos[name], infos[f"_{name}"], f"{where}[{name!r}]"
        found = (mask.dtype, mask.shape)
        _require(found == ("bool", (num_envs,)), f"the mask of {entry} must be {num_envs} bools")
        if isinstance(values, dict):
            _check_infos(values, num_envs, entry)
            continue
        _require(len(values) == num_envs, f"{entry} must have {num_envs} rows, got {len(values)}")
        rest = values[~mask]
        blank = [row is None for row in rest] if rest.dtype == object else rest == rest.dtype.type()
        _require(np.all(blank), f"{entry} must be None or 0 where its mask is False")


def _check_autoreset(env: VectorEnv, calls: _Calls) -> None:
    """A lane that ended starts again as its mode says."""
    mode, rests = env.metadata["autoreset_mode"], np.zeros(env.num_envs, bool)
    for (out,) in _lockstep((env,), calls):
        if len(out) == 2:
            rests = np.zeros(env.num_envs, bool)
            continue
        _, reward, terminated, truncated, infos = out
        ended = terminated | truncated
        if mode is AutoresetMode.SAME_STEP:
            for name in ("final_obs", "final_info"):
                told = np.array(infos.get(f"_{name}", np.zeros_like(ended)))
                exact = (told == ended).all() and (name in infos or not ended.any())
                _require(exact, f"infos[{name!r}] must be of the lanes that ended, {ended}")
            for last in [infos["final_obs"][lane] for lane in np.flatnonzero(ended)]:
                _check_member(env.single_observation_space, last, "final_obs")
        elif mode is AutoresetMode.NEXT_STEP:
            idle = not reward[rests].any() and not ended[rests].any()
            _require(idle, "the step after an episode's end must have reward 0 and no flag")
            rests = ended


def _check_seeds(make: Callable[[], VectorEnv], seed: int) -> None:
    """A seed decides this reset and the unseeded ones that follow, whatever came before."""
    env, twin = make(), make()
    begun = [copy.deepcopy(env.reset(seed=seed)), copy.deepcopy(env.reset())]
    twin.reset(seed=seed + 100)
    for expected, given in zip(begun, (seed, None), strict=True):
        _compare(twin.reset(seed=given), expected, "of the same seed: ")
    _compare(env.reset(seed=seed), begun[0], "of the same seed again: ")


def _check_lane_seeds(env: Any, seed: int) -> None:
    """An int or a list seeds the lanes that it names, equal seeds alike, and no other lane."""
    num_envs = env.num_envs
    first = copy.deepcopy(env.reset(seed=seed))
    begun, second = _starts(env, first), _starts(env, env.reset())
    listed = env.reset(seed=[seed + lane for lane in range(num_envs)])
    _compare(listed, first, "seeded seed + i in lane i: ")
    mixed = _starts(env, env.reset(seed=[seed, *[None] * (num_envs - 1)]))
    _require(mixed[0] == begun[0], "a list must seed the lanes that it gives a number")
    _require(mixed[1:] == second[1:], "None in a list of seeds must not seed its lane")
    alike = _starts(env, env.reset(seed=[seed] * num_envs))
    _require({*alike} == {begun[0]}, "lanes of equal seeds must start alike")


def _check_distinct(env: VectorEnv, seed: int) -> None:
    """Lanes, episodes and seeds differ."""
    begun = {*_starts(env, env.reset(seed=seed))}
    _require(len(begun) == env.num_envs, "lanes seeded differently must not start alike")
    _require(not begun & {*_starts(env, env.reset())}, "an unseeded reset must not start again")
    other = {*_starts(env, env.reset(seed=seed + env.num_envs))}
    _require(not begun & other, "other seeds must not start alike")


def _check_mask(env: VectorEnv, calls: _Calls) -> None:
    """``reset_mask`` resets its lanes; infos tell of them; the others stay put."""
    full = [_starts(env, env.reset(seed=calls.seed)), _starts(env, env.reset())]
    env.reset(seed=calls.seed)
    mask = np.arange(env.num_envs) % 2 == 0
    after = env.reset(options={"reset_mask": mask.copy()})
    told = all((after[1][name] == mask).all() for name in after[1] if name.startswith("_"))
    _require(told, "infos of a masked reset must be of the masked lanes")
    for lane, start in enumerate(_starts(env, after)):
        if mask[lane] and "lane_seeds" in calls.skip:  # lanes may share their random numbers
            continue
        same = start == full[1][lane] if mask[lane] else start[0] == full[0][lane][0]
        what = "start its next episode" if mask[lane] else "stay as it was"
        _require(same, f"lane {lane} of mask {mask} must {what}")


def _check_arguments(env: VectorEnv, calls: _Calls) -> None:
    """``reset`` leaves its arguments as they were."""
    for call in _resets(np.arange(env.num_envs) % 2 == 0, 0, calls):
        env.reset(seed=calls.seed)
        given = copy.deepcopy(call)
        env.reset(**given)
        _assert_same(given, call, "reset's arguments afterwards")


def _check_no_reuse(twins: tuple[VectorEnv, VectorEnv], calls: _Calls) -> None:
    """What was returned is the caller's: never shared, never changed, never read again."""
    old: list[np.ndarray] = []
    left: list[bytes] = []
    kept: list[dict[str, Any]] = []
    for out, expected in _lockstep(twins, calls):
        _compare(out, expected, "after the caller wrote to earlier outputs: ")
        for leaf, content in zip(old, left, strict=True):
            _require(leaf.tobytes() == content, "a later call changed an array returned before")
        new = [*_leaves(out)]
        for a, b in [*combinations(new, 2), *product(old, new)]:
            _require(not np.shares_memory(a, b), "two returned arrays share memory")
        for leaf in new:
            leaf[...] = leaf == 0  # never what it was
        for part in kept:
            part.clear()
        kept = [part for part in (out[0], out[-1]) if isinstance(part, dict)]
        old, left = new, [leaf.tobytes() for leaf in new]


def _check_equal(env: VectorEnv, reference: VectorEnv, calls: _Calls) -> None:
    """Two vector environments return the same bytes at every call."""
    for out, expected in _lockstep((env, reference), calls):
        _compare(out, expected)


def _check_episodes(env: VectorEnv, reference: VectorEnv, calls: _Calls) -> None:
    """Each lane plays the same episodes in two modes, given its actions one by one."""
    lanes = _play(env, calls.make_sampler(env, calls.seed), calls.num_steps, calls.seed)
    space, count = env.single_action_space, min(map(len, lanes))
    batches = [
        concatenate(space, [lane[k][0] for lane in lanes], create_empty_array(space, len(lanes)))
        for k in range(count)
    ]
    expected = _play(reference, iter(batches).__next__, count, calls.seed)
    mode = reference.metadata["autoreset_mode"].name
    for lane, (steps, wanted) in enumerate(zip(lanes, expected, strict=True)):
        for k, (step, other) in enumerate(zip(steps, wanted, strict=False)):
            for name, a, b in zip(_PLAYED, step, other, strict=True):
                if name != "action" and _to_bytes(a) != _to_bytes(b):
                    where = f"{name} of lane {lane} in its action {k}"
                    raise AssertionError(f"{where} is {a}, in the mode {mode} {b}")


def _play(
    env: VectorEnv, sample: Callable[[], Any], num_steps: int, seed: int
) -> list[list[tuple[Any, ...]]]:
    """Play, and return each lane's steps but for rests, with the parts of ``_PLAYED``."""
    mode, rests = env.metadata["autoreset_mode"], np.zeros(env.num_envs, bool)

    def rows(obs: Any) -> list[Any]:
        return copy.deepcopy([*iterate(env.observation_space, obs)])

    before, lanes = rows(env.reset(seed=seed)[0]), [[] for _ in rests]
    for _ in range(num_steps):
        if mode is AutoresetMode.DISABLED and rests.any():
            before = rows(env.reset(options={"reset_mask": rests})[0])
        action = sample()
        given = copy.deepcopy([*iterate(env.action_space, action)])
        obs, reward, terminated, truncated, infos = env.step(action)
        ended, after = terminated | truncated, rows(obs)
        for lane, steps in enumerate(lanes):
            if mode is not AutoresetMode.NEXT_STEP or not rests[lane]:
                final = mode is AutoresetMode.SAME_STEP and ended[lane]
                last = copy.deepcopy(infos["final_obs"][lane]) if final else after[lane]
                end = (bool(terminated[lane]), bool(truncated[lane]))
                steps.append((given[lane], before[lane], last, float(reward[lane]), end))
        before, rests = after, np.array(ended)
    return lanes


def _lockstep(envs: Sequence[VectorEnv], calls: _Calls) -> Iterator[list[tuple[Any, ...]]]:
    """Make the same calls on several environments and yield what each returned.

    Steps with random actions, and between them resets of all kinds: full and masked, seeded
    and not, with and without options. Actions must be neither changed nor kept.
    """
    num_envs, rng = envs[0].num_envs, np.random.default_rng(calls.seed)
    sample, ended = calls.make_sampler(envs[0], calls.seed), np.zeros(num_envs, bool)

    def reset(**call: Any) -> list[tuple[Any, ...]]:
        return [env.reset(**copy.deepcopy(call)) for env in envs]

    yield reset(seed=calls.seed)
    for step in range(calls.num_steps):
        if envs[0].metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
            masked = "reset_mask" not in calls.skip
            yield reset(**({"options": {"reset_mask": ended}} if masked else {}))
        if step % calls.reset_every == calls.reset_every - 1:
            mask = rng.random(num_envs) < 0.5
            mask[rng.integers(num_envs)] = True
            kinds = _resets(mask, step, calls)
            yield reset(**kinds[step // calls.reset_every % len(kinds)])
        action = sample()
        outputs = []
        for env in envs:
            given = copy.deepcopy(action)
            outputs.append(env.step(given))
            _require(len(outputs[-1]) == 5, f"step must return 5 parts, got {len(outputs[-1])}")
            _assert_same(given, action, "the action after the step")
            for leaf in _leaves(given):
                leaf[...] = 1
        ended = np.array((outputs[0][2] | outputs[0][3]).tolist())
        yield outputs


def _resets(mask: np.ndarray, step: int, calls: _Calls) -> list[dict[str, Any]]:
    """Return the arguments of resets of all kinds that are not left out."""
    seed, num_envs = calls.seed + step, len(mask)
    kinds: list[dict[str, Any]] = [{}, {"seed": seed}]
    kinds += [{"options": each} for each in calls.options]
    if "lane_seeds" not in calls.skip:
        kinds.append({"seed": [None if out else seed for out in mask]})
    if "reset_mask" not in calls.skip:
        odd = np.arange(num_envs) % 2 == 1
        kinds += [{"options": {"reset_mask": mask}}, {"options": {"reset_mask": odd}, "seed": step}]
    return kinds[::-1]


def _from_space(env: VectorEnv, seed: int) -> Callable[[], Any]:
    """Return a source of random actions of the batched space."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return space.sample


_STEP = ("obs", "reward", "terminated", "truncated", "infos")
_PLAYED = ("action", "the observation before", "the observation after", "reward", "the end")
_WITHOUT_REST = (AutoresetMode.DISABLED, AutoresetMode.SAME_STEP)


def _compare(got: tuple[Any, ...], expected: tuple[Any, ...], prefix: str = "") -> None:
    """Compare what a reset or a step returned, part by part."""
    _require(len(got) == len(expected), f"{prefix}{len(got)} outputs are not {len(expected)}")
    for name, a, b in zip(_STEP if len(got) == 5 else ("obs", "infos"), got, expected, strict=True):
        _assert_same(a, b, prefix + name)


def _assert_same(got: Any, expected: Any, where: str = "output") -> None:
    """Compare nested outputs by type, dtype, shape and bytes; only the order of keys is free."""
    _require(type(got) is type(expected), f"{where}: {type(got)} is not {type(expected)}")
    if isinstance(got, dict):
        _require({*got} == {*expected}, f"{where}: keys {[*got]} are not {[*expected]}")
        for name in got:
            _assert_same(got[name], expected[name], f"{where}[{name!r}]")
    elif isinstance(got, (tuple, list)) or (isinstance(got, np.ndarray) and got.dtype == object):
        _require(len(got) == len(expected), f"{where}: {len(got)} parts are not {len(expected)}")
        for place, (a, b) in enumerate(zip(got, expected, strict=True)):
            _assert_same(a, b, f"{where}[{place}]")
    elif isinstance(got, np.ndarray):
        found, wanted = (got.dtype, got.shape), (expected.dtype, expected.shape)
        _require(found == wanted, f"{where}: {found} is not {wanted}")
        if got.tobytes() != expected.tobytes():  # arrays take long to print
            raise AssertionError(f"{where}:\n{got}\nis not\n{expected}")
    elif hasattr(got, "numpy"):
        _require(got.device == expected.device, f"{where}: {got.device} is not {expected.device}")
        _assert_same(got.cpu().numpy(), expected.cpu().numpy(), where)
    else:
        _require(got == expected, f"{where}: {got} is not {expected}")


def _leaves(tree: Any) -> Iterator[np.ndarray]:
    """Yield all arrays of a nested output; of CPU tensors, views as arrays."""
    if isinstance(tree, dict):
        tree = [*tree.values()]
    if hasattr(tree, "numpy"):
        tree = tree.numpy()
    if isinstance(tree, (tuple, list)) or (isinstance(tree, np.ndarray) and tree.dtype == object):
        for branch in tree:
            yield from _leaves(branch)
    elif isinstance(tree, np.ndarray):
        yield tree


def _starts(env: VectorEnv, out: tuple[Any, ...]) -> list[tuple[bytes, bytes]]:
    """Return each lane's observation and infos as bytes."""
    rows = enumerate(iterate(env.observation_space, out[0]))
    return [(_to_bytes(row), _to_bytes(_lane_of(out[-1], lane))) for lane, row in rows]


def _lane_of(infos: dict[str, Any], lane: int) -> dict[str, Any]:
    parts = infos.items()
    return {k: _lane_of(v, lane) if isinstance(v, dict) else v[lane] for k, v in parts}


def _to_bytes(tree: Any) -> bytes:
    if isinstance(tree, dict):
        tree = [*tree.values()]
    if isinstance(tree, (tuple, list)):
        return b"".join(map(_to_bytes, tree))
    array = np.asarray(tree)
    return repr(tree).encode() if array.dtype == object else array.tobytes()
