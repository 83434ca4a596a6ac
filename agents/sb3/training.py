"""Training with Stable-Baselines3 as a resumable run: single updates, logs and checkpoints.

An update plays whole episodes, so none is in progress at its end. The rest of the run then depends
on what :class:`agents.training.Training` packs and, for SAC and CrossQ, :class:`OffPolicyState`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from gymnasium.vector import VectorWrapper
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.logger import Logger
from torch import Tensor, nn

from agents.runs.checkpoints import check_replay_size

if TYPE_CHECKING:
    from sb3_contrib import CrossQ
    from stable_baselines3 import SAC

    from agents.runs.folder import RunLog  # needs the extra train


class ResumedVectorEnv(VectorWrapper):
    """A vector environment whose next reset can return a restored state.

    Stable-Baselines3 resets its environment when training begins, which would end the episodes of
    the checkpoint. ``restored`` are observations and infos from ``env.set_state``, or None.
    """

    restored: Any = None

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> Any:
        """Return the restored observations and infos once, or begin new episodes."""
        restored, self.restored = self.restored, None
        return self.env.reset(seed=seed, options=options) if restored is None else restored


class _Joined(torch.optim.Adam):
    """Several optimisers as one, for a checkpoint of their state; it never steps."""

    def __init__(self, optimizers: list[torch.optim.Optimizer]):
        self._optimizers = optimizers
        groups = [group for each in optimizers for group in each.param_groups]
        super().__init__([parameter for group in groups for parameter in group["params"]])

    def state_dict(self) -> dict[str, Any]:
        for each in self._optimizers:
            self.state.update(each.state)
        return super().state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict)
        for each in self._optimizers:
            mine = {parameter for group in each.param_groups for parameter in group["params"]}
            each.state.update({p: part for p, part in self.state.items() if p in mine})


class OffPolicyState:
    """What SAC or CrossQ has besides actor and critic, for :class:`agents.training.Training`.

    It holds replay, target network and entropy coefficient; ``optimizer`` is all optimisers of the
    algorithm as one. The ``model`` has ``optimize_memory_usage`` and a learned entropy
    coefficient. A replay that no checkpoint could hold raises a ValueError.
    """

    def __init__(self, model: SAC | CrossQ):
        self._model: Any = model
        actor, critic = self._model.actor.optimizer, self._model.critic.optimizer
        self.optimizer = _Joined([actor, critic, self._model.ent_coef_optimizer])
        size = sum(part.nbytes for part in self.pack().values())
        what = f"a replay of {self._model.buffer_size} env steps"
        check_replay_size(what, size, "lower num_glimpses, glimpse_size or num_scales")

    def _tensors(self) -> dict[str, Tensor]:
        """Return what is stored, most of it sharing memory with the algorithm."""
        model, replay = self._model, self._model.replay_buffer
        target = getattr(model, "critic_target", nn.Module())  # which CrossQ lacks
        parts = {f"target.{name}": weight for name, weight in target.state_dict().items()}
        arrays = ("observations", "actions", "rewards", "dones")  # all timeouts are 0
        parts |= {name: torch.from_numpy(getattr(replay, name)) for name in arrays}
        return {**parts, "log_ent_coef": model.log_ent_coef.detach()}

    def pack(self) -> dict[str, Tensor]:
        """Return the tensors for a checkpoint."""
        replay = self._model.replay_buffer
        counts = torch.tensor([replay.pos, replay.full, self._model._n_updates])
        return {**self._tensors(), "counts": counts}

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Restore what :meth:`pack` returned."""
        replay = self._model.replay_buffer
        for name, part in self._tensors().items():
            part.copy_(tensors[name])
        replay.pos, full, self._model._n_updates = tensors["counts"].tolist()
        replay.full = bool(full)
        for _ in range(min(replay.pos * replay.n_envs, self._model.learning_starts)):
            self._model.action_space.sample()  # draws the first, random actions again


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


def train_once(model: BaseAlgorithm, steps: int) -> int:
    """Train for a number of env steps, all lanes together, and return it.

    The number must be one rollout of an on-policy algorithm, and whole episodes of an off-policy
    one. It writes no metrics: call ``model.dump_logs`` for that. Schedules of the algorithm reach
    their end in every update: set ``model.lr_schedule`` and the like to a constant before each.
    Diverging outputs raise FloatingPointError.
    """
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

    Safetensors refuses the three names of an extractor that actor and critic share. The parts are
    the policy's own, so loading into the module loads into the policy.
    """
    once = nn.Module()
    for name, part in policy.named_children():
        once.add_module(name, part)
    for name, parameter in policy.named_parameters(recurse=False):
        once.register_parameter(name, parameter)
    return once
