"""Glimpse-based image classification as a family of Gymnasium environments.

Importing this package registers the ids of :data:`TASKS`; then
``gymnasium.make("ClutteredMNISTGlimpse-v0")`` works, as does
``gymnasium.make("ram_env:ClutteredMNISTGlimpse-v0")`` without the import.
"""

from ram_env.canvas import draw_canvases
from ram_env.data import DatasetError, load_digits, register_dataset
from ram_env.env import GlimpseEnv, SignpostEnv
from ram_env.frozen import frozen_canvases
from ram_env.registration import find_task, register_envs
from ram_env.retina import extract_glimpses
from ram_env.scanpath import Scanpath, episode_from_json
from ram_env.tasks import TASKS
from ram_env.vector_env import GlimpseVectorEnv, SignpostVectorEnv

__all__ = [
    "TASKS",
    "DatasetError",
    "GlimpseEnv",
    "GlimpseVectorEnv",
    "Scanpath",
    "SignpostEnv",
    "SignpostVectorEnv",
    "draw_canvases",
    "episode_from_json",
    "extract_glimpses",
    "find_task",
    "frozen_canvases",
    "load_digits",
    "register_dataset",
]

__version__ = "0.1.0"

register_envs()
