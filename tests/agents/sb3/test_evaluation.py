"""Stable-Baselines3's agents are evaluated as our own are, and as one image at a time would be."""

from __future__ import annotations

from typing import Any
from unittest.mock import Mock

import gymnasium as gym
import numpy as np
import pytest
import torch
from sb3_contrib import RecurrentPPO
from stable_baselines3 import PPO, SAC
from stable_baselines3.common.vec_env import VecMonitor

import ram_env  # noqa: F401
from agents.evaluation import Score
from agents.sb3 import (
    GlimpseVecEnv,
    HistoryFeatures,
    HybridPolicy,
    VectorGlimpseHistory,
    evaluate_sb3,
    play_split_sb3,
)
from agents.sb3.flat import FlatHistoryFeatures, FlatPlayer, FlatVecEnv
from agents.sb3.recurrent import RecurrentHybridPolicy

N, T, NUM_IMAGES = 16, 4, 40
SEQUENTIAL: dict[str, Any] = {"split": "validation", "order": "sequential"}


def make_lanes(*, history: bool = False, num_envs: int = N, **keywords: Any) -> GlimpseVecEnv:
    env: Any = gym.make_vec("SignpostGlimpse-v0", num_envs=num_envs, **keywords)
    return GlimpseVecEnv(VectorGlimpseHistory(env) if history else env)


def make_agent(name: str) -> Any:
    """Make an agent, without training, whose labels depend on what it sees."""
    if name == "multidiscrete":
        lanes = make_lanes(action_format=name)
        return PPO("MultiInputPolicy", lanes, seed=0, device="cpu")
    lanes = make_lanes(history=name in ("history", "flat"))
    extractor: dict[str, Any] = {"features_extractor_class": HistoryFeatures}
    settings: dict[str, Any] = {"seed": 0, "device": "cpu"}
    label: Any
    if name == "flat":
        space: Any = lanes.observation_space
        extractor["features_extractor_class"] = FlatHistoryFeatures
        extractor["features_extractor_kwargs"] = {"history": space}
        model = SAC(
            "MlpPolicy", FlatVecEnv(lanes), buffer_size=N, policy_kwargs=extractor, **settings
        )
        player, label = FlatPlayer(model, space), model.actor.mu
    else:
        kind: Any = RecurrentPPO if name == "lstm" else PPO
        policy = RecurrentHybridPolicy if name == "lstm" else HybridPolicy
        own = extractor if name == "history" else {}
        settings["policy_kwargs"] = {**own, "num_classes": 4}
        player = kind(policy, VecMonitor(lanes), n_steps=T, batch_size=N * T, **settings)
        label = player.policy.action_net.label
    latents = []
    hook = label.register_forward_hook(lambda module, inputs, output: latents.append(inputs[0]))
    evaluate_sb3(player, make_lanes(history=name in ("history", "flat"), **SEQUENTIAL), NUM_IMAGES)
    hook.remove()
    with torch.no_grad():
        label.bias.copy_(-label.weight @ torch.stack(latents[T - 1 :: T]).mean((0, 1)))
    return player


@pytest.mark.parametrize("name", ["memoryless", "history", "lstm", "multidiscrete", "flat"])
def test_the_score_is_that_of_one_image_after_another(name):
    model, history = make_agent(name), name in ("history", "flat")
    keywords = {"history": history, **SEQUENTIAL}
    if name == "multidiscrete":
        keywords["action_format"] = name
    env = make_lanes(num_envs=1, **keywords)
    env.seed(0)
    obs: Any = env.reset()
    places, labels, ends = [], [], []
    for _ in range(NUM_IMAGES):
        state, ended, infos = None, np.zeros(1, bool), []
        while not ended:
            newest = obs["locations"][:, int(obs["mask"].sum()) - 1] if history else obs["location"]
            places.append(newest[0].copy())
            action, state = model.predict(obs, state, deterministic=True)
            labels.append(action[0, 2] if name == "multidiscrete" else action[0, 2:].argmax())
            obs, _, ended, infos = env.step(action)
        ends.append(infos[0])
    assert len({info["prediction"] for info in ends}) > 1
    lanes, wrong = make_lanes(**keywords), sum(not info["correct"] for info in ends)
    assert evaluate_sb3(model, lanes, NUM_IMAGES) == Score(wrong, NUM_IMAGES)
    played = play_split_sb3(model, lanes, NUM_IMAGES)
    np.testing.assert_allclose(played.locations[0].reshape(-1, 2), np.array(places), atol=1e-6)
    certain = np.eye(4)[labels].reshape(1, NUM_IMAGES, T, 4)  # one label per step
    np.testing.assert_array_equal(played.log_p.exp(), certain)
    assert played.labels.tolist() == [info["label"] for info in ends]
    boxes = [np.concatenate([info["position"], info["object_size"]]) for info in ends]
    np.testing.assert_array_equal(played.boxes, boxes)


def test_it_says_where_episodes_begin_and_can_be_repeated_and_ended_early(monkeypatch):
    model, lanes = make_agent("memoryless"), make_lanes(**SEQUENTIAL)
    batches: list[None] = []
    starts, predict = [], model.predict
    monkeypatch.setattr(model, "predict", lambda *a: starts.append(a[2].tolist()) or predict(*a))
    scores = [
        evaluate_sb3(model, lanes, NUM_IMAGES, on_batch=lambda: batches.append(None))
        for _ in range(2)
    ]
    assert scores[0] == scores[1]
    assert len(batches) == 2 * 3  # 40 images in batches of 16
    assert starts == ([[True] * N] + [[False] * N] * (T - 1)) * len(batches)
    with pytest.raises(KeyboardInterrupt):
        evaluate_sb3(model, lanes, NUM_IMAGES, on_batch=Mock(side_effect=KeyboardInterrupt))


def test_a_sampled_policy_is_another_policy_and_its_noise_is_its_own():
    torch.manual_seed(0)
    model, lanes = make_agent("memoryless"), make_lanes(**SEQUENTIAL, num_envs=100)
    with torch.no_grad():
        model.policy.action_net.label.weight.zero_()
        model.policy.action_net.label.bias.copy_(torch.tensor([0.1, 0.0, 0.0, 0.0]))
    before = torch.get_rng_state()
    errors = [evaluate_sb3(model, lanes, 400, deterministic=known).error for known in (True, False)]
    assert errors[0] != errors[1]
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(1)
    assert evaluate_sb3(model, lanes, 400, deterministic=False).error == errors[1]


def test_another_order_or_number_of_images_or_a_stop_is_refused():
    model = make_agent("memoryless")
    with pytest.raises(ValueError, match="order='sequential'"):
        evaluate_sb3(model, make_lanes(), NUM_IMAGES)
    with pytest.raises(ValueError, match="num_images must be at least 1, got 0"):
        evaluate_sb3(model, make_lanes(**SEQUENTIAL), 0)
    with pytest.raises(ValueError, match="env must have allow_stop=False"):
        evaluate_sb3(model, make_lanes(**SEQUENTIAL, allow_stop=True), NUM_IMAGES)


def test_a_diverged_policy_is_reported():
    model = make_agent("memoryless")
    for weight in model.policy.parameters():
        weight.data.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="outputs are not finite"):
        evaluate_sb3(model, make_lanes(**SEQUENTIAL), NUM_IMAGES)
