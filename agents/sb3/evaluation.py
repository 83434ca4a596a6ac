"""Evaluation of Stable-Baselines3's agents under the protocol of :mod:`agents.evaluation`.

Dimension key:
    N: lanes of the environment
    n: images in the split
    T: glimpses per episode
    K: classes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.type_aliases import PolicyPredictor
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn.functional import one_hot

from agents.evaluation import Beliefs, Score, check_in_turn, score_by_glimpse
from agents.sb3.training import raising_divergence


def evaluate_sb3(model: PolicyPredictor, env: VecEnv, num_images: int, **keywords: Any) -> Score:
    """Show every image of a split once and count the episodes whose last label is wrong.

    Arguments and errors are those of :func:`play_split_sb3`.
    """
    return score_by_glimpse(play_split_sb3(model, env, num_images, **keywords))[-1]


@raising_divergence()
def play_split_sb3(
    model: PolicyPredictor,
    env: VecEnv,
    num_images: int,
    *,
    deterministic: bool = True,
    on_batch: Callable[[], None] = lambda: None,
) -> Beliefs:
    """Show every image of a split once and record where the model looks and what it predicts.

    Args:
        model: An algorithm or a policy, recurrent or not.
        env: :class:`agents.sb3.GlimpseVecEnv` over an environment of ``ram_env`` with
            ``order="sequential"``, without ``allow_stop``.
        num_images: n, images in the split; later visits are not counted.
        deterministic: Take the policy's mode. False samples, always with the same noise, and
            leaves the global generators as they were.
        on_batch: Called after every batch of episodes; may raise to stop early.

    Returns:
        One pass, whose ``log_p`` is 0 at the label of the action and -inf elsewhere.

    Raises:
        ValueError: If n is less than 1, the env does not show the split in turn, or an action has
            a stop.
        FloatingPointError: If the policy's outputs are not finite.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}")
    if env.get_attr("task")[0].allow_stop:
        raise ValueError("env must have allow_stop=False: episodes must end together")
    batches: list[tuple[Tensor, ...]] = []
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        torch.manual_seed(0)
        env.seed(0)
        obs: Any = env.reset()
        for visit in range(0, num_images, env.num_envs):  # of lane 0; lane i makes visit + i
            predicted, locations, obs, infos = _play_episodes(model, env, obs, deterministic)
            counted = infos[: num_images - visit]
            index, label, *box = (
                torch.as_tensor(np.array([info[name] for info in counted]), dtype=torch.int64)
                for name in ("index", "label", "position", "object_size")
            )
            check_in_turn(index, visit, num_images)
            played = predicted[: len(counted)], label, locations[: len(counted)]
            batches.append((*played, torch.cat(box, 1)))
            on_batch()
    predicted, labels, locations, boxes = map(torch.cat, zip(*batches, strict=True))
    return Beliefs(predicted.log()[None], labels, locations[None], boxes)


def _play_episodes(
    model: PolicyPredictor, env: VecEnv, obs: Any, deterministic: bool
) -> tuple[Tensor, Tensor, Any, list[dict[str, Any]]]:
    """Play one episode per lane.

    Return the predicted labels, one-hot (N, T, K), the locations (N, T, 2), the first observations
    of the next episodes, and the N infos at the end of these.
    """
    state, starts, lanes = None, np.ones(env.num_envs, bool), np.arange(env.num_envs)
    ended, predicted, locations = ~starts, [], []
    infos: list[dict[str, Any]] = []
    while not ended[0]:
        actions, state = model.predict(obs, state, starts, deterministic)
        predicted.append(_labels(actions, env.action_space))
        seen = obs["location"] if "location" in obs else obs["locations"][lanes, len(locations)]
        locations.append(torch.tensor(seen))
        obs, _, ended, infos = env.step(actions)
        starts = np.zeros(env.num_envs, bool)
    return torch.stack(predicted, 1), torch.stack(locations, 1), obs, infos


def _labels(actions: np.ndarray, space: spaces.Space[Any]) -> Tensor:
    """Return the labels of actions, one-hot (N, K)."""
    if isinstance(space, spaces.MultiDiscrete):  # column, row, class
        return one_hot(torch.as_tensor(actions[:, 2]), int(space.nvec[2])).float()
    scores = torch.as_tensor(actions[:, 2:])  # of the classes, after x and y
    return one_hot(scores.argmax(1), scores.shape[1]).float()
