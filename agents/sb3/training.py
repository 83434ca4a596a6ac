"""What makes a run of Stable-Baselines3 one of ours: its updates counted, logged, gone on with.

At the end of an update no episode is under way, if a rollout is whole episodes. So all that the
rest of a run depends on is then the policy, its optimiser, the environment and random number
generators: what :class:`agents.training.Training` packs into a checkpoint, without a pickle. A
run that goes on from one ends as if it had never been stopped, which Stable-Baselines3's own
zips (:mod:`agents.sb3.checkpoints`) cannot offer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from gymnasium.vector import VectorEnv, VectorWrapper
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

from agents.runs.folder import RunLog


class BetweenUpdates(BaseCallback):
    """Calls functions before and after each update, that is a rollout and the training on it.

    Args:
        updates: Counts them, from 0 or from where the run goes on.
        before: Called with the update's number.
        after: Called with the number of updates done.
    """

    def __init__(
        self, updates: Iterator[int], before: Callable[[int], None], after: Callable[[int], None]
    ):
        super().__init__()
        self._updates, self._before, self._after = updates, before, after
        self._update: int | None = None  # under way

    def _on_step(self) -> bool:
        return True

    def _on_rollout_start(self) -> None:
        self._finish()
        self._update = next(self._updates)
        self._before(self._update)

    def _on_training_end(self) -> None:
        self._finish()
        next(self._updates, None)  # they are all done

    def _finish(self) -> None:
        if self._update is not None:
            self._after(self._update + 1)


class GoingOn(VectorWrapper):
    """A vector environment whose next reset can show where it is, in place of a new beginning.

    Args:
        env: Any, with ``set_state``.

    Attributes:
        shown: What ``set_state`` returned, observations and infos, for the next reset; or None.
    """

    def __init__(self, env: VectorEnv[Any, Any, Any]):
        super().__init__(env)
        self.shown: Any = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Show where the environment is, if asked to, or begin new episodes."""
        shown, self.shown = self.shown, None
        return self.env.reset(seed=seed, options=options) if shown is None else shown


class _RunLogWriter(KVWriter):
    """Writes what Stable-Baselines3 logs into a run's folder, under its own tags."""

    def __init__(self, log: RunLog):
        self._log = log

    def write(
        self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0
    ) -> None:
        """Write the metrics of an update; what depends on the clock goes to ``timing.csv``."""
        values = {
            tag: float(value)
            for tag, value in key_values.items()
            if "tensorboard" not in key_excluded[tag] and not tag.startswith("time/")
        }
        # The variance explained is NaN where all returns are equal.
        self._log.scalars(step, {tag: v for tag, v in values.items() if math.isfinite(v)})
        self._log.speed(step)

    def close(self) -> None:
        """Leave closing to the run log."""


def learn(
    model: OnPolicyAlgorithm,
    num_steps: int,
    updates: Iterator[int],
    before: Callable[[int], None],
    after: Callable[[int], None],
) -> None:
    """Train an algorithm, or go on with it, until it has made ``num_steps`` env steps.

    Args:
        model: Its metrics are written where ``dump_logs`` is called, in ``after``, and only there.
        num_steps: Of all lanes together; whole updates.
        updates: See :class:`BetweenUpdates`, as are ``before`` and ``after``.
        before: Called with an update's number.
        after: Called with the number of updates done.

    Raises:
        FloatingPointError: If the policy's outputs are no numbers any more.
    """
    callback = BetweenUpdates(updates, before, after)
    left = num_steps - model.num_timesteps
    with raising_divergence():
        model.learn(left, callback, reset_num_timesteps=False, log_interval=sys.maxsize)


@contextmanager
def raising_divergence() -> Iterator[None]:
    """Turn the ValueError of a policy whose outputs are not finite into a FloatingPointError."""
    try:
        yield
    except ValueError as error:
        if "found invalid values" not in str(error):  # as torch.distributions puts it
            raise
        raise FloatingPointError(
            "the policy's outputs are not finite; the learning rate may be too high"
        ) from error


def cosine(learning_rate: float) -> Callable[[float], float]:
    """Return a learning rate that falls to 0 along half a cosine, as Stable-Baselines3 takes it."""
    return lambda left: learning_rate * (1 - math.cos(math.pi * left)) / 2  # left: from 1 to 0


def make_logger(log: RunLog) -> Logger:
    """Return a logger of Stable-Baselines3 that writes into a run's folder."""
    return Logger(None, [_RunLogWriter(log)])


def weights_of(policy: nn.Module) -> nn.Module:
    """Return a module of the policy's parts, each once and under its first name.

    A policy names a features extractor that actor and critic share three times, which
    safetensors refuse. The parts are the policy's own: loading into them loads into it.
    """
    once = nn.Module()
    for name, part in policy.named_children():
        once.add_module(name, part)
    for name, parameter in policy.named_parameters(recurse=False):
        once.register_parameter(name, parameter)
    return once
