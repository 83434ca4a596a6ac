"""Measuring an agent of Stable-Baselines3 as our own are: every image in turn.

The protocol of :func:`agents.evaluation.evaluate`: the mean location and the likeliest label.

Dimension key:
    N: lanes of the environment
    n: images in the split
    T: glimpses an episode
    K: classes
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
import torch
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor
from torch.nn.functional import one_hot

from agents.evaluation import Beliefs, Score, score_by_glimpse


class Predictor(Protocol):
    """What acts: an algorithm or a policy of Stable-Baselines3, with memory or without."""

    def predict(  # noqa: D102
        self,
        observation: Any,
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]: ...


def evaluate_sb3(
    model: Predictor,
    env: VecEnv,
    num_images: int,
    *,
    deterministic: bool = True,
    on_batch: Callable[[], None] = lambda: None,
) -> Score:
    """Show every image of a split once and count mistakes of the last label of each episode.

    Arguments and errors are those of :func:`play_split_sb3`.
    """
    beliefs = play_split_sb3(model, env, num_images, deterministic=deterministic, on_batch=on_batch)
    return score_by_glimpse(beliefs)[-1]


def play_split_sb3(
    model: Predictor,
    env: VecEnv,
    num_images: int,
    *,
    deterministic: bool = True,
    on_batch: Callable[[], None] = lambda: None,
) -> Beliefs:
    """Show every image of a split once and record where the model looked and what it named.

    Args:
        model: An algorithm or a policy; its state, if it has any, goes in and comes out.
        env: Of an environment with ``order="sequential"`` whose lanes are in step, as
            :class:`agents.sb3.vec_env.GlimpseVecEnv`, with the observations that the model
            was trained on.
        num_images: n, images in the split; visits beyond are not counted.
        deterministic: Take the policy's mode; else sample, with noise of its own that is the
            same every time and leaves torch's generators as they were.
        on_batch: Called after every batch of episodes; may raise to end it early.

    Returns:
        One pass. An action names a label and tells no belief: ``log_p`` is 0 at that label and
        -inf elsewhere.

    Raises:
        ValueError: If n is less than 1, or the env does not show image v mod n at visit v.
    """
    if num_images < 1:
        raise ValueError(f"num_images must be at least 1, got {num_images}")
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return _play_split(model, env, num_images, deterministic, on_batch)


def _play_split(
    model: Predictor,
    env: VecEnv,
    num_images: int,
    deterministic: bool,
    on_batch: Callable[[], None],
) -> Beliefs:
    """Show every image once, with torch's own noise."""
    env.seed(0)
    obs: Any = env.reset()
    batches: list[tuple[Tensor, ...]] = []
    for visit in range(0, num_images, env.num_envs):  # of lane 0; lane i makes visit + i
        named, locations, obs, infos = _play_episodes(model, env, obs, deterministic)
        expected = list(range(visit, min(visit + env.num_envs, num_images)))
        counted = infos[: len(expected)]
        shown = [info["index"] for info in counted]
        if shown != expected:
            raise ValueError(
                f"env must show images 0 to {num_images - 1} in turn (order='sequential', and "
                f"num_images the split's), got {shown[:5]}... at visit {visit}"
            )
        label, position = (
            torch.as_tensor(np.array([info[name] for info in counted]), dtype=torch.int64)
            for name in ("label", "position")
        )
        batches.append((named[: len(counted)], label, locations[: len(counted)], position))
        on_batch()
    named, labels, locations, positions = (torch.cat(parts) for parts in zip(*batches, strict=True))
    return Beliefs(named.log()[None], labels, locations[None], positions)


def _play_episodes(
    model: Predictor, env: VecEnv, obs: Any, deterministic: bool
) -> tuple[Tensor, Tensor, Any, list[dict[str, Any]]]:
    """Play one episode in every lane.

    Returns:
        The labels named, one-hot (N, T, K); locations of the glimpses (N, T, 2); observations of
        the next episodes, and infos of these at their end, N.
    """
    state, starts, over = None, np.ones(env.num_envs, bool), False
    named, locations = [], []
    infos: list[dict[str, Any]] = []
    while not over:
        actions, state = model.predict(obs, state, starts, deterministic)
        scores = torch.as_tensor(actions[:, 2:])  # (N, K)
        named.append(one_hot(scores.argmax(1), scores.shape[1]).float())
        locations.append(torch.as_tensor(_location(obs)))
        obs, _, ended, infos = env.step(actions)
        starts, over = np.zeros(env.num_envs, bool), bool(ended[0])
    return torch.stack(named, 1), torch.stack(locations, 1), obs, infos


def _location(obs: dict[str, np.ndarray]) -> np.ndarray:
    """Return where the newest glimpse lies, (N, 2), in an observation or a history of them."""
    if "location" in obs:
        return obs["location"].copy()
    newest = obs["mask"].sum(1).astype(int) - 1
    return obs["locations"][np.arange(len(newest)), newest]
