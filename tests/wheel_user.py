"""What a user of the wheel does, away from the checkout: `python wheel_user.py`."""

import sys
from importlib.util import find_spec
from pathlib import Path

# An editable install would hide what the wheel lacks.
sys.path = [entry for entry in sys.path if not (Path(entry) / "pyproject.toml").exists()]

import gymnasium
import torch
from stable_baselines3 import PPO

import agents
import ram_env  # registers the ids
from agents.runs.loading import published_names
from agents.sb3 import GlimpseVecEnv, HistoryFeatures, HybridPolicy, VectorGlimpseHistory

assert len(published_names()) > 6
for name in published_names():
    model, _ = agents.load_pretrained(name)
    glimpse = torch.zeros(1, *model.config.glimpse_shape)
    model(glimpse, torch.zeros(1, 2), model.initial_state(1))
envs = gymnasium.make_vec("SignpostGlimpse-v0", num_envs=4)
envs = GlimpseVecEnv(VectorGlimpseHistory(envs))
settings = {"features_extractor_class": HistoryFeatures, "num_classes": 4}
PPO(HybridPolicy, envs, n_steps=8, batch_size=32, policy_kwargs=settings).learn(32)
assert find_spec("train") is None
print(Path(ram_env.__file__).parent, Path(agents.__file__).parent)
