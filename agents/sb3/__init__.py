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
| ``evaluate_sb3``, ``play_split_sb3`` | test error, and what the agent saw and predicted |
| ``save_sb3``, ``load_sb3`` | zips with a manifest |

:mod:`agents.sb3.recurrent` has an LSTM policy and fast minibatches for RecurrentPPO; it needs
sb3-contrib (the extra ``sb3``). :mod:`agents.sb3.training` lets ``train/sb3.py`` log and resume.
"""

from agents.sb3.checkpoints import load_sb3, save_sb3
from agents.sb3.evaluation import evaluate_sb3, play_split_sb3
from agents.sb3.history import HistoryFeatures, VectorGlimpseHistory
from agents.sb3.policies import GlimpseFeatures, HybridPolicy
from agents.sb3.vec_env import GlimpseVecEnv

__all__ = [
    "GlimpseFeatures",
    "GlimpseVecEnv",
    "HistoryFeatures",
    "HybridPolicy",
    "VectorGlimpseHistory",
    "evaluate_sb3",
    "load_sb3",
    "play_split_sb3",
    "save_sb3",
]
