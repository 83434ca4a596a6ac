"""What all training scripts do alike: what they print, log, store and evaluate."""

import copy
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from agents.runs.progress import Stopwatch, TrainingProgress
from agents.training import Training, cosine_rate, spread_seed
from ram_env import GlimpseVectorEnv
from tests.script_helpers import LAST_LINE, note_calls, read_metrics, register_variant
from tests.train.comparison.job_programs import harvest_run
from train import baselines, reinforce, sb3, validation
from train.comparison.results import BEHAVIOUR

UPDATES = 8
SHARED = {"env_id": "Toy-v0", "num_envs": 16, "num_validations": 2, "log_every": 1}
SHARED |= {"threads": 1, "device": "cpu", "learning_rate": 0.01}
AGENT = {"hidden_size": 16, "validation_images": 30, "validate_sampled": True}
EPISODES = {"total_episodes": 16 * UPDATES}
SCRIPTS: dict[str, tuple[Any, dict[str, Any], int]] = {  # with the env steps of an update
    "reinforce": (reinforce, {**AGENT, **EPISODES, "conv_features": 2, "bf16": False}, 48),
    "sb3": (
        sb3,
        {**AGENT, "total_steps": 48 * UPDATES, "rollout_episodes": 1, "batch_episodes": 8},
        48,
    ),
    "baselines": (baselines, {**EPISODES, "model": "fc64"}, 16),
}
AGENTS = ("reinforce", "sb3")


@pytest.fixture(autouse=True)
def _toy_env(monkeypatch: pytest.MonkeyPatch, toy_dataset: str) -> None:
    keywords = {"dataset": toy_dataset, "num_glimpses": 3, "glimpse_size": 4}
    register_variant(monkeypatch, "Toy-v0", "MNISTGlimpse-v0", **keywords)


def train(name: str, run_dir: Path, capsys, **changes) -> list[str]:
    """Train in this process; return the printed lines."""
    script, settings, _ = SCRIPTS[name]
    script.main(script.Config(run_dir=run_dir, **{**SHARED, **settings, **changes}))
    return capsys.readouterr().out.splitlines()


@pytest.mark.parametrize("name", SCRIPTS)
def test_it_says_what_it_does_and_logs_and_stores_what_a_comparison_reads(
    tmp_path, capsys, monkeypatch, name
):
    script, _, update_steps = SCRIPTS[name]
    shown: list[tuple[int, float]] = []
    monkeypatch.setattr(TrainingProgress, "report", lambda _, *words: shown.append(words))
    resets = note_calls(monkeypatch, GlimpseVectorEnv, "reset")
    judged = note_calls(monkeypatch, Stopwatch, "paused")
    threads = note_calls(monkeypatch, torch, "set_num_threads")
    run = tmp_path / "run"
    lines = train(name, run, capsys, seed=7)
    assert (threads[0].args, len(judged)) == ((1,), 2)
    assert resets[0].keywords["seed"] == spread_seed(7, 16)[0]
    assert re.search(r"device cpu, float32, 1 threads, seed 7", lines[0])
    assert "toy train: 40 images" in lines[1]
    assert sum("validation error" in line and " left" in line for line in lines) == 2
    assert LAST_LINE.fullmatch(lines[-1])
    assert [line for line in lines if "test error" in line] == lines[-1:]
    assert (run / "log.txt").read_text().splitlines() == lines
    script.main(script.parse(["--resume", str(run)]))
    assert capsys.readouterr().out.splitlines() == lines[-1:]
    metrics = read_metrics(run)
    steps = [update_steps * (update + 1) for update in range(UPDATES)]
    rates = [cosine_rate(0.01, update / UPDATES) for update in range(UPDATES)]
    assert metrics["train/learning_rate"] == pytest.approx(dict(zip(steps, rates, strict=True)))
    episodes, accuracies = zip(*shown, strict=True)
    assert episodes == tuple(range(16, 16 * UPDATES + 1, 16))
    paid = metrics["rollout/ep_rew_mean"].values()  # 1 for the right label, else 0
    assert [float(share) for share in accuracies] == pytest.approx([*paid])
    assert not [tag for tag in metrics if tag.startswith("time/")]
    timing = (run / "timing.csv").read_text().splitlines()[1:]
    assert [int(line.split(",")[0]) for line in timing] == steps
    seed = harvest_run(run)
    assert (seed.curve.env_steps.tolist(), seed.result.total) == ([steps[3], steps[7]], 40)
    if name in AGENTS:
        behaviour = BEHAVIOUR.keys() - ({"train/explained_variance"} if name != "sb3" else set())
        assert seed.result.last.keys() == behaviour


KEPT = [*((name, "best") for name in SCRIPTS), *((name, "last") for name in AGENTS)]


@pytest.mark.parametrize(("name", "keep"), KEPT)
def test_the_best_weights_on_validation_are_stored_and_evaluated_or_the_last(
    tmp_path, capsys, monkeypatch, name, keep
):
    judge, means = Training.is_best, []

    def first_is_best(training: Training[Any], error: float, **how: Any) -> bool:
        means.append(copy.deepcopy(training.mean_model.state_dict()))
        return judge(training, len(means), **how)

    monkeypatch.setattr(Training, "is_best", first_is_best)
    settings = {"keep": keep, "validation_images": None} if name in AGENTS else {}
    lines = train(name, tmp_path / "run", capsys, final_split="validation", **settings)
    saved = load_file(tmp_path / "run" / "best.safetensors")
    same = [all(torch.equal(saved[k], part) for k, part in mean.items()) for mean in means]
    assert same == [keep == "best", keep == "last"]
    said = [re.findall(r"validation error ([\d.]+)", line) for line in lines]
    first, last, final = (float(found[0]) for found in said if found)
    assert final == (first if keep == "best" else last)
    assert not any("test error" in line or "toy test" in line for line in lines)
    assert any("chosen as the best of 2" in line for line in lines) == (keep == "best")


PLAYED = [("reinforce", validation, "play_split"), ("sb3", sb3, "play_split_sb3")]


@pytest.mark.parametrize(("name", "owner", "play"), PLAYED)
def test_validation_of_the_sampled_policy_is_a_second_column_and_changes_nothing(
    tmp_path, capsys, monkeypatch, name, owner, play
):
    played = note_calls(monkeypatch, owner, play)
    for sampled in (False, True):
        train(name, tmp_path / str(sampled), capsys, validate_sampled=sampled, final_split="none")
    plain, sampled = ((tmp_path / n / "best.safetensors").read_bytes() for n in ("False", "True"))
    assert plain == sampled
    metrics = read_metrics(tmp_path / "True")
    assert metrics["eval/error_sampled"].keys() == metrics["eval/error"].keys()
    assert "eval/error_sampled" not in read_metrics(tmp_path / "False")
    places = [call.result.locations for call in played]  # two of means, twice means and samples
    assert torch.equal(places[1], places[4])
    assert not torch.equal(places[4], places[5])
