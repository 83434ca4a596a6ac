"""Draw the README's picture: an episode of a trained agent, on a validation image.

python docs/picture.py RUN_DIR --index 3
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import gymnasium
import torch
import tyro
from PIL import Image

from agents.evaluation import to_tensors
from agents.runs.loading import load_run


@dataclass(frozen=True)
class Config:
    """What to draw and where to write it."""

    run_dir: tyro.conf.Positional[Path]
    """A run of train/reinforce.py."""
    env_id: str = "ram_env:ClutteredMNISTGlimpse-v0"
    """The environment of that run."""
    index: int = 0
    """Image of the validation split."""
    output: Path = Path(__file__).parent / "cluttered.png"
    """The picture."""


@torch.no_grad()
def main(config: Config) -> None:
    """Play one episode with mean locations and write its last frame."""
    env = gymnasium.make_vec(
        config.env_id,
        num_envs=1,
        split="validation",
        autoreset_mode="Disabled",
        render_mode="rgb_array",
    )
    obs, _ = env.reset(seed=0, options={"index": config.index})
    model, _ = load_run(config.run_dir)
    state, terminated = model.initial_state(1), [False]
    while not terminated[0]:
        output, state = model(*to_tensors(obs, torch.device("cpu")), state)
        action = torch.cat([output.location_mean, output.logits], 1).numpy()
        obs, _, terminated, _, _ = env.step(action)
    frames = env.render()
    assert frames is not None
    Image.fromarray(frames[0]).save(config.output, optimize=True)
    print(config.output)


if __name__ == "__main__":
    main(tyro.cli(Config))
