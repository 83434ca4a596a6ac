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
from unittest.mock import patch

import gymnasium
import torch
import tyro
from torch import nn

import ram_env
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
        seconds, spent = time_training(settings, clocks)
    spent["everything else"] = seconds - sum(spent.values())
    products = time_products(config, settings.num_updates)
    print(f"\n{config.total_episodes / seconds:,.0f} images/s: {config}\n")
    print("| part | seconds | share |\n|---|---:|---:|")
    for part, took in spent.items():
        print(f"| {part} | {took:.2f} | {100 * took / seconds:.0f} % |")
    print(f"| bare matrix products alone | {products:.2f} | {100 * products / seconds:.0f} % |")


def time_training(
    settings: reinforce.Config, clocks: dict[str, float]
) -> tuple[float, dict[str, float]]:
    """Train; return the seconds from the first reset to the validation, and the clocks' then."""
    started: list[float] = []
    ended: list[tuple[float, dict[str, float]]] = []
    reset, play = ram_env.GlimpseVectorEnv.reset, reinforce.play_split

    def marked_reset(self: ram_env.GlimpseVectorEnv, **keywords: Any) -> Any:
        started.append(time.perf_counter())
        return reset(self, **keywords)

    def marked_play(**arguments: Any) -> Any:
        ended.append((time.perf_counter(), dict(clocks)))
        return play(**arguments)

    with (
        patch.object(ram_env.GlimpseVectorEnv, "reset", marked_reset),
        patch.object(reinforce, "play_split", marked_play),
    ):
        reinforce.main(settings)
    (stop, spent), *_ = ended
    return stop - started[0], spent


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
