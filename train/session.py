"""A training run around its updates: description, checkpoints, validations, signals and result.

A script keeps its loop and what an update does; :class:`Session` does the rest in the same way for
every script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from typing import Any

import torch
from torch import nn

from agents.baselines import count_parameters
from agents.distributed import largest, on_first, rank
from agents.evaluation import Score
from agents.runs.commands import Stop, Stopped
from agents.runs.folder import RunLog
from agents.runs.machine import describe_device
from agents.training import Training, choose_bf16, validation_updates

NUM_ENVS = 500  # of a validation


def describe(
    config: Any, log: RunLog, env: Any, device: torch.device, model: nn.Module, **more: str
) -> bool:
    """Write to ``config.json`` and print what runs where; return whether in bfloat16."""
    where, size = describe_device(device), count_parameters(model)
    facts = {"data": env.data_source, "sample": env.data_is_sample, **more}
    log.note_facts({**facts, "device": where, "parameters": size})
    bf16 = choose_bf16(getattr(config, "bf16", False), device, log)
    dtype = "bfloat16" if bf16 else "float32"
    how = f"{dtype}, {config.threads} threads, seed {config.seed}, {size} parameters"
    log.say(f"device {where}, {how}, run {log.folder}")
    log.say(env.data_source)
    return bf16


@dataclass(frozen=True)
class Session:
    """The updates of a run, each followed by a checkpoint and a validation where they are due.

    Args:
        config: Settings of the run, such as ``num_validations`` and ``checkpoint_every``.
        log: The run's folder.
        stop: Tells when the run has to end, which is after the checkpoint of an update.
        training: What a checkpoint holds, and the best weights.
        judge: Returns the validation score and the metrics to log, given the updates done.
        num_updates: Updates of the whole run.
        update_steps: Env steps of an update.
        said: Progress per update in what the run prints, such as ``(512, "episodes")``.
        price: Price of a glimpse in rewards, if ``judge`` returns ``eval/glimpses``.
    """

    config: Any
    log: RunLog
    stop: Stop
    training: Training[Any]
    judge: Callable[[int], tuple[Score, Mapping[str, float]]]
    num_updates: int
    update_steps: int
    said: tuple[int, str]
    price: float = 0.0

    @cached_property
    def validations(self) -> set[int]:
        """Numbers of the updates, counted from 1, that a validation follows."""
        return validation_updates(self.num_updates, self.config.num_validations)

    def resume(self) -> Any:
        """Restore the checkpoint, if any; return the environment's observations and infos."""
        if (checkpoint := self.log.checkpoint) is None:
            return None
        current = self.training.unpack(checkpoint)
        if checkpoint.step in self.validations:
            self._validate(checkpoint.step)
        return current

    def updates(self) -> Iterator[int]:
        """Count the updates that are left, from 0 or from the checkpoint."""
        for update in self.log.progress(self.num_updates):
            yield update
            done, stopping = update + 1, largest(self.stop.requested or 0)  # of any process
            if done % self.config.checkpoint_every == 0 or done in self.validations or stopping:
                self.training.check()
                self.log.save_checkpoint(done, done * self.update_steps, *self.training.pack())
            if stopping:
                raise Stopped(128 + stopping)
            if done in self.validations:
                self._validate(done)

    def logs(self, update: int) -> bool:
        """Return whether metrics of an update are due."""
        return (update + 1) % self.config.log_every == 0 or update + 1 == self.num_updates

    def finish(
        self,
        make_env: Callable[..., Any],
        evaluate: Callable[[Any], tuple[Score, Mapping[str, float]]],
    ) -> None:
        """Evaluate once on the final split, unless it is "none", and write the result.

        ``evaluate`` returns the score in an environment, and more numbers of the result.
        """
        split, score, data, more = self.config.final_split, None, self.training.env.data_source, {}
        if rank() > 0:
            return
        if split != "none":
            env = make_env(NUM_ENVS, split=split, order="sequential")
            score, more = evaluate(env)
            self.log.say(data := env.data_source)
        self.log.result(split, score, data, **more)

    def _validate(self, done: int) -> None:
        with self.log.judging():
            score, metrics = on_first(partial(self.judge, done))
        self.log.scalars(done * self.update_steps, metrics)
        count, unit = self.said
        self.log.say(f"{done * count} {unit}: validation {score}, {self.log.time_left}")
        price = 100 * self.price * metrics.get("eval/glimpses", 0)  # [%], as the error
        if self.training.is_best(score.error + price, always=self.config.keep == "last"):
            self.log.save_weights(self.training.best)
