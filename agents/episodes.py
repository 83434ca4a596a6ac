"""Playing an episode in every lane: what training, validation and measurements share.

Dimension key:
    N: lanes (parallel episodes)
    T: glimpses per episode
    P, G: glimpse planes, glimpse side [px]
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from agents.ram import Output, RecurrentAttentionModel

Carry = tuple[dict[str, Any], dict[str, Any]]
"""Where the lanes are: the observations and infos that the environment returned last."""

NOT_FINITE = "the model's outputs are not finite; the learning rate may be too high"


class Step(NamedTuple):
    """What each lane saw and did at a glimpse.

    Attributes:
        glimpse: Shape (N, P, G, G), in [0, 1].
        location: Where the model saw it. Shape (N, 2), in [-1, 1] but for a shift.
        output: The model's outputs.
        state: Its state after the glimpse. Shape (N, state size).
        prediction: The label given. Shape (N,).
        location_log_prob: log pi(l_t | h_t) of the sampled location. Shape (N,).
        reward: What the environment paid. Shape (N,), float32.
    """

    glimpse: Tensor
    location: Tensor
    output: Output
    state: Tensor
    prediction: Tensor
    location_log_prob: Tensor
    reward: Tensor


def play_episode(
    model: RecurrentAttentionModel,
    env: Any,
    carry: Carry,
    act: Callable[[int, Output], tuple[Tensor, Tensor, Tensor]],
    *,
    shift: float | Tensor = 0.0,
) -> tuple[list[Step], Carry]:
    """Play one episode in each lane.

    Args:
        model: The agent.
        env: A ``ram_env.GlimpseVectorEnv`` with ``action_format="dict"``, without ``allow_stop``
            and in the autoreset mode ``SAME_STEP``.
        carry: Observations and infos at the beginning of the episodes.
        act: Chooses, from the number of the step (from 0) and the outputs, the next location,
            shape (N, 2), its log-probability, (N,), and the label, (N,).
        shift: Is added to what the model knows of locations, and taken off what it chooses: a
            number or (N, 2).

    Returns:
        The T steps, and the observations and infos of the next episodes.

    Raises:
        FloatingPointError: If the model's outputs are not finite, so the env refused an action.
    """
    (obs, infos), state = carry, model.initial_state(env.num_envs)
    steps: list[Step] = []
    for step in range(env.task.num_glimpses):
        glimpse, location = to_tensors(obs, state.device)
        location = location + shift
        output, state = model(glimpse, location, state)
        chosen, log_prob, label = act(step, output)
        action = {"location": chosen - shift, "label": label}
        try:
            obs, reward, _, _, infos = env.step(to_env(action, obs))
        except ValueError as error:
            if all(part.isfinite().all() for part in output if part is not None):
                raise
            raise FloatingPointError(NOT_FINITE) from error
        reward = torch.as_tensor(reward, dtype=torch.float32)
        steps.append(Step(glimpse, location, output, state, label, log_prob, reward))
    return steps, (obs, infos)


def to_tensors(obs: dict[str, Any], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return an observation's glimpse and location as tensors."""
    glimpse = torch.as_tensor(obs["glimpse"], device=device)
    return glimpse, torch.as_tensor(obs["location"], device=device)


def to_env(action: dict[str, Tensor], obs: dict[str, Any]) -> dict[str, Any]:
    """Return an action as arrays or tensors, whichever the observations are."""
    if isinstance(obs["location"], Tensor):
        return action
    return {name: part.detach().cpu().numpy() for name, part in action.items()}
