"""The environments of a run: to train on, to validate on, and shifts of what is trained on."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from agents.training import spread_seed
from ram_env import GlimpseVectorEnv
from ram_env.lockstep import LockstepEnv
from train.curriculum import CurriculumEnv
from train.keywords import make_vector_env
from train.settings import Config


def make_env(config: Config, device: torch.device, num_envs: int, **more: Any) -> GlimpseVectorEnv:
    """Make an environment: on the model's GPU, or in NumPy on the CPU, but for ``graph``."""
    where = None if device.type == "cpu" and not config.graph else str(device)
    more |= {"action_format": "dict", "grid_size": None, "device": where, "allow_stop": False}
    return make_vector_env(config.env_id, num_envs, **{**config.keywords, **more})


def make_training_env(config: Config, device: torch.device, lanes: range) -> CurriculumEnv:
    """Make some lanes of the environment that the agent trains on, stage by stage if there are."""

    def make(**stage: Any) -> GlimpseVectorEnv | LockstepEnv:
        env = make_env(config, device, len(lanes), split="train", **stage)
        return LockstepEnv(env) if config.graph else env

    def seeds(stage: int) -> list[int]:
        shape = config.num_envs, config.num_rollouts
        return spread_seed(config.seed, *shape, stage=stage)[0][lanes.start : lanes.stop]

    return CurriculumEnv(make, config.stages, seeds)


def to_shift(uniform: Tensor, num_rollouts: int, largest: int, side: int) -> Tensor:
    """Turn noise in (0, 1) into whole pixels up to ``largest``, in units of location. (N, 2).

    The rollouts of an image, which are neighbours, have the shift of the first.

    In an image that is shifted by d, location l shows what location l - d shows in the original.
    So the image can stay as it is: the agent's locations are shifted on their way to the
    environment and back.
    """
    first = uniform.unflatten(0, (-1, num_rollouts))[:, :1]  # (N / M, 1, 2)
    pixels = (first.double() * (2 * largest + 1)).floor() - largest
    return (pixels * (2 / side)).float().expand(-1, num_rollouts, -1).flatten(0, 1)
