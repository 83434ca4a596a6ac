"""Where the time of train/reinforce.py goes, and how near it is to its matrix products.

    python -m benchmarks.training_speed --threads 1 --bf16

runs the script itself on a few episodes with clocks around its parts, then the model's bare
matrix products (forward and backward, the same shapes and dtype) for the same number of
updates, in the same process.
"""

from __future__ import annotations

import os
import tempfile
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium
import torch
import tyro
from torch import nn

import ram_env
from agents.evaluation import Score
from agents.ram import RecurrentAttentionModel
from agents.training import Training
from train import reinforce


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    env_id: str = "ClutteredMNISTGlimpse-v0"
    """The environment."""
    total_episodes: int = 60_000
    """Episodes to train on."""
    num_envs: int = 128
    """Batch of an update."""
    threads: int = os.cpu_count() or 1
    """CPU threads."""
    bf16: bool = False
    """Compute the networks in bfloat16."""


def main(config: Config) -> None:
    """Measure and print a Markdown table."""
    clocks: dict[str, float] = defaultdict(float)
    time_calls(ram_env.GlimpseVectorEnv, "step", clocks, "environment")
    time_calls(RecurrentAttentionModel, "forward", clocks, "forward")
    time_calls(torch.Tensor, "backward", clocks, "backward")
    time_calls(reinforce, "clip_gradients", clocks, "optimiser")
    time_calls(torch.optim.Adam, "step", clocks, "optimiser")
    time_calls(Training, "move_mean", clocks, "optimiser")
    time_calls(reinforce, "check_finite", clocks, "optimiser")
    with tempfile.TemporaryDirectory() as folder:
        settings = reinforce.Config(
            env_id=config.env_id,
            total_episodes=config.total_episodes,
            num_envs=config.num_envs,
            threads=config.threads,
            bf16=config.bf16,
            device="cpu",
            run_dir=Path(folder) / "run",
            num_validations=1,
            final_split="none",
        )
        seconds = time_training(settings)
    clocks["everything else"] = seconds - sum(clocks.values())
    products = time_products(config, settings.num_updates)
    print(f"\n{config.total_episodes / seconds:,.0f} images/s: {config}\n")
    print("| part | seconds | share |\n|---|---:|---:|")
    for part, spent in clocks.items():
        print(f"| {part} | {spent:.2f} | {100 * spent / seconds:.0f} % |")
    print(f"| bare matrix products alone | {products:.2f} | {100 * products / seconds:.0f} % |")


def time_training(settings: reinforce.Config) -> float:
    """Train; return the seconds from the first reset to the first evaluation, which is skipped."""
    marks: list[float] = []
    reset = ram_env.GlimpseVectorEnv.reset

    def marked_reset(self: ram_env.GlimpseVectorEnv, **keywords: Any) -> Any:
        marks.append(time.perf_counter())
        return reset(self, **keywords)

    def marked_evaluate(*arguments: Any) -> Score:
        marks.append(time.perf_counter())
        return Score(0, 1)

    setattr(ram_env.GlimpseVectorEnv, "reset", marked_reset)  # noqa: B010
    setattr(reinforce, "evaluate", marked_evaluate)  # noqa: B010
    reinforce.main(settings)
    start, stop = marks
    return stop - start


def time_products(config: Config, num_updates: int) -> float:
    """Return the seconds that the linear layers' products take, forward and backward.

    Every layer takes three products a glimpse: its output, its weights' gradient and its
    input's gradient (two where the input is the image or a location).
    """
    env = gymnasium.make_vec(config.env_id, num_envs=1, action_format="dict")
    assert isinstance(env, ram_env.GlimpseVectorEnv)
    model = reinforce.make_model(reinforce.Config(env_id=config.env_id), env)
    dtype = torch.bfloat16 if config.bf16 else torch.float32
    products: list[tuple[torch.Tensor, torch.Tensor]] = []
    for name, layer in model.named_modules():
        if isinstance(layer, nn.Linear):
            inputs = torch.rand(config.num_envs, layer.in_features, dtype=dtype)
            outputs = torch.rand(config.num_envs, layer.out_features, dtype=dtype)
            weight = torch.rand(layer.out_features, layer.in_features, dtype=dtype)
            products += [(inputs, weight.T), (outputs.T, inputs)]
            if name not in ("glimpse_network.what", "glimpse_network.where"):
                products.append((outputs, weight))
    start = time.perf_counter()
    for _ in range(num_updates * env.task.num_glimpses):
        for left, right in products:
            torch.mm(left, right)
    return time.perf_counter() - start


def time_calls(owner: Any, name: str, clocks: dict[str, float], part: str) -> None:
    """Add the time that ``owner.name`` takes to ``clocks[part]``."""
    function = getattr(owner, name)

    def timed(*args: Any, **kwargs: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            clocks[part] += time.perf_counter() - start

    setattr(owner, name, timed)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
