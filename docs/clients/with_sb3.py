"""PPO with Stable-Baselines3: `python docs/clients/with_sb3.py [ENV_STEPS]`.

Stable-Baselines3 would model the action as one Gaussian over 2 + K numbers. `HybridPolicy` makes
the location Gaussian and the class categorical, `VectorGlimpseHistory` puts the episode so far into
the observation, and `GlimpseVecEnv` passes the native vector environment on.
"""

import sys

import gymnasium as gym
from stable_baselines3 import PPO

import ram_env  # noqa: F401 - registers the ids
from agents.sb3 import (
    GlimpseVecEnv,
    HistoryFeatures,
    HybridPolicy,
    VectorGlimpseHistory,
    evaluate_sb3,
)

ENV_ID, NUM_ENVS = "MNISTGlimpse-v0", 64


def make_env(num_envs, **keywords):
    """Make lanes whose observation is the episode so far."""
    env = gym.make_vec(ENV_ID, num_envs=num_envs, **keywords)
    return GlimpseVecEnv(VectorGlimpseHistory(env))


env_steps = int(sys.argv[1]) if len(sys.argv) > 1 else 500_000
model = PPO(
    HybridPolicy,
    make_env(NUM_ENVS),
    n_steps=28,  # four episodes
    batch_size=448,
    n_epochs=4,
    gamma=1.0,
    learning_rate=1e-3,
    ent_coef=0.05,
    policy_kwargs={"features_extractor_class": HistoryFeatures, "num_classes": 10},
    seed=0,
    device="cpu",
)
model.learn(env_steps)
validation = make_env(500, split="validation", order="sequential")
print(f"validation {evaluate_sb3(model, validation, 500)}")
