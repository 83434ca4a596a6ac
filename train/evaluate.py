"""Evaluate a trained agent: `python train/evaluate.py RUN_DIR`, or `--pretrained NAME`.

Papers report three different protocols, so they are kept apart. The report adds what the agent does
with its glimpses and, on request, an animation and locations chosen in hindsight. The last line is
the error with mean locations, every image once; an agent that stops is scored at its own stop.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Literal

import imageio.v3 as imageio
import msgspec
import numpy as np
import torch
import tyro

from agents import diagnostics
from agents.controls import CONTROLS, Control, to_boxes
from agents.episodes import to_tensors
from agents.evaluation import (
    Beliefs,
    Score,
    play_split,
    score_at_stop,
    score_by_glimpse,
    score_mean_of_passes,
)
from agents.ram import RecurrentAttentionModel
from agents.runs.commands import RunConfig, parse_flags, run
from agents.runs.files import read_json, to_json, write_whole
from agents.runs.loading import check_data, load_run, pretrained_dir
from agents.runs.machine import commit, describe_device, describe_machine
from agents.runs.records import portable
from agents.training import check_settings, choose_device
from ram_env import GlimpseVectorEnv, extract_glimpses, find_task, frozen_canvases
from train.keywords import make_vector_env, read_keywords

NUM_ENVS = 500
NUM_HINDSIGHT = 1000  # images; with 225 candidates per glimpse more of them are slow
NUM_SHOWN = 6  # episodes of the animation
FRAME_MS, LAST_FRAME_MS = 600, 2000


@dataclass(frozen=True)
class Config:
    """What to evaluate and how."""

    run_dir: tyro.conf.Positional[Path | None] = None
    """Run folder of train/reinforce.py."""
    pretrained: str | None = None
    """Name of a published run to evaluate in place of a folder, such as cluttered."""
    split: Literal["validation", "test"] = "validation"
    """Split to evaluate on. Choose models on validation and look at test once."""
    env_id: str | None = None
    """Environment to evaluate in. By default the run's own."""
    env_kwargs: str | None = None
    """Keywords of the environment that differ from its id's, as TOML: 'num_clutter = 8'. By default
    the run's own."""
    num_passes: int = 8
    """Number of passes for the protocol "mean of M first glimpses"."""
    device: str = "auto"
    """Device for networks and environment: cpu, cuda, cuda:N, or auto, a GPU if there is one."""
    threads: int = RunConfig.threads
    """CPU threads for the networks. By default OMP_NUM_THREADS, else one per core that the
    process may use."""
    gif: Path | None = None
    """File to write an animation of the split's first episodes to."""
    hindsight: bool = False
    """Also choose locations with the label known, on the first 1000 images. Takes a minute."""
    json: Path | None = None
    """File to write all numbers to."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail late."""
        if (self.run_dir is None) == (self.pretrained is None):
            raise ValueError("give either a run folder or --pretrained NAME")
        check_settings(self, {"from 1 to 4096": ("threads",), "at least 1": ("num_passes",)})
        for path in (self.gif, self.json):
            if path and (path.is_dir() or not path.parent.is_dir()):
                raise ValueError(f"{path} cannot be written: it is a folder, or in no folder")


class RunSettings(msgspec.Struct):
    """The settings of a run that evaluation reads; an old run may lack some."""

    env_id: str | None = None
    env_kwargs: str = ""
    final_std: Annotated[float, msgspec.Meta(gt=0)] | None = None
    std: Annotated[float, msgspec.Meta(gt=0)] | None = None
    locations: Literal[CONTROLS] = "learned"  # pyright: ignore[reportInvalidTypeForm]


class RunFile(msgspec.Struct):
    """Form of ``config.json``, as far as evaluation reads it."""

    config: RunSettings


def main(config: Config) -> None:
    """Evaluate the split under each protocol and report."""
    # Setup
    facts = describe_machine(commit())
    run_dir = config.run_dir or pretrained_dir(config.pretrained or "")
    name = config.pretrained or str(run_dir)
    device = choose_device(config.device)
    model = load_run(run_dir, env_id=config.env_id)[0].to(device)
    settings = read_json(run_dir / "config.json", RunFile).config
    if (env_id := config.env_id or settings.env_id) is None:
        raise ValueError(f"{run_dir / 'config.json'} has no env_id: give one with --env-id")
    env_kwargs = settings.env_kwargs if config.env_kwargs is None else config.env_kwargs
    keywords = read_keywords(env_kwargs)
    find_task(env_id, **keywords)  # refuses other kinds of environment, and unknown keywords
    torch.set_num_threads(config.threads)
    env = make_env(env_id, device, **keywords, split=config.split)
    check_fit(model, env)
    check_data(name, run_dir, data=env.data_source, is_sample=env.data_is_sample)
    print(f"run {name}, {env_id}{env_kwargs and f' with {env_kwargs}'}, device {device}")
    print(f"{env.data_source}\n")

    # Protocols
    play = partial(play_split, model, env, env.num_images, control=Control(settings.locations, env))
    beliefs = play(num_passes=config.num_passes)
    by_glimpse = score_by_glimpse(beliefs)
    at_stop, glimpses = score_at_stop(beliefs)
    whole = "" if beliefs.stop_logits is None else ", all glimpses"
    scores = {f"mean location{whole}": by_glimpse[-1]}
    learned, fixed = model.location_std, settings.final_std or settings.std
    if (std := fixed if learned is None else learned.detach()) is not None:
        stds = " and ".join(f"{axis:g}" for axis in torch.as_tensor(std).reshape(-1).tolist())
        scores[f"sampled location, std {stds}{whole}"] = score_by_glimpse(play(std=std))[-1]
    if config.num_passes > 1:
        scores[f"mean of {config.num_passes} first glimpses"] = score_mean_of_passes(beliefs)
    if whole:
        scores[f"own stop, {glimpses:.2f} glimpses on average"] = at_stop
    hindsight = {}
    if config.hindsight:
        canvases, _ = frozen_canvases(env_id, config.split, **keywords)
        hindsight = score_in_hindsight(model, beliefs, env, canvases)
    diagnosis = {
        "centre_coverage": diagnostics.coverage(beliefs, "centre", env.task).tolist(),
        "object_coverage": diagnostics.coverage(beliefs, "object", env.task).tolist(),
        "location_spread": diagnostics.location_spread(beliefs).tolist(),
        "bits_gained": diagnostics.bits_gained(beliefs).tolist(),
    }

    # Report
    print(table(by_glimpse, diagnosis, config.num_passes), end="\n\n")
    width = 2 + max(map(len, scores))
    for protocol, score in scores.items():
        print(f"{protocol + ':':{width}} {score}")
    if hindsight:
        swayed = f"{100 - hindsight['wrong_label'].error:.2f} %"
        print(f"\nLocations chosen for the true label: {hindsight['true_label']}")
        print(f"Locations chosen for a wrong label: the model predicts that one for {swayed};")
        print("the higher this is, the less the line above says about looking better")
    if config.json:
        report = {
            **facts,
            "device": describe_device(device),
            "run": config.pretrained or run_dir.resolve().name,
            "env_id": env_id,
            "env_kwargs": keywords,
            "split": config.split,
            "data": env.data_source,
            "sample": env.data_is_sample,
            "protocols": {protocol: score.to_json() for protocol, score in scores.items()},
            "stop": {**at_stop.to_json(), "glimpses": glimpses},
            "hindsight": {label: score.to_json() for label, score in hindsight.items()},
            "by_glimpse": [score.to_json() for score in by_glimpse],
            **diagnosis,
        }
        write_whole(config.json, to_json(portable(report, run_dir)))
    if config.gif:
        where = env_id, config.gif, NUM_SHOWN, settings.locations
        animate(model, *where, split=config.split, **keywords)
        print(f"\n{NUM_SHOWN} {config.split} episodes{whole}: {config.gif}")
    print(f"\n{config.split} {at_stop}")


def make_env(
    env_id: str, device: torch.device, num_envs: int = NUM_ENVS, **keywords: Any
) -> GlimpseVectorEnv:
    """Make the environment that passes through a split in order."""
    keywords = {"action_format": "dict", "grid_size": None, **keywords}
    keywords |= {"order": "sequential", "allow_stop": False, "reward": "final"}  # it isn't read
    where = None if device.type == "cpu" else str(device)
    return make_vector_env(env_id, num_envs, device=where, **keywords)


def check_fit(model: RecurrentAttentionModel, env: GlimpseVectorEnv) -> None:
    """Raise ValueError if the model knows other glimpses or classes than the environment has."""
    made_for = (model.config.glimpse_shape, model.config.num_classes)
    offered = (env.glimpse_shape, env.num_classes)
    if made_for != offered:
        raise ValueError(
            f"the run's model takes glimpses {made_for[0]} and knows {made_for[1]} classes, "
            f"the environment has glimpses {offered[0]} and {offered[1]} classes. Images of your "
            "own can name more classes than they show: register_dataset(..., num_classes=K)"
        )


def score_in_hindsight(
    model: RecurrentAttentionModel, beliefs: Beliefs, env: GlimpseVectorEnv, canvases: np.ndarray
) -> dict[str, Score]:
    """Evaluate the first images with locations chosen for the true label, and for a wrong one.

    If the choice reaches the wrong label as easily, it sways the classifier and shows nothing more.
    """
    first = torch.from_numpy(canvases[:NUM_HINDSIGHT]).to(next(model.parameters()).device)
    sizes = {"size": env.task.glimpse_size, "num_scales": env.task.num_scales}

    def sense(images: torch.Tensor, locations: torch.Tensor) -> torch.Tensor:
        return torch.as_tensor(extract_glimpses(images, locations, **sizes))

    wrong = beliefs._replace(labels=(beliefs.labels + 1) % env.num_classes)
    return {
        name: score_by_glimpse(diagnostics.play_in_hindsight(model, start, first, sense))[-1]
        for name, start in {"true_label": beliefs, "wrong_label": wrong}.items()
    }


def table(scores: list[Score], diagnosis: dict[str, Any], num_passes: int) -> str:
    """Return one row per glimpse, below what the columns are."""
    passes = "" if num_passes == 1 else f", other columns over {num_passes} passes"
    lines = [
        f"Mean location: error of one pass{passes}",
        "Fovea: the finest patch. Bits: information about the true label that a glimpse adds\n",
        "glimpse    error         95 %    fovea on    fovea on    spread of       bits",
        "                %     interval    middle %    object %         x, y     gained",
    ]
    *columns, bits_gained = diagnosis.values()
    gained = ["-", *(f"{bits:+.3f}" for bits in bits_gained)]
    rows = zip(scores, *columns, gained, strict=True)
    for t, (score, middle, whole, (x, y), bits) in enumerate(rows, 1):
        low, high = score.interval
        lines.append(
            f"{t:7}{score.error:10.2f}{low:8.2f}-{high:5.2f}{100 * middle:11.1f}{100 * whole:12.1f}"
            f"{x:8.2f}, {y:.2f}{bits:>11}"
        )
    return "\n".join(lines)


@torch.no_grad()
def animate(
    model: RecurrentAttentionModel,
    env_id: str,
    path: Path,
    num_episodes: int,
    locations: str,
    **keywords: Any,
) -> None:
    """Write a split's first episodes one after another, a frame per glimpse, with its belief."""
    device = next(model.parameters()).device
    settings = {"autoreset_mode": "Disabled", "render_mode": "rgb_array"}
    settings |= {"action_format": "box"}  # its class scores are drawn as bars
    env = make_env(env_id, device, num_episodes, **keywords, **settings)
    control, noise = Control(locations, env), torch.Generator(device).manual_seed(0)
    obs, infos = env.reset(seed=0)
    box = to_boxes(infos, device)
    state = model.initial_state(num_episodes)
    frames = []
    for step in range(env.task.num_glimpses):
        frames.append(env.render())
        output, state = model(*to_tensors(obs, device), state)
        uniform = 2 * torch.rand((num_episodes, 2), generator=noise, device=device) - 1
        location = control(step, output.location_mean, box, uniform)
        obs, *_ = env.step(torch.cat([location, output.logits], 1).cpu().numpy())
    frames[-1] = env.render()  # with the last belief and whether it is right
    by_episode = np.array(frames).swapaxes(0, 1)  # (episodes, T, H, W, 3)
    durations = [*[FRAME_MS] * (len(frames) - 1), LAST_FRAME_MS] * num_episodes
    shown = by_episode.reshape(-1, *by_episode.shape[2:])
    gif = imageio.imwrite("<bytes>", shown, extension=".gif", duration=durations, loop=0)
    write_whole(path, gif)


parse = partial(parse_flags, Config)
"""Returns the settings of a command line."""


if __name__ == "__main__":
    run(main, parse)
