"""Judge a trained agent: `python train/evaluate.py RUN_DIR`, or `--pretrained NAME`.

Three protocols, kept apart because papers report different ones, what the agent does with its
glimpses, and on request an animation and what hindsight could do. The last line is the error
of the first protocol: mean locations, every image once.

Dimension key:
    n: images in the split
    M: passes over them
    T: glimpses an episode
"""

from __future__ import annotations

import agents.runs.extras  # noqa: F401 - reports a missing package in one line

# isort: split
import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import imageio.v3 as imageio
import numpy as np
import torch
import tyro

import ram_env
from agents import diagnostics
from agents.controls import Placer, make_placer
from agents.evaluation import (
    Beliefs,
    Score,
    play_split,
    score_by_glimpse,
    score_mean_of_passes,
    to_tensors,
)
from agents.ram import RecurrentAttentionModel
from agents.runs.commands import run
from agents.runs.files import read_json
from agents.runs.loading import load_run, pretrained_dir
from agents.runs.machine import commit, describe_machine
from agents.training import choose_device

NUM_ENVS = 500
NUM_HINDSIGHT = 1000  # images; 225 candidates a glimpse make more of them slow
FRAME_MS, LAST_FRAME_MS = 600, 2000  # of the animation


@dataclass(frozen=True)
class Config:
    """What to judge and how."""

    run_dir: tyro.conf.Positional[Path | None] = None
    """Run folder: config.json, model.json and best.safetensors."""
    pretrained: str | None = None
    """A published run in place of a folder, such as cluttered."""
    split: Literal["validation", "test"] = "validation"
    """The images; choose models on validation, look at test once."""
    env_id: str | None = None
    """The environment; by default the one of the run."""
    num_passes: int = 8
    """M of the protocol "mean of M first glimpses"."""
    std: float | None = None
    """Of sampled locations; by default the run's final_std, or the mean of what it learned."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks and the environment run; auto takes a GPU if there is one."""
    threads: int = os.cpu_count() or 1
    """CPU threads for the networks."""
    gif: Path | None = None
    """Animate some validation episodes and write them to this file."""
    gif_episodes: int = 6
    """How many, from the first image on."""
    hindsight: bool = False
    """Also choose locations knowing the label, on the first 1000 images; takes a minute."""
    json: Path | None = None
    """Also write all numbers to this file."""

    def __post_init__(self) -> None:
        """Check what would fail late."""
        if (self.run_dir is None) == (self.pretrained is None):
            raise ValueError("say either a run folder or --pretrained NAME")
        for name in ("num_passes", "threads", "gif_episodes"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.std is not None and not 0 < self.std < float("inf"):
            raise ValueError(f"std must be positive and finite, got {self.std}")
        if self.gif and self.gif.suffix != ".gif":
            raise ValueError(f"gif must end in .gif, got {self.gif}")
        for path in (self.gif, self.json):
            if path and not path.parent.is_dir():
                raise ValueError(f"{path} cannot be written: there is no folder {path.parent}")


def main(config: Config) -> None:
    """Play the split under each protocol and report."""
    # Setup
    run_dir = config.run_dir or pretrained_dir(config.pretrained or "")
    model, settings = load_run(run_dir, env_id=config.env_id)
    env_id = find(settings, "env_id", run_dir)
    learned_std = None if model.location_std is None else model.location_std.mean().item()
    std = config.std or learned_std or find(settings, "final_std", run_dir)
    device = choose_device(config.device)
    torch.set_num_threads(config.threads)
    model.to(device)
    env = make_env(env_id, device, split=config.split)
    check_fit(model, env, env_id)
    check_data(run_dir, env)
    n = env.num_images
    print(f"run {config.pretrained or run_dir}, {env_id}, device {device}")
    print(f"{config.split}, {n} images: {env.data_source}\n")

    # Protocols
    places = [control(settings.get("locations", "learned"), env, device) for _ in range(2)]
    beliefs = play_split(model, env, n, num_passes=config.num_passes, placer=places[0])
    generator = torch.Generator(device).manual_seed(0)
    sampled = play_split(model, env, n, std=std, generator=generator, placer=places[1])
    by_glimpse = score_by_glimpse(beliefs)
    protocols = {
        "mean location": by_glimpse[-1],
        f"sampled location, std {std:g}": score_by_glimpse(sampled)[-1],
        f"mean of {config.num_passes} first glimpses": score_mean_of_passes(beliefs),
    }
    hindsight = score_in_hindsight(model, beliefs, env, env_id) if config.hindsight else {}

    # Report
    diagnosis = diagnose(beliefs, env)
    print(
        f"Mean location: the error of one pass; the other columns over {config.num_passes} passes"
    )
    print(table(by_glimpse, diagnosis), end="\n\n")
    for name, score in protocols.items():
        print(f"{name + ':':36}{score}")
    if hindsight:
        true, wrong = hindsight["true_label"], hindsight["wrong_label"]
        print(f"\nLocations chosen for the true label: {true}")
        print(f"Chosen for a wrong one, the model names that one in {100 - wrong.error:.2f} %: the")
        print("higher this is, the less the line above says about looking better")
    if config.gif:
        locations = settings.get("locations", "learned")
        animate(model, env_id, config.gif, config.gif_episodes, locations)
        print(f"\n{config.gif_episodes} validation episodes: {config.gif}")
    if config.json:
        report = {
            **describe_machine(commit()),
            "run": config.pretrained or str(run_dir),
            "env_id": env_id,
            "split": config.split,
            "data": env.data_source,
            "sample": env.data_is_sample,
            "protocols": {name: describe(score) for name, score in protocols.items()},
            "hindsight": {name: describe(score) for name, score in hindsight.items()},
            "by_glimpse": [describe(score) for score in by_glimpse],
            **{name: values.tolist() for name, values in diagnosis.items()},
        }
        config.json.write_text(json.dumps(report, indent=2) + "\n")
    print(f"\n{config.split} {by_glimpse[-1]}")


# Setup


def find(settings: dict[str, Any], name: str, run_dir: Path) -> Any:
    """Return one of the trainer's settings; ValueError if it had none of that name."""
    if name not in settings:
        raise ValueError(f"{run_dir / 'config.json'} has no {name}: say it with a flag")
    return settings[name]


def make_env(
    env_id: str, device: torch.device, num_envs: int = NUM_ENVS, **keywords: Any
) -> ram_env.GlimpseVectorEnv:
    """Make the environment that passes through a split in order."""
    ram_env.find_task(env_id)  # refuses what is no glimpse environment
    keywords = {"order": "sequential", "action_format": "dict", **keywords}
    where = None if device.type == "cpu" else str(device)
    env = gymnasium.make_vec(env_id, num_envs=num_envs, device=where, **keywords)
    assert isinstance(env, ram_env.GlimpseVectorEnv)
    return env


def control(locations: str, env: ram_env.GlimpseVectorEnv, device: torch.device) -> Placer | None:
    """Return the control that the run was trained with, if any, as the trainer judges it."""
    return make_placer(
        locations,
        env.task.num_glimpses,
        object_size=env.object_size,
        canvas_side=env.task.side,
        generator=torch.Generator(device).manual_seed(0),
    )


def check_fit(model: RecurrentAttentionModel, env: ram_env.GlimpseVectorEnv, env_id: str) -> None:
    """Raise ValueError if the model was made for other glimpses or classes."""
    made_for = (model.config.glimpse_shape, model.config.num_classes)
    offered = (env.glimpse_shape, env.num_classes)
    if made_for != offered:
        raise ValueError(
            f"the run's model takes glimpses {made_for[0]} and names {made_for[1]} classes, "
            f"{env_id} has glimpses {offered[0]} and {offered[1]} classes"
        )


def check_data(run_dir: Path, env: ram_env.GlimpseVectorEnv) -> None:
    """Raise ValueError if the split's images could be among those of the run's training."""
    facts = read_json(run_dir / "config.json")
    trained_on_sample = facts.get("sample", env.data_is_sample)
    if trained_on_sample != env.data_is_sample:
        what = ("the full data", "the sample of digits")
        raise ValueError(
            f"{run_dir} was trained on {what[trained_on_sample]}, and here is "
            f"{what[env.data_is_sample]}, which shares images with it: nothing could be judged"
        )


# Protocols


def score_in_hindsight(
    model: RecurrentAttentionModel, beliefs: Beliefs, env: ram_env.GlimpseVectorEnv, env_id: str
) -> dict[str, Score]:
    """Judge the first images with locations chosen for the true label, and for a wrong one.

    The wrong one is the control: where it can be had as easily, the chooser talks the
    classifier into an answer and does not find what there is to see.
    """
    task, device = env.task, next(model.parameters()).device
    canvases, _ = ram_env.frozen_canvases(env_id, task.split)
    first = torch.from_numpy(canvases[:NUM_HINDSIGHT]).to(device)

    def sense(images: torch.Tensor, locations: torch.Tensor) -> torch.Tensor:
        sizes = {"size": task.glimpse_size, "num_scales": task.num_scales}
        return torch.as_tensor(ram_env.extract_glimpses(images, locations, **sizes))

    wrong = beliefs._replace(labels=(beliefs.labels + 1) % env.num_classes)
    return {
        name: score_by_glimpse(diagnostics.play_in_hindsight(model, start, first, sense))[-1]
        for name, start in {"true_label": beliefs, "wrong_label": wrong}.items()
    }


def diagnose(beliefs: Beliefs, env: ram_env.GlimpseVectorEnv) -> dict[str, torch.Tensor]:
    """Return what the agent does with its glimpses, by name."""
    sizes = diagnostics.sizes_of(env)
    return {
        "centre_coverage": diagnostics.centre_coverage(beliefs, **sizes),
        "object_coverage": diagnostics.object_coverage(beliefs, **sizes),
        "location_spread": diagnostics.location_spread(beliefs),
        "bits_gained": diagnostics.bits_gained(beliefs),
    }


# Report


def table(scores: list[Score], diagnosis: dict[str, torch.Tensor]) -> str:
    """Return one row a glimpse."""
    lines = [
        "glimpse    error         95 %    fovea on    fovea on    spread of       bits",
        "                %     interval    middle %    object %         x, y     gained",
    ]
    gained = ["-", *(f"{bits:+.3f}" for bits in diagnosis["bits_gained"].tolist())]
    for t, score in enumerate(scores):
        low, high = score.interval
        middle, whole = (
            f"{100 * float(diagnosis[f'{part}_coverage'][t]):.1f}" for part in ("centre", "object")
        )
        x, y = diagnosis["location_spread"][t].tolist()
        lines.append(
            f"{t + 1:7}{score.error:10.2f}{low:8.2f}-{high:5.2f}{middle:>11}{whole:>12}"
            f"{x:8.2f}, {y:.2f}{gained[t]:>11}"
        )
    return "\n".join(lines)


def describe(score: Score) -> dict[str, Any]:
    """Return a score ready for JSON."""
    return {"error": score.error, "interval": list(score.interval), **asdict(score)}


@torch.no_grad()
def animate(
    model: RecurrentAttentionModel, env_id: str, path: Path, num_episodes: int, locations: str
) -> None:
    """Write validation episodes one after another, one frame a glimpse.

    The frame of glimpse t shows the belief that led there; the last one shows the final
    belief and whether it is right.
    """
    device = next(model.parameters()).device
    env = make_env(
        env_id,
        device,
        num_episodes,
        split="validation",
        action_format="box",  # its class scores are drawn as bars
        autoreset_mode="Disabled",
        render_mode="rgb_array",
    )
    placer = control(locations, env, device)
    obs, infos = env.reset(seed=0)
    position = torch.as_tensor(infos["position"], device=device)
    state, over = model.initial_state(num_episodes), False
    frames = []
    while not over:
        frames.append(env.render())
        output, state = model(*to_tensors(obs, device), state)
        location = output.location_mean
        if placer is not None:
            location = placer(len(frames) - 1, location, position)
        action = torch.cat([location, output.logits], 1).cpu().numpy()
        obs, _, terminated, _, _ = env.step(action)
        over = bool(terminated[0])
    frames[-1] = env.render()  # with the last belief and the verdict
    by_episode = np.array(frames).swapaxes(0, 1)  # (episodes, T, H, W, 3)
    durations = [*[FRAME_MS] * (len(frames) - 1), LAST_FRAME_MS] * num_episodes
    imageio.imwrite(path, by_episode.reshape(-1, *by_episode.shape[2:]), duration=durations, loop=0)


def parse(arguments: Sequence[str]) -> Config:
    """Return the settings of a command line."""
    return tyro.cli(Config, args=arguments, description=(__doc__ or "").splitlines()[0])


if __name__ == "__main__":
    run(main, parse)
