"""Measuring a trained agent: every image once, and an interval around the error.

Dimension key:
    N: lanes of the environment
    n: images in the split
    T: glimpses an episode
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from gymnasium.vector import VectorEnv
from scipy.stats import binomtest

from agents.ram import RecurrentAttentionModel


@dataclass(frozen=True)
class Score:
    """Mistakes on a number of images.

    Attributes:
        wrong: Images named wrongly.
        total: Images named.
    """

    wrong: int
    total: int

    @property
    def error(self) -> float:
        """Percentage of images named wrongly."""
        return 100 * self.wrong / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the error [%], after Wilson (1927)."""
        low, high = binomtest(self.wrong, self.total).proportion_ci(0.95, method="wilson")
        return 100 * low, 100 * high

    def __str__(self) -> str:
        low, high = self.interval
        return f"error {self.error:.2f} % (95 % interval {low:.2f}-{high:.2f}, {self.total} images)"


@torch.no_grad()
def evaluate(model: RecurrentAttentionModel, env: VectorEnv, num_images: int) -> Score:
    """Show every image of a split once; look where the mean says, name the likeliest class.

    Args:
        model: In the mode it should be judged in.
        env: A vector env with ``order="sequential"`` and ``action_format="dict"``, whose
            lanes are in step with each other. Observations may be arrays or tensors.
        num_images: n, images in the split; visits beyond are not counted.

    Returns:
        Mistakes of the last label of each episode.
    """
    device = next(model.parameters()).device
    obs, infos = env.reset(seed=0)
    wrong = visited = 0
    while visited < num_images:
        state = model.initial_state(env.num_envs)
        over = False
        while not over:
            output, state = model(*to_tensors(obs, device), state)
            action = {"location": output.location_mean, "label": output.logits.argmax(1)}
            obs, _, terminated, _, infos = env.step(to_env(action, obs))
            over = bool(terminated[0])
        counted = min(env.num_envs, num_images - visited)  # visits go i, i + N, ... over the lanes
        correct = torch.as_tensor(infos["final_info"]["correct"])
        wrong += counted - int(correct[:counted].sum())
        visited += counted
    return Score(wrong, num_images)


def to_tensors(obs: dict[str, Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
    """Return an observation's glimpse and location as tensors."""
    return (
        torch.as_tensor(obs["glimpse"], device=device),
        torch.as_tensor(obs["location"], device=device),
    )


def to_env(action: dict[str, torch.Tensor], obs: dict[str, Any]) -> dict[str, Any]:
    """Return an action in the library of the environment's observations."""
    if isinstance(obs["location"], torch.Tensor):
        return action
    return {name: part.detach().cpu().numpy() for name, part in action.items()}
