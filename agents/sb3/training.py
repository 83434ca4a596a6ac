"""Training with Stable-Baselines3 as a resumable run: single updates, logs and checkpoints.

If rollouts are whole episodes, no episode is in progress at the end of an update. The rest of the
run then depends only on the policy, its optimiser, the environment and the random number
generators, which :class:`agents.training.Training` packs into a checkpoint, without pickles. A run
resumed from one ends as if it had never stopped, which Stable-Baselines3's own zips
(:mod:`agents.sb3.checkpoints`) cannot offer.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from gymnasium.vector import VectorWrapper
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from torch import nn

if TYPE_CHECKING:
    from agents.runs.folder import RunLog  # needs the extra train


class ResumedVectorEnv(VectorWrapper):
    """A vector environment whose next reset can return a restored state.

    Stable-Baselines3 resets its environment when training begins, which would end the episodes of
    the checkpoint.
    """

    restored: Any = None
    """Observations and infos from ``env.set_state`` for the next reset, or None."""

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Return the restored observations and infos once, or begin new episodes."""
        restored, self.restored = self.restored, None
        return self.env.reset(seed=seed, options=options) if restored is None else restored


class RunLogger(Logger):
    """A logger for Stable-Baselines3 that writes into a run's folder, under the library's tags."""

    def __init__(self, log: RunLog):
        super().__init__(None, [])
        self._log = log

    def dump(self, step: int = 0) -> None:
        """Write the metrics of an update; what depends on the clock goes to ``timing.csv``."""
        values = {
            tag: float(value)
            for tag, value in self.name_to_value.items()
            if "tensorboard" not in self.name_to_excluded[tag] and not tag.startswith("time/")
        }
        # The explained variance is NaN where all returns are equal.
        self._log.scalars(step, {tag: v for tag, v in values.items() if math.isfinite(v)})
        self._log.speed(step)
        super().dump(step)


def train_once(model: OnPolicyAlgorithm) -> int:
    """Make one update, a rollout and the training on it, and return its number of env steps.

    It writes no metrics: call ``model.dump_logs`` for that. Schedules of the algorithm are at their
    end in every update: set ``model.lr_schedule`` and the like to a constant before each. Diverging
    outputs raise FloatingPointError.
    """
    steps = model.n_steps * model.n_envs
    with raising_divergence():
        model.learn(steps, reset_num_timesteps=False, log_interval=sys.maxsize)
    return steps


@contextmanager
def raising_divergence() -> Iterator[None]:
    """Turn the ValueError of a policy whose outputs are not finite into a FloatingPointError."""
    try:
        yield
    except ValueError as error:
        if "found invalid values" not in str(error):  # torch.distributions' words
            raise
        raise FloatingPointError(
            "the policy's outputs are not finite; the learning rate may be too high"
        ) from error


def weights_of(policy: nn.Module) -> nn.Module:
    """Return a module with each part of the policy once, under its first name.

    A features extractor that actor and critic share has three names in a policy, which safetensors
    refuses. The parts are the policy's own, so loading into the module loads into the policy.
    """
    once = nn.Module()
    for name, part in policy.named_children():
        once.add_module(name, part)
    for name, parameter in policy.named_parameters(recurse=False):
        once.register_parameter(name, parameter)
    return once
