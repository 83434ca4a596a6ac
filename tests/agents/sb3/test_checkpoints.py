"""Checkpoints of Stable-Baselines3 runs: whole, checked before anything in them can run."""

import json
import zipfile
from pathlib import Path

import cloudpickle
import gymnasium
import numpy as np
import pytest
import torch
from stable_baselines3 import A2C, PPO

from agents.runs.checkpoints import CheckpointError
from agents.sb3 import checkpoints as sb3_checkpoints
from agents.sb3.checkpoints import (
    ManifestCheckpointCallback,
    load_sb3,
    manifest_path,
    save_sb3,
)


def make_model(seed: int = 0) -> A2C:
    return A2C("MlpPolicy", gymnasium.make("CartPole-v1"), n_steps=4, seed=seed, device="cpu")


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[A2C, Path]:
    """A model that was trained for 40 steps, saved every 12."""
    folder = tmp_path_factory.mktemp("sb3")
    model = make_model()
    model.learn(40, callback=ManifestCheckpointCallback(folder, 12, keep=2))
    return model, folder


def test_the_newest_are_kept_and_the_last_is_of_the_end(trained):
    _, folder = trained
    assert sorted(path.name for path in folder.iterdir()) == [
        "step_0000000036.zip",
        "step_0000000036.zip.json",
        "step_0000000040.zip",
        "step_0000000040.zip.json",
    ]


def test_a_second_run_in_the_folder_keeps_its_own(tmp_path):
    for steps in (40, 24):
        make_model().learn(steps, callback=ManifestCheckpointCallback(tmp_path, 12, keep=1))
    kept = [path.name for path in sorted(tmp_path.glob("*.zip"))]
    assert kept == ["step_0000000024.zip", "step_0000000040.zip"]


def test_a_loaded_model_is_the_one_that_was_saved(trained):
    model, folder = trained
    loaded = load_sb3(A2C, folder / "step_0000000040.zip", device="cpu")
    assert loaded.num_timesteps == 40
    for name, weight in model.policy.state_dict().items():
        assert torch.equal(weight, loaded.policy.state_dict()[name])
    obs = np.zeros((1, 4), np.float32)
    assert loaded.predict(obs, deterministic=True)[0] == model.predict(obs, deterministic=True)[0]


def test_a_zip_that_was_changed_or_exchanged_is_refused_unless_trusted(trained, tmp_path):
    _, folder = trained
    path = save_sb3(make_model(1), tmp_path / "model.zip")
    for content in (
        path.read_bytes()[:-1],
        path.read_bytes()[:-1] + b"x",
        (folder / "step_0000000040.zip").read_bytes(),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=r"does not match its manifest: (bytes|sha256)"):
            load_sb3(A2C, path)
    assert load_sb3(A2C, path, trust=True, device="cpu").num_timesteps == 40


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"schema": 0}, "schema should be 0, got 1"),
        ({"algorithm": "PPO"}, "algorithm should be 'PPO', got 'A2C'"),
        (None, "cannot be checked"),
    ],
)
def test_another_manifest_is_refused(tmp_path, change, said):
    path = save_sb3(make_model(), tmp_path / "model.zip")
    manifest = manifest_path(path)
    if change is None:
        manifest.unlink()
    else:
        manifest.write_text(json.dumps({**json.loads(manifest.read_text()), **change}))
    with pytest.raises(CheckpointError, match=said):
        load_sb3(A2C, path)


def test_a_zip_of_another_algorithm_is_refused(trained):
    _, folder = trained
    with pytest.raises(CheckpointError, match="algorithm should be 'A2C', got 'PPO'"):
        load_sb3(PPO, folder / "step_0000000040.zip")


def test_a_zip_that_unpacks_to_too_much_is_refused_before_it_is_unpacked(tmp_path, monkeypatch):
    path = save_sb3(make_model(), tmp_path / "model.zip")
    monkeypatch.setattr(sb3_checkpoints, "MAX_BYTES", 1000)
    with pytest.raises(CheckpointError, match="would unpack to"):
        load_sb3(A2C, path)


class Payload:
    """Writes a file when it is unpickled."""

    def __init__(self, marker: Path):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_code_in_a_zip_runs_only_when_it_is_trusted(tmp_path):
    import base64

    path, marker = save_sb3(make_model(), tmp_path / "model.zip"), tmp_path / "ran"
    with zipfile.ZipFile(path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    data["policy_class"][":serialized:"] = base64.b64encode(
        cloudpickle.dumps(Payload(marker))
    ).decode()
    members["data"] = json.dumps(data).encode()
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with pytest.raises(CheckpointError, match="does not match"):
        load_sb3(A2C, path)
    assert not marker.exists()
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever comes of a policy that is none
        load_sb3(A2C, path, trust=True)
    assert marker.exists()


def test_a_setting_that_makes_no_sense_is_refused(tmp_path):
    with pytest.raises(ValueError, match="save_every"):
        ManifestCheckpointCallback(tmp_path, 0)
