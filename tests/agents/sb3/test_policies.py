"""The hybrid action's distribution by hand, its masks, and the algorithms that use it."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from sb3_contrib import RecurrentPPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecMonitor, VecNormalize

from agents.ram import GlimpseNetwork
from agents.sb3 import (
    GlimpseFeatures,
    GlimpseVecEnv,
    HistoryFeatures,
    HybridPolicy,
    VectorGlimpseHistory,
)
from agents.sb3.policies import HybridDistribution, HybridHead, pack_action, unpack_action
from agents.sb3.recurrent import RecurrentHybridPolicy

K = 4
PPO_SIZES = {"n_steps": 8, "batch_size": 16, "n_epochs": 2}
ALGORITHMS = {
    "ppo": (PPO, HybridPolicy, PPO_SIZES),
    "a2c": (A2C, HybridPolicy, {"n_steps": 4}),
    "recurrent_ppo": (RecurrentPPO, RecurrentHybridPolicy, PPO_SIZES),
    "ppo_history": (PPO, HybridPolicy, PPO_SIZES),
}


def make_env(num_envs: int = 6, *, history: bool = False, **keywords: Any) -> VecMonitor:
    env: Any = gym.make_vec("SignpostGlimpse-v0", num_envs=num_envs, **keywords)
    if history:
        env = VectorGlimpseHistory(env)
    return VecMonitor(GlimpseVecEnv(env))


def make_model(name: str, *, policy: dict[str, Any] | None = None, **keywords: Any) -> Any:
    kind, policy_class, own = ALGORITHMS[name]
    policy = {"num_classes": 4, **(policy or {})}
    if history := name.endswith("history"):
        policy["features_extractor_class"] = HistoryFeatures
    settings = {"seed": 0, "device": "cpu", **own, **keywords}
    return kind(policy_class, make_env(history=history), policy_kwargs=policy, **settings)


def distribution(
    mean: Any, logits: Any, std: float, time: list[float], **keywords: Any
) -> HybridDistribution:
    dist = HybridDistribution(len(logits[0]), **keywords)
    dist.set_time(torch.tensor(time)[:, None])
    parameters = torch.cat((torch.tensor(mean), torch.tensor(logits)), 1)
    return dist.proba_distribution(parameters, torch.full((2,), math.log(std)))


# Packing


def test_the_environment_does_what_the_policy_sampled():
    model = make_model("ppo", policy={"initial_std": 1.0})
    env = make_env()
    obs: Any = env.reset()
    ends = 0
    for _ in range(8):
        with torch.no_grad():
            actions = model.policy(obs_as_tensor(obs, model.device))[0]
        location, label = unpack_action(actions)
        assert torch.equal(pack_action(location, label, K), actions)
        obs, _, ended, infos = env.step(actions.clip(-1, 1).numpy())
        if ended.all():
            assert [info["prediction"] for info in infos] == label.tolist()
            ends += 1
        else:
            np.testing.assert_array_equal(obs["location"], location.clip(-1, 1))
    assert ends == 2


# The distribution


def test_log_probabilities_and_entropies_by_hand():
    logits = [[math.log(0.5), math.log(0.25), math.log(0.25)]] * 2
    given = [[0.1, 0.2]] * 2, logits, 0.5, [0.75, 1.0]
    dist = distribution(*given)
    action = pack_action(torch.tensor([[0.4, 0.0]] * 2), torch.tensor([2, 2]), 3)
    # Before: x is 0.3 / 0.5 = 0.6 stds off, y 0.4: -(0.36 + 0.16) / 2 - 2 ln 0.5 - ln 2 pi.
    location, label = -0.26 + 2 * math.log(2) - math.log(2 * math.pi), math.log(0.25)
    assert dist.log_prob(action).tolist() == pytest.approx([location, label])
    # Two Gaussians: 2 * ln(2 pi e 0.5^2) / 2. The label: ln 2 / 2 + 2 * ln 4 / 4.
    entropy, of_label = math.log(2 * math.pi * math.e * 0.25), 1.5 * math.log(2)
    assert dist.entropy().tolist() == pytest.approx([entropy, of_label])
    weighted = distribution(*given, location_weight=0.1).log_prob(action)
    assert weighted.tolist() == pytest.approx([0.1 * location, label])
    every = distribution(*given, label_counts="every")
    assert every.log_prob(action).tolist() == pytest.approx([location + label, label])
    assert every.entropy().tolist() == pytest.approx([entropy + of_label, of_label])
    place, likeliest = unpack_action(dist.mode())
    assert place.tolist() == [pytest.approx([0.1, 0.2])] * 2
    assert likeliest.tolist() == [0, 0]


# The policies


@pytest.mark.parametrize("name", ALGORITHMS)
def test_policies_start_with_the_std_asked_for_and_heads_on_the_features(name):
    policy = make_model(name, policy={"initial_std": 0.3}).policy
    assert isinstance(policy.action_net, HybridHead)
    width = policy.lstm_output_dim if "recurrent" in name else policy.features_dim
    assert policy.action_net.label.in_features == width  # straight on the features
    assert policy.log_std.exp().tolist() == pytest.approx([0.3, 0.3])
    assert policy.log_std.requires_grad
    assert any(policy.log_std is p for g in policy.optimizer.param_groups for p in g["params"])


def test_a_tanh_keeps_the_mean_inside_the_image():
    policy = make_model("ppo").policy
    features = torch.full((1, policy.features_dim), 1e4)
    linear = policy.action_net.location(features)
    assert linear.abs().max() > 1
    assert torch.equal(policy.action_net(features)[:, :2], linear.tanh())


@pytest.mark.parametrize("name", ["ppo", "recurrent_ppo", "ppo_history"])
def test_scoring_steps_teach_the_label_alone_and_earlier_steps_the_location_alone(name):
    model = make_model(name)
    obs: Any = obs_as_tensor(model.env.reset(), model.device)
    state = ()
    if name == "recurrent_ppo":
        state = (model._last_lstm_states, torch.ones(6))
    for time, taught, untaught in ((1.0, "label", "location"), (0.75, "location", "label")):
        at = {**obs, "time": torch.full_like(obs["time"], time)}
        actions = model.policy.forward(at, *state)[0]
        _, log_prob, entropy = model.policy.evaluate_actions(at, actions, *state)
        model.policy.zero_grad()
        (log_prob * torch.arange(1.0, 7)).sum().add(entropy.sum()).backward()
        head = model.policy.action_net
        assert not getattr(head, untaught).weight.grad.any()
        assert getattr(head, taught).weight.grad.any()
        assert model.policy.log_std.grad.any() == (taught == "location")


@pytest.mark.parametrize("name", ALGORITHMS)
def test_the_rollout_buffers_log_probabilities_are_those_of_its_unclipped_actions(name):
    model = make_model(name, policy={"initial_std": 2.0}, learning_rate=0.0)
    model.learn(96)
    buffer = model.rollout_buffer
    assert (np.abs(buffer.actions[..., :2]) > 1).any()
    assert set(np.unique(buffer.actions[..., 2:])) == {-1, 1}
    for batch in buffer.get(24):
        arguments: tuple[Any, ...] = (batch.observations, batch.actions)
        counted = torch.ones_like(batch.old_log_prob, dtype=torch.bool)
        if name == "recurrent_ppo":
            arguments += (batch.lstm_states, batch.episode_starts)
            counted = batch.mask > 0
        with torch.no_grad():
            _, log_prob, _ = model.policy.evaluate_actions(*arguments)
        torch.testing.assert_close(
            log_prob[counted], batch.old_log_prob[counted], atol=1e-5, rtol=0
        )


@pytest.mark.parametrize("name", ALGORITHMS)
def test_each_algorithm_updates_everything_and_stays_finite(name):
    model = make_model(name)
    before = {key: value.clone() for key, value in model.policy.state_dict().items()}
    model.learn(144)
    after = model.policy.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    same = {key for key, value in after.items() if torch.equal(value, before[key])}
    assert not same
    assert {info["l"] for info in model.ep_info_buffer} == {4}


@pytest.mark.parametrize("name", ["ppo", "recurrent_ppo", "ppo_history"])
def test_a_saved_model_predicts_the_same(name, tmp_path: Path):
    model = make_model(name, policy={"initial_std": 0.1, "label_counts": "every"})
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", device="cpu")
    obs = model.env.reset()
    action, _ = model.predict(obs, deterministic=True)
    np.testing.assert_array_equal(loaded.predict(obs, deterministic=True)[0], action)
    assert loaded.policy.action_dist._every
    model.policy.save(tmp_path / "policy")
    policy = type(model.policy).load(tmp_path / "policy", device="cpu")
    np.testing.assert_array_equal(policy.predict(obs, deterministic=True)[0], action)
    assert policy.log_std.exp().tolist() == pytest.approx([0.1, 0.1])
    assert policy.action_dist._every


def test_features_are_the_papers_glimpse_network_and_the_time(toy_dataset):
    env = gym.make("MNISTGlimpse-v0", dataset=toy_dataset)
    space: Any = env.observation_space
    features = GlimpseFeatures(space)
    assert isinstance(features.glimpse_network, GlimpseNetwork)
    # 64 pixels to 128, 2 coordinates to 128, both to 256.
    expected = 64 * 128 + 128 + 2 * 128 + 128 + 2 * (128 * 256 + 256)
    assert sum(p.numel() for p in features.parameters()) == expected
    obs = {name: torch.as_tensor(part[None]) for name, part in space.sample().items()}
    g = features.glimpse_network(obs["glimpse"], obs["location"])
    assert torch.equal(features(obs), torch.cat((g, obs["time"]), 1))
    assert GlimpseFeatures(space, hidden_size=8)(obs).shape == (1, 9)
    with pytest.raises(TypeError, match="unexpected keyword argument 'units'"):
        GlimpseFeatures(space, units=8)


# What is refused, and who imports what

BOX = spaces.Box(-1, 1, (6,), np.float32)
NOT_BOXES = (spaces.Discrete(4), spaces.MultiDiscrete([3, 3, 4]), spaces.Box(-1, 1, (2,)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"observation_space": BOX}, "must be a Dict with time"),
        (
            {"action_space": spaces.Box(-1, 1, (7,))},  # with a stop score
            r"num_classes = 6 numbers .* got .*7.* without allow_stop",
        ),
        *(({"action_space": space}, "action_format='box'") for space in NOT_BOXES),
        ({"action_space": spaces.Box(0, 1, (6,))}, "contains -1 and 1"),
        *(({"initial_std": std}, "initial_std must be positive") for std in (0, math.nan)),
        ({"label_counts": "first"}, "label_counts must be 'last' or"),
    ],
    ids=str,
)
def test_other_spaces_and_settings_are_refused(changes, message):
    given = {"observation_space": make_env().observation_space, "action_space": BOX}
    given |= {"lr_schedule": lambda _: 1e-3, "num_classes": 4}
    with pytest.raises(ValueError, match=message):
        HybridPolicy(**{**given, **changes})


def test_normalised_observations_are_refused_since_the_time_says_what_counts():
    plain, normalised = (
        VecNormalize(GlimpseVecEnv(gym.make_vec("SignpostGlimpse-v0", num_envs=4)), norm_obs=norm)
        for norm in (False, True)
    )
    settings: Any = {"n_steps": 8, "batch_size": 32, "device": "cpu"}
    settings["policy_kwargs"] = {"num_classes": 4}
    PPO(HybridPolicy, plain, **settings).learn(32)
    with pytest.raises(ValueError, match=r"time must be in \[0, 1\].*norm_obs=False"):
        PPO(HybridPolicy, normalised, **settings).learn(32)


def test_only_agents_sb3_needs_stable_baselines():
    agents = Path(__file__).parents[3] / "agents"
    pattern = re.compile(r"^\s*(from|import) (stable_baselines3|sb3_contrib)", re.MULTILINE)
    users = [path for path in agents.rglob("*.py") if pattern.search(path.read_text())]
    assert {path.relative_to(agents).parts[0] for path in users} == {"sb3"}


def test_agents_sb3_imports_without_extras():
    extras = dict.fromkeys(("sb3_contrib", "imageio", "tyro", "rich"))
    program = f"import sys; sys.modules |= {extras}; import agents.sb3"
    subprocess.run([sys.executable, "-c", program], check=True)
