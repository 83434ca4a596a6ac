"""Tell Gymnasium about the tasks."""

import importlib

import gymnasium
from gymnasium.envs.registration import load_env_creator

from ram_env.tasks import TASKS, ImageTask, Task
from ram_env.vector_env import GlimpseVectorEnv

_NO_TASKS = ("render_mode", "device", "autoreset_mode")  # keywords that the task isn't told


def register_envs() -> None:
    """Register every id of :data:`ram_env.tasks.TASKS` with Gymnasium.

    The horizon is part of the task, so no ``max_episode_steps`` is given.
    """
    for env_id, (kind, keywords) in TASKS.items():
        family = "Glimpse" if kind is ImageTask else "Signpost"
        gymnasium.register(
            env_id,
            entry_point=f"ram_env.env:{family}Env",
            vector_entry_point=f"ram_env.vector_env:{family}VectorEnv",
            kwargs=dict(keywords),
        )


def find_task(env_id: str) -> Task:
    """Return the task of a registered glimpse environment, without opening its data.

    Args:
        env_id: As ``gymnasium.make_vec`` takes it; a module before a colon is imported.

    Raises:
        ValueError: If it isn't the id of a glimpse environment.
        gymnasium.error.Error: If nothing is registered by that name.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)
        except ImportError as error:
            raise ValueError(f"env_id {env_id!r}: cannot import {module!r}: {error}") from error
    spec = gymnasium.spec(name)
    maker = spec.vector_entry_point
    if isinstance(maker, str):
        maker = load_env_creator(maker)
    if not isinstance(maker, type) or not issubclass(maker, GlimpseVectorEnv):
        raise ValueError(
            f"env_id must name a glimpse environment such as ClutteredMNISTGlimpse-v0, got "
            f"{env_id!r}"
        )
    return maker.task_class.from_keywords(
        {keyword: value for keyword, value in spec.kwargs.items() if keyword not in _NO_TASKS}
    )
