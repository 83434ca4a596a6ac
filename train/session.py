"""A training run around its updates: description, checkpoints, validations, signals and result.

A script keeps its loop and what an update does; :class:`Session` does the rest in the same way for
every script.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from agents.baselines import count_parameters
from agents.evaluation import Score
from agents.runs.commands import Stop, Stopped
from agents.runs.folder import RunLog
from agents.runs.machine import describe_device
from agents.training import Training, choose_bf16, validation_updates


def describe(
    config: Any, log: RunLog, env: Any, device: torch.device, model: nn.Module, **more: str
) -> bool:
    """Write to ``config.json`` and print what runs where; return whether in bfloat16."""
    facts = {"data": env.data_source, "sample": env.data_is_sample, **more}
    facts |= {"device": describe_device(device), "parameters": count_parameters(model)}
    log.note_facts(facts)
    bf16 = choose_bf16(getattr(config, "bf16", False), device, log)
    where = f"device {device}, {'bfloat16' if bf16 else 'float32'}, {config.threads} threads"
    log.say(f"{where}, seed {config.seed}, run {log.folder}")
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
        judge: Returns the validation score and the metrics to log.
        num_updates: Updates of the whole run.
        update_steps: Env steps of an update.
        unit: Name of the env steps in what the run says.
    """

    config: Any
    log: RunLog
    stop: Stop
    training: Training[Any]
    judge: Callable[[], tuple[Score, Mapping[str, float]]]
    num_updates: int
    update_steps: int
    unit: str = "env steps"

    @property
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
            updates_done, stopping = update + 1, self.stop.requested
            validates = updates_done in self.validations
            if updates_done % self.config.checkpoint_every == 0 or validates or stopping:
                steps = updates_done * self.update_steps
                self.log.save_checkpoint(updates_done, steps, *self.training.pack())
            if stopping:
                raise Stopped(128 + stopping)
            if validates:
                self._validate(updates_done)

    def logs(self, update: int) -> bool:
        """Return whether metrics of an update are due."""
        return (update + 1) % self.config.log_every == 0 or update + 1 == self.num_updates

    def finish(self, make_env: Callable[..., Any], evaluate: Callable[[Any], Score]) -> None:
        """Evaluate once on the final split, unless it is "none", and write the result."""
        split, score, data = self.config.final_split, None, self.training.env.data_source
        if split != "none":
            env = make_env(500, split=split, order="sequential")
            score, data = evaluate(env), env.data_source
            self.log.say(data)
        self.log.result(split, score, data)

    def _validate(self, updates_done: int) -> None:
        with self.log.judging():
            score, metrics = self.judge()
        steps = updates_done * self.update_steps
        self.log.scalars(steps, metrics)
        self.log.say(f"{steps} {self.unit}: validation {score}, {self.log.time_left}")
        if self.training.is_best(score.error, always=self.config.keep == "last"):
            self.log.save_weights(self.training.best)
