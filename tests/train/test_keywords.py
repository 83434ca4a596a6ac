"""Keywords on the command line: where they arrive, and which are refused."""

from typing import Any

import numpy as np
import pytest

import train.baselines
import train.evaluate
import train.reinforce
import train.sb3
from agents.runs.commands import read_resumed
from ram_env import register_dataset
from ram_env.base import EpisodesEnv
from tests.script_helpers import SMALL_RUN, note_calls, register_variant
from train.reinforce import Config

FLAGS = {**SMALL_RUN, "num_envs": 64, "total_episodes": 640, "final_split": "validation"}


def test_they_reach_training_validation_resuming_and_evaluation(tmp_path, capsys, monkeypatch):
    made = note_calls(monkeypatch, EpisodesEnv, "_make")
    folder, keywords = tmp_path / "run", "board_size = 4, num_glimpses = 3"
    config = Config(run_dir=folder, env_kwargs=keywords, **FLAGS)
    assert config.task.num_glimpses == 3
    train.reinforce.main(config)
    trained = capsys.readouterr().out.splitlines()[-1]
    resumed = read_resumed(Config, ["--resume", str(folder)])
    assert resumed is not None
    assert resumed.env_kwargs == keywords
    how: Any = {"num_passes": 1, "threads": 1, "device": "cpu"}
    train.evaluate.main(train.evaluate.Config(folder, gif=tmp_path / "episodes.gif", **how))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith(f"SignpostGlimpse-v0 with {keywords}, device cpu")
    assert lines[-1] == trained
    train.evaluate.main(train.evaluate.Config(folder, env_kwargs="", **how))
    assert capsys.readouterr().out.splitlines()[-1] != trained
    boards = [call.args[1].get("board_size", 3) for call in made]
    assert boards[:3] == [4, 4, 4]  # training, validation, final split
    assert boards[3:] == [4, 4, 3]  # evaluation, animation; evaluation on the id as it is


@pytest.mark.usefixtures("full_mnist")
def test_they_reach_the_other_training_scripts(tmp_path, monkeypatch):
    made = note_calls(monkeypatch, EpisodesEnv, "_make")
    run: dict[str, Any] = {"num_validations": 1, "threads": 1, "final_split": "test"}
    run |= {"env_id": "MNISTGlimpse-v0", "num_envs": 4, "device": "cpu"}
    sb3: dict[str, Any] = {"total_steps": 1, "rollout_episodes": 1, "batch_episodes": 4}
    sb3 |= {"validation_images": 1, "env_kwargs": "num_glimpses = 2", "run_dir": tmp_path / "a"}
    train.sb3.main(train.sb3.Config(**run, **sb3))
    network: dict[str, Any] = {"total_episodes": 4, "run_dir": tmp_path / "b"}
    network |= {"model": "fc64", "env_kwargs": "num_clutter = 2, clutter_size = 4"}
    train.baselines.main(train.baselines.Config(**run, **network))
    keywords = [call.args[1] for call in made]
    sizes = [(each.get("num_glimpses"), each.get("num_clutter")) for each in keywords]
    assert sizes == [(2, None)] * 3 + [(1, 2)] * 3  # a network has one glimpse, whole


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ("board_size = ", r"TOML such as 'object_scale = \[0.5, 1.5\].*got 'board_size = '"),
        ("board_size = 4} # , chain = 2", "expected TOML such as"),  # half of it would be ignored
        ("board_size = 4}, {chain = 2", "it is more than one table"),
        ("board_size = 4}]\nx = [{chain = 2", "it is more than one table"),
        ("split = 'test', order = 'random'", r"must leave out \['order', 'split'\]"),
        ("grid_size = [3, 3]", r"must leave out \['grid_size'\]"),
        ("colour = 1", r"unknown keywords \['colour'\]; allowed: \[.*'board_size'"),
        ("board_size = 1", "board_size must be a Python int in 2..32, got 1"),
    ],
)
def test_bad_keywords_are_refused_with_the_reason(keywords, message):
    with pytest.raises(ValueError, match=message):
        Config(env_kwargs=keywords, **FLAGS)
    with pytest.raises(ValueError, match="must leave out reward: --reward sets it"):
        train.sb3.Config(env_kwargs="reward = 'dense'")
    with pytest.raises(ValueError, match=r"must leave out \['num_glimpses', 'reward'\]: a network"):
        train.baselines.Config(env_kwargs="num_glimpses = 3, reward = 'dense'")


@pytest.mark.parametrize("script", [train.reinforce, train.sb3, train.baselines])
def test_a_final_split_that_is_missing_fails_before_the_training(script, tmp_path, monkeypatch):
    pair = np.zeros((4, 28, 28), np.uint8), np.arange(4)
    register_dataset("untested", lambda: {"train": pair, "validation": pair})
    register_variant(monkeypatch, "Untested-v0", "MNISTGlimpse-v0", dataset="untested")
    config = script.Config(env_id="Untested-v0", run_dir=tmp_path / "run", threads=1, device="cpu")
    with pytest.raises(ValueError, match=r"has the splits .*, got 'test': choose another split"):
        script.main(config)
    assert not (tmp_path / "run").exists()
