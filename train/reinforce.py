"""Train the recurrent attention model with REINFORCE: `python train/reinforce.py`.

The paragraphs of `train` are the algorithm, in order: setup, episode, loss, update, log. `learn`
holds the middle three, which can run as one CUDA graph.

Dimension key:
    N: sub-environments, each of which plays one episode per update
    T: glimpses per episode
    K: classes
"""

from __future__ import annotations

import train.startup

# isort: split
from typing import Any

import torch
from torch import Tensor

from agents.baselines import count_parameters
from agents.controls import Control, to_boxes
from agents.distributed import largest, mean_over_ranks, own_lanes
from agents.episodes import Carry, play_episode
from agents.estimators import Rollout
from agents.graph import Graph
from agents.labels import choose_label
from agents.learner import Learner
from agents.locations import sample_location
from agents.noise import Noise
from agents.ram import Output, RecurrentAttentionModel
from agents.replay import Replay
from agents.runs.commands import Stop, Stopped, run
from agents.runs.folder import RunLog, run_in_folder
from agents.runs.loading import start_from
from agents.runs.machine import describe_device
from agents.training import choose_bf16, choose_device, cosine_rate, spread_seed, warmed_up_decay
from train.environments import make_training_env, to_shift
from train.settings import Config, parse
from train.validation import Judge


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
    judge = Judge(config, log, stop, device)
    num_glimpses, estimator, weights = env.task.num_glimpses, config.row, config.weights
    model = RecurrentAttentionModel(config.sizes(env.glimpse_shape, env.num_classes)).to(device)
    if config.initial is not None and log.checkpoint is None:
        start_from(model, config.initial, data=env.data_source, is_sample=env.data_is_sample)
    control = Control(config.locations, env)
    drawn = {"num_classes": env.num_classes, "num_shared": config.replay_steps, "device": device}
    noise_source = Noise(config.seed, lanes, num_glimpses=num_glimpses, **drawn)
    replay_size = config.replay_size if config.replay_steps else 0
    replay = Replay(replay_size, (num_glimpses, len(lanes), *env.glimpse_shape), device)
    bf16 = describe(config, log, env, model, device)
    learner = Learner(config, model, env, {"replay": replay}, bf16=bf16)

    def learn(carry: Carry, update: Any, learning_rate: Any, std: Any, decay: Any) -> Any:
        """Play one episode per lane and learn from them; return where lanes are, and what to log.

        The numbers are Python's or, for a CUDA graph, tensors. No line here may then wait for it.
        """
        # Episode: every one takes T glimpses, so all sub-environments begin and end together
        std = std if model.location_std is None else model.location_std
        label = torch.as_tensor(carry[1]["label"], device=device)  # (N,)
        box = to_boxes(carry[1], device)  # (N, 4)
        noise = noise_source.draw(update)
        shift = to_shift(noise.shift, config.num_rollouts, config.shift, env.task.side)

        def act(step: int, output: Output) -> tuple[Tensor, Tensor, Tensor]:
            sampled, log_prob = sample_location(output.location_mean, std, noise.normal[step])
            location = control(step, sampled, box, noise.uniform[step])
            answer = choose_label(output.logits, noise.clocks[step], config.temperature)
            return location, log_prob, answer

        with learner.computing(update):
            steps, carry = play_episode(model, env, carry, act, shift=shift)
        learner.note(update, env.valid)

        # Loss: every tensor of the rollout has shape (T, N)
        rollout = Rollout.from_steps(label, std, steps)
        terms = estimator.terms(rollout, weights).by_name(location=config.locations == "learned")
        loss = torch.stack(list(terms.values())).sum()
        values = {"accuracy": rollout.right[-1].mean(), "reward": rollout.reward.sum(0).mean()}
        values = mean_over_ranks({**values, **{f"{k} loss": v for k, v in terms.items()}})

        # Update
        learner.set_rate(learning_rate)
        grad_norm = learner.step(update, loss, values)
        replay.add(steps)
        for uniform in noise.shared:
            with learner.computing(update):
                old_loss = replay.loss(model, estimator, weights, uniform)
            learner.step(update, old_loss)
        learner.finish(update, decay)
        results = {
            "accuracy": values["accuracy"],
            "rollout/ep_rew_mean": values["reward"],
            **{f"train/{name}_loss": values[f"{name} loss"] for name in terms},
            "train/grad_norm": grad_norm,
            "train/std": torch.as_tensor(std).mean(),
        }
        return carry, {name: value.detach() for name, value in results.items()}

    call: Any = Graph(learn, device) if config.graph else learn
    carry = env.begin() if log.checkpoint is None else learner.unpack(log.checkpoint)
    if log.checkpoint is not None and log.checkpoint.step in judge.due:
        judge.validate(learner, log.checkpoint.step)

    for update in log.progress(config.num_updates):
        learning_rate = cosine_rate(config.learning_rate, update / config.num_updates)
        if (begun := env.advance(update / config.num_updates)) is not None:
            carry = begun
            log.say(f"{update * config.num_envs} episodes: {env}")
        std, decay = config.scheduled_std(update), warmed_up_decay(config.ema, update)
        numbers = {"update": update, "learning_rate": learning_rate, "std": std, "decay": decay}
        carry, results = call(carry, **numbers)

        # Log
        done = update + 1
        env_steps, is_last = done * config.num_envs * num_glimpses, done == config.num_updates
        log.status(done * config.num_envs, results["accuracy"])
        if done % config.log_every == 0 or is_last:
            learner.check()
            metrics = {name: value.item() for name, value in results.items() if "/" in name}
            metrics |= {"rollout/ep_len_mean": num_glimpses, "train/learning_rate": learning_rate}
            log.scalars(env_steps, metrics)
            log.speed(env_steps)
        stopping = largest(stop.requested or 0)  # by a signal to any process
        if done % config.checkpoint_every == 0 or done in judge.due or stopping:
            learner.check()
            log.save_checkpoint(done, env_steps, *learner.pack())
        if stopping:
            raise Stopped(128 + stopping)
        if done in judge.due:
            judge.validate(learner, done)
    judge.finish(learner, env.data_source)


def describe(
    config: Config, log: RunLog, env: Any, model: RecurrentAttentionModel, device: torch.device
) -> bool:
    """Log what is trained on what, and where; return whether networks compute in bfloat16."""
    where, parameters = describe_device(device), count_parameters(model)
    log.save_model_config(model.config)
    facts = {"data": env.data_source, "sample": env.data_is_sample}
    log.note_facts({**facts, "device": where, "parameters": parameters})
    bf16 = choose_bf16(config.bf16, device, log)
    log.say(
        f"device {where}, {'bfloat16' if bf16 else 'float32'}, {config.threads} threads, seed "
        f"{config.seed}, run {log.folder}"
    )
    log.say(env.data_source)
    if config.graph and device.type == "cpu":
        log.say("graph: the CPU has none, so each update runs as written; a GPU would replay it")
    log.say(
        f"estimator {config.estimator}, {config.locations} locations, {parameters} "
        f"parameters: {config.total_episodes} episodes, {config.num_envs} per update"
    )
    return bf16


if __name__ == "__main__":
    run(main, parse, torchrun=True)
