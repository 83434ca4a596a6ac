"""A replay of rollouts, for losses that are valid whichever policy acted.

Dimension key:
    R: rollouts that are kept
    T, N, K: glimpses per episode, parallel episodes, classes
    P, G: glimpse planes, glimpse side [px]
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from agents.distributed import all_lanes, num_ranks, own_lanes
from agents.episodes import Step
from agents.estimators import Estimator, Rollout, Weights
from agents.ram import RecurrentAttentionModel
from agents.runs.checkpoints import check_replay_size

_AXES = {"glimpses": 2, "locations": 2, "answers": 1, "rewards": 1}  # of lanes


class Replay:
    """The newest rollouts: what was seen, the last answer and what it was paid.

    Attributes:
        tensors: Everything that is stored; changed in place.

    Args:
        num_rollouts: R; a newer one replaces the oldest. 0: nothing is stored.
        shape: T, N and a glimpse's (P, G, G), whose pixels are stored as bytes.
        device: Where it is stored.

    Raises:
        ValueError: If a checkpoint could not hold it.
    """

    def __init__(self, num_rollouts: int, shape: tuple[int, ...], device: torch.device):
        r, (steps, episodes) = num_rollouts, shape[:2]
        size = num_ranks() * r * (math.prod(shape) + episodes * (8 * steps + 12))
        what = f"a replay of {num_rollouts} rollouts of {num_ranks() * episodes} episodes"
        check_replay_size(what, size, "lower replay_size or num_envs")
        self.tensors = {
            "glimpses": torch.zeros(r, *shape, dtype=torch.uint8, device=device),
            "locations": torch.zeros(r, steps, episodes, 2, device=device),
            "answers": torch.zeros(r, episodes, dtype=torch.int64, device=device),
            "rewards": torch.zeros(r, episodes, device=device),
            "added": torch.zeros((), dtype=torch.int64, device=device),
        }

    def __len__(self) -> int:
        return len(self.tensors["answers"])

    def add(self, steps: Sequence[Step]) -> None:
        """Store a rollout of T steps, with glimpses of pixels in [0, 1]."""
        if not len(self):
            return
        row = (self.tensors["added"] % len(self))[None]
        glimpses = torch.stack([step.glimpse for step in steps])  # (T, N, P, G, G)
        parts = {
            "glimpses": (glimpses * 255).round().to(torch.uint8),
            "locations": torch.stack([step.location for step in steps]),
            "answers": steps[-1].prediction,
            "rewards": steps[-1].reward,
        }
        for name, part in parts.items():
            self.tensors[name].index_copy_(0, row, part[None])  # waits for no GPU
        self.tensors["added"] += 1

    def pack(self) -> dict[str, Tensor]:
        """Return the tensors of all ranks' lanes, for a checkpoint."""
        whole = {name: all_lanes(self.tensors[name], axis) for name, axis in _AXES.items()}
        return {**self.tensors, **whole}

    def unpack(self, tensors: dict[str, Tensor]) -> None:
        """Restore this rank's lanes of what :meth:`pack` returned."""
        for name, part in self.tensors.items():
            axis, whole = _AXES.get(name), tensors[name]
            if axis is not None:
                lanes = own_lanes(whole.shape[axis])
                whole = whole.narrow(axis, lanes.start, len(lanes))
            part.copy_(whole)

    def loss(
        self,
        model: RecurrentAttentionModel,
        estimator: Estimator,
        weights: Weights,
        uniform: Tensor,
    ) -> Tensor:
        """Return the loss of the labels alone for a random rollout, as the model now sees it.

        ``uniform``, a scalar in (0, 1), chooses the rollout.
        """
        stored = self.tensors["added"].clamp(max=len(self))
        row = (uniform.double() * stored).long()[None]  # in float32 it could round up to 1
        drawn = (self.tensors[name].index_select(0, row)[0] for name in _AXES)  # waits for no GPU
        glimpses, locations, answers, rewards = drawn
        state, steps = model.initial_state(len(answers)), []
        for glimpse, location in zip(glimpses, locations, strict=True):
            output, state = model(glimpse / 255, location, state)
            unused = torch.zeros_like(rewards)
            steps.append(Step(glimpse, location, output, state, answers, unused, rewards))
        terms = estimator.terms(Rollout.from_steps(answers, 1.0, steps), weights)
        return torch.stack(list(terms.label.values())).sum()
