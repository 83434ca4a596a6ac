"""Tell Gymnasium about the tasks."""

from __future__ import annotations

import gymnasium

from ram_env.tasks import TASKS, ImageTask


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
