"""Where the time of train/reinforce.py goes, and how close it is to its matrix products.

    python -m benchmarks.training_speed --threads 1 --bf16

runs the script itself on a few episodes with clocks around its parts, then the model's bare
matrix products (forward and backward, same shapes and dtype) for the same number of updates, in
the same process.
"""

from __future__ import annotations

import tempfile
import time
import timeit
from contextlib import ExitStack
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
from agents.runs.commands import RunConfig
from agents.training import Training
from train import reinforce

PARTS = {
    "environment": [(ram_env.GlimpseVectorEnv, "step")],
    "forward": [(RecurrentAttentionModel, "forward")],
    "backward": [(torch.Tensor, "backward")],
    "optimiser": [
        *((torch.optim.Adam, "step"), (Training, "move_mean")),
        *((reinforce, "clip_gradients"), (reinforce, "check_finite")),
    ],
    "mark": [(reinforce.RunLog, "progress"), (reinforce, "validation_metrics")],
}
"""Functions to time, as owner and name, by part; a mark is where the training starts or ends."""


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    env_id: str = "ClutteredMNISTGlimpse-v0"
    """Registered environment to train on."""
    total_episodes: int = 60_000
    """Number of training episodes."""
    num_envs: int = 128
    """Number of episodes in the batch of one update."""
    threads: int = RunConfig.threads
    """CPU threads for the networks; by default OMP_NUM_THREADS, else one per core."""
    bf16: bool = False
    """Compute the networks in bfloat16."""


def main(config: Config) -> None:
    """Measure and print a Markdown table."""
    with tempfile.TemporaryDirectory() as folder:
        flags: Any = {"device": "cpu", "num_validations": 1, "final_split": "none"}
        settings = reinforce.Config(**vars(config), run_dir=Path(folder) / "run", **flags)
        seconds, spent = time_training(settings)
    spent["everything else"] = seconds - sum(spent.values())
    products = time_products(config, settings.num_updates)
    print(f"\n{config.total_episodes / seconds:,.0f} images/s: {config}\n")
    print("| part | seconds | share |\n|---|---:|---:|")
    for part, took in {**spent, "bare matrix products alone": products}.items():
        print(f"| {part} | {took:.2f} | {100 * took / seconds:.0f} % |")


def time_training(settings: reinforce.Config) -> tuple[float, dict[str, float]]:
    """Train; return the seconds from the first update to the validation, in all and by part."""
    clocks: dict[str, float] = dict.fromkeys(PARTS, 0.0)
    marks: list[tuple[float, dict[str, float]]] = []

    def timed(part: str, function: Any) -> Any:
        def call(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            if part == "mark":
                marks.append((start, clocks.copy()))
            try:
                return function(*args, **kwargs)
            finally:
                clocks[part] += time.perf_counter() - start

        return call

    with ExitStack() as patches:
        for part, functions in PARTS.items():
            for owner, name in functions:
                call = timed(part, getattr(owner, name))
                patches.enter_context(patch.object(owner, name, call))
        reinforce.main(settings)
    (start, _), (end, spent), *_ = marks
    return end - start, {part: spent[part] for part in PARTS if part != "mark"}


def time_products(config: Config, num_updates: int) -> float:
    """Return the seconds of the linear layers' products: outputs, and the gradients needed."""
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
    run_all = timeit.Timer(lambda: [torch.mm(left, right) for left, right in products])
    return run_all.timeit(num_updates * env.task.num_glimpses)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
