"""Where the time of train/reinforce.py goes, and how close it is to its matrix products.

    python -m benchmarks.training_speed --threads 1

runs the script itself on a few episodes with clocks around its parts, then the model's bare
matrix products (forward and backward, same shapes and dtype) for the same number of updates, in
the same process. On a GPU, whose kernels run after the call that launches them,

    python -m benchmarks.training_speed --device cuda --lanes 128 512 2048

times whole updates instead, with and without a CUDA graph and bfloat16.
"""

from __future__ import annotations

import json
import tempfile
import time
import timeit
from contextlib import ExitStack, redirect_stdout
from dataclasses import dataclass
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import tyro
from torch import nn

import ram_env
from agents import learner
from agents.graph import WARM_UP
from agents.muon import Muon
from agents.ram import RecurrentAttentionModel
from agents.runs.commands import RunConfig
from agents.runs.progress import TrainingProgress
from agents.training import Training, choose_device
from train import reinforce
from train.keywords import make_vector_env

PARTS = {
    "environment": [(ram_env.GlimpseVectorEnv, "step")],
    "forward": [(RecurrentAttentionModel, "forward")],
    "backward": [(torch.Tensor, "backward")],
    "optimiser": [
        *((Muon, "step"), (Training, "move_mean")),
        *((learner, "clip_gradients"), (learner, "check_finite")),
    ],
    "mark": [(reinforce.RunLog, "progress"), (reinforce, "validate")],
}
"""Functions to time, as owner and name, by part; a mark is where the training starts or ends."""


VARIANTS: dict[str, dict[str, Any]] = {
    "--no-bf16": {"bf16": False},
    "--graph --no-bf16": {"graph": True, "bf16": False},
    "plain": {},
    "--graph": {"graph": True},
}
"""Settings to time whole updates with, by the flags that set them."""


@dataclass(frozen=True)
class Config:
    """Settings of the benchmark."""

    env_id: str = "ClutteredMNISTGlimpse-v0"
    """Registered environment to train on."""
    total_episodes: int = 60_000
    """Number of training episodes."""
    num_envs: int = reinforce.Config.num_envs
    """Number of episodes in the batch of one update."""
    threads: int = RunConfig.threads
    """CPU threads for the networks; by default OMP_NUM_THREADS, else one per core."""
    bf16: bool = reinforce.Config.bf16
    """Compute in bfloat16 if the hardware has it; --lanes measures both."""
    device: str = "cpu"
    """Device to train on. Parts are timed on the CPU alone."""
    lanes: tuple[int, ...] = ()
    """Numbers of lanes to time whole updates with, in place of parts."""
    updates: int = 200
    """Number of updates to time per entry of that table."""

    def __post_init__(self) -> None:
        """Check what would fail late."""
        if self.device != "cpu" and not self.lanes:
            raise ValueError(
                f"device must be cpu to time parts, got {self.device}: a GPU's kernels run after "
                "the call. Time whole updates with --lanes 128 512"
            )
        if min((self.updates, *self.lanes)) < 1:
            got = f"{self.updates} and {self.lanes}"
            raise ValueError(f"updates and lanes must be at least 1, got {got}")


def main(config: Config) -> None:
    """Measure and print a Markdown table."""
    if config.lanes:
        print_updates(config)
    else:
        print_parts(config)


def print_updates(config: Config) -> None:
    """Print images per second, a row per number of lanes and a column per variant."""
    print(f"\nimages/s: {config}\n")
    print(f"| lanes | {' | '.join(VARIANTS)} |\n|---:|{'---:|' * len(VARIANTS)}")
    for lanes in config.lanes:
        rates = [lanes / time_update(config, lanes, flags) for flags in VARIANTS.values()]
        print(f"| {lanes} | {' | '.join(f'{rate:,.0f}' for rate in rates)} |", flush=True)


def time_update(config: Config, lanes: int, flags: dict[str, Any]) -> float:
    """Train; return the seconds per update, after a warm-up, when the device has done them all."""
    device, skipped, marks = choose_device(config.device), 2 * WARM_UP, []

    def mark(_: TrainingProgress, episodes: int, accuracy: torch.Tensor) -> None:
        if episodes in (skipped * lanes, (skipped + config.updates) * lanes):
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            marks.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as folder, ExitStack() as patches:
        patches.enter_context(patch.object(TrainingProgress, "report", mark))
        patches.enter_context(redirect_stdout(StringIO()))
        settings: Any = {"num_validations": 1, "validation_images": 1, "log_every": 10**9}
        settings |= {"env_id": config.env_id, "num_envs": lanes, "threads": config.threads}
        settings |= {"total_episodes": (skipped + config.updates) * lanes, "device": config.device}
        run_dir = Path(folder) / "run"
        reinforce.main(reinforce.Config(**settings, **flags, run_dir=run_dir, final_split="none"))
    begun, ended = marks
    return (ended - begun) / config.updates


def print_parts(config: Config) -> None:
    """Print where the time goes."""
    with tempfile.TemporaryDirectory() as folder:
        names = ("env_id", "total_episodes", "num_envs", "threads", "bf16", "device")
        flags: Any = {name: getattr(config, name) for name in names}
        flags |= {"num_validations": 1, "final_split": "none"}
        settings = reinforce.Config(**flags, run_dir=Path(folder) / "run")
        seconds, spent = time_training(settings)
        dtype = json.loads((Path(folder) / "run/config.json").read_bytes())["dtype"]
    spent["everything else"] = seconds - sum(spent.values())
    products = time_products(config, settings.num_updates, getattr(torch, dtype))
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


def time_products(config: Config, num_updates: int, dtype: torch.dtype) -> float:
    """Return the seconds of the products with weights: outputs, and the gradients needed."""
    env = make_vector_env(config.env_id, 1, action_format="dict")
    sizes = reinforce.Config(env_id=config.env_id).sizes(env.glimpse_shape, env.num_classes)
    model = RecurrentAttentionModel(sizes)
    products: list[tuple[torch.Tensor, torch.Tensor]] = []

    def note(layer: nn.Module, arguments: tuple[torch.Tensor, ...], result: torch.Tensor) -> None:
        for weight in (w.flatten(1).to(dtype) for w in layer.parameters(False) if w.dim() > 1):
            places = result[0, 0].numel()  # a convolution's weights meet every pixel
            inputs = torch.rand(config.num_envs * places, weight.shape[1], dtype=dtype)
            outputs = torch.rand(config.num_envs * places, weight.shape[0], dtype=dtype)
            products.extend([(inputs, weight.T), (outputs.T, inputs)])
            if arguments[0].requires_grad:
                products.append((outputs, weight))

    for layer in model.modules():
        if not [*layer.children()]:
            layer.register_forward_hook(note)
    glimpse = torch.rand(1, *model.config.glimpse_shape)
    model(glimpse, torch.zeros(1, 2), model.initial_state(1))
    with torch.no_grad():
        run_all = timeit.Timer(lambda: [torch.mm(left, right) for left, right in products])
        return run_all.timeit(num_updates * env.task.num_glimpses)


if __name__ == "__main__":
    main(tyro.cli(Config, description=__doc__))
