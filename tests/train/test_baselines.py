"""The full-image baselines' script: whose canvases it shows, what it prints, and that it learns."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from agents.training import spread_seed
from ram_env import GlimpseVectorEnv, frozen_canvases, register_dataset
from tests.pretend_gpu import GPUS, NAME
from tests.script_helpers import register_variant
from train.baselines import Config, draw, evaluate, main, make_env

CPU = torch.device("cpu")


@pytest.fixture(scope="module", autouse=True)
def cluttered_id() -> Iterator[str]:
    """The id of a small cluttered task; the row that is bright in an image is its label."""
    rng = np.random.default_rng(0)

    def bars(n: int) -> tuple[np.ndarray, np.ndarray]:
        labels = np.arange(n) % 4
        images = rng.integers(0, 60, (n, 12, 12), np.uint8)
        images[np.arange(n), 3 * labels + 1] = 255
        return images, labels

    splits = {"train": bars(200), "validation": bars(130), "test": bars(90)}
    register_dataset("bars", lambda: splits)
    keywords = {"dataset": "bars", "canvas_size": 16, "translate": True}
    keywords |= {"num_clutter": 2, "clutter_size": 3}
    with pytest.MonkeyPatch.context() as patch:
        register_variant(patch, "BarsGlimpse-v0", "MNISTGlimpse-v0", **keywords)
        yield "BarsGlimpse-v0"


def train(run_dir: Path, capsys, **changes) -> list[str]:
    """Train in this process; return the printed lines."""
    settings = {"env_id": "BarsGlimpse-v0", "model": "fc64", "total_episodes": 1_000}
    settings |= {"num_envs": 32, "num_validations": 2, "threads": 1, "device": "cpu"}
    main(Config(run_dir=run_dir, **{**settings, **changes}))
    return capsys.readouterr().out.splitlines()


def as_pixels(canvases: torch.Tensor) -> np.ndarray:
    """Return canvases in [0, 1], (N, 1, H, H), as the uint8 (N, H, H) that they came from."""
    pixels = (canvases[:, 0] * 255).round()
    torch.testing.assert_close(canvases[:, 0], pixels / 255, rtol=1e-6, atol=0)
    return pixels.to(torch.uint8).numpy()


@pytest.mark.parametrize("split", ["validation", "test"])
def test_it_is_evaluated_on_the_frozen_canvases(cluttered_id, split):
    env = make_env(Config(env_id=cluttered_id), CPU, 50, split=split, order="sequential")
    batches = [draw(env, CPU, seed=None if k else 0) for k in range(-(-env.num_images // 50))]
    pixels = np.concatenate([as_pixels(canvases) for canvases, _ in batches])
    labels = np.concatenate([labels.numpy() for _, labels in batches])
    frozen, frozen_labels = frozen_canvases(cluttered_id, split)
    assert np.array_equal(pixels[: env.num_images], frozen)
    assert np.array_equal(labels[: env.num_images], frozen_labels)


def test_it_trains_on_the_canvases_of_the_agents_run_with_the_same_seed(cluttered_id):
    lane_seeds, _ = spread_seed(3, 5)
    env = make_env(Config(env_id=cluttered_id), CPU, 5, split="train")
    agents = gymnasium.make_vec(cluttered_id, num_envs=5, num_glimpses=3, action_format="dict")
    assert isinstance(agents, GlimpseVectorEnv)
    _, infos = agents.reset(seed=lane_seeds)
    action = {"location": np.full((5, 2), 0.3, np.float32), "label": np.zeros(5, np.int64)}
    for episode in range(3):
        canvases, labels = draw(env, CPU, seed=None if episode else lane_seeds)
        shown = np.stack([agents._episodes.canvas(lane) for lane in range(5)])
        assert np.array_equal(as_pixels(canvases), shown)
        assert np.array_equal(labels.numpy(), infos["label"])
        for _ in range(3):
            infos = agents.step(action)[4]


def test_every_canvas_is_classified_once(cluttered_id):
    env = make_env(Config(env_id=cluttered_id), CPU, 50, split="test", order="sequential")

    class First(torch.nn.Module):
        def forward(self, canvases):
            return torch.eye(4)[torch.zeros(len(canvases), dtype=torch.int64)]

    score = evaluate(First(), env, CPU)
    assert (score.wrong, score.total) == (67, 90)  # labels 0, 1, 2, 3, 0, ...: 23 are 0


def test_it_says_how_large_the_network_is_and_learns(tmp_path, capsys):
    flags = {"total_episodes": 20_000, "final_split": "validation"}
    lines = train(tmp_path / "run", capsys, **flags)
    # 256*64+64 + 64*64+64 + 64*4+4 parameters, 256*64 + 64*64 + 64*4 products
    assert "20868 parameters" in lines[0]
    assert lines[2] == "fc64: a decision takes 20736 multiply-adds and sees 256 pixels"
    assert float(lines[-1].split()[2]) < 10  # chance: 75


@pytest.mark.parametrize("device", GPUS, indirect=True)
def test_it_trains_on_a_gpu_with_the_cpus_metrics(tmp_path, capsys, device):
    for where in ("cpu", device):
        train(tmp_path / where, capsys, model="conv", total_episodes=128, device=where)
    if device == NAME:
        cpu, gpu = ((tmp_path / where / "metrics.csv").read_text() for where in ("cpu", NAME))
        assert cpu == gpu


@pytest.mark.usefixtures("bfloat16")
@pytest.mark.parametrize(("model", "canvases"), [("fc64", 320), ("conv", 320), ("resnet18", 64)])
def test_the_same_command_gives_the_same_bytes_and_another_seed_or_bfloat16_others(
    tmp_path, capsys, model, canvases
):
    settings = {"total_episodes": canvases, "num_validations": 1, "log_every": 1}
    settings |= {"model": model, "final_split": "none"}
    runs: dict[str, Any] = {"a": {}, "b": {}}
    if model != "resnet18":  # whose runs take 10 s, or a minute on a processor without bfloat16
        runs |= {"c": {"seed": 1}, "d": {"bf16": True}}
    for name, changes in runs.items():
        train(tmp_path / name, capsys, **settings, **changes)
    for file in ("best.safetensors", "metrics.csv"):
        a, b, *others = ((tmp_path / name / file).read_bytes() for name in runs)
        assert a == b
        assert len({a, *others}) == len(runs) - 1
    weights = load_file(tmp_path / [*runs][-1] / "best.safetensors").values()
    assert torch.bfloat16 not in {tensor.dtype for tensor in weights}


def test_a_task_without_labelled_images_or_a_canvas_that_no_glimpse_covers_is_refused(monkeypatch):
    with pytest.raises(ValueError, match="env_id must name a task of labelled images"):
        Config(env_id="SignpostGlimpse-v0")
    register_variant(monkeypatch, "Odd-v0", "ClutteredMNISTGlimpse-v0", canvas_size=61)
    with pytest.raises(ValueError, match=r"on canvases with an even size.*canvas_size=61"):
        Config(env_id="Odd-v0")


@pytest.mark.parametrize(
    ("name", "value"), [("total_episodes", 0), ("learning_rate", 0.0), ("ema", 1.0)]
)
def test_a_bad_setting_fails_at_once(name, value):
    with pytest.raises(ValueError, match=name):
        Config(**{name: value})
