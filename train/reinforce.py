"""Train the recurrent attention model with REINFORCE: `python train/reinforce.py`.

The paragraphs below are the algorithm, in order: setup, episode, loss, update, log.

Dimension key:
    N: lanes of the environment, one episode each per update
    T: glimpses an episode
    K: classes
"""

from __future__ import annotations

import copy
import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import gymnasium
import numpy as np
import torch
import tyro
from rich.console import Console
from torch.nn.functional import log_softmax, nll_loss

import ram_env
from agents.evaluation import Score, evaluate, to_env, to_tensors
from agents.locations import sample_location
from agents.losses import dense_policy_loss, dense_returns
from agents.ram import RAMConfig, RecurrentAttentionModel
from agents.run_log import RunLog, default_run_dir


@dataclass(frozen=True)
class Config:
    """Settings of a run; every one is a flag."""

    env_id: str = "ClutteredMNISTGlimpse-v0"
    """A registered environment."""
    total_episodes: int = 2_200_000
    """Training episodes; the schedules below end with the last one."""
    num_envs: int = 128
    """Episodes played side by side, the batch of one update."""
    seed: int = 0
    """Of everything: weights, exploration, images and places."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the networks and the environment run; auto takes a GPU if there is one."""
    threads: int = os.cpu_count() or 1
    """CPU threads for the networks."""
    run_dir: Path | None = None
    """Where the run is written; by default a new folder below runs/."""
    final_split: Literal["test", "validation", "none"] = "test"
    """The split for the last line; test is looked at once, by the best model on validation."""
    learning_rate: float = 1e-3
    """At the start; falls to 0 along half a cosine."""
    std: float = 0.2
    """Of the location policy at the start, in units of half an image."""
    final_std: float = 0.03
    """At the end; the std falls geometrically."""
    location: Literal["offset", "absolute"] = "offset"
    """What the location network gives: an offset from the present location, or a place."""
    discount: float = 0.5
    """How much of a location's credit goes to the glimpses after the next one."""
    policy_coef: float = 0.2
    """Weight of the location policy's loss beside the classifier's."""
    baseline_coef: float = 0.5
    """Weight of the baseline's loss."""
    max_grad_norm: float = 5.0
    """Gradients longer than this are shortened to it."""
    ema: float = 0.999
    """Decay of the running mean of the weights that is validated and kept."""
    num_validations: int = 12
    """How often the model is validated on the way."""

    def __post_init__(self) -> None:
        """Check every value."""
        for name in ("total_episodes", "num_envs", "threads", "num_validations"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if not 0 < self.final_std <= self.std:
            raise ValueError(
                f"0 < final_std <= std must hold, got final_std={self.final_std}, std={self.std}"
            )
        if not 0 <= self.ema < 1:
            raise ValueError(f"ema must be in 0..1, got {self.ema}")

    @property
    def num_updates(self) -> int:
        """Updates of the weights."""
        return math.ceil(self.total_episodes / self.num_envs)
