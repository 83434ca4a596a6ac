"""Policies and adapters for Stable-Baselines3.

A glimpse task needs what ``PPO("MultiInputPolicy", env)``, which stays near guessing, doesn't have:
an action that is a Gaussian location and a categorical label, a memory, and many lanes. Start from
:class:`HybridPolicy`, whose docstring has an example. For RecurrentPPO, :mod:`agents.sb3.recurrent`
needs sb3-contrib (the extra ``sb3``).
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
