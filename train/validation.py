"""Validation of the recurrent attention model, and its evaluation at the end of a run."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from agents.controls import Control
from agents.diagnostics import behaviour
from agents.evaluation import Beliefs, Score, play_split, score_at_stop, score_sampled_labels
from agents.ram import RecurrentAttentionModel
from agents.runs.commands import Stop
from ram_env import GlimpseVectorEnv
from train.settings import Config

Measured = tuple[Score, dict[str, float]]


def validate(
    config: Config,
    model: RecurrentAttentionModel,
    env: GlimpseVectorEnv,
    stop: Stop,
    updates_done: int,
) -> Measured:
    """Return the score, with mean locations and likeliest labels, and metrics to log."""
    noise = torch.Generator(model.baseline_network.weight.device).manual_seed(0)  # always the same
    play = partial(_play, config, model, stop, generator=noise)
    score, glimpses = score_at_stop(beliefs := play(env, config.validation_images))
    metrics = {"eval/error": score.error, **behaviour(beliefs, env.task)}
    if config.price is not None:
        metrics["eval/glimpses"] = glimpses
    if config.validate_sampled:
        std = config.scheduled_std(updates_done - 1)
        std = std if model.location_std is None else model.location_std
        sampled = score_at_stop(beliefs := play(env, config.validation_images, std=std))[0]
        if config.temperature:
            cooled = beliefs._replace(log_p=beliefs.log_p / config.temperature)
            sampled = score_sampled_labels(cooled, noise)
        metrics["eval/error_sampled"] = sampled.error
    return score, metrics


def evaluate(
    config: Config, model: RecurrentAttentionModel, stop: Stop, env: GlimpseVectorEnv
) -> Measured:
    """Return the score on a whole split and, if the agent stops, its mean number of glimpses."""
    score, glimpses = score_at_stop(_play(config, model, stop, env))
    return score, {} if config.price is None else {"glimpses": glimpses}


def _play(
    config: Config,
    model: RecurrentAttentionModel,
    stop: Stop,
    env: GlimpseVectorEnv,
    num_images: int | None = None,
    **how: Any,
) -> Beliefs:
    """Play the first images, or all, as the agent is trained."""
    how |= {"control": Control(config.locations, env), "on_batch": stop.check}
    return play_split(model, env, num_images or env.num_images, **how)
