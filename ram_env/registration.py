"""Register the tasks with Gymnasium, and find the task of a registered id."""

import importlib
from typing import Any

import gymnasium
from gymnasium.envs.registration import load_env_creator  # noqa: TID251 - registered in code

from ram_env.tasks import TASKS, ImageTask, Task
from ram_env.vector_env import GlimpseVectorEnv

_OTHER_KEYWORDS = ("render_mode", "device", "autoreset_mode")


def register_envs() -> None:
    """Register every id of :data:`ram_env.tasks.TASKS` with Gymnasium."""
    for env_id, (task_class, keywords) in TASKS.items():
        family = "Glimpse" if task_class is ImageTask else "Signpost"
        gymnasium.register(
            env_id,
            entry_point=f"ram_env.env:{family}Env",
            vector_entry_point=f"ram_env.vector_env:{family}VectorEnv",
            kwargs=dict(keywords),
        )


def find_task(env_id: str, **keywords: Any) -> Task:
    """Return the task of a registered glimpse environment, without opening its data.

    Args:
        env_id: An id as in ``gymnasium.make_vec``; a module before a colon is imported.
        **keywords: Keywords of the task that differ from the id's.

    Raises:
        ValueError: If the id doesn't name a glimpse environment, or a keyword is not allowed.
        gymnasium.error.Error: If nothing is registered by that name.
    """
    module, colon, name = env_id.rpartition(":")
    if colon:
        try:
            importlib.import_module(module)  # noqa: TID251 - named by the caller, as in gym.make
        except (ImportError, ValueError, TypeError) as error:  # no name, or a relative one
            raise ValueError(f"env_id {env_id!r}: cannot import {module!r}: {error}") from error
    maker = gymnasium.spec(name).vector_entry_point
    if isinstance(maker, str):
        maker = load_env_creator(maker)
    if not isinstance(maker, type) or not issubclass(maker, GlimpseVectorEnv):
        example = "a glimpse environment such as ClutteredMNISTGlimpse-v0"
        hint = "; register it with vector_entry_point, too" if maker is None else ""
        raise ValueError(f"env_id must name {example}, got {env_id!r}{hint}")
    kwargs = gymnasium.spec(name).kwargs
    registered = {key: kwargs[key] for key in {*kwargs} - {*_OTHER_KEYWORDS}}
    return maker.task_class.from_keywords(**{**registered, **keywords})
