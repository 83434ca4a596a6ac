"""The scripts for Stable-Baselines3: what they print and write, and that runs are reproducible."""

import json
import math
import os
import re
import signal
import sys
from collections.abc import Iterator
from dataclasses import fields
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
from stable_baselines3.common.off_policy_algorithm import OffPolicyAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from agents.baselines import count_parameters
from agents.evaluation import Beliefs
from agents.runs import checkpoints
from agents.runs.commands import Stopped
from agents.runs.progress import Stopwatch, TrainingProgress
from agents.sb3 import load_sb3
from agents.sb3.training import weights_of
from agents.training import spread_seed
from ram_env import GlimpseVectorEnv, register_dataset
from tests.script_helpers import (
    LAST_LINE,
    hide_infos,
    keep_first,
    note_calls,
    read_metrics,
    register_variant,
)
from tests.train.comparison.job_programs import harvest_run
from train import off_policy, sb3, stock_ppo
from train.comparison.results import BEHAVIOUR
from train.keywords import make_vector_env
from train.sb3 import ALGORITHMS, Config, main, make_learner, parse, to_sb3

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
    main(Config(run_dir=run_dir, **{**SHORT, **changes}))
    return capsys.readouterr().out.splitlines()


def train_off_policy(run_dir: Path, capsys, **changes) -> list[str]:
    """Train SAC or CrossQ in this process; return the printed lines."""
    shared = set(SHORT) & {each.name for each in fields(off_policy.Config)}
    settings = {name: SHORT[name] for name in shared} | {"reward": "dense"}
    off_policy.main(off_policy.Config(run_dir=run_dir, **{**settings, **changes}))
    return capsys.readouterr().out.splitlines()


@pytest.fixture
def _short_replay(monkeypatch):
    """Let an update of SAC and CrossQ have 16 episodes, as others here, and their replay 20."""
    smaller = {name: partial(kind, batch_size=32) for name, kind in off_policy.ALGORITHMS.items()}
    monkeypatch.setattr(off_policy, "ALGORITHMS", smaller)
    monkeypatch.setattr(off_policy, "REPLAY_STEPS", 20 * 3)
    monkeypatch.setattr(off_policy.Config, "update_episodes", 16)


@pytest.mark.usefixtures("_short_replay")
@pytest.mark.parametrize("algorithm", [*ALGORITHMS, *off_policy.ALGORITHMS])
def test_a_run_stopped_by_a_signal_resumes_and_ends_in_the_same_bytes(
    tmp_path, capsys, monkeypatch, algorithm
):
    script, begin, kind = sb3, train, OnPolicyAlgorithm
    if algorithm in off_policy.ALGORITHMS:
        script, begin, kind = off_policy, train_off_policy, OffPolicyAlgorithm
    whole, run, stages = tmp_path / "whole", tmp_path / "run", tmp_path / "stages.toml"
    stages.write_text("stages = [{ until = 0.4, env = { num_clutter = 1, canvas_size = 30 } }]")
    settings = {"algorithm": algorithm, "curriculum": str(stages), "total_steps": 400}
    settings["env_kwargs"] = "num_glimpses = 4"  # so CrossQ stops between two steps of its actor
    lines = begin(whole, capsys, **settings)
    assert "stage 2 of 2: the task" in "".join(lines)
    assert LAST_LINE.fullmatch(lines[-1])
    dump_logs, calls = kind.dump_logs, []

    def interrupted(model, *arguments) -> None:
        calls.append(model.num_timesteps)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        dump_logs(model, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(kind, "dump_logs", interrupted)
        with pytest.raises(Stopped, match=f"^{128 + signal.SIGTERM}$"):
            begin(run, capsys, **settings)
    assert calls == [128, 256]  # after updates 2 and 4, of 16 episodes of 4 glimpses
    assert f"--resume {run}" in capsys.readouterr().out
    script.main(script.parse(["--resume", str(run)]))
    assert capsys.readouterr().out.splitlines()[-1] == lines[-1]
    for file in ("metrics.csv", "best.safetensors"):
        assert (run / file).read_bytes() == (whole / file).read_bytes()


@pytest.mark.parametrize("algorithm", off_policy.ALGORITHMS)
def test_a_run_stopped_before_it_learns_resumes_and_ends_in_the_same_bytes(
    tmp_path, capsys, monkeypatch, algorithm
):
    settings = {"algorithm": algorithm, "env_kwargs": "num_glimpses = 1", "total_steps": 192}
    settings["final_split"] = "none"
    train_off_policy(tmp_path / "whole", capsys, **settings)
    status = TrainingProgress.report

    def interrupted(progress, episodes: int, accuracy: float) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        status(progress, episodes, accuracy)

    with monkeypatch.context() as patch:
        patch.setattr(TrainingProgress, "report", interrupted)
        with pytest.raises(Stopped):  # after 64 env steps, and learning starts after 100
            train_off_policy(tmp_path / "run", capsys, **settings)
    off_policy.main(off_policy.parse(["--resume", str(tmp_path / "run")]))
    for file in ("metrics.csv", "best.safetensors"):
        assert (tmp_path / "run" / file).read_bytes() == (tmp_path / "whole" / file).read_bytes()


def test_it_begins_with_the_seeds_of_all_scripts_says_what_it_runs_on_and_ends_with_the_test_error(
    tmp_path, capsys, monkeypatch
):
    resets = note_calls(monkeypatch, GlimpseVectorEnv, "reset")
    lines = train(tmp_path / "run", capsys, seed=7)
    assert re.search(r"device cpu, float32, 1 threads, seed 7", lines[0])
    assert resets[0].keywords["seed"] == spread_seed(7, 16)[0]  # as in all scripts
    assert "shades-of-grey train: 40 images" in lines[1]
    assert lines[2] == "ppo_history: 48 steps an update"
    # 300 steps fill 7 updates of 16 episodes of 3 glimpses; 4 make half of them
    validations = [line for line in lines if "env steps: validation error" in line]
    assert re.match(r"192 env steps: .* images\), .* left", validations[0])
    assert re.match(r"336 env steps: .* images\), 0:00(:00)? left", validations[1])
    assert [line for line in lines if "test error" in line] == lines[-1:]
    assert (tmp_path / "run" / "log.txt").read_text().splitlines() == lines
    main(parse(["--resume", str(tmp_path / "run")]))
    assert capsys.readouterr().out.splitlines() == lines[-1:]


def test_its_metrics_have_stable_baselines_tags_and_none_depends_on_the_clock(
    tmp_path, capsys, monkeypatch
):
    judged = note_calls(monkeypatch, Stopwatch, "paused")
    threads = note_calls(monkeypatch, torch, "set_num_threads")
    train(tmp_path / "run", capsys, validate_sampled=True)
    metrics = read_metrics(tmp_path / "run")
    assert (threads[0].args, len(judged)) == ((1,), 2)
    assert {"eval/most_named", "eval/centre_coverage", "eval/location_spread"} <= metrics.keys()
    assert {"rollout/ep_rew_mean", "rollout/ep_len_mean", "eval/error"} <= metrics.keys()
    assert {"train/value_loss", "train/clip_fraction", "train/learning_rate"} <= metrics.keys()
    assert not [tag for tag in metrics if tag.startswith("time/")]
    assert set(metrics["rollout/ep_len_mean"].values()) == {3}
    assert list(metrics["train/std"]) == [96, 192, 288, 336]
    timing = (tmp_path / "run" / "timing.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in timing] == ["env_steps", "96", "192", "288", "336"]
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert {"data", "device", "stable-baselines3", "sb3-contrib"} <= settings.keys()
    seed = harvest_run(tmp_path / "run")
    assert (seed.curve.env_steps.tolist(), seed.result.total) == ([192, 336], 40)
    assert seed.result.last.keys() == BEHAVIOUR.keys()


@pytest.mark.usefixtures("_short_replay")
@pytest.mark.parametrize("algorithm", ["a2c_history", "recurrent_ppo", "sac"])  # three buffers
def test_no_algorithm_learns_from_the_label(tmp_path, capsys, monkeypatch, algorithm):
    begin = train_off_policy if algorithm in off_policy.ALGORITHMS else train
    options = {"algorithm": algorithm, "final_split": "none", "keep": "last"}
    begin(tmp_path / "label", capsys, **options)
    hide_infos(monkeypatch, "label", "index", "position", "object_size")
    played = Beliefs(*(torch.zeros(shape) for shape in ((1, 2, 3, 4), 2, (1, 2, 3, 2), (2, 4))))
    monkeypatch.setattr(sb3, "play_split_sb3", lambda *a, **k: played)  # it counts by infos
    begin(tmp_path / "hidden", capsys, **options)
    weights = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("label", "hidden")]
    assert weights[0] == weights[1]


def test_validation_of_the_sampled_policy_is_a_second_column_and_changes_nothing(tmp_path, capsys):
    for name, sampled in (("plain", False), ("sampled", True)):
        train(tmp_path / name, capsys, validate_sampled=sampled, validation_images=30)
    weights = [(tmp_path / name / "best.safetensors").read_bytes() for name in ("plain", "sampled")]
    assert weights[0] == weights[1]
    metrics = read_metrics(tmp_path / "sampled")
    assert metrics["eval/error_sampled"].keys() == metrics["eval/error"].keys()
    assert metrics["eval/error_sampled"] != metrics["eval/error"]


def test_the_status_counts_episodes_and_right_answers_at_each_update(tmp_path, capsys, monkeypatch):
    shown: list[tuple[int, float]] = []
    monkeypatch.setattr(TrainingProgress, "report", lambda _, *words: shown.append(words))
    train(tmp_path / "run", capsys, log_every=1)
    accuracies = read_metrics(tmp_path / "run")["rollout/ep_rew_mean"].values()
    assert shown == [*zip(range(16, 128, 16), accuracies, strict=True)]


@pytest.mark.parametrize("split", ["validation", "none"])
def test_the_test_split_is_only_evaluated_when_asked_for(tmp_path, capsys, split):
    lines = train(tmp_path / "run", capsys, final_split=split)
    assert not [line for line in lines if "test error" in line or "grey test" in line]
    assert bool(LAST_LINE.fullmatch(lines[-1])) == (split == "validation")


@pytest.mark.parametrize("scheduled", [True, False])
def test_std_and_learning_rate_follow_their_schedules_or_not(tmp_path, capsys, scheduled):
    changes = {"std": 0.4, "final_std": 0.1, "learned_std": not scheduled, "decay": scheduled}
    train(tmp_path / "run", capsys, log_every=1, final_split="none", **changes)
    metrics = read_metrics(tmp_path / "run")
    stds, rates = (list(metrics[f"train/{name}"].values()) for name in ("std", "learning_rate"))
    decayed = [0.4 * 0.25 ** (update / 7) for update in range(7)]
    assert (stds == pytest.approx(decayed)) is scheduled
    assert len(set(stds)) == 7
    falling = [1e-3 * (1 + math.cos(math.pi * update / 7)) / 2 for update in range(7)]
    assert rates == pytest.approx(falling if scheduled else [1e-3] * 7)


@pytest.mark.parametrize(
    ("algorithm", "kind"), [("a2c", A2C), ("recurrent_ppo", RecurrentPPO), ("ppo_history", PPO)]
)
def test_the_best_model_is_left_as_a_zip_of_stable_baselines_and_as_safetensors(
    tmp_path, capsys, monkeypatch, algorithm, kind
):
    flags = {"algorithm": algorithm, "final_split": "none"}
    train(tmp_path / "last", capsys, keep="last", **flags)
    keep_first(monkeypatch)
    train(tmp_path / "run", capsys, **flags)
    model = load_sb3(kind, tmp_path / "run" / "best.zip", device="cpu")
    saved, weights = load_file(tmp_path / "run" / "best.safetensors"), weights_of(model.policy)
    assert weights.state_dict().keys() == saved.keys()
    assert all(torch.equal(weight, saved[name]) for name, weight in weights.state_dict().items())
    last = load_file(tmp_path / "last" / "best.safetensors")
    assert not torch.equal(last["log_std"], saved["log_std"])
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
    assert (seed.config["env_steps"], seed.result.total) == (2048, 40)
    assert seed.curve.env_steps.tolist() == [2048]  # all marks lie in one rollout
    assert seed.result.last.keys() == BEHAVIOUR.keys() - {"train/explained_variance"}
    del gymnasium.registry["Users-v0"], sys.modules["users_images"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        *(({k: -1}, rf"{k} must be at least \d, got -1") for k in ("env_steps", "marks", "seed")),
        ({"env_id": "CartPole-v1"}, r"env_id must name a glimpse environment .*CartPole"),
        ({"run_dir": Path()}, r"\. exists already: choose another"),
    ],
)
def test_the_stock_script_refuses_what_it_could_not_do(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        stock_ppo.Config(**{"run_dir": tmp_path / "run", **changes})


def test_many_lanes_of_the_stock_script_choose_columns_rows_and_classes(tmp_path, capsys):
    run, settings = tmp_path / "run", {"num_envs": 4, "action_format": "multidiscrete"}
    config = stock_ppo.Config(run, "ShadesGlimpse-v0", env_steps=8_000, marks=1, **settings)
    stock_ppo.main(config)
    assert "8192 env steps, in whole rollouts of 8192" in capsys.readouterr().out
    assert json.loads((run / "result.json").read_text())["wrong"] / 40 < 0.6  # chance: 0.75


def test_the_stock_script_reports_that_it_diverged(tmp_path, monkeypatch):
    monkeypatch.setattr(stock_ppo, "PPO", partial(PPO, learning_rate=math.inf))
    with pytest.raises(FloatingPointError):
        stock_ppo.main(stock_ppo.Config(tmp_path / "run", "ShadesGlimpse-v0", env_steps=4096))


@pytest.mark.parametrize("algorithm", off_policy.ALGORITHMS)
def test_the_off_policy_script_takes_one_gradient_step_per_8_env_steps(
    tmp_path, capsys, monkeypatch, algorithm
):
    made = note_calls(monkeypatch, off_policy.ALGORITHMS[algorithm], "_setup_model")
    resets = note_calls(monkeypatch, GlimpseVectorEnv, "reset")
    run = tmp_path / "run"
    train_off_policy(run, capsys, algorithm=algorithm, total_steps=160, num_validations=1, seed=7)
    assert resets[0].keywords["seed"] == spread_seed(7, 8)[0]  # as in all scripts
    (model,) = made[0].args
    assert model._n_updates == (192 - 96) / 8  # of a whole update; learning starts after 100
    replay = model.replay_buffer
    assert replay.observations.shape[0] * 8 == 100_000
    assert replay.rewards[: 192 // 8].any(1).mean() > 0.5  # a quarter of 8 labels are right
    assert replay.dones[2 : 192 // 8 : 3].all()
    assert read_metrics(run)["eval/error"].keys() == {192}
    saved = load_file(run / "best.safetensors")
    parts = {"actor": model.actor, "critic": model.critic}
    assert saved.keys() == {
        f"{part}.{k}" for part, each in parts.items() for k in each.state_dict()
    }
    learned = sum(each.numel() for part in parts.values() for each in part.parameters())
    assert json.loads((run / "config.json").read_text())["parameters"] == learned
    zipped = load_sb3(off_policy.ALGORITHMS[algorithm], run / "best.zip", device="cpu")
    assert all(torch.equal(saved[f"actor.{k}"], p) for k, p in zipped.actor.state_dict().items())


@pytest.mark.usefixtures("_short_replay")
@pytest.mark.parametrize("algorithm", off_policy.ALGORITHMS)
def test_the_actors_loss_needs_no_gradients_of_the_critic(tmp_path, capsys, monkeypatch, algorithm):
    settings = {"algorithm": algorithm, "total_steps": 192, "num_validations": 1}
    train_off_policy(tmp_path / "frozen", capsys, **settings)
    monkeypatch.setattr(off_policy, "_freeze_critic", lambda *_: None)
    train_off_policy(tmp_path / "free", capsys, **settings)
    frozen, free = [load_file(tmp_path / name / "best.safetensors") for name in ("frozen", "free")]
    assert frozen.keys() == free.keys()
    assert all(torch.equal(frozen[k], free[k]) for k in free)


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
        train_off_policy(tmp_path / "run", capsys)
    assert not (tmp_path / "run").exists()


WRONG = {"total_steps": 0, "batch_episodes": 48, "learning_rate": 0.0, "entropy_coef": -0.1}
WRONG |= {"final_std": 0.5, "rollout_episodes": 0, "gae_lambda": 1.5, "policy_coef": -1.0}


@pytest.mark.parametrize("name", WRONG)
def test_a_bad_setting_fails_at_once(name):
    with pytest.raises(ValueError, match=name):
        Config(**{name: WRONG[name]})


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_a_learning_rate_that_would_overflow_is_refused(algorithm):
    with pytest.raises(ValueError, match=r"learning_rate must be at most 1e\+30, got 1e\+300"):
        Config(algorithm=algorithm, learning_rate=1e300)


def test_batches_must_hold_two_samples_and_a2c_ignores_minibatches():
    assert Config(algorithm="a2c", batch_episodes=48).lane_episodes == 4
    one: Any = {"env_kwargs": "num_glimpses = 1", "batch_episodes": 1}
    with pytest.raises(ValueError, match="batch_episodes must be at least 2 where an episode has"):
        Config(**one)
    Config(algorithm="a2c", **one)  # whose batch is the update
    with pytest.raises(ValueError, match="num_envs x rollout_episodes must be at least 2 where"):
        Config(algorithm="a2c", num_envs=1, rollout_episodes=1, env_kwargs="num_glimpses = 1")
    assert Config(learned_std=True, std=0.04).final_std > 0.04  # which then has no effect


def test_a_curriculum_must_suit_the_reward_of_the_flag(tmp_path):
    path = tmp_path / "stages.toml"
    path.write_text("stages = [{ until = 0.5, success = 0.5, env = { board_size = 2 } }]")
    settings: Any = {"env_id": "SignpostGlimpse-v0", "curriculum": str(path)}
    Config(**settings)
    with pytest.raises(ValueError, match="success counts last rewards above 0, but reward='log_sc"):
        Config(reward="log_score", **settings)


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_flags_reach_the_algorithm(algorithm):
    flags = {"gae_lambda": 0.7, "entropy_coef": 0.02, "n_epochs": 3, "learning_rate": 1e-3}
    flags |= {"batch_episodes": 4, "hidden_size": 24, "num_envs": 8, "reward": "dense"}
    flags |= {"policy_coef": 0.3, "std": 0.4}
    config = Config(algorithm=algorithm, env_id="ShadesGlimpse-v0", rollout_episodes=2, **flags)
    lanes = to_sb3(config, make_vector_env("ShadesGlimpse-v0", 8))
    model: Any = make_learner(config, lanes, torch.device("cpu"), seed=1).model
    assert (model.gamma, model.gae_lambda, model.ent_coef) == (1, 0.7, 0.02)
    assert (model.n_steps, model.lr_schedule(0.1)) == (2 * 3, 1e-3)
    assert model.policy_kwargs["num_classes"] == 4
    assert model.policy_kwargs["label_counts"] == "every"
    assert model.policy_kwargs["location_weight"] == 0.3
    assert model.policy_kwargs["initial_std"] == 0.4
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
