"""Train the recurrent attention model with REINFORCE: `python train/reinforce.py`.

The paragraphs of `train` are the algorithm, in order: setup, episode, loss, update, log. `learn`
holds the middle three, which can run as one CUDA graph.

Dimension key:
    N: sub-environments, each of which plays one episode per update
    T: glimpses per episode
    K: classes
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
from functools import partial
from typing import Any

import torch
from torch import Tensor

from agents.actions import choose_label, sample_location
from agents.controls import Control, to_boxes
from agents.distributed import mean_over_ranks, own_lanes
from agents.episodes import Carry, play_episode
from agents.estimators import Rollout
from agents.graph import Graph
from agents.learner import Learner
from agents.noise import Noise
from agents.ram import Output, RecurrentAttentionModel
from agents.replay import Replay
from agents.runs.commands import Stop, run
from agents.runs.folder import RunLog, run_in_folder
from agents.runs.initial import start_from
from agents.training import (
    check_validation_images,
    choose_device,
    cosine_rate,
    spread_seed,
    warmed_up_decay,
)
from train.environments import make_env, make_training_env, to_shift
from train.session import NUM_ENVS, Session, describe
from train.settings import Config, parse
from train.validation import evaluate, validate


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
    env, make = make_training_env(config, device, lanes), partial(make_env, config, device)
    validation_env = make(NUM_ENVS, split="validation", order="sequential")
    check_validation_images(config.validation_images, validation_env.num_images)
    config.open_final_split()  # so that missing data fail now
    num_glimpses, estimator, weights = env.task.num_glimpses, config.row, config.weights
    model = RecurrentAttentionModel(config.sizes(env.glimpse_shape, env.num_classes)).to(device)
    if config.initial is not None and log.checkpoint is None:
        start_from(model, config.initial, data=env.data_source, is_sample=env.data_is_sample)
    log.save_model_config(model.config)
    bf16 = describe(config, log, env, device, model)
    control = Control(config.locations, env)
    drawn = {"num_classes": env.num_classes, "num_shared": config.replay_steps, "device": device}
    noise_source = Noise(config.seed, lanes, num_glimpses=num_glimpses, **drawn)
    replay_size = config.replay_size if config.replay_steps else 0
    replay = Replay(replay_size, (num_glimpses, len(lanes), *env.glimpse_shape), device)
    learner = Learner(config, model, env, {"replay": replay}, bf16=bf16)
    judge = partial(validate, config, learner.mean_model, validation_env, stop)
    counts = config.num_updates, config.num_envs * num_glimpses, (config.num_envs, "episodes")
    session = Session(config, log, stop, learner, judge, *counts, price=config.price or 0)
    log.say(config.summary)

    def learn(carry: Carry, update: Any, learning_rate: Any, std: Any, decay: Any) -> Any:
        """Play one episode per lane and learn from them.

        ``carry`` holds the observations and infos that the episodes begin with; the next ones' are
        returned, with what to log. The numbers are Python's or, in a CUDA graph, tensors on the
        GPU, for which no line here may wait.
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
            # Sampled where the estimator learns from samples, else (temperature 0) the likeliest
            answer = choose_label(output.logits, noise.clocks[step], config.temperature)
            return location, log_prob, answer

        with learner.computing(update):
            steps, carry = play_episode(model, env, carry, act, shift=shift)
        learner.note(update, env.valid)  # in a graph no bad action is refused

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
        for uniform in noise.shared:  # one per step of the replay; none by default
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
    carry = session.resume() or env.begin()
    for update in session.updates():  # after each it saves and validates where that is due
        learning_rate = cosine_rate(config.learning_rate, update / config.num_updates)
        if (begun := env.advance(update / config.num_updates)) is not None:
            carry = begun
            log.say(f"{update * config.num_envs} episodes: {env}")
        std, decay = config.scheduled_std(update), warmed_up_decay(config.ema, update)
        numbers = {"update": update, "learning_rate": learning_rate, "std": std, "decay": decay}
        carry, results = call(carry, **numbers)

        # Log
        log.status((update + 1) * config.num_envs, results["accuracy"])
        if session.logs(update):
            learner.check()
            metrics = {name: value.item() for name, value in results.items() if "/" in name}
            metrics |= {"rollout/ep_len_mean": num_glimpses, "train/learning_rate": learning_rate}
            log.scalars(env_steps := (update + 1) * session.update_steps, metrics)
            log.speed(env_steps)

    # Result: of the running mean of the weights that was best on validation, or of the last
    learner.mean_model.load_state_dict(learner.best)
    session.finish(make, partial(evaluate, config, learner.mean_model, stop))


if __name__ == "__main__":
    run(main, parse, several=True)
