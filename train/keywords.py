"""What scripts share about the task: settings, keywords and the environment."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Literal

import gymnasium

from agents.runs.commands import RunConfig, expert
from agents.runs.files import read_inline
from agents.training import check_settings
from ram_env import GlimpseVectorEnv, find_task
from ram_env.tasks import Task
from train.curriculum import Stage, read_curriculum


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

    def open_final_split(self) -> None:
        """Open the final split's data, so that data that are missing fail before the training."""
        if self.final_split != "none":
            replace(self.task, split=self.final_split).open_scenes()


@dataclass(frozen=True)
class AgentConfig(TaskConfig):
    """Settings that the scripts which train agents share."""

    curriculum: str | None = None
    """Stages to train on first: a name in train/curricula, or a path to a TOML file."""
    validation_images: int | None = expert(None)
    """Number of validation images, the first of the split. By default all of them."""
    validate_sampled: bool = expert(False)
    """Also validate the policy that samples."""
    keep: Literal["best", "last"] = expert("best")
    """Which weights to store and to evaluate at the end: the best on validation, or the last."""

    def __post_init__(self) -> None:
        """Check the shared values; scripts extend this with their own."""
        super().__post_init__()
        check_settings(self, {"at least 1": ("validation_images",)})

    @property
    def stages(self) -> tuple[Stage, ...]:
        """The stages before the task; ValueError if the curriculum is not one for it."""
        return () if self.curriculum is None else read_curriculum(self.curriculum, self.task)


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
    fixed = keywords.keys() & {"split", "order", "action_format", "grid_size", "data_dir"}
    if fixed:
        raise ValueError(
            f"env_kwargs must leave out {sorted(fixed)}: the script sets split, order and action "
            "format, and RAM_ENV_DATA names the folder with the data"
        )
    return keywords
