"""The evaluation script: what it prints, writes and refuses."""

import json
import re
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

import train.evaluate
from agents import diagnostics
from agents.evaluation import evaluate, play_split, score_by_glimpse, score_mean_of_passes
from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.runs.loading import load_run
from ram_env import GlimpseVectorEnv, frozen_canvases
from tests.dataset_makers import write
from tests.pretend_gpu import GPUS, NAME
from tests.script_helpers import LAST_LINE, edit_json, note_calls, register_variant, write_run
from train.evaluate import Config, main, parse


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    """A run folder with an untrained model of the signpost task."""
    return make_run(tmp_path / "run", RAMConfig((3, 4, 4), 4, hidden_size=8))


@torch.no_grad()
def make_run(folder: Path, config: RAMConfig, weights: dict[str, Any] | None = None) -> Path:
    """Write the folder of a run with an untrained model; without biases its answers vary."""
    torch.manual_seed(0)
    model = RecurrentAttentionModel(config)
    for name, parameter in model.named_parameters():
        parameter *= not name.endswith("bias")
    for name, value in (weights or {}).items():
        model.get_parameter(name).copy_(torch.as_tensor(value))
    return write_run(folder, model, env_id="SignpostGlimpse-v0", std=0.5, final_std=0.25)


def report(run_dir: Path, capsys, **changes) -> list[str]:
    """Evaluate in this process; return the printed lines."""
    main(Config(run_dir, **{"num_passes": 2, "threads": 1, "device": "cpu", **changes}))
    return capsys.readouterr().out.splitlines()


def make_split(split: str) -> gymnasium.vector.VectorEnv:
    return gymnasium.make_vec(
        "SignpostGlimpse-v0", 500, split=split, order="sequential", action_format="dict"
    )


@pytest.mark.parametrize(("split", "n"), [("validation", 5000), ("test", 10_000)])
def test_it_reports_each_protocol_and_ends_with_the_mean_locations_error(run_dir, capsys, split, n):
    main(parse([str(run_dir), "--split", split, "--num-passes=2", "--threads=1", "--device=cpu"]))
    lines = capsys.readouterr().out.splitlines()
    assert LAST_LINE.fullmatch(lines[-1])
    model, env = load_run(run_dir)[0], make_split(split)
    score = evaluate(model, env, n)
    assert lines[-1] == f"{split} {score}"
    assert [int(row.split()[0]) for row in lines if re.match(r" +\d", row)] == [1, 2, 3, 4]
    noise = torch.Generator().manual_seed(0)
    sampled = score_by_glimpse(play_split(model, env, n, std=0.25, generator=noise))[-1]
    mean = score_mean_of_passes(play_split(model, env, n, num_passes=2))
    reported = dict(line.split(":", 1) for line in lines if re.search(r":  +error .* images", line))
    assert {protocol: line.strip() for protocol, line in reported.items()} == {
        "mean location": str(score),
        "sampled location, std 0.25": str(sampled),
        "mean of 2 first glimpses": str(mean),
    }


@pytest.mark.parametrize("device", GPUS, indirect=True)
def test_a_gpu_gives_the_cpus_report(run_dir, capsys, tmp_path, monkeypatch, device):
    monkeypatch.setattr(train.evaluate, "NUM_HINDSIGHT", 20)
    flags = {"hindsight": True, "gif": tmp_path / "a.gif"}
    lines = [report(run_dir, capsys, device=where, **flags) for where in ("cpu", device)]
    assert lines[0][0].replace("device cpu", f"device {device}:0") == lines[1][0]
    if device == NAME:
        assert lines[0][1:] == lines[1][1:]


def test_the_last_line_of_an_agent_that_stops_is_its_error_there(tmp_path, capsys):
    config = RAMConfig((3, 4, 4), 4, hidden_size=8, stop_hidden=4)
    folder = make_run(tmp_path / "run", config, {"stop_network.2.bias": 100})
    lines = report(folder, capsys)
    (own,) = (line for line in lines if line.startswith("own stop, 1.00 glimpses on average:"))
    assert lines[-1] == f"validation {own.partition(':')[2].strip()}"
    (first,) = (row.split()[1] for row in lines if re.match(r" +1 ", row))
    assert f"error {first} %" in lines[-1]


def test_a_learned_std_is_the_one_that_is_sampled_with(tmp_path, capsys):
    config = RAMConfig((3, 4, 4), 4, hidden_size=8, initial_std=0.3)
    stds = {"location_network.log_std": np.log([0.25, 0.5])}
    folder = make_run(tmp_path / "run", config, stds)
    assert any("sampled location, std 0.25 and 0.5:" in line for line in report(folder, capsys))


def test_numbers_are_also_written_and_hindsight_is_held_against_a_wrong_label(
    run_dir, capsys, tmp_path, monkeypatch
):
    path = tmp_path / "numbers.json"
    chosen = note_calls(monkeypatch, diagnostics, "play_in_hindsight")
    lines = report(run_dir, capsys, json=path, hindsight=True)
    true, wrong = (call.args[1].labels.tolist() for call in chosen)
    labels = frozen_canvases("SignpostGlimpse-v0", "validation")[1]
    assert (true, wrong) == (labels.tolist(), ((labels + 1) % 4).tolist())
    numbers = json.loads(path.read_text())
    assert numbers["split"] == "validation"
    assert list(numbers["protocols"])[1] == "sampled location, std 0.25"
    last = numbers["by_glimpse"][-1]
    assert last == numbers["protocols"]["mean location"]
    assert lines[-1].startswith(f"validation error {last['error']:.2f} %")
    assert last["wrong"] / last["total"] == pytest.approx(last["error"] / 100)
    for name, rows in (("by_glimpse", 4), ("centre_coverage", 4), ("bits_gained", 3)):
        assert len(numbers[name]) == rows
    pairs = zip(numbers["centre_coverage"], numbers["object_coverage"], strict=True)
    assert all(centre <= whole for centre, whole in pairs)
    assert numbers["stop"] == {**last, "glimpses": 4}  # as this agent never stops
    hindsight = numbers["hindsight"]
    assert hindsight["true_label"]["total"] == hindsight["wrong_label"]["total"] == 1000
    assert sum("ocations chosen for" in line for line in lines) == 2


def test_a_run_with_a_control_is_evaluated_and_shown_with_it(
    run_dir, capsys, tmp_path, monkeypatch
):
    edit_json(run_dir / "config.json", config={"locations": "centre"})
    steps, path = note_calls(monkeypatch, GlimpseVectorEnv, "step"), tmp_path / "numbers.json"
    report(run_dir, capsys, json=path, gif=tmp_path / "a.gif")
    assert json.loads(path.read_text())["location_spread"][1:] == [[0, 0]] * 3
    shown = [call.args[1][:, :2] for call in steps if call.args[0].num_envs == 6]
    assert len(shown) == 4
    assert not np.concatenate(shown).any()


def test_the_animation_has_a_frame_per_glimpse_and_ends_with_the_verdict_on_its_own_episode(
    run_dir, capsys, tmp_path, monkeypatch
):
    render, shown, path = GlimpseVectorEnv.render, [], tmp_path / "episodes.gif"

    def note(env: GlimpseVectorEnv) -> Any:
        shown.append((env._episodes.running.tolist(), env._episodes.prediction.tolist()))
        return render(env)

    monkeypatch.setattr(GlimpseVectorEnv, "render", note)
    assert f"6 validation episodes: {path}" in report(run_dir, capsys, gif=path)
    assert [running for running, _ in shown] == [[True] * 6] * 4 + [[False] * 6]
    assert min(shown[-1][1]) >= 0
    with Image.open(path) as animation:
        durations = [frame.info["duration"] for frame in ImageSequence.Iterator(animation)]
    assert durations == [600, 600, 600, 2000] * 6  # the verdict stays longer


@pytest.mark.parametrize("config", [RAMConfig((1, 4, 4), 4), RAMConfig((3, 4, 4), 5)])
def test_the_environment_must_fit_the_model_and_be_a_glimpse_environment(tmp_path, capsys, config):
    folder = make_run(tmp_path / "other", config)
    with pytest.raises(ValueError, match=r"takes glimpses \(.*the environment has"):
        report(folder, capsys)
    with pytest.raises(ValueError, match="must name a glimpse environment"):
        report(folder, capsys, env_id="CartPole-v1")


@pytest.mark.parametrize(("trained_on_sample", "evaluated_on"), [(False, True), (True, False)])
def test_a_split_that_shares_images_with_the_training_is_refused(
    run_dir, capsys, monkeypatch, trained_on_sample, evaluated_on
):
    flag = property(lambda env: evaluated_on, lambda env, value: None)
    monkeypatch.setattr(GlimpseVectorEnv, "data_is_sample", flag, raising=False)
    edit_json(run_dir / "config.json", sample=evaluated_on)
    assert report(run_dir, capsys)
    edit_json(run_dir / "config.json", sample=trained_on_sample)
    with pytest.raises(ValueError, match=r"was trained on the .* shares images with it"):
        report(run_dir, capsys)
    edit_json(run_dir / "config.json", data="MNIST train: 4000 images")
    assert report(run_dir, capsys)  # other images than the signpost's


def test_an_env_id_that_the_run_lacks_must_be_given_and_a_std_is_optional(run_dir, capsys):
    edit_json(run_dir / "config.json", config={"env_id": None, "final_std": None})
    with pytest.raises(ValueError, match=r"config.json has no env_id: give one"):
        report(run_dir, capsys)
    lines = report(run_dir, capsys, env_id="SignpostGlimpse-v0")
    assert any(line.startswith("sampled location, std 0.5:") for line in lines)  # that at the start
    edit_json(run_dir / "config.json", config={"env_id": "SignpostGlimpse-v0", "std": None})
    assert len(report(run_dir, capsys)) == len(lines) - 1


@pytest.mark.usefixtures("tiny")
def test_hindsight_finds_the_data_where_the_environment_does(tmp_path, capsys, monkeypatch, tiny):
    data_dir = str(write(tmp_path / "data", tiny))
    register_variant(monkeypatch, "Elsewhere-v0", "MNISTGlimpse-v0", data_dir=data_dir)
    folder = make_run(tmp_path / "run", RAMConfig((1, 8, 8), 10, hidden_size=8))
    assert report(folder, capsys, env_id="Elsewhere-v0", hindsight=True)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_passes": 0}, "num_passes"),
        ({"threads": 10**5}, "threads must be from 1 to 4096, got 100000"),
        ({"json": Path("json/numbers.json")}, "json"),
        ({"gif": Path()}, "cannot be written: it is a folder"),
        ({"pretrained": "mnist"}, "give either a run folder or --pretrained NAME"),
    ],
)
def test_a_bad_setting_fails_at_once(changes, message):
    with pytest.raises(ValueError, match=message):
        Config(Path("run"), **changes)
