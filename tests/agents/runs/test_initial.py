"""Starting a run from another one: its weights, its model's flags and what is refused."""

from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file

from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.runs.initial import start_from
from agents.runs.loading import load_run, pretrained_dir, published_names
from tests.script_helpers import edit_json, write_run
from train.settings import parse

CONFIG = RAMConfig((1, 4, 4), 3, hidden_size=8, location="offset", location_hidden=5)


@pytest.mark.parametrize("name", [*published_names(), "mine"])
def test_a_run_that_starts_from_another_has_a_model_for_its_weights(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    own = RecurrentAttentionModel(replace(CONFIG, core="lstm", num_glimpses=8, initial_std=0.2))
    run_dir = write_run(tmp_path / "mine", own, std=0.5) if name == "mine" else pretrained_dir(name)
    theirs = load_run(run_dir, env_id="")[0]
    sizes = parse([f"--initial={name}"]).sizes
    model = RecurrentAttentionModel(sizes(theirs.config.glimpse_shape, theirs.config.num_classes))
    assert model.config.initial_std == (0.2 if name == "mine" else 0)
    start_from(model, name, data="MNIST", is_sample=False)
    for mine, part in zip(model.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(mine, part)


def test_flags_override_those_of_the_agent_that_a_run_starts_from(tmp_path):
    name = str(write_run(tmp_path, RecurrentAttentionModel(CONFIG), std=0.5))
    plain = asdict(parse(["--initial", "None"]))
    given = ["--hidden-size", "9", "--see_time", "--seed=4", "--initial", name]
    sizes = {"core": "rnn", "hidden_size": 9, "location_hidden": 5, "conv_features": 0}
    more = {"see_time": True, "seed": 4, "initial": name}
    assert asdict(parse(given)) == {**plain, **sizes, **more}
    with pytest.raises(ValueError, match="'nowhere' must be a run folder or one of cluttered"):
        parse(["--initial", "nowhere"])
    with pytest.raises(ValueError, match=r"takes no other flag.* got: --resume nowhere --initial"):
        parse(["--resume", "nowhere", "--initial", "nowhere"])


def test_a_run_starts_from_anothers_weights_with_a_stop_network_of_its_own(tmp_path):
    torch.manual_seed(0)
    run_dir = write_run(tmp_path, RecurrentAttentionModel(CONFIG), env_id="Some-v0")
    model = RecurrentAttentionModel(replace(CONFIG, stop_hidden=3, identity_core=True))
    before = {name: part.clone() for name, part in model.state_dict().items()}
    start_from(model, str(run_dir), data="MNIST", is_sample=False)
    stored = load_file(run_dir / "best.safetensors")
    for name, part in model.state_dict().items():
        assert torch.equal(part, (before | stored)[name]), name
    other = RecurrentAttentionModel(replace(CONFIG, location="absolute", hidden_size=9))
    differs = "it has hidden_size 8 and not 9, location offset and not absolute"
    with pytest.raises(ValueError, match=f"{run_dir} can't be the start of this run: {differs}"):
        start_from(other, str(run_dir), data="MNIST", is_sample=False)
    edit_json(run_dir / "config.json", config={"env_id": "of_another:Shapes-v0"})
    start_from(model, str(run_dir), data="MNIST", is_sample=False)  # which imports nothing
    learned = RecurrentAttentionModel(replace(CONFIG, num_glimpses=7, initial_std=0.2))
    with pytest.raises(ValueError, match="learned_std False and not True, see_time False and not"):
        start_from(learned, str(run_dir), data="MNIST", is_sample=False)
    with pytest.raises(ValueError, match="'nowhere' must be a run folder or one of cluttered"):
        start_from(model, "nowhere", data="MNIST", is_sample=False)
    edit_json(run_dir / "config.json", sample=False)
    with pytest.raises(ValueError, match=r"trained on the full data.*shares images.*RAM_ENV_DATA"):
        start_from(model, str(run_dir), data="MNIST", is_sample=True)
    edit_json(run_dir / "config.json", data="shapes train: 200 images from its registered loader")
    start_from(model, str(run_dir), data="MNIST", is_sample=True)  # other images
    edit_json(run_dir / "config.json", config={"initial": "cluttered"})  # which saw MNIST
    with pytest.raises(ValueError, match="shares images"):
        start_from(model, str(run_dir), data="MNIST", is_sample=True)
