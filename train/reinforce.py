"""Train the recurrent attention model with REINFORCE: `python train/reinforce.py`.

The paragraphs of `train` are the algorithm, in order: setup, episode, loss, update, log. `learn`
holds the middle three, which can run as one CUDA graph.

Dimension key:
    N: sub-environments, each of which plays one episode per update
    T: glimpses per episode
    K: classes
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import argparse
import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from agents.baselines import count_parameters
from agents.controls import CONTROLS, Control, to_boxes
from agents.diagnostics import behaviour
from agents.distributed import (
    average_gradients,
    largest,
    mean_over_ranks,
    num_ranks,
    on_first,
    own_lanes,
    rank,
)
from agents.estimators import ESTIMATORS, Rollout, Weights
from agents.evaluation import (
    Score,
    play_split,
    score_at_stop,
    score_sampled_labels,
    to_env,
    to_tensors,
)
from agents.graph import Graph
from agents.labels import sample_label
from agents.locations import sample_location
from agents.losses import stop_loss
from agents.muon import Muon, is_matrix
from agents.noise import Noise
from agents.ram import CORES, Output, RAMConfig, RecurrentAttentionModel
from agents.replay import Replay
from agents.runs.commands import (
    LOGGING_FLAGS,
    RUN_FLAGS,
    Stop,
    Stopped,
    parse_flags,
    run,
)
from agents.runs.files import read_toml
from agents.runs.folder import RunLog, run_in_folder
from agents.runs.loading import start_from
from agents.runs.machine import describe_device
from agents.training import (
    Training,
    Watch,
    check_finite,
    check_settings,
    check_validation_images,
    choose_bf16,
    choose_device,
    clip_gradients,
    cosine_rate,
    report_nonfinite_outputs,
    spread_seed,
    validation_updates,
    warmed_up_decay,
)
from ram_env import GlimpseVectorEnv
from ram_env.lockstep import LockstepEnv
from train.curriculum import CurriculumEnv
from train.keywords import AgentConfig, make_vector_env

TaskEnv = GlimpseVectorEnv | CurriculumEnv
PRESET_FOLDER = Path(__file__).parent / "presets"
STOP_HIDDEN = 64
"""Units of the hidden layer of the stop network."""
PRESETS = tuple(sorted(path.stem for path in PRESET_FOLDER.glob("*.toml")))


@dataclass(frozen=True)
class Config(AgentConfig):
    """Settings of a run; every one is a flag."""

    preset: Literal[PRESETS] | None = None  # pyright: ignore[reportInvalidTypeForm]
    """Settings to take in place of the defaults; other flags override them.
    best-cluttered: Best recipe for cluttered 60x60, 31 min on one core.
    best-large-cluttered: Best recipe for cluttered 100x100, 65 min on one core in float32.
    best-mnist: Best recipe for MNIST, 25 min on one core.
    best-translated: Best recipe for translated 60x60, 60 min on one core in float32.
    paper-cluttered: The paper's rule for cluttered 60x60, 50 min on one core.
    paper-mnist: The paper's rule for MNIST, 19 min on one core.
    reward-only-cluttered: Best recipe for cluttered 60x60 without labels, 20 million env steps.
    reward-only-mnist: Best recipe for MNIST without labels, 20 million env steps."""
    initial: str | None = None
    """Weights to start from: the name of a published agent, such as cluttered, or a run folder."""
    total_episodes: int = 700_000
    """Number of training episodes. The schedules end with the last one."""
    num_envs: int = 512
    """Number of episodes played in parallel, over all processes: the batch of one update."""
    estimator: Literal[tuple(ESTIMATORS)] = "dense_log_odds"  # pyright: ignore[reportInvalidTypeForm]
    """How the agent learns from an episode: see agents/estimators.py."""
    num_rollouts: int = 1
    """How often each image is played, with any estimator; leave_one_out needs at least 2. Must
    divide num_envs."""
    optimizer: Literal["adamw", "muon", "sgd"] = "muon"
    """Optimizer: Muon for matrices with AdamW for the rest, AdamW alone, or SGD with momentum 0.9
    as in the paper."""
    learning_rate: float = 2e-3
    """Learning rate at the start. It falls to 0 along half a cosine."""
    location_rate: float = 1.0
    """Learning rate of the location network, in multiples of the others'."""
    muon_rate: float = 3.0
    """Learning rate of the matrices that Muon moves, in multiples of the others'."""
    label_temperature: float = 1.0
    """Temperature of the softmax from which the outcome estimators sample labels."""
    replay_steps: int = 0
    """Further steps of the classifier per update, each on an old rollout (outcome estimators)."""
    replay_size: int = 200
    """Number of newest rollouts that the replay holds, of num_envs episodes each."""
    std: float = 0.2
    """Standard deviation of the location policy at the start, in units of half an image."""
    final_std: float | None = 0.03
    """Standard deviation of the location policy at the end. It falls geometrically. None keeps
    std, as in the paper."""
    learned_std: bool = False
    """Learn the standard deviations of x and y, from std on (with --initial: from that run's), in
    place of a schedule."""
    core: Literal[tuple(CORES)] = "gru"  # pyright: ignore[reportInvalidTypeForm]
    """Type of the recurrent core. The paper's is rnn."""
    recurrent_init: Literal["identity", "uniform"] = "identity"
    """Initial recurrent weights of an rnn core: the identity (ours), or PyTorch's uniform noise,
    which gru and lstm cores always use. The paper doesn't say."""
    hidden_size: int = 160
    """Units of the recurrent core. The paper's has 256."""
    see_time: bool = False
    """Show the core the share of glimpses so far. The paper's core doesn't see it."""
    state_cap: float = 0.0
    """Upper bound on the units of an rnn core, which prevents break-downs. 0 disables it."""
    conv_features: int = 32
    """Channels of the first convolution over the glimpse; a second has twice as many. 0 leaves both
    out, as in the paper."""
    location: Literal["offset", "absolute"] = "offset"
    """What the location network predicts: an offset from the present location, or a location."""
    location_hidden: int = 128
    """Units of a hidden layer in the location network. 0 leaves the layer out, as in the paper."""
    location_gradient: Literal["estimator", "core", "stopped"] = "estimator"
    """Whether the location network's gradient flows into the core or is stopped before it. By
    default the estimator decides."""
    shift: int = 0
    """Largest random shift of each training image along x and along y, in pixels."""
    locations: Literal[CONTROLS] = "learned"  # pyright: ignore[reportInvalidTypeForm]
    """Who chooses where to look: the learned policy, or a rule in its place."""
    glimpse_cost: float = 0.0
    """Price of a glimpse, in rewards. Above 0 the agent also learns when to stop."""
    discount: float = 0.5
    """Discount on the credit for glimpses after the next one (outcome estimators and most dense
    ones). Above 1, the last glimpses count most."""
    max_log_odds: float = 9.0
    """Log-odds of the label up to which a location is paid for evidence (dense_log_odds)."""
    normalise_by_step: bool = False
    """Normalise the return of each glimpse's location on its own (estimators that normalise)."""
    policy_coef: float = 0.2
    """Weight of the location policy's loss relative to the classifier's (dense_exact: always 1)."""
    baseline_coef: float = 0.5
    """Weight of the baseline's loss."""
    entropy_coef: float = 0.01
    """Weight of the entropy of location and label, with reward_only and reward_only_no_baseline,
    and of stopping."""
    max_grad_norm: float = 1.0
    """Norm to which longer gradients are clipped; 1e9 clips none."""
    weight_decay: float = 0.0
    """Weight decay, in multiples of each weight's learning rate: decoupled from the gradient
    with adamw and muon, added to it with sgd."""
    beta2: float = 0.999
    """AdamW's decay of the mean squared gradient. Lower values react faster to large gradients."""
    ema: float = 0.999
    """Decay of the running mean of the weights. The mean is what is validated and stored."""
    bf16: bool = True
    """Compute the networks in bfloat16 during training if the hardware has it, which is faster."""
    graph: bool = False
    """Run each update as one CUDA graph, with a single launch. The CPU runs it without a graph."""

    def __post_init__(self) -> None:
        """Check every value."""
        super().__post_init__()
        estimator, task = ESTIMATORS[self.estimator], self.task
        sides = [task.side, *(replace(task, **stage.env).side for stage in self.stages)]
        weights = ("discount", "policy_coef", "baseline_coef", "entropy_coef", "weight_decay")
        more = ("state_cap", "shift", "location_rate", "muon_rate", "replay_steps", "glimpse_cost")
        bounds = {
            "at least 1": ("total_episodes", "num_envs", "num_rollouts", "replay_size"),
            "positive": (
                *("learning_rate", "max_log_odds", "max_grad_norm"),
                *("std", "final_std", "label_temperature"),
            ),
            "at least 0": (*weights, *more),
            "in [0, 1)": ("ema", "beta2"),
        }
        check_settings(self, bounds)
        rollouts, envs = self.num_rollouts, self.num_envs
        unpaired = estimator.needs_rollouts and rollouts < 2
        binary = task.reward == "final" and not task.glimpse_cost
        rewards = ("final", "dense") if estimator.sees_label and self.price is None else ("final",)
        twice = task.glimpse_cost and self.glimpse_cost
        for bad, message in (
            (twice, f"glimpse_cost must be 0 for {self.env_id}, which has its own"),
            (
                self.price is not None and not estimator.sees_label,
                "estimator must see the label if the agent can stop (allow_stop or a "
                f"glimpse_cost), since stopping is learned from it, got {self.estimator}",
            ),
            (self.shift and self.locations == "oracle", "shift must be 0 with locations oracle"),
            (
                self.shift >= min(sides),
                f"shift must be less than the {min(sides)} pixels of the smallest canvas, got "
                f"{self.shift}",
            ),
            (
                self.graph and num_ranks() > 1,
                f"graph must be off under torchrun, which runs {num_ranks()} processes: a graph of "
                "several GPUs' messages is untested",
            ),
            (
                not self.learned_std and (self.final_std or 0) > self.std,
                f"final_std must be at most std={self.std}, got {self.final_std}",
            ),
            (
                task.num_glimpses < 2 and estimator.objective != "sampled reward",
                f"num_glimpses must be at least 2 for {self.estimator}, which compares glimpses or "
                f"has a baseline for locations, got {task.num_glimpses}",
            ),
            (
                estimator.normalises
                and envs * (1 if self.normalise_by_step else task.num_glimpses - 1) < 2,
                f"num_envs must be at least 2 for {self.estimator} here, since it normalises over "
                f"lanes, got {envs}",
            ),
            (envs % rollouts, f"num_rollouts must divide num_envs={envs}, got {rollouts}"),
            (unpaired, f"num_rollouts must be at least 2 for {self.estimator}, got {rollouts}"),
            (
                estimator.binary_reward and not binary,
                f"{self.estimator} needs a reward of 0 or 1 for the last label (reward='final', no "
                f"glimpse_cost), but {self.env_id} has reward={task.reward!r} and "
                f"glimpse_cost={task.glimpse_cost}",
            ),
            (
                task.reward not in rewards,
                f"reward must be {' or '.join(map(repr, rewards))} for {self.estimator}"
                f"{'' if self.price is None else ' if the agent can stop'}, got {task.reward!r}",
            ),
        ):
            if bad:
                raise ValueError(message)
        default = {field.name: field.default for field in fields(self)}
        for name, (used, user) in self.users.items():
            if not used and (got := getattr(self, name)) != default[name]:
                raise ValueError(f"{name} needs {user}: set it to {default[name]}, got {got}")

    @property
    def users(self) -> dict[str, tuple[bool, str]]:
        """Whether the other settings use a setting, and what uses it, by name."""
        estimator = ESTIMATORS[self.estimator]
        return {
            "muon_rate": (self.optimizer == "muon", "optimizer muon"),
            "beta2": (self.optimizer != "sgd", "optimizer muon or adamw"),
            "state_cap": (self.core == "rnn", "core rnn"),
            "final_std": (not self.learned_std, "a std that isn't learned"),
            "replay_size": (self.replay_steps > 0, "replay_steps"),
            "replay_steps": (estimator.binary_reward, "an outcome estimator"),
            "label_temperature": (estimator.binary_reward, "an outcome estimator"),
            "max_log_odds": (self.estimator == "dense_log_odds", "estimator dense_log_odds"),
            "discount": (estimator.discounts, "an estimator that discounts"),
            "policy_coef": (self.estimator != "dense_exact", "another estimator than dense_exact"),
            "baseline_coef": (estimator.learns_baseline, "an estimator with a learned baseline"),
            "normalise_by_step": (estimator.normalises, "an estimator that normalises"),
            "entropy_coef": (
                estimator.objective == "sampled reward" or self.price is not None,
                "a reward_only estimator or a stop action",
            ),
        }

    @property
    def price(self) -> float | None:
        """Price of a glimpse where the agent learns to stop, None where it doesn't."""
        task = self.task
        learns = task.allow_stop or self.glimpse_cost > 0
        return (self.glimpse_cost or task.glimpse_cost) if learns else None

    @property
    def num_updates(self) -> int:
        """Updates of the weights: as many as the episodes fill."""
        return math.ceil(self.total_episodes / self.num_envs)

    def scheduled_std(self, update: int) -> float:
        """Return the standard deviation of the location policy in an update."""
        ratio = (self.final_std or self.std) / self.std
        return self.std * ratio ** (update / self.num_updates)


GROUPS = {
    "run": ("preset", *RUN_FLAGS),
    "task": ("env_id", "env_kwargs", "curriculum", "locations", "shift", "glimpse_cost"),
    "model": (
        "initial",
        *("core", "recurrent_init", "hidden_size", "see_time", "state_cap"),
        *("conv_features", "location", "location_hidden", "location_gradient"),
        *("std", "final_std", "learned_std", "bf16", "graph"),
    ),
    "learning": (
        *("total_episodes", "num_envs", "estimator", "num_rollouts", "optimizer", "learning_rate"),
        *("location_rate", "muon_rate", "label_temperature", "replay_steps", "replay_size"),
        *("discount", "max_log_odds", "normalise_by_step"),
        *("policy_coef", "baseline_coef", "entropy_coef"),
        *("max_grad_norm", "weight_decay", "beta2", "ema"),
    ),
    "logging": (*LOGGING_FLAGS, "validation_images", "validate_sampled", "keep"),
}
"""Flags by the title of their box in ``--help``."""


def main(config: Config) -> None:
    """Train, or resume training, in the run folder."""
    run_in_folder(config, config.env_id, train)


def train(config: Config, log: RunLog, stop: Stop) -> None:
    """Train with regular validation, and evaluate the best model once on the final split."""
    # Setup
    torch.set_num_threads(config.threads)
    torch.backends.cudnn.deterministic = True  # the same command gives the same bytes
    device = choose_device(config.device)
    torch.manual_seed(spread_seed(config.seed, config.num_envs)[1])
    lanes = own_lanes(config.num_envs, config.num_rollouts)  # all of them, but under torchrun
    env = make_training_env(config, device, lanes)
    validation_env = make_env(config, device, 500, split="validation", order="sequential")
    config.open_final_split()
    check_validation_images(config.validation_images, validation_env.num_images)
    num_glimpses = env.task.num_glimpses
    estimator = ESTIMATORS[config.estimator]
    weights = Weights(**{field.name: getattr(config, field.name) for field in fields(Weights)})
    model = make_model(config, env).to(device)
    if config.initial is not None and log.checkpoint is None:
        start_from(model, config.initial, data=env.data_source, is_sample=env.data_is_sample)
    optimizer = make_optimizer(config, model)
    noise_source = Noise(
        config.seed,
        lanes,
        num_glimpses=num_glimpses,
        num_classes=env.num_classes,
        num_shared=config.replay_steps,
        device=device,
    )
    control = Control(config.locations, env)
    seen_shape = (num_glimpses, len(lanes), *env.glimpse_shape)
    replay = Replay(config.replay_size, seen_shape, device) if config.replay_steps else None
    stored = {} if replay is None else {"replay": replay}
    training = Training(model, optimizer, env, stored)
    watch = Watch(device) if config.graph else None
    validations = validation_updates(config.num_updates, config.num_validations)
    log.save_model_config(model.config)
    facts = {"data": env.data_source, "sample": env.data_is_sample}
    facts |= {"device": (where := describe_device(device)), "parameters": count_parameters(model)}
    log.note_facts(facts)
    bf16 = choose_bf16(config.bf16, device, log)
    log.say(
        f"device {where}, {'bfloat16' if bf16 else 'float32'}, {config.threads} threads, seed "
        f"{config.seed}, run {log.folder}"
    )
    log.say(env.data_source)
    if config.graph and device.type == "cpu":
        log.say("graph: the CPU has none, so each update runs as written; a GPU would replay it")
    log.say(
        f"estimator {config.estimator}, {config.locations} locations, {count_parameters(model)} "
        f"parameters: {config.total_episodes} episodes, {config.num_envs} per update"
    )

    def validate(updates_done: int) -> None:
        with log.judging():
            std, mean = config.scheduled_std(updates_done - 1), training.mean_model
            judge = partial(validation_metrics, config, mean, validation_env, stop, std)
            score, metrics = on_first(judge)
        log.scalars(updates_done * config.num_envs * num_glimpses, metrics)
        log.say(f"{updates_done * config.num_envs} episodes: validation {score}, {log.time_left}")
        price = 100 * (config.price or 0) * metrics.get("eval/glimpses", 0)  # [%], as the error
        if training.is_best(score.error + price, always=config.keep == "last"):
            log.save_weights(training.best)

    def learn(now: tuple[Any, Any], update: Any, learning_rate: Any, std: Any, decay: Any) -> Any:
        """Play one episode per lane and learn from them; return where lanes are, and what to log.

        The numbers are Python's or, for a CUDA graph, tensors. No line here may then wait for it.
        """
        (obs, infos), std = now, std if model.location_std is None else model.location_std

        # Episode: every one takes T glimpses, so all sub-environments begin and end together
        label = torch.as_tensor(infos["label"], device=device)  # (N,)
        box = to_boxes(infos, device)  # (N, 4)
        noise = noise_source.draw(update)
        shift = to_shift(noise.shift, config.num_rollouts, config.shift, env.task.side)
        state = model.initial_state(len(lanes))
        seen: list[tuple[Tensor, Tensor]] = []
        outputs: list[Output] = []
        steps: list[dict[str, Tensor]] = []
        with (
            torch.autocast(device.type, torch.bfloat16, enabled=bf16),
            report_nonfinite_outputs(update, outputs if watch is None else ()),
        ):
            for step in range(num_glimpses):
                glimpse, location = to_tensors(obs, device)
                seen.append((glimpse, location + shift))
                output, state = model(*seen[-1], state)
                outputs.append(output)
                sampled, log_prob = sample_location(output.location_mean, std, noise.normal[step])
                next_location = control(step, sampled, box, noise.uniform[step]) - shift
                clocks = noise.clocks[step] if estimator.samples_label else None
                prediction = choose_label(output.logits, clocks, config.label_temperature)
                action = {"location": next_location, "label": prediction}
                obs, reward, _, _, infos = env.step(to_env(action, obs))
                reward = torch.as_tensor(reward, dtype=torch.float32)
                acted = {"prediction": prediction, "location_log_prob": log_prob, "reward": reward}
                steps.append({**acted, "logits": output.logits, "baseline": output.baseline})
        if watch is not None:
            watch.note(update, env.valid)

        # Loss: every tensor of the rollout has shape (T, N)
        rollout = Rollout.from_steps(label, std, steps)
        terms = estimator.terms(rollout, weights).by_name(location=config.locations == "learned")
        if config.price is not None:
            terms["stop"] = stop_loss_of(outputs, label, config.price, config.entropy_coef)
        loss = torch.stack(list(terms.values())).sum()
        accuracy = (steps[-1]["prediction"] == label).float().mean()
        values = {"accuracy": accuracy, "reward": rollout.reward.sum(0).mean()}
        values = mean_over_ranks({**values, **{f"{k} loss": v for k, v in terms.items()}})

        # Update
        for group in optimizer.param_groups:
            rate = learning_rate * group["multiple"]
            group["lr"] = rate.float() if isinstance(rate, Tensor) else rate
        optimizer.zero_grad()
        loss.backward()
        average_gradients(model)
        grad_norm = clip_gradients(model, config.max_grad_norm, update, values, watch)
        optimizer.step()
        if replay is not None:
            glimpses, locations = map(torch.stack, zip(*seen, strict=True))
            replay.add(glimpses, locations, steps[-1]["prediction"], steps[-1]["reward"])
            for uniform in noise.shared:
                optimizer.zero_grad()
                with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
                    old_loss = replay.loss(model, estimator, weights, uniform)
                old_loss.backward()
                average_gradients(model)
                clip_gradients(model, config.max_grad_norm, update, watch=watch)
                optimizer.step()
        check_finite(update, dict(model.named_parameters()), watch)
        training.move_mean(decay)
        results = {
            "accuracy": values["accuracy"],
            "rollout/ep_rew_mean": values["reward"],
            **{f"train/{name}_loss": values[f"{name} loss"] for name in terms},
            "train/grad_norm": grad_norm,
            "train/std": torch.as_tensor(std).mean(),
        }
        return (obs, infos), {name: value.detach() for name, value in results.items()}

    call: Any = Graph(learn, device) if config.graph else learn
    if log.checkpoint is None:
        now = env.begin()
    else:
        now = training.unpack(log.checkpoint)
        if log.checkpoint.step in validations:
            validate(log.checkpoint.step)

    for update in log.progress(config.num_updates):
        learning_rate = cosine_rate(config.learning_rate, update / config.num_updates)
        if (begun := env.advance(update / config.num_updates)) is not None:
            now = begun
            log.say(f"{update * config.num_envs} episodes: {env}")
        now, results = call(
            now,
            update=update,
            learning_rate=learning_rate,
            std=config.scheduled_std(update),
            decay=warmed_up_decay(config.ema, update),
        )

        # Log
        updates_done = update + 1
        env_steps = updates_done * config.num_envs * num_glimpses
        log.status(updates_done * config.num_envs, results["accuracy"])
        if updates_done % config.log_every == 0 or updates_done == config.num_updates:
            if watch is not None:
                watch.check()
            metrics = {name: value.item() for name, value in results.items() if "/" in name}
            metrics |= {"rollout/ep_len_mean": num_glimpses, "train/learning_rate": learning_rate}
            log.scalars(env_steps, metrics)
            log.speed(env_steps)
        save_now = updates_done % config.checkpoint_every == 0 or updates_done in validations
        stopping = largest(stop.requested or 0)  # by a signal to any process
        if save_now or stopping:
            if watch is not None:
                watch.check()
            log.save_checkpoint(updates_done, env_steps, *training.pack())
        if stopping:
            raise Stopped(128 + stopping)
        if updates_done in validations:
            validate(updates_done)

    # Result
    if rank() > 0:
        return
    score, data, more = None, env.data_source, {}
    if config.final_split != "none":
        final_env = make_env(config, device, 500, split=config.final_split, order="sequential")
        model = training.mean_model
        model.load_state_dict(training.best)
        control = Control(config.locations, final_env)
        how = {"control": control, "on_batch": stop.check}
        beliefs = play_split(model, final_env, final_env.num_images, **how)
        (score, glimpses), data = score_at_stop(beliefs), final_env.data_source
        more = {} if config.price is None else {"glimpses": glimpses}
        log.say(data)
    log.result(config.final_split, score, data, **more)


def validation_metrics(
    config: Config, model: RecurrentAttentionModel, env: GlimpseVectorEnv, stop: Stop, std: float
) -> tuple[Score, dict[str, float]]:
    """Return the validation score, with mean locations and likeliest labels, and metrics to log.

    ``std`` is for sampled locations, unless the model learns its own.
    """
    num_images = config.validation_images or env.num_images
    noise = torch.Generator(next(model.parameters()).device).manual_seed(0)  # the same each time
    how = {"generator": noise, "control": Control(config.locations, env), "on_batch": stop.check}
    play = partial(play_split, model, env, num_images, **how)
    beliefs = play()
    score, glimpses = score_at_stop(beliefs)
    metrics = {"eval/error": score.error, **behaviour(beliefs, env.task)}
    if config.price is not None:
        metrics["eval/glimpses"] = glimpses
    if config.validate_sampled:
        std_or_learned = std if model.location_std is None else model.location_std
        beliefs = play(std=std_or_learned)
        samples_label = ESTIMATORS[config.estimator].samples_label
        cooled = beliefs._replace(log_p=beliefs.log_p / config.label_temperature)
        sampled = score_sampled_labels(cooled, noise) if samples_label else None
        metrics["eval/error_sampled"] = (sampled or score_at_stop(beliefs)[0]).error
    return score, metrics


def stop_loss_of(
    outputs: Sequence[Output], label: Tensor, price: float, entropy_coef: float
) -> Tensor:
    """Return the stop network's loss. Ending at glimpse t pays 1 if right, less t prices.

    So episodes are played to their end: what a stop would have earned is known without it.
    """
    right = torch.stack([output.logits.argmax(1) == label for output in outputs])  # (T, N)
    glimpses = torch.arange(1, len(right) + 1, device=right.device)[:, None]  # (T, 1)
    logits = [output.stop_logit for output in outputs if output.stop_logit is not None]
    return stop_loss(torch.stack(logits), right.float() - price * glimpses, entropy_coef)


def choose_label(logits: Tensor, clocks: Tensor | None, temperature: float = 1.0) -> Tensor:
    """Return the likeliest label of ``logits`` (N, K), or one sampled with noise (N, K). (N,)."""
    if clocks is None:
        return logits.argmax(1)
    return sample_label((logits / temperature).softmax(1), clocks)


def to_shift(uniform: Tensor, num_rollouts: int, largest: int, side: int) -> Tensor:
    """Turn noise in (0, 1) into whole pixels up to ``largest``, in units of location. (N, 2).

    The rollouts of an image, which are neighbours, have the shift of the first.

    In an image that is shifted by d, location l shows what location l - d shows in the original.
    So the image can stay as it is: the agent's locations are shifted on their way to the
    environment and back.
    """
    first = uniform.unflatten(0, (-1, num_rollouts))[:, :1]  # (N / M, 1, 2)
    pixels = (first.double() * (2 * largest + 1)).floor() - largest
    return (pixels * (2 / side)).float().expand(-1, num_rollouts, -1).flatten(0, 1)


def make_env(config: Config, device: torch.device, num_envs: int, **more: Any) -> GlimpseVectorEnv:
    """Make the environment: on the model's GPU, or in NumPy on the CPU, but for ``graph``."""
    where = None if device.type == "cpu" and not config.graph else str(device)
    more |= {"action_format": "dict", "grid_size": None, "device": where, "allow_stop": False}
    return make_vector_env(config.env_id, num_envs, **{**config.keywords, **more})


def make_training_env(config: Config, device: torch.device, lanes: range) -> CurriculumEnv:
    """Make some lanes of the environment that the agent trains on, stage by stage if there are."""
    shape = (config.num_envs, config.num_rollouts)

    def make(**stage: Any) -> GlimpseVectorEnv | LockstepEnv:
        env = make_env(config, device, len(lanes), split="train", **stage)
        return LockstepEnv(env) if config.graph else env

    return CurriculumEnv(
        make,
        config.stages,
        lambda stage: spread_seed(config.seed, *shape, stage=stage)[0][lanes.start : lanes.stop],
    )


def make_model(config: Config, env: TaskEnv) -> RecurrentAttentionModel:
    """Make the agent whose sizes fit the environment's spaces."""
    flags = ("hidden_size", "core", "state_cap", "conv_features", "location", "location_hidden")
    of_estimator = ESTIMATORS[config.estimator].location_reaches_core
    reaches_core = {"estimator": of_estimator, "core": True, "stopped": False}
    sizes = RAMConfig(
        env.glimpse_shape,
        env.num_classes,
        identity_core=config.core == "rnn" and config.recurrent_init == "identity",
        location_reaches_core=reaches_core[config.location_gradient],
        num_glimpses=env.task.num_glimpses if config.see_time else 0,
        initial_std=config.std if config.learned_std else 0.0,
        stop_hidden=0 if config.price is None else STOP_HIDDEN,
        **{name: getattr(config, name) for name in flags},
    )
    return RecurrentAttentionModel(sizes)


def make_optimizer(config: Config, model: RecurrentAttentionModel) -> torch.optim.Optimizer:
    """Make the optimizer.

    Each group has a ``multiple`` of the learning rate and, for Muon, a number of ``blocks``: the
    matrices in each of its parameters, 0 for what AdamW moves. A learned log std is not decayed,
    which would widen the policy.
    """
    groups: dict[tuple[float, ...], dict[str, Any]] = {}
    for name, parameter in model.named_parameters():
        located, in_core = name.startswith("location_network."), name.startswith("core.")
        hidden = is_matrix(parameter) and not name.startswith("action_network.")
        by_muon = config.optimizer == "muon" and hidden
        is_log_std = parameter is model.location_network.log_std
        rates = config.location_rate if located else 1.0, config.muon_rate if by_muon else 1.0
        group = {
            "multiple": math.prod(rates),
            "blocks": by_muon * (model.core.gates if in_core else 1),
            "weight_decay": 0.0 if is_log_std else config.weight_decay,
        }
        key = tuple(group.values())
        groups.setdefault(key, {**group, "params": []})["params"].append(parameter)
    if config.optimizer == "sgd":
        return torch.optim.SGD(groups.values(), config.learning_rate, momentum=0.9, fused=True)
    kind = Muon if config.optimizer == "muon" else torch.optim.AdamW
    more: Any = {"betas": (0.9, config.beta2), "fused": True, "capturable": config.graph}
    return kind(groups.values(), config.learning_rate, **more)


def read_preset(name: str) -> Config:
    """Return the settings of ``train/presets/<name>.toml``; missing ones have their defaults.

    Raises ValueError, with the file's name, if it is missing or holds an unknown or bad setting.
    """
    path = PRESET_FOLDER / f"{name}.toml"
    unknown = read_toml(path).keys() - {field.name for field in fields(Config)}
    if unknown:
        raise ValueError(f"{path} is not valid: unknown settings {sorted(unknown)}")
    return replace(read_toml(path, Config), preset=name)


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line: a run's, or a preset's and then the other flags."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--preset", choices=("None", *PRESETS))
    name = first.parse_known_args(arguments)[0].preset
    default = None if name in (None, "None") else read_preset(name)
    return parse_flags(Config, arguments, default=default, groups=GROUPS)


if __name__ == "__main__":
    run(main, parse, torchrun=True)
