"""Zips of Stable-Baselines3: whole, and checked before anything in them can run."""

import base64
import json
import zipfile
from pathlib import Path

import cloudpickle
import gymnasium
import pytest
import torch
from stable_baselines3 import A2C, PPO

from agents.runs.checkpoints import CheckpointError
from agents.sb3 import load_sb3, save_sb3


def make_model(seed: int = 0) -> A2C:
    return A2C("MlpPolicy", gymnasium.make("CartPole-v1"), n_steps=4, seed=seed, device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[A2C, Path]:
    """Train a model for 40 steps and save it."""
    model = make_model().learn(40)
    return model, save_sb3(model, tmp_path_factory.mktemp("sb3") / "model.zip")


def test_a_loaded_model_is_the_one_that_was_saved(trained):
    model, path = trained
    loaded = load_sb3(A2C, path, device="cpu")
    assert loaded.num_timesteps == 40
    for name, weight in model.policy.state_dict().items():
        assert torch.equal(weight, loaded.policy.state_dict()[name])
    with pytest.raises(CheckpointError, match="holds 'A2C', not PPO"):
        load_sb3(PPO, path)


def test_a_zip_that_was_changed_or_exchanged_is_refused_unless_trusted(trained, tmp_path):
    path = save_sb3(make_model(1), str(tmp_path / "model.zip"))
    whole, other = path.read_bytes(), trained[1].read_bytes()
    for content in (whole[:-1], whole[:-1] + b"x", other):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"zip (has \d+ bytes, its manifest|was changed)"):
            load_sb3(A2C, path)
    assert load_sb3(A2C, path, trust=True, device="cpu").num_timesteps == 40


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_zip_runs_only_when_it_is_trusted(tmp_path):
    path, marker = save_sb3(make_model(), tmp_path / "model.zip"), tmp_path / "ran"
    payload = base64.b64encode(cloudpickle.dumps(Payload(marker))).decode()
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", json.dumps({"policy_class": {":serialized:": payload}}))
    with pytest.raises(CheckpointError, match="its manifest says"):
        load_sb3(A2C, path)
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - the policy is not a policy
        load_sb3(A2C, path, trust=True)
    assert marker.exists()
