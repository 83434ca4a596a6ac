"""Keywords of an environment on the command line, which need no registered id."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import gymnasium

from agents.runs.commands import RunConfig
from agents.runs.files import read_inline
from ram_env import GlimpseVectorEnv, find_task
from ram_env.tasks import Task


@dataclass(frozen=True)
class TaskConfig(RunConfig):
    """Settings that all training scripts share, and the task."""

    env_kwargs: str = ""
    """Keywords of the environment that differ from its id's, in training and validation: TOML, such
    as 'object_scale = [0.5, 1.5], num_clutter = 8'."""

    @property
    def keywords(self) -> dict[str, Any]:
        """The keywords, by name."""
        return read_keywords(self.env_kwargs)

    @property
    def task(self) -> Task:
        """The task, with its keywords."""
        return find_task(self.env_id, **self.keywords)


def make_vector_env(env_id: str, num_envs: int, **keywords: Any) -> GlimpseVectorEnv:
    """Make the vector environment, which begins a lane's next episode in the step that ends one."""
    keywords = {"autoreset_mode": "SameStep", **keywords}
    env = gymnasium.make_vec(env_id, num_envs=num_envs, **keywords)
    assert isinstance(env, GlimpseVectorEnv)
    return env


def read_keywords(text: str) -> dict[str, Any]:
    """Return keywords from TOML such as ``object_scale = [0.5, 1.5], num_clutter = 8``.

    Raises:
        ValueError: If it is not TOML, or holds a keyword that isn't the command line's to choose.
    """
    keywords = read_inline(text)
    if fixed := sorted(keywords.keys() & {"split", "order", "action_format", "data_dir"}):
        raise ValueError(
            f"env_kwargs must leave out {fixed}: the script sets split, order and action_format, "
            "and RAM_ENV_DATA names the folder with the data"
        )
    return keywords
