"""Campaigns about environments: actions of all sorts, and very many steps."""

from __future__ import annotations

import os
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.campaigns.environment.long_runs import LongRun
from benchmarks.campaigns.environment.wild_actions import Rules, draw_action, draw_valid, is_valid
from ram_env import SignpostEnv, SignpostVectorEnv, register_dataset

_FORMATS = ("box", "dict", "multidiscrete")
_LANES = 3
_RULES = [
    Rules(action_format, allow_stop, batch)
    for action_format, allow_stop, batch in product(_FORMATS, (False, True), ((), (_LANES,)))
]

_STEPS = 10_000  # env steps in a round of `long_run`
_GROWTH = 4.0  # [MB], see `long_run`
_GREY, _COLOUR = "made-up-grey", "made-up-colour"  # registered datasets
_LONG_RUNS: list[tuple[str, int | None, dict[str, Any]]] = [
    ("ClutteredMNISTGlimpse-v0", 50, {}),
    ("SignpostGlimpse-v0", None, {"chain": 2, "parts": 2, "board_size": 4}),
    ("MNISTGlimpse-v0", 50, {"reward": "log_score", "allow_stop": True}),
    ("ClutteredMNISTGlimpse-v0", None, {"action_format": "dict"}),
    ("SignpostGlimpse-v0", 50, {"action_format": "dict", "reward": "dense", "allow_stop": True}),
    ("MNISTGlimpse-v0", None, {"action_format": "multidiscrete", "reward": "dense"}),
    ("LargeClutteredMNISTGlimpse-v0", 50, {"split": "test", "order": "sequential"}),
    ("TranslatedMNISTGlimpse-v0", None, {"split": "validation", "allow_stop": True}),
    ("CIFAR10Glimpse-v0", 50, {"dataset": _COLOUR, "action_format": "multidiscrete"}),
    ("CIFAR10Glimpse-v0", None, {"dataset": _COLOUR, "reward": "dense", "glimpse_cost": 0.05}),
]


# Actions


def fuzzed_actions(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Step environments with valid and invalid actions of all sorts.

    A valid one must be accepted, an invalid one refused with a ValueError that changes
    nothing: the next step is that of a twin that never saw it.

    The actions are drawn by a generator of our own, for each case from its number alone:
    hypothesis also draws constants that it finds in whatever modules happen to be loaded, so
    that a case would not be the same everywhere.

    Args:
        rounds: Cases to run.
        folder: Not used.

    Yields:
        A case's name, and None or what went wrong.
    """
    pairs = [_Pair(rules) for rules in _RULES]
    for number in range(rounds):
        pair = pairs[number % len(pairs)]
        rng = np.random.default_rng(number)
        yield f"{number}: {pair}", pair.try_action(draw_action(pair.rules, rng), rng)


class _Pair:
    """An environment that sees every action, and its twin that sees only the valid ones."""

    def __init__(self, rules: Rules):
        self.rules = rules
        self._begin_anew()

    def __str__(self) -> str:
        stop = ", stop" if self.rules.allow_stop else ""
        return f"{self.rules.action_format}{stop}, {'vector' if self.rules.batch else 'single'}"

    def try_action(self, action: Any, rng: np.random.Generator) -> str | None:
        """Step with an action, then with a valid one; say what went wrong."""
        try:
            problem = self._try(action, rng)
        except Exception as error:
            problem = f"a valid step failed with {type(error).__name__}: {error}"
        if problem:
            self._begin_anew()  # so that the next case stands alone
            return f"{problem}; the action was {' '.join(repr(action).split())[:300]}"
        return None

    def _make(self) -> Any:
        keywords: dict[str, Any] = {
            "action_format": self.rules.action_format,
            "allow_stop": self.rules.allow_stop,
            "grid_size": self.rules.grid,
        }
        if self.rules.batch:
            return SignpostVectorEnv(*self.rules.batch, **keywords)
        return SignpostEnv(**keywords)

    def _begin_anew(self) -> None:
        self._env, self._twin = self._make(), self._make()
        self._env.reset(seed=0)
        self._twin.reset(seed=0)

    def _try(self, action: Any, rng: np.random.Generator) -> str | None:
        valid, before = is_valid(action, self.rules), self._env.get_state()
        try:
            got = self._step(self._env, action)
        except ValueError as error:
            if valid:
                return f"a valid action was refused: {error}"
            if "action" not in str(error):
                return f"the message does not name the action: {error}"
            if self._env.get_state() != before:
                return "an invalid action changed the state"
        except Exception as error:
            return f"instead of a ValueError there was {type(error).__name__}: {error}"
        else:
            if not valid:
                return "an invalid action was accepted"
            if not _same(got, self._step(self._twin, action)):
                return "a valid action did something else in the twin"
        following = draw_valid(self.rules, rng)
        following = following.get("action", following)
        if not _same(self._step(self._env, following), self._step(self._twin, following)):
            return "the next step was not the twin's, which never saw the action"
        return None

    def _step(self, env: Any, action: Any) -> tuple[Any, ...]:
        """Step, and begin the next episode where the environment doesn't by itself."""
        out = env.step(action)
        return (*out, env.reset()) if not self.rules.batch and out[2] else out


def _same(left: Any, right: Any) -> bool:
    """Whether two outputs are equal, to the bit and in their types."""
    if isinstance(left, dict):
        return left.keys() == right.keys() and all(_same(left[k], right[k]) for k in left)
    if isinstance(left, tuple) or getattr(left, "dtype", None) == np.dtype(object):
        return len(left) == len(right) and all(map(_same, left, right))
    if isinstance(left, np.ndarray):
        return left.dtype == right.dtype and np.array_equal(left, right)
    return type(left) is type(right) and bool(left == right)


# Steps


def long_run(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Step several environments, checking every step; a round is 10,000 env steps of one.

    Memory must stay flat: since the end of the first round the process may grow by 4 MB. Where
    nothing leaks, a million steps take less than 1 MB, by fragmentation of the heap; keeping a
    float a step takes 24 MB in a million steps, and keeping the observations 5 MB or more in
    each round.

    Args:
        rounds: Blocks of 10,000 env steps.
        folder: Not used.

    Yields:
        A round's name, and None or what went wrong.
    """
    runs = _make_long_runs()
    first = None
    for number in range(rounds):
        run = runs[number % len(runs)]
        problem = run.play(_STEPS)
        resident = resident_mb()
        first = resident if first is None else first
        if not problem and resident - first > _GROWTH:
            problem = f"memory grew by {resident - first:.1f} MB since the first round"
        yield f"{number}: {_STEPS} steps of {run}", problem


def _make_long_runs() -> list[LongRun]:
    """Make the environments and let each come to know all the memory that it takes."""
    rng = np.random.default_rng(0)
    for name, shape in ((_GREY, (28, 28)), (_COLOUR, (32, 32, 3))):
        images = rng.integers(0, 256, (200, *shape), np.uint8)
        pair = images, np.arange(200) % 10
        splits: dict[str, Any] = dict.fromkeys(("train", "validation", "test"), pair)
        register_dataset(name, lambda splits=splits: splits)
    runs = []
    for seed, (env_id, lanes, keywords) in enumerate(_LONG_RUNS):
        if "MNIST" in env_id and not _has_mnist():
            keywords = {"dataset": _GREY, **keywords}
        runs.append(LongRun(env_id, lanes, keywords, seed))
        runs[-1].play(1_000)
    return runs


def _has_mnist() -> bool:
    """Whether ``$RAM_ENV_DATA`` holds MNIST; nothing is downloaded for a campaign."""
    folder = Path(os.environ.get("RAM_ENV_DATA") or os.devnull)
    return any(folder.glob("MNIST/raw/train-images-idx3-ubyte*"))


def resident_mb() -> float:
    """Return this process's resident size [MB]; 0 where there is no ``/proc``."""
    statm = Path("/proc/self/statm")
    pages = int(statm.read_text().split()[1]) if statm.exists() else 0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
