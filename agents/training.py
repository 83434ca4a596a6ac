"""What training scripts share beside their loops: devices, seeds, gradients, running means."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; "auto" is a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def spread_seed(seed: int, num_envs: int, num_rollouts: int = 1) -> tuple[list[int], int]:
    """Spread the seed of a run; adjacent runs share nothing.

    Args:
        seed: Of the run.
        num_envs: N, lanes of the environment.
        num_rollouts: So many neighbouring lanes get one seed, and so play the same images;
            divides N.

    Returns:
        One seed a lane, and one for torch.
    """
    words = np.random.SeedSequence(seed).generate_state(num_envs + 1, np.uint64)
    lane_seeds = [int(word) for word in words[1 : num_envs // num_rollouts + 1]]
    return [seed for seed in lane_seeds for _ in range(num_rollouts)], int(words[0] >> np.uint64(1))


def spaced(num_updates: int, times: int) -> set[int]:
    """Return the updates, counted from 1, after which something happens; the last is one."""
    return {round(num_updates * (k + 1) / times) for k in range(times)} - {0}


def clip_gradients(model: nn.Module, max_norm: float, update: int) -> Tensor:
    """Shorten the gradient to ``max_norm`` if it is longer; return its norm before.

    Raises:
        FloatingPointError: If it is not finite, naming the update and the tensors.
    """
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = nn.utils.get_total_norm(grads.values())
    if not norm.isfinite():
        broken = [name for name, grad in grads.items() if not grad.isfinite().all()]
        raise FloatingPointError(f"update {update}: the gradient is not finite in {broken}")
    nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm


@torch.no_grad()
def move_mean(mean_model: nn.Module, model: nn.Module, decay: float) -> None:
    """Move the running mean of the weights towards the weights, in place.

    The means and variances of batch normalisation move along; its counters are copied.

    Args:
        mean_model: Changed in place.
        model: Of the same kind.
        decay: Share of the mean that stays, 0 to 1.
    """
    weights = model.state_dict()
    for name, mean in mean_model.state_dict().items():
        if mean.is_floating_point():
            mean.lerp_(weights[name], 1 - decay)
        else:
            mean.copy_(weights[name])
