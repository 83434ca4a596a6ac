"""Train a classifier that sees the whole canvas: `python train/baselines.py --model fc256`.

What glimpses are compared with. The canvases are the agent's own: those that
`train/reinforce.py` with the same seed and number of lanes shows its agent, in the same order,
and the same frozen ones to validate and test. The paragraphs of `train` are the algorithm, in
order: setup, batch, loss, update, log.

Dimension key:
    N: canvases of a batch, one a lane of the environment
    C, H: colour planes, canvas side [px]
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import torch
import tyro
from torch.nn import functional

from agents.baselines import BASELINES, count_parameters, make_baseline, multiply_adds
from agents.evaluation import Score
from agents.runs.commands import Stop, read_resumed, run
from agents.runs.folder import RunLog, run_in_folder
from agents.training import (
    Training,
    check_finite,
    choose_device,
    clip_gradients,
    spread_seed,
    validation_updates,
)
from ram_env import GlimpseVectorEnv, find_task
from ram_env.tasks import ImageTask


@dataclass(frozen=True)
class Config:
    """Settings of a run; every one is a flag."""

    model: Literal[tuple(BASELINES)] = "fc256"  # pyright: ignore[reportInvalidTypeForm]
    """The classifier: see agents/baselines.py."""
    env_id: str = "ClutteredMNISTGlimpse-v0"
    """A registered environment of images."""
    total_episodes: int = 2_200_000
    """Training canvases; the schedule below ends with the last one."""
    num_envs: int = 128
    """Canvases in the batch of one update."""
    seed: int = 0
    """Of everything: weights, images and places."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the network and the environment run; auto takes a GPU if there is one."""
    threads: int = os.cpu_count() or 1
    """CPU threads for the network."""
    run_dir: Path | None = None
    """Where the run is written; by default a new folder below runs/."""
    resume: Path | None = None
    """Folder of a run to go on with, with its own settings; takes no other flag."""
    final_split: Literal["test", "validation", "none"] = "test"
    """The split for the last line; test is looked at once, by the best model on validation."""
    learning_rate: float = 1e-3
    """At the start; falls to 0 along half a cosine."""
    ema: float = 0.999
    """Decay of the running mean of the weights; that mean is validated and kept."""
    bf16: bool = False
    """Compute the network in bfloat16 during training; faster where the CPU or GPU has it."""
    num_validations: int = 12
    """How often it is validated, the end included."""
    log_every: int = 100
    """Updates between two lines of metrics."""
    checkpoint_every: int = 1000
    """Updates between two checkpoints; there is one before each validation, too."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in (
            *("total_episodes", "num_envs", "threads"),
            *("num_validations", "log_every", "checkpoint_every"),
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.model not in BASELINES:
            raise ValueError(f"model must be one of {', '.join(BASELINES)}, got {self.model!r}")
        canvas_side(self.env_id)  # refuses other tasks
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be positive, got {self.learning_rate}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in [0, 1), got {self.ema}")

    @property
    def num_updates(self) -> int:
        """Updates of the weights: as many as the canvases fill."""
        return math.ceil(self.total_episodes / self.num_envs)


def main(config: Config) -> None:
    """Train, or go on training, in the run folder."""
    run_in_folder(config, f"{config.env_id}_{config.model}", train)


def train(config: Config, log: RunLog, stop: Stop) -> None:
    """Train, validate on the way, and judge the best model once on the final split."""
    # Setup
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True  # the same command gives the same bytes
    lane_seeds, torch_seed = spread_seed(config.seed, config.num_envs)
    torch.manual_seed(torch_seed)
    env = make_env(config, device, config.num_envs, split="train")
    validation_env = make_env(config, device, 500, split="validation", order="sequential")
    channels, side, _ = env.glimpse_shape
    model = make_baseline(config.model, channels, side, env.num_classes).to(device)
    optimizer = torch.optim.Adam(model.parameters(), lr=config.learning_rate, fused=True)
    training = Training(model, optimizer, env)
    log.note_facts({"data": env.data_source, "sample": env.data_is_sample, "device": str(device)})
    log.note_facts({"parameters": count_parameters(model)})
    validations = validation_updates(config.num_updates, config.num_validations)
    log.say(f"device {device}, {config.threads} threads, seed {config.seed}, run {log.folder}")
    log.say(env.data_source)
    log.say(
        f"{config.model}: {count_parameters(model)} parameters; a decision takes "
        f"{multiply_adds(model, env.glimpse_shape)} multiply-adds and sees "
        f"{math.prod(env.glimpse_shape)} pixels"
    )

    def validate(seen: int) -> None:
        with log.judging():
            score = evaluate(training.mean_model, validation_env, device, on_batch=stop.check)
        log.scalars(seen, {"eval/error": score.error})
        log.say(f"{seen} canvases: validation {score}, {log.time_left}")
        if training.is_best(score.error):
            log.save_weights(training.best)

    if log.checkpoint is not None:
        training.unpack(log.checkpoint)
        if log.checkpoint.step in validations:
            validate(log.checkpoint.step * config.num_envs)

    for update in log.progress(config.num_updates):
        progress = update / config.num_updates  # from 0 to 1
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 + math.cos(math.pi * progress)) / 2

        # Batch: every lane draws its next canvas
        canvases, labels = draw(env, device, seed=lane_seeds if update == 0 else None)

        # Loss
        with torch.autocast(device.type, torch.bfloat16, enabled=config.bf16):
            logits = model(canvases)  # (N, K)
        loss = functional.cross_entropy(logits.float(), labels)
        check_finite(update, {"loss": loss})

        # Update
        optimizer.zero_grad()
        loss.backward()
        clip_gradients(model, math.inf, update)  # which only checks that it is finite
        optimizer.step()
        check_finite(update, dict(model.named_parameters()))
        training.move_mean(min(config.ema, (update + 1) / (update + 10)))

        # Log
        done = update + 1
        seen = done * config.num_envs
        if done % config.log_every == 0 or done == config.num_updates:
            log.scalars(
                seen,
                {
                    "rollout/ep_rew_mean": (logits.argmax(1) == labels).double().mean().item(),
                    "train/classifier_loss": loss.item(),
                    "train/learning_rate": optimizer.param_groups[0]["lr"],
                },
            )
            log.speed(seen)
        if done % config.checkpoint_every == 0 or done in validations or stop.requested:
            log.save_checkpoint(done, seen, *training.pack())
        stop.check()
        if done in validations:
            validate(seen)

    # Result
    score, data = None, env.data_source
    if config.final_split != "none":
        final_env = make_env(config, device, 500, split=config.final_split, order="sequential")
        training.mean_model.load_state_dict(training.best)
        score = evaluate(training.mean_model, final_env, device, on_batch=stop.check)
        data = final_env.data_source
        log.say(data)
    log.result(config.final_split, score, data)


def canvas_side(env_id: str) -> int:
    """Return the side of an environment's canvases [px], without opening its data.

    Raises:
        ValueError: If it isn't a task of labelled images.
    """
    task = find_task(env_id)
    if not isinstance(task, ImageTask):
        raise ValueError(
            f"env_id must name a task of labelled images, such as ClutteredMNISTGlimpse-v0, got "
            f"{env_id!r}: elsewhere the whole image need not tell the label (a signpost board "
            "doesn't show where its path starts)"
        )
    return task.canvas_size


def make_env(
    config: Config, device: torch.device, num_envs: int, **keywords: Any
) -> GlimpseVectorEnv:
    """Make the environment with one glimpse as large as the canvas: see :func:`draw`."""
    env = gymnasium.make_vec(
        config.env_id,
        num_envs=num_envs,
        glimpse_size=canvas_side(config.env_id),
        num_scales=1,
        num_glimpses=1,
        device=None if device.type == "cpu" else str(device),
        **keywords,
    )
    assert isinstance(env, GlimpseVectorEnv)
    return env


def draw(
    env: GlimpseVectorEnv, device: torch.device, seed: list[int] | int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Begin every lane's next episode and look at the whole canvas from its middle.

    Args:
        env: From :func:`make_env`. A canvas doesn't depend on what is seen of it, so these
            are the canvases of the same lanes' episodes in the agent's environment.
        device: Of the results.
        seed: As the environment's; None goes on.

    Returns:
        Canvases in [0, 1], shape (N, C, H, H), float32, and labels, shape (N,), int64.
    """
    obs, infos = env.reset(seed=seed, options={"location": (0.0, 0.0)})
    canvases = torch.as_tensor(obs["glimpse"], device=device)
    return canvases, torch.as_tensor(infos["label"], device=device)


@torch.no_grad()
def evaluate(
    model: torch.nn.Module,
    env: GlimpseVectorEnv,
    device: torch.device,
    on_batch: Callable[[], None] = lambda: None,
) -> Score:
    """Show every canvas of a split once, in an env with ``order="sequential"``."""
    wrong, total = 0, env.num_images
    for visited in range(0, total, env.num_envs):
        canvases, labels = draw(env, device, seed=None if visited else 0)
        right = model(canvases).argmax(1) == labels  # (N,)
        wrong += int((~right[: total - visited]).sum())
        on_batch()
    return Score(wrong, total)


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line, or of the run that it resumes."""
    return read_resumed(Config, arguments) or tyro.cli(
        Config, args=arguments, description=(__doc__ or "").splitlines()[0]
    )


if __name__ == "__main__":
    run(main, parse)
