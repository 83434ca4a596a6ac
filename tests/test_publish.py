"""Publishing a run: it comes back equal, checked, and tells nothing of the machine's folders."""

import json

import pytest
import torch

import agents.loading
import train.publish
from agents.loading import load_pretrained, load_run
from train.reinforce import Config, main


@pytest.fixture(scope="module")
def run_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "signpost"
    main(
        Config(
            env_id="SignpostGlimpse-v0",
            total_episodes=256,
            threads=1,
            num_validations=1,
            final_split="validation",
            run_dir=folder,
        )
    )
    return folder


@pytest.fixture
def published(run_dir, tmp_path, monkeypatch):
    monkeypatch.setattr(agents.loading, "PRETRAINED", tmp_path)
    monkeypatch.setattr(train.publish, "PRETRAINED", tmp_path)
    train.publish.main(train.publish.Config(run_dir, "board"))
    return tmp_path / "board"


def test_a_published_model_is_the_runs(run_dir, published):
    model, settings = load_pretrained("board")
    original, _ = load_run(run_dir)
    assert settings["env_id"] == "SignpostGlimpse-v0"
    for name, weight in original.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name])


def test_no_path_of_the_machine_is_published(run_dir, published):
    for file in ("config.json", "result.json", "model.json"):
        assert str(run_dir.parent) not in (published / file).read_text()
    assert json.loads((published / "config.json").read_text())["commit"] is not None


def test_publishing_again_replaces_and_keeps_the_others(run_dir, published):
    train.publish.main(train.publish.Config(run_dir, "other"))
    train.publish.main(train.publish.Config(run_dir, "board"))
    load_pretrained("other")
    load_pretrained("board")


@pytest.mark.parametrize("file", ["best.safetensors", "model.json", "config.json", "result.json"])
def test_a_file_that_is_not_the_published_one_is_named(published, file):
    content = (published / file).read_bytes()
    (published / file).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(ValueError, match=f"{file} is not the published file"):
        load_pretrained("board")


def test_an_unknown_name_lists_the_known_ones(published):
    with pytest.raises(ValueError, match="one of board, got 'boat'"):
        load_pretrained("boat")
