"""Policies and adapters for Stable-Baselines3.

Import from here. A glimpse task needs what ``PPO("MultiInputPolicy", env)``, which stays near
guessing, doesn't have: an action that is a Gaussian location and a categorical label, a memory, and
many lanes. Start from :class:`HybridPolicy`, whose docstring has an example.

| name | what it is |
|---|---|
| ``GlimpseVecEnv`` | any Gymnasium vector environment as a ``VecEnv`` |
| ``HybridPolicy`` | policy for PPO and A2C: Gaussian location, categorical label |
| ``GlimpseFeatures`` | its default features, without memory |
| ``VectorGlimpseHistory``, ``HistoryFeatures`` | the episode so far as observation and features |
| ``RecurrentHybridPolicy``, ``EpisodeBuffer`` | LSTM policy and fast minibatches for RecurrentPPO |
| ``evaluate_sb3``, ``play_split_sb3`` | test error, and what the agent saw and predicted |
| ``save_sb3``, ``load_sb3``, ``ManifestCheckpointCallback`` | zips with a manifest |

Only the policy for RecurrentPPO and its buffer need sb3-contrib (the extra ``sb3``).
:mod:`agents.sb3.training` is the part of ``train/sb3.py`` that logs and resumes runs.
"""

from importlib import import_module  # noqa: TID251 - its own modules, by fixed names
from typing import TYPE_CHECKING, Any

from agents.sb3.checkpoints import ManifestCheckpointCallback, load_sb3, save_sb3
from agents.sb3.evaluation import evaluate_sb3, play_split_sb3
from agents.sb3.history import HistoryFeatures, VectorGlimpseHistory
from agents.sb3.policies import GlimpseFeatures, HybridPolicy
from agents.sb3.vec_env import GlimpseVecEnv

if TYPE_CHECKING:
    from agents.sb3.recurrent import EpisodeBuffer, RecurrentHybridPolicy

__all__ = [
    "EpisodeBuffer",
    "GlimpseFeatures",
    "GlimpseVecEnv",
    "HistoryFeatures",
    "HybridPolicy",
    "ManifestCheckpointCallback",
    "RecurrentHybridPolicy",
    "VectorGlimpseHistory",
    "evaluate_sb3",
    "load_sb3",
    "play_split_sb3",
    "save_sb3",
]


def __getattr__(name: str) -> Any:
    """Import what needs sb3-contrib when it is first asked for."""
    if name not in {"EpisodeBuffer", "RecurrentHybridPolicy"}:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    try:
        return getattr(import_module(f"{__name__}.recurrent"), name)
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError(
            f"{name} needs the extra 'sb3': python -m pip install -e '.[sb3]' in a clone",
            name=error.name,
        ) from error
