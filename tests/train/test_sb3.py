"""The scripts for Stable-Baselines3: what they print and write, and that runs are reproducible."""

import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO

from agents.baselines import count_parameters
from agents.evaluation import Beliefs
from agents.runs import checkpoints
from agents.runs.commands import Stopped
from agents.runs.progress import TrainingProgress
from agents.sb3 import load_sb3
from agents.sb3.training import weights_of
from ram_env import register_dataset
from tests.script_helpers import (
    LAST_LINE,
    hide_infos,
    note_calls,
    read_metrics,
    register_variant,
)
from tests.train.comparison.job_programs import harvest_run
from train import algorithms, sb3, stock_ppo
from train.algorithms import OFF_POLICY, ON_POLICY
from train.comparison.results import BEHAVIOUR
from train.keywords import make_vector_env
from train.sb3 import Config, main, make_learner, parse, to_sb3

SHORT = {"env_id": "ShadesGlimpse-v0", "num_envs": 16, "batch_episodes": 8, "total_steps": 300}
SHORT |= {"rollout_episodes": 1, "learning_rate": 1e-3, "hidden_size": 16}
SHORT |= {"num_validations": 2, "log_every": 2, "threads": 1, "device": "cpu"}


@pytest.fixture(scope="module", autouse=True)
def _shades_env() -> Iterator[None]:
    """Register small tasks in which every glimpse shows the label, as a shade of grey."""
    shades = np.repeat(np.array([0, 80, 160, 240], np.uint8), 10)
    images = shades[:, None, None] * np.ones((28, 28), np.uint8)
    split = (images, np.arange(40) // 10)
    splits: dict[str, Any] = dict.fromkeys(("train", "validation", "test"), split)
    register_dataset("shades-of-grey", lambda: splits)
    keywords = {"dataset": "shades-of-grey", "num_glimpses": 3, "glimpse_size": 4}
    changes = {"Shades": {}, "Stop": {"allow_stop": True}, "Dict": {"action_format": "dict"}}
    with pytest.MonkeyPatch.context() as patch:
        for name, more in changes.items():
            register_variant(patch, f"{name}Glimpse-v0", "MNISTGlimpse-v0", **keywords, **more)
        yield


def train(run_dir: Path, capsys, **changes) -> list[str]:
    """Train in this process; return the printed lines."""
    settings: dict[str, Any] = {**SHORT, **changes}
    if settings.get("algorithm") in OFF_POLICY:
        own = {"num_envs": 8, "reward": "dense", "rollout_episodes": 2, **changes}
        settings = {**settings, **own}
        del settings["batch_episodes"], settings["learning_rate"]
    main(Config(run_dir=run_dir, **settings))
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def _short_replay(monkeypatch):
    """Let the replay of SAC and CrossQ hold 20 episodes."""
    for name, kind in OFF_POLICY.items():
        monkeypatch.setitem(OFF_POLICY, name, partial(kind, batch_size=32))
    monkeypatch.setattr(algorithms, "REPLAY_STEPS", 20 * 3)


STOPS = [(name, 4, 400, 4) for name in (*ON_POLICY, *OFF_POLICY)]
STOPS += [(name, 1, 192, 2) for name in OFF_POLICY]  # before it learns, at 100 steps


@pytest.mark.usefixtures("_short_replay")
@pytest.mark.parametrize(("algorithm", "num_glimpses", "total_steps", "update"), STOPS)
def test_a_run_stopped_by_a_signal_resumes_and_ends_in_the_same_bytes(
    tmp_path, capsys, monkeypatch, algorithm, num_glimpses, total_steps, update
):
    whole, run, stages = tmp_path / "whole", tmp_path / "run", tmp_path / "stages.toml"
    stages.write_text("stages = [{ until = 0.4, env = { num_clutter = 1, canvas_size = 30 } }]")
    settings = {"algorithm": algorithm, "curriculum": str(stages), "total_steps": total_steps}
    # With 4 glimpses CrossQ stops between two steps of its actor
    settings["env_kwargs"] = f"num_glimpses = {num_glimpses}"
    lines = train(whole, capsys, **settings)
    assert "stage 2 of 2: the task" in "".join(lines)
    assert LAST_LINE.fullmatch(lines[-1])
    report = TrainingProgress.report

    def interrupted(progress, episodes: int, accuracy: float) -> None:
        if episodes == 16 * update:
            os.kill(os.getpid(), signal.SIGTERM)
        report(progress, episodes, accuracy)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "report", interrupted)
        with pytest.raises(Stopped, match=f"^{128 + signal.SIGTERM}$"):
            train(run, capsys, **settings)
    assert [each.name for each in (run / "checkpoints").iterdir()] == [f"step_{update:08}"]
    assert f"--resume {run}" in capsys.readouterr().out
    main(parse(["--resume", str(run)]))
    assert capsys.readouterr().out.splitlines()[-1] == lines[-1]
    for file in ("metrics.csv", "best.safetensors"):
        assert (run / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.usefixtures("_short_replay")
@pytest.mark.parametrize("algorithm", ["a2c_history", "recurrent_ppo", "sac"])  # three buffers
def test_no_algorithm_learns_from_the_label(tmp_path, capsys, monkeypatch, algorithm):
    options = {"algorithm": algorithm, "final_split": "none", "keep": "last"}
    train(tmp_path / "label", capsys, **options)
    hide_infos(monkeypatch, "label", "index", "position", "object_size")
    played = Beliefs(*(torch.zeros(shape) for shape in ((1, 2, 3, 4), 2, (1, 2, 3, 2), (2, 4))))
    monkeypatch.setattr(sb3, "play_split_sb3", lambda *a, **k: played)  # it counts by infos
    train(tmp_path / "hidden", capsys, **options)
    weights = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("label", "hidden")]
    assert weights[0] == weights[1]


def test_the_std_falls_as_the_flags_say_and_metrics_have_the_librarys_tags(tmp_path, capsys):
    train(tmp_path / "run", capsys, log_every=1, std=0.4, final_std=0.1)
    metrics = read_metrics(tmp_path / "run")
    stds = [0.4 * 0.25 ** (update / 7) for update in range(7)]
    assert [*metrics["train/std"].values()] == pytest.approx(stds)
    assert {"train/value_loss", "train/clip_fraction", "rollout/ep_len_mean"} <= metrics.keys()
    facts = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {"data", "device", "stable-baselines3", "sb3-contrib"} <= facts.keys()


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("a2c", A2C), ("recurrent_ppo", RecurrentPPO), ("ppo_history", PPO)]
)
def test_the_best_model_is_left_as_a_zip_of_stable_baselines_and_as_safetensors(
    tmp_path, capsys, algorithm, kind
):
    train(tmp_path / "run", capsys, algorithm=algorithm, final_split="none")
    model = load_sb3(kind, tmp_path / "run" / "best.zip", device="cpu")
    saved, weights = load_file(tmp_path / "run" / "best.safetensors"), weights_of(model.policy)
    assert weights.state_dict().keys() == saved.keys()
    assert all(torch.equal(weight, saved[name]) for name, weight in weights.state_dict().items())
    assert count_parameters(model.policy) == sum(w.numel() for w in saved.values())


def test_it_learns_to_classify_what_it_sees(tmp_path, capsys):
    changes = {"total_steps": 9_000, "num_envs": 64, "batch_episodes": 16, "log_every": 100}
    lines = train(tmp_path / "run", capsys, algorithm="ppo", num_validations=1, **changes)
    error = re.match(r"test error ([\d.]+)", lines[-1])
    assert error is not None
    assert float(error[1]) < 50  # chance: 75; two of twelve seeds ended at 25


def test_nonfinite_outputs_stop_the_run(tmp_path, capsys):
    with pytest.raises(FloatingPointError, match="not finite; the learning rate may be too high"):
        train(tmp_path / "run", capsys, algorithm="a2c", learning_rate=1e30)


def test_the_stock_script_trains_on_a_users_environment_and_leaves_what_a_comparison_reads(
    tmp_path, monkeypatch
):
    module = "from dataclasses import replace\nfrom gymnasium import registry, spec\n"
    module += "registry['Users-v0'] = replace(spec('ShadesGlimpse-v0'), id='Users-v0')\n"
    (tmp_path / "users_images.py").write_text(module)
    monkeypatch.syspath_prepend(tmp_path)
    run = tmp_path / "run"
    stock_ppo.main(stock_ppo.Config(run, "users_images:Users-v0", env_steps=10, marks=3))
    seed = harvest_run(run)
    assert seed.result.total == 40
    assert seed.curve.env_steps.tolist() == [2048]  # all marks lie in one rollout
    assert seed.result.last.keys() == BEHAVIOUR.keys() - {"train/explained_variance"}
    del gymnasium.registry["Users-v0"], sys.modules["users_images"]


def test_the_stock_script_refuses_what_it_could_not_do(tmp_path):
    for name, value in {"env_steps": -1, "env_id": "CartPole-v1", "run_dir": tmp_path}.items():
        with pytest.raises(ValueError, match=str(value)):
            stock_ppo.Config(**{"run_dir": tmp_path / "run", name: value})


def test_the_stock_script_reports_that_it_diverged(tmp_path, monkeypatch):
    monkeypatch.setattr(stock_ppo, "PPO", partial(PPO, learning_rate=math.inf, n_steps=64))
    lanes: Any = {"num_envs": 2, "action_format": "multidiscrete"}
    config = stock_ppo.Config(tmp_path / "run", "ShadesGlimpse-v0", env_steps=256, **lanes)
    with pytest.raises(FloatingPointError):
        stock_ppo.main(config)


@pytest.mark.parametrize("algorithm", OFF_POLICY)
def test_sac_and_crossq_take_one_gradient_step_per_8_env_steps(
    tmp_path, capsys, monkeypatch, algorithm
):
    kind, run = OFF_POLICY[algorithm], tmp_path / "run"
    made = note_calls(monkeypatch, kind, "_setup_model")
    settings = {"algorithm": algorithm, "total_steps": 160, "num_validations": 1}
    train(run, capsys, rollout_episodes=8, **settings)
    (model,) = made[0].args
    assert model._n_updates == (192 - 96) / 8  # of a whole update; learning starts after 100
    replay = model.replay_buffer
    assert replay.observations.shape[0] * 8 == 100_000
    assert replay.rewards[: 192 // 8].any(1).mean() > 0.5  # a quarter of 8 labels are right
    assert replay.dones[2 : 192 // 8 : 3].all()
    saved = load_file(run / "best.safetensors")
    parts = {"actor": model.actor, "critic": model.critic}
    assert saved.keys() == {
        f"{part}.{k}" for part, each in parts.items() for k in each.state_dict()
    }
    zipped = load_sb3(kind, run / "best.zip", device="cpu")
    assert all(torch.equal(saved[f"actor.{k}"], p) for k, p in zipped.actor.state_dict().items())
    train(tmp_path / "wide", capsys, num_envs=16, rollout_episodes=4, **settings)
    (wide,) = made[1].args
    assert wide._n_updates == (192 - 96) / 8


# What is refused


@pytest.mark.parametrize("env_id", ["StopGlimpse-v0", "DictGlimpse-v0"])
def test_an_environment_without_box_actions_is_refused(env_id):
    with pytest.raises(ValueError, match=f"actions must be a Box of x, y and class.*{env_id} has"):
        Config(env_id=env_id)


def test_a_replay_that_no_checkpoint_could_hold_is_refused_before_training(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(checkpoints, "MAX_BYTES", 2**27)
    with pytest.raises(ValueError, match=r"a replay of 100000 env steps has .* lower num_glimpses"):
        train(tmp_path / "run", capsys, algorithm="sac", hidden_size=256)
    assert not (tmp_path / "run").exists()


WRONG = {"total_steps": 0, "batch_episodes": 48, "learning_rate": 0.0, "entropy_coef": -0.1}
WRONG |= {"final_std": 0.5, "rollout_episodes": 0, "gae_lambda": 1.5, "policy_coef": -1.0}


def test_a_bad_setting_fails_at_once():
    for name, value in WRONG.items():
        with pytest.raises(ValueError, match=name):
            Config(**{name: value})
    with pytest.raises(ValueError, match="n_epochs needs PPO or A2C"):
        Config(algorithm="sac", n_epochs=2)


def test_a_curriculum_must_suit_the_reward_of_the_flag(tmp_path):
    (tmp_path / "stages.toml").write_text("stages = [{ until = 0.5, success = 0.5, env = {} }]")
    with pytest.raises(ValueError, match="success counts last rewards above 0, but reward='log_sc"):
        Config(reward="log_score", curriculum=str(tmp_path / "stages.toml"))


def test_batches_must_hold_two_samples_and_a2c_ignores_minibatches():
    one: Any = {"env_kwargs": "num_glimpses = 1", "batch_episodes": 1}
    with pytest.raises(ValueError, match="hold two steps"):
        Config(**one)
    Config(algorithm="a2c", **one)  # whose batch is the update
    with pytest.raises(ValueError, match="hold two steps"):
        Config(algorithm="a2c", num_envs=1, rollout_episodes=1, env_kwargs="num_glimpses = 1")


@pytest.mark.parametrize("algorithm", ON_POLICY)
def test_flags_reach_the_algorithm(algorithm):
    flags = {"gae_lambda": 0.7, "entropy_coef": 0.02, "n_epochs": 3, "learning_rate": 1e-3}
    flags |= {"batch_episodes": 4, "hidden_size": 24, "num_envs": 8, "reward": "dense"}
    flags |= {"policy_coef": 0.3, "std": 0.4, "rollout_episodes": 2, "env_id": "ShadesGlimpse-v0"}
    config = Config(algorithm=algorithm, **flags)
    lanes = to_sb3(config, make_vector_env("ShadesGlimpse-v0", 8))
    model: Any = make_learner(config, lanes, torch.device("cpu"), seed=1).model
    assert (model.gamma, model.gae_lambda, model.ent_coef) == (1, 0.7, 0.02)
    assert (model.n_steps, model.lr_schedule(0.1)) == (2 * 3, 1e-3)
    expected = {"num_classes": 4, "label_counts": "every", "location_weight": 0.3}
    assert {**expected, "initial_std": 0.4}.items() <= model.policy_kwargs.items()
    if not algorithm.startswith("a2c"):
        assert (model.n_epochs, model.batch_size) == (3, 4 * 3)
    if algorithm == "recurrent_ppo":
        assert model.policy.lstm_actor.hidden_size == 24
    if algorithm.endswith("_history"):
        assert model.policy.features_dim == 24


@pytest.mark.parametrize(("device", "asked"), [("auto", "cpu"), ("cuda:1", "cuda:1")])
def test_auto_is_the_cpu_even_where_there_is_a_gpu(tmp_path, monkeypatch, device, asked):
    monkeypatch.setattr(sb3, "choose_device", int)  # which refuses any name, and repeats it
    with pytest.raises(ValueError, match=f"'{asked}'"):
        main(Config(run_dir=tmp_path / "run", **{**SHORT, "device": device}))
