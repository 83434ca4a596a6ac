"""Train the recurrent attention model with REINFORCE: `python train/reinforce.py`.

The paragraphs of `train` are the algorithm, in order: setup, episode, loss, update, log.

Dimension key:
    N: lanes of the environment, which play one episode each per update
    T: glimpses an episode
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import argparse
import math
import os
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Literal

import gymnasium
import torch
import tyro

import ram_env
from agents.baselines import count_parameters
from agents.controls import CONTROLS, Placer, make_placer
from agents.diagnostics import behaviour, sizes_of
from agents.estimators import ESTIMATORS, Rollout, Weights
from agents.evaluation import evaluate, play_split, score_by_glimpse, to_env, to_tensors
from agents.locations import sample_location
from agents.losses import categorical_entropy, gaussian_entropy
from agents.ram import Output, RAMConfig, RecurrentAttentionModel
from agents.runs.commands import Stop, read_resumed, run
from agents.runs.folder import RunLog, run_in_folder
from agents.training import (
    Training,
    check_finite,
    check_validation_images,
    choose_device,
    clip_gradients,
    report_nonfinite_outputs,
    spread_seed,
    validation_updates,
)

PRESET_FOLDER = Path(__file__).parent / "presets"
PRESETS = tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.toml")))


@dataclass(frozen=True)
class Config:
    """Settings of a run; every one is a flag."""

    preset: Literal[PRESETS] | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Settings from train/presets/NAME.toml in place of the defaults; other flags override them."""
    env_id: str = "ClutteredMNISTGlimpse-v0"
    """A registered environment."""
    total_episodes: int = 2_750_000
    """Training episodes; the schedules below end with the last one."""
    num_envs: int = 128
    """Episodes played side by side, the batch of one update."""
    seed: int = 0
    """Of everything: weights, exploration, images and places."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks and the environment run; auto takes a GPU if there is one."""
    threads: int = os.cpu_count() or 1
    """CPU threads for the networks."""
    run_dir: Path | None = None
    """Where the run is written; by default a new folder below runs/."""
    resume: Path | None = None
    """Folder of a run to go on with, with its own settings; takes no other flag."""
    final_split: Literal["test", "validation", "none"] = "test"
    """The split for the last line; test is looked at once, by the best model on validation."""
    estimator: Literal[tuple(ESTIMATORS)] = "dense"  # pyright: ignore[reportInvalidTypeForm]
    """How the agent learns from an episode: see agents/estimators.py."""
    num_rollouts: int = 1
    """Times that each image is played, for the estimator leave_one_out; divides num_envs."""
    learning_rate: float = 1e-3
    """At the start; falls to 0 along half a cosine."""
    std: float = 0.2
    """Of the location policy at the start, in units of half an image."""
    final_std: float = 0.03
    """At the end; the std falls geometrically."""
    learned_std: bool = False
    """Learn the std of x and of y from its start on, in place of that schedule."""
    core: Literal["rnn", "lstm", "gru"] = "rnn"
    """The memory; rnn is the paper's."""
    hidden_size: int = 256
    """Units of the memory; 256 is the paper's."""
    state_cap: float = 0.0
    """Greatest value of a unit of the rnn, which keeps it from running away; 0 for none."""
    location: Literal["offset", "absolute"] = "offset"
    """What the location network gives: an offset from the present location, or a place."""
    location_hidden: int = 128
    """Units of a hidden layer in the location network; 0 for none."""
    shift: int = 0
    """Pixels by which each training image is shifted at most, to the sides and up or down."""
    locations: Literal[CONTROLS] = "learned"  # pyright: ignore[reportInvalidTypeForm]
    """Where the agent looks: where it wants to, or a control with a classifier of its own."""
    discount: float = 0.5
    """How much of a location's credit goes to the glimpses after the next one."""
    policy_coef: float = 0.2
    """Weight of the location policy's loss beside the classifier's (dense_exact: always 1)."""
    baseline_coef: float = 0.5
    """Weight of the baseline's loss."""
    entropy_coef: float = 0.01
    """Weight of the entropy of location and label, for the estimators that sample labels."""
    max_grad_norm: float = 1.0
    """Gradients longer than this are shortened to it."""
    weight_decay: float = 0.0
    """Share of the weights that decays per update and unit of learning rate (AdamW)."""
    beta2: float = 0.999
    """Adam's decay of the mean squared gradient; lower takes smaller steps at sudden gradients."""
    ema: float = 0.999
    """Decay of the running mean of the weights; that mean is validated and kept."""
    bf16: bool = False
    """Compute the networks in bfloat16 during training; faster where the CPU or GPU has it."""
    num_validations: int = 12
    """How often it is validated, the end included."""
    validation_images: int | None = None
    """Validate on so many images, the first of the split; by default on all."""
    validate_sampled: bool = False
    """Validate the policy that samples, too."""
    keep: Literal["best", "last"] = "best"
    """The weights that are stored and judged in the end: the best on validation, or the last."""
    log_every: int = 100
    """Updates between two lines of metrics."""
    checkpoint_every: int = 1000
    """Updates between two checkpoints; there is one before each validation, too."""

    def __post_init__(self) -> None:
        """Check every value."""
        if ram_env.find_task(self.env_id).allow_stop:
            raise ValueError(f"env_id must name a task without allow_stop, got {self.env_id!r}")
        for name in (
            *("total_episodes", "num_envs", "threads"),
            *("num_validations", "validation_images", "log_every", "checkpoint_every"),
        ):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name} must be at least 1, got {value}")
        for name in ("learning_rate", "max_grad_norm"):
            if not 0 < getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        for name in ("policy_coef", "baseline_coef", "entropy_coef", "weight_decay", "state_cap"):
            if not 0 <= getattr(self, name) < math.inf:
                raise ValueError(f"{name} must be at least 0, got {getattr(self, name)}")
        if not 0 <= self.discount <= 1:
            raise ValueError(f"discount must be in [0, 1], got {self.discount}")
        if self.shift < 0:
            raise ValueError(f"shift must be at least 0, got {self.shift}")
        if self.shift and self.locations == "oracle":
            raise ValueError("shift must be 0 with locations oracle, which knows no shifts")
        if not 0 < self.final_std <= self.std < math.inf:
            raise ValueError(
                f"0 < final_std <= std must hold, got final_std={self.final_std}, std={self.std}"
            )
        if self.num_rollouts < 1 or self.num_envs % self.num_rollouts:
            raise ValueError(
                f"num_rollouts must be at least 1 and divide num_envs={self.num_envs}, "
                f"got {self.num_rollouts}"
            )
        if ESTIMATORS[self.estimator].needs_rollouts and self.num_rollouts < 2:
            raise ValueError(f"estimator {self.estimator} needs num_rollouts of at least 2")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")
        for name in ("ema", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")

    @property
    def num_updates(self) -> int:
        """Updates of the weights: as many as the episodes fill."""
        return math.ceil(self.total_episodes / self.num_envs)

    def scheduled_std(self, update: int) -> float:
        """Return the std of the location policy in an update."""
        return self.std * (self.final_std / self.std) ** (update / self.num_updates)


def main(config: Config) -> None:
    """Train, or go on training, in the run folder."""
    run_in_folder(config, config.env_id, train)


def train(config: Config, log: RunLog, stop: Stop) -> None:
    """Train, validate on the way, and judge the best model once on the final split."""
    # Setup
    torch.set_num_threads(config.threads)
    device = choose_device(config.device)
    lane_seeds, torch_seed = spread_seed(config.seed, config.num_envs, config.num_rollouts)
    torch.manual_seed(torch_seed)
    env = make_env(config, device, config.num_envs, split="train")
    validation_env = make_env(config, device, 500, split="validation", order="sequential")
    check_validation_images(config.validation_images, validation_env.num_images)
    num_glimpses = env.task.num_glimpses
    steps_per_update = config.num_envs * num_glimpses
    estimator = ESTIMATORS[config.estimator]
    weights = Weights(
        config.policy_coef,
        config.baseline_coef,
        config.discount,
        config.num_rollouts,
        config.entropy_coef,
    )
    model = make_model(config, env).to(device)
    generator = torch.Generator(device).manual_seed(torch_seed)
    placer = control(config, env, generator)
    log_std = model.location_network.log_std
    groups: list[dict[str, Any]] = [{"params": [p for p in model.parameters() if p is not log_std]}]
    if log_std is not None:  # decay would widen it: it is a logarithm
        groups.append({"params": [log_std], "weight_decay": 0.0})
    optimizer = torch.optim.AdamW(
        groups,
        lr=config.learning_rate,
        betas=(0.9, config.beta2),
        weight_decay=config.weight_decay,
        fused=True,
    )
    training = Training(model, optimizer, env, {"locations": generator})
    log.save_model_config(model.config)
    log.note_facts({"data": env.data_source, "sample": env.data_is_sample, "device": str(device)})
    log.note_facts({"parameters": count_parameters(model)})
    log.say(f"device {device}, {config.threads} threads, seed {config.seed}, run {log.folder}")
    log.say(env.data_source)
    validations = validation_updates(config.num_updates, config.num_validations)

    def judged(env: ram_env.GlimpseVectorEnv, num_images: int | None = None) -> dict[str, Any]:
        generator = torch.Generator(device).manual_seed(0)
        return {
            "model": training.mean_model,
            "env": env,
            "num_images": num_images or env.num_images,
            "placer": control(config, env, generator),
            "on_batch": stop.check,
            "generator": generator,
        }

    def validate(updates: int) -> None:
        with log.judging():
            beliefs = play_split(**judged(validation_env, config.validation_images))
            score = score_by_glimpse(beliefs)[-1]
            metrics = {"eval/error": score.error, **behaviour(beliefs, **sizes_of(validation_env))}
            if config.validate_sampled:
                learned = training.mean_model.location_std
                std = config.scheduled_std(updates - 1) if learned is None else learned
                sampled = evaluate(
                    **judged(validation_env, config.validation_images),
                    std=std,
                    sample_label=estimator.samples_label,
                )
                metrics["eval/error_sampled"] = sampled.error
        log.scalars(updates * steps_per_update, metrics)
        episodes = updates * config.num_envs
        log.say(f"{episodes} episodes: validation {score}, {log.time_left}")
        if training.is_best(score.error, always=config.keep == "last"):
            log.save_weights(training.best)

    if log.checkpoint is None:
        obs, infos = env.reset(seed=lane_seeds)
    else:
        obs, infos = training.unpack(log.checkpoint)
        if log.checkpoint.step in validations:
            validate(log.checkpoint.step)

    for update in log.progress(config.num_updates):
        progress = update / config.num_updates  # from 0 to 1
        std = config.scheduled_std(update) if model.location_std is None else model.location_std
        for group in optimizer.param_groups:
            group["lr"] = config.learning_rate * (1 + math.cos(math.pi * progress)) / 2

        # Episode: all lanes are in step, since every episode takes T glimpses
        label = torch.as_tensor(infos["label"], device=device)  # (N,)
        position = torch.as_tensor(infos["position"], device=device)  # (N, 2), for the oracle
        shift = draw_shift(config, env, device)
        state = model.initial_state(config.num_envs)
        outputs: list[Output] = []
        steps: list[tuple[torch.Tensor, ...]] = []
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=config.bf16),
            report_nonfinite_outputs(update, outputs),
        ):
            for step in range(num_glimpses):
                glimpse, seen = to_tensors(obs, device)
                output, state = model(glimpse, seen + shift, state)
                outputs.append(output)
                location, location_log_prob = sample_location(output.location_mean, std)
                if placer is not None:
                    location = placer(step, location, position)
                named = name_label(output.logits, sample=estimator.samples_label)
                action = {"location": location - shift, "label": named}
                obs, reward, _, _, infos = env.step(to_env(action, obs))
                reward = torch.as_tensor(reward, dtype=torch.float32)
                steps.append((named, location_log_prob, reward))

        # Loss
        _, logits, baseline = (torch.stack(series) for series in zip(*outputs, strict=True))
        named, location_log_prob, reward = (
            torch.stack(series) for series in zip(*steps, strict=True)
        )  # (T, N) each, as baseline; logits (T, N, K)
        log_p = logits.log_softmax(2)
        rollout = Rollout(
            pick(log_p, label.expand_as(named)),
            location_log_prob,
            pick(log_p, named),
            baseline,
            reward,
            gaussian_entropy(std).to(reward).expand_as(reward),
            categorical_entropy(logits),
        )
        terms = estimator.terms(rollout, weights)
        if placer is not None:  # the agent didn't choose where to look: nothing to learn from it
            idle = ("policy",) if estimator.samples_label else ("policy", "baseline")
            terms = {name: term for name, term in terms.items() if name not in idle}
        loss = torch.stack(list(terms.values())).sum()
        check_finite(update, {"reward": reward, **{f"{k} loss": v for k, v in terms.items()}})

        # Update
        optimizer.zero_grad()
        loss.backward()
        grad_norm = clip_gradients(model, config.max_grad_norm, update)
        optimizer.step()
        check_finite(update, dict(model.named_parameters()))
        training.move_mean(min(config.ema, (update + 1) / (update + 10)))

        # Log
        done = update + 1
        env_steps = done * steps_per_update
        if done % config.log_every == 0 or done == config.num_updates:
            log.scalars(
                env_steps,
                {
                    "rollout/ep_rew_mean": rollout.reward.sum(0).mean().item(),
                    "rollout/ep_len_mean": num_glimpses,
                    **{f"train/{name}_loss": term.item() for name, term in terms.items()},
                    "train/grad_norm": grad_norm.item(),
                    "train/std": torch.as_tensor(std).mean().item(),
                    "train/learning_rate": optimizer.param_groups[0]["lr"],
                },
            )
            log.speed(env_steps)
        if done % config.checkpoint_every == 0 or done in validations or stop.requested:
            log.save_checkpoint(done, env_steps, *training.pack())
        stop.check()
        if done in validations:
            validate(done)

    # Result
    score, data = None, env.data_source
    if config.final_split != "none":
        final_env = make_env(config, device, 500, split=config.final_split, order="sequential")
        training.mean_model.load_state_dict(training.best)
        score, data = evaluate(**judged(final_env)), final_env.data_source
        log.say(data)
    log.result(config.final_split, score, data)


def name_label(logits: torch.Tensor, *, sample: bool) -> torch.Tensor:
    """Return the likeliest label of ``logits`` (N, K), or a sampled one, (N,)."""
    if sample:
        return torch.multinomial(logits.softmax(1), 1)[:, 0]
    return logits.argmax(1)


def draw_shift(
    config: Config, env: ram_env.GlimpseVectorEnv, device: torch.device
) -> torch.Tensor | float:
    """Draw by how much each lane's image is shifted in this episode, (N, 2), in locations.

    Seen from an image that is shifted by d, what lies at l is what lay at l - d before. So the
    image itself can stay where it is: the agent's locations are shifted on their way to the
    environment and back.
    """
    if not config.shift:
        return 0.0
    pixels = torch.randint(-config.shift, config.shift + 1, (config.num_envs, 2), device=device)
    return pixels * (2 / env.task.side)


def pick(log_p: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """Return the entries of ``log_p`` (T, N, K) at the labels (T, N), (T, N)."""
    return log_p.gather(2, label[..., None])[..., 0]


def make_env(
    config: Config, device: torch.device, num_envs: int, **keywords: Any
) -> ram_env.GlimpseVectorEnv:
    """Make the environment: on the GPU if the model is there, in NumPy beside a CPU."""
    env = gymnasium.make_vec(
        config.env_id,
        num_envs=num_envs,
        action_format="dict",
        device=None if device.type == "cpu" else str(device),
        **keywords,
    )
    assert isinstance(env, ram_env.GlimpseVectorEnv)
    return env


def control(
    config: Config, env: ram_env.GlimpseVectorEnv, generator: torch.Generator
) -> Placer | None:
    """Return the control that chooses locations in the agent's place, if there is one."""
    return make_placer(
        config.locations,
        env.task.num_glimpses,
        object_size=env.object_size,
        canvas_side=env.task.side,
        generator=generator,
    )


def make_model(config: Config, env: ram_env.GlimpseVectorEnv) -> RecurrentAttentionModel:
    """Make the agent whose sizes fit the environment's spaces."""
    return RecurrentAttentionModel(
        RAMConfig(
            env.glimpse_shape,
            env.num_classes,
            hidden_size=config.hidden_size,
            core=config.core,
            identity_core=config.core == "rnn",
            state_cap=config.state_cap,
            location=config.location,
            location_hidden=config.location_hidden,
            location_reaches_core=ESTIMATORS[config.estimator].location_reaches_core,
            initial_std=config.std if config.learned_std else 0.0,
        )
    )


def read_preset(name: str) -> Config:
    """Return the settings of ``train/presets/<name>.toml``; what it leaves out is the default.

    Raises:
        ValueError: If there is no such file, or it is no TOML or holds an unknown setting or a bad
            value; the message names it.
    """
    if name not in PRESETS:
        raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {name!r}")
    path = PRESET_FOLDER / f"{name}.toml"
    try:
        settings = tomllib.loads(path.read_text(encoding="utf-8"))
        unknown = set(settings) - {field.name for field in fields(Config)}
        if unknown:
            raise ValueError(f"unknown settings: {sorted(unknown)}")
        return Config(preset=name, **settings)
    except (ValueError, TypeError) as error:
        raise ValueError(f"{path}: {error}") from error


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line: a run's, or a preset's and then the other flags."""
    if (resumed := read_resumed(Config, arguments)) is not None:
        return resumed
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=PRESETS)
    name = first.parse_known_args(arguments)[0].preset
    default = Config() if name is None else read_preset(name)
    return tyro.cli(
        Config, args=arguments, default=default, description=(__doc__ or "").splitlines()[0]
    )


if __name__ == "__main__":
    run(main, parse)
