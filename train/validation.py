"""Validation during a run, and the evaluation of the best weights at its end."""

from __future__ import annotations

from functools import partial

import torch

from agents.controls import Control
from agents.diagnostics import behaviour
from agents.distributed import on_first, rank
from agents.evaluation import Score, play_split, score_at_stop, score_sampled_labels
from agents.learner import Learner
from agents.runs.commands import Stop
from agents.runs.folder import RunLog
from agents.training import check_validation_images, validation_updates
from train.environments import make_env
from train.settings import Config

NUM_ENVS = 500


class Judge:
    """Validates the running mean of the weights, and keeps the best.

    Args:
        config: The run's settings.
        log: Gets scores and the best weights.
        stop: May end a validation early.
        device: Where to play.

    Raises:
        ValueError: If the split has fewer images than are asked for, or a split's data are missing.

    Attributes:
        due: Updates, counted from 1, after which to validate.
    """

    def __init__(self, config: Config, log: RunLog, stop: Stop, device: torch.device):
        self._config, self._log, self._stop, self._device = config, log, stop, device
        self._env = make_env(config, device, NUM_ENVS, split="validation", order="sequential")
        config.open_final_split()
        check_validation_images(config.validation_images, self._env.num_images)
        self.due = validation_updates(config.num_updates, config.num_validations)

    def validate(self, learner: Learner, updates_done: int) -> None:
        """Validate, log, and store the weights if they are the best so far."""
        config, log = self._config, self._log
        with log.judging():
            std = config.scheduled_std(updates_done - 1)
            score, metrics = on_first(lambda: self.measure(learner, std))
        episodes = updates_done * config.num_envs
        log.scalars(episodes * self._env.task.num_glimpses, metrics)
        log.say(f"{episodes} episodes: validation {score}, {log.time_left}")
        price = 100 * (config.price or 0) * metrics.get("eval/glimpses", 0)  # [%], as the error
        if learner.is_best(score.error + price, always=config.keep == "last"):
            log.save_weights(learner.best)

    def measure(self, learner: Learner, std: float) -> tuple[Score, dict[str, float]]:
        """Return the score, with mean locations and likeliest labels, and metrics to log.

        ``std`` is for sampled locations, unless the model learns its own.
        """
        config, model, env = self._config, learner.mean_model, self._env
        noise = torch.Generator(self._device).manual_seed(0)  # the same each time
        how = {"generator": noise, "control": Control(config.locations, env)}
        num_images = config.validation_images or env.num_images
        play = partial(play_split, model, env, num_images, on_batch=self._stop.check, **how)
        score, glimpses = score_at_stop(beliefs := play())
        metrics = {"eval/error": score.error, **behaviour(beliefs, env.task)}
        if config.price is not None:
            metrics["eval/glimpses"] = glimpses
        if config.validate_sampled:
            beliefs = play(std=std if model.location_std is None else model.location_std)
            sampled = score_at_stop(beliefs)[0]
            if config.temperature:
                cooled = beliefs._replace(log_p=beliefs.log_p / config.temperature)
                sampled = score_sampled_labels(cooled, noise)
            metrics["eval/error_sampled"] = sampled.error
        return score, metrics

    def finish(self, learner: Learner, data: str) -> None:
        """Evaluate the best weights once on the final split, and write the run's result.

        ``data`` says where the images are from, should there be no final split.
        """
        config, log, score, more = self._config, self._log, None, {}
        if rank() > 0:
            return
        if config.final_split != "none":
            split = {"split": config.final_split, "order": "sequential"}
            env, model = make_env(config, self._device, NUM_ENVS, **split), learner.mean_model
            model.load_state_dict(learner.best)
            how = {"control": Control(config.locations, env), "on_batch": self._stop.check}
            score, glimpses = score_at_stop(play_split(model, env, env.num_images, **how))
            more = {} if config.price is None else {"glimpses": glimpses}
            log.say(data := env.data_source)
        log.result(config.final_split, score, data, **more)
