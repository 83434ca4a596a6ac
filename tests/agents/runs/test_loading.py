"""Reading a run back: the same model, and an error that names the file that is at fault."""

import sys
from pathlib import Path

import pytest
import torch

from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.runs.loading import PRETRAINED, find_run, load_run
from tests.script_helpers import edit_json, write_run

CONFIG = RAMConfig((1, 4, 4), 3, hidden_size=8, location="offset", location_hidden=5)


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    torch.manual_seed(0)
    return write_run(tmp_path, RecurrentAttentionModel(CONFIG), env_id="Some-v0")


def test_a_run_folder_is_not_taken_for_the_published_agent_of_its_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert find_run("mnist").parent == PRETRAINED
    folder = tmp_path / "mnist"
    folder.mkdir()
    (folder / "config.json").touch()
    with pytest.raises(ValueError, match=r"\./mnist is yours"):
        find_run("mnist")
    assert find_run("./mnist").samefile(folder)


def test_the_model_comes_back_with_its_settings(run_dir):
    torch.manual_seed(0)
    expected = RecurrentAttentionModel(CONFIG)
    model, settings = load_run(run_dir)
    assert settings == {"env_id": "Some-v0", "env_kwargs": {}}
    assert model.config == CONFIG
    assert not model.training
    for name, weight in expected.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name


@pytest.mark.parametrize(
    ("missing", "settings", "message"),
    [
        ("config.json", {}, "config.json cannot be read: No such file"),
        ("model.json", {}, "has no model.json: .* found another script's"),
        ("model.json", {"algorithm": "ppo"}, "found train/sb3.py's"),
        ("model.json", {"model": "fc64"}, "found train/baselines.py's"),
        ("best.safetensors", {}, "has no best.safetensors: wait for the run's first validation"),
    ],
)
def test_a_missing_file_is_named_and_explained(run_dir, missing, settings, message):
    edit_json(run_dir / "config.json", config=settings)
    (run_dir / missing).unlink()
    with pytest.raises(ValueError, match=message):
        load_run(run_dir)


def test_the_user_may_name_another_environment_than_that_of_a_foreign_module(run_dir):
    edit_json(run_dir / "config.json", config={"env_id": "antigravity:Any-v0"})
    settings = {"env_id": "mine:Other-v0", "env_kwargs": {}}
    assert load_run(run_dir, env_id="mine:Other-v0")[1] == settings
    assert "antigravity" not in sys.modules


def test_the_environments_keywords_come_back_by_name(run_dir):
    text = "num_clutter = 8, object_scale = [0.5, 1.5]"
    edit_json(run_dir / "config.json", config={"env_id": "Some-v0", "env_kwargs": text})
    keywords = {"num_clutter": 8, "object_scale": [0.5, 1.5]}
    assert load_run(run_dir)[1]["env_kwargs"] == keywords
    edit_json(run_dir / "config.json", config={"env_id": "Some-v0", "env_kwargs": "num_clutter"})
    with pytest.raises(ValueError, match=r"config\.json: env_kwargs: expected TOML such as"):
        load_run(run_dir)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_classes": None}, "missing required field `num_classes`"),
        ({"depth": 3}, r"unknown \['depth'\]"),
        ({"core": "transformer"}, "core must be one of .*'transformer'"),
        ({"hidden_size": 8.5}, "hidden_size"),
        ({"glimpse_shape": [4, 4]}, "glimpse_shape"),
    ],
)
def test_sizes_that_make_no_model_are_explained(run_dir, changes, message):
    edit_json(run_dir / "model.json", **changes)
    with pytest.raises(ValueError, match=rf"model.json.*{message}"):
        load_run(run_dir)


@pytest.mark.parametrize(
    ("changes", "wrong"),
    [
        ({"hidden_size": 9}, r"action_network.weight must be .* \(3, 9\), got .* \(3, 8\)"),
        ({"hidden_size": 10**7}, "action_network.weight must be"),  # before memory is taken
        ({"core": "gru"}, "core.bias_hh must be .*, got absent"),
    ],
)
def test_weights_of_another_size_or_name_are_refused(run_dir, changes, wrong):
    edit_json(run_dir / "model.json", **changes)
    with pytest.raises(ValueError, match=f"best.safetensors belongs to another model .*: {wrong}"):
        load_run(run_dir)
