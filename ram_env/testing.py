"""A checker for vector environments: Gymnasium has one for single environments only.

Dimension key: N lanes (sub-environments).
"""

import copy
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from gymnasium.vector.utils import batch_space, iterate

CHECKS = ("spaces", "seeds", "lane_seeds", "reset_mask", "reuse", "single")
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

    - ``spaces``: spaces are batched and observations lie in them; rewards are floats and flags
      bools of shape (N,).
    - ``seeds``: a seed decides everything that follows it.
    - ``lane_seeds``: an int s seeds lane i as the list of s + i does.
    - ``reset_mask``: ``options={"reset_mask": mask}`` resets these lanes and leaves the others.
    - ``reuse``: actions and returned arrays are the caller's: never changed, shared or read later.
    - ``single``: every output equals that of a ``SyncVectorEnv`` of ``make_single``, to the bit.

    Args:
        make_vector: Makes the environment of N lanes in an autoreset mode.
        make_single: Makes the environment of one lane. None leaves out ``single``.
        modes: Autoreset modes to check.
        skip: Names of checks to leave out. Without ``reset_mask`` or ``lane_seeds``, no reset has
            a mask or a list of seeds.
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
    checks = _Checks(num_steps, reset_every, seed, make_sampler or _from_space, options, skip)
    left_out = {*skip, *([] if make_single else ["single"])}
    for mode, name in product(modes, [name for name in CHECKS if name not in left_out]):
        with closing(make_vector(num_envs, mode)) as env:
            if name == "single" and make_single:
                twin = SyncVectorEnv([make_single] * num_envs, autoreset_mode=mode)
            else:
                twin = make_vector(num_envs, mode)
            try:
                with closing(twin):
                    getattr(checks, name)(env, twin, num_envs, mode)
            except AssertionError as error:
                raise AssertionError(f"{name} ({mode.name}): {error}") from error


@dataclass(frozen=True)
class _Checks:
    """The checks, by name, and the calls that they make."""

    num_steps: int
    reset_every: int
    seed: int
    make_sampler: MakeSampler
    options: Sequence[dict[str, Any]] = ()
    skip: Collection[str] = ()

    def play(self, env: VectorEnv, like: VectorEnv | None = None) -> Iterator[Output]:
        """Yield what steps with random actions return, and resets of all kinds between them.

        The actions are those drawn for ``like``; by default for the environment itself.
        """
        num_envs, rng = env.num_envs, np.random.default_rng(self.seed)
        sample, ended = self.make_sampler(like or env, self.seed), np.zeros(num_envs, bool)
        yield _reset(env, seed=self.seed)
        for step in range(self.num_steps):
            if env.metadata["autoreset_mode"] is AutoresetMode.DISABLED and ended.any():
                masked = "reset_mask" not in self.skip
                yield _reset(env, options={"reset_mask": ended} if masked else None)
            if step % self.reset_every == self.reset_every - 1:
                mask = rng.random(num_envs) < 0.5
                mask[rng.integers(num_envs)] = True
                kinds = self._resets(mask, step)
                yield _reset(env, **kinds[step // self.reset_every % len(kinds)])
            action = sample()
            given = copy.deepcopy(action)
            out = env.step(given)
            assert len(out) == 5, f"step must return 5 parts, got {len(out)}"
            assert_same(given, action, "the action after the step")
            for leaf in leaves(given):
                leaf[...] = 1  # to be noticed if it is read later
            ended = np.array((out[2] | out[3]).tolist())
            yield dict(zip(STEP, out, strict=True))

    def _resets(self, mask: np.ndarray, step: int) -> list[dict[str, Any]]:
        """Return the arguments of resets of all kinds that are not left out."""
        seed, odd, kinds = self.seed + step, np.arange(len(mask)) % 2 == 1, []
        if "reset_mask" not in self.skip:
            kinds.append({"options": {"reset_mask": odd}, "seed": step})
            kinds.append({"options": {"reset_mask": mask}})
        if "lane_seeds" not in self.skip:
            kinds.append({"seed": [None if out else seed for out in mask]})
        return [*kinds, *({"options": each} for each in self.options), {"seed": seed}, {}]

    def compare(self, env: VectorEnv, reference: VectorEnv, where: str = "") -> None:
        """Two environments return the same bytes at every call."""
        for out, expected in zip(self.play(env), self.play(reference, env), strict=True):
            assert_same(out, expected, where)

    def spaces(self, env: Any, twin: Any, num_envs: int, mode: AutoresetMode) -> None:
        facts: dict[str, Any] = {"num_envs": (env.num_envs, num_envs)}
        facts["metadata['autoreset_mode']"] = env.metadata.get("autoreset_mode"), mode
        for kind in ("observation_space", "action_space"):
            one = getattr(env, f"single_{kind}")
            facts[kind] = getattr(env, kind), batch_space(one, num_envs)
        for name, (got, expected) in facts.items():
            assert got == expected, f"{name} must be {expected} but is {got}"
        has_ended = False
        for out in self.play(env):
            space, obs = env.observation_space, out["obs"]
            assert space.contains(obs), f"obs must lie in {space} but is {obs}"
            for name, values in [*out.items()][1:-1]:
                kind, wanted = ("f", "floats") if name == "reward" else ("b", "bools")
                fits = isinstance(values, np.ndarray) and values.dtype.kind == kind
                fits = fits and values.shape == (num_envs,)
                assert fits, f"{name} must be {wanted} of shape ({num_envs},), got {values!r}"
            has_ended |= "reward" in out and bool((out["terminated"] | out["truncated"]).any())
        assert has_ended, "no episode ended: raise num_steps and reset_every"

    def seeds(self, env: Any, twin: Any, *_: Any) -> None:
        twin.reset(seed=self.seed + 100)  # whatever came before
        self.compare(env, twin, "of the same seed: ")

    def lane_seeds(self, env: Any, twin: Any, num_envs: int, *_: Any) -> None:
        seeds = [self.seed + lane for lane in range(num_envs)]
        where = "lane i of an int must be seeded seed + i, as by a list: "
        assert_same(_starts(env, seed=seeds), _starts(env, seed=self.seed), where)

    def reset_mask(self, env: Any, twin: Any, num_envs: int, *_: Any) -> None:
        first, second = _starts(env, seed=self.seed), _starts(env)
        env.reset(seed=self.seed)
        mask = np.arange(num_envs) % 2 == 0
        for lane, start in enumerate(_starts(env, options={"reset_mask": mask})):
            if not mask[lane]:
                assert_same(start, first[lane], f"lane {lane} of {mask} must stay as it was: ")
            elif "lane_seeds" not in self.skip:  # else lanes may share random numbers
                where = f"lane {lane} of {mask} must start its next episode: "
                assert_same(start, second[lane], where)

    def reuse(self, env: Any, twin: Any, *_: Any) -> None:
        old, left, kept = [], [], []
        for out, expected in zip(self.play(env), self.play(twin), strict=True):
            assert_same(out, expected, "after the caller wrote to earlier outputs: ")
            assert_same(old, left, "a later call changed an array returned before: ")
            new = leaves(out)
            for a, b in [*combinations(new, 2), *product(old, new)]:
                assert not np.shares_memory(a, b), "two returned arrays share memory"
            for leaf in new:
                leaf[...] = leaf == 0  # never what it was
            for part in kept:
                part.clear()
            kept = [part for part in (out["obs"], out["infos"]) if isinstance(part, dict)]
            old, left = new, copy.deepcopy(new)

    def single(self, env: Any, twin: Any, *_: Any) -> None:
        self.compare(env, twin)


def _reset(env: VectorEnv, **call: Any) -> Output:
    return dict(zip(("obs", "infos"), env.reset(**copy.deepcopy(call)), strict=True))


def _starts(env: VectorEnv, **call: Any) -> list[Any]:
    return copy.deepcopy([*iterate(env.observation_space, _reset(env, **call)["obs"])])


def _from_space(env: VectorEnv, seed: int) -> Callable[[], Any]:
    """Return a source of random actions of the batched space."""
    space = copy.deepcopy(env.action_space)
    space.seed(seed)
    return space.sample


def assert_same(got: Any, expected: Any, where: str = "") -> None:
    """Compare nested outputs by type, dtype, shape and bytes; only the order of keys is free."""
    found, wanted = dict(_walk(got)), dict(_walk(expected))
    for place in {**wanted, **found}:
        a, b = found.get(place, ...), wanted.get(place, ...)
        if _freeze(a) != _freeze(b):
            raise AssertionError(f"{where}{place} {a!r} is not {b!r}")


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


def _freeze(leaf: Any) -> tuple[Any, ...]:
    """Return what makes a leaf what it is: type, device, dtype, shape and bytes."""
    device = str(leaf.device) if hasattr(leaf, "numpy") else ""
    array = np.asarray(leaf.cpu() if device else leaf)
    content = repr(leaf) if array.dtype == object else array.tobytes()
    return type(leaf), device, array.dtype, array.shape, content
