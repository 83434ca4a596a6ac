"""The update of the weights: gradient, clipping, optimizer, running mean; over all processes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from agents.distributed import average_gradients
from agents.muon import Muon, is_matrix
from agents.ram import RecurrentAttentionModel
from agents.training import Training, Watch, check_finite, clip_gradients


class Learner(Training[RecurrentAttentionModel]):
    """Moves a model's weights; ``config`` are the settings of train/reinforce.py.

    Empty parts of ``stored`` are left out; ``bf16`` computes the networks in bfloat16.
    """

    def __init__(
        self,
        config: Any,
        model: RecurrentAttentionModel,
        env: Any,
        stored: Mapping[str, Any],
        *,
        bf16: bool,
    ):
        parts = {name: part for name, part in stored.items() if len(part)}
        super().__init__(model, make_optimizer(config, model), env, parts)
        self._max_grad_norm, self._bf16 = config.max_grad_norm, bf16
        # In a graph the host can't wait for the device: `check` asks later what was not finite
        self._watch = Watch(self._device) if config.graph else None

    @contextmanager
    def computing(self, update: int | Tensor) -> Iterator[None]:
        """Compute losses of an update, in bfloat16 where the run does."""
        with torch.autocast(self._device.type, torch.bfloat16, enabled=self._bf16):
            try:
                yield
            except FloatingPointError as error:
                raise FloatingPointError(f"update {update}: {error}") from error

    def set_rate(self, learning_rate: float | Tensor) -> None:
        """Set the learning rate, of which each group of parameters has its multiple."""
        for group in self.optimizer.param_groups:
            rate = learning_rate * group["multiple"]
            group["lr"] = rate.float() if isinstance(rate, Tensor) else rate

    def step(
        self, update: int | Tensor, loss: Tensor, values: Mapping[str, Tensor] | None = None
    ) -> Tensor:
        """Move the weights against the gradient of a loss; return its norm before clipping.

        Raises FloatingPointError if the gradient or one of the ``values`` is not finite.
        """
        self.optimizer.zero_grad()
        loss.backward()
        average_gradients(self.model)
        norm = clip_gradients(self.model, self._max_grad_norm, update, values, self._watch)
        self.optimizer.step()
        return norm

    def finish(self, update: int | Tensor, decay: float | Tensor) -> None:
        """Check that all weights are finite, and move their running mean."""
        check_finite(update, dict(self.model.named_parameters()), self._watch)
        self.move_mean(decay)

    def note(self, update: int | Tensor, allowed: Tensor) -> None:
        """Remember an update whose actions were not ``allowed``, shape (), bool, for :meth:`check`.

        Without a graph the environment itself refuses them.
        """
        if self._watch is not None:
            self._watch.note(update, allowed)

    def check(self) -> None:
        """Raise FloatingPointError if a number was not finite in an update so far."""
        if self._watch is not None:
            self._watch.check()


def make_optimizer(config: Any, model: RecurrentAttentionModel) -> torch.optim.Optimizer:
    """Make the optimizer that the settings of train/reinforce.py ask for.

    Each group has a ``multiple`` of the learning rate and, for Muon, a number of ``blocks``: the
    matrices in each of its parameters, 0 for what AdamW moves. A learned log std is not decayed,
    which would widen the policy.
    """
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        located, in_core = name.startswith("location_network."), name.startswith("core.")
        hidden = is_matrix(parameter) and not name.startswith("action_network.")
        by_muon = config.optimizer == "muon" and hidden
        is_log_std = parameter is model.location_network.log_std
        rates = config.location_rate if located else 1.0, config.muon_rate if by_muon else 1.0
        group = {
            "multiple": math.prod(rates),
            "blocks": by_muon * (model.core.gates if in_core else 1),
            "weight_decay": 0.0 if is_log_std else config.weight_decay,
        }
        key = tuple(group.values())
        groups.setdefault(key, {**group, "params": []})["params"].append(parameter)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups.values(), config.learning_rate, momentum=0.9, fused=True)
    kind = Muon if config.optimizer == "muon" else torch.optim.AdamW
    more: Any = {"betas": (0.9, config.beta2), "fused": True, "capturable": config.graph}
    return kind(groups.values(), config.learning_rate, **more)
