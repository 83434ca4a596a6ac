"""The history is the episode so far: against lists kept by hand, in every autoreset mode."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.vector import AutoresetMode

import ram_env  # noqa: F401
from agents.sb3 import GlimpseFeatures, HistoryFeatures, VectorGlimpseHistory

N, T = 5, 4
KEYWORDS: dict[str, Any] = {"allow_stop": True, "num_glimpses": T, "num_scales": 2}


def make_vector(mode: AutoresetMode = AutoresetMode.SAME_STEP, **keywords: Any) -> Any:
    return gym.make_vec(
        "SignpostGlimpse-v0", num_envs=N, autoreset_mode=mode, **{**KEYWORDS, **keywords}
    )


def actions_for(steps: int) -> np.ndarray:
    """Random actions of N lanes, of which about a third stop."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, N, 7)).astype(np.float32)
    actions[:, :, -1] -= 0.35
    return actions


def check(shown: dict[str, np.ndarray], seen: list[dict[str, np.ndarray]]) -> None:
    """Check a lane's history against the observations of its episode so far."""
    n = len(seen)
    assert shown.keys() == {"glimpses", "locations", "mask", "time"}
    assert {part.dtype for part in shown.values()} == {np.dtype(np.float32)}
    assert shown["mask"].tolist() == [1] * n + [0] * (T - n)
    for name in ("glimpse", "location"):
        unseen = np.zeros((T - n, *seen[0][name].shape))
        np.testing.assert_array_equal(shown[f"{name}s"], [*(obs[name] for obs in seen), *unseen])
    assert shown["time"] == seen[-1]["time"] == np.float32(n / T)


def end(seen: list[dict[str, np.ndarray]], obs: dict[str, np.ndarray]) -> None:
    """Put the observation of an episode's end, which repeats its last glimpse, in its place."""
    assert (obs["glimpse"] == seen[-1]["glimpse"]).all()
    seen[-1] = obs


def row(obs: dict[str, np.ndarray], lane: int) -> dict[str, np.ndarray]:
    return {name: part[lane] for name, part in obs.items()}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_it_equals_lists_kept_by_hand_through_many_episodes(mode):
    env, plain = VectorGlimpseHistory(make_vector(mode)), make_vector(mode)
    shown, obs = env.reset(seed=1)[0], plain.reset(seed=1)[0]
    seen = [[row(obs, lane)] for lane in range(N)]
    over, lengths = np.zeros(N, bool), set()
    for action in actions_for(60):
        if mode is AutoresetMode.DISABLED and over.any():
            options = {"reset_mask": over}
            shown, obs = env.reset(options=options)[0], plain.reset(options=options)[0]
            for lane in np.flatnonzero(over).tolist():
                seen[lane] = [row(obs, lane)]
        for lane in range(N):
            check(row(shown, lane), seen[lane])
        was_over = over
        shown, _, over, _, infos = env.step(action)
        obs, _, _, _, plain_infos = plain.step(action)
        assert env.observation_space.contains(shown)
        assert infos.keys() == plain_infos.keys()
        lengths |= {len(seen[lane]) for lane in np.flatnonzero(over)}
        for lane in range(N):
            if mode is AutoresetMode.NEXT_STEP and was_over[lane]:
                seen[lane] = [row(obs, lane)]
            elif over[lane] and mode is AutoresetMode.SAME_STEP:
                end(seen[lane], plain_infos["final_obs"][lane])
                check(infos["final_obs"][lane], seen[lane])
                seen[lane] = [row(obs, lane)]
            elif over[lane]:
                end(seen[lane], row(obs, lane))
            else:
                seen[lane].append(row(obs, lane))
            check(row(shown, lane), seen[lane])
    assert lengths >= {1, 2, 3, T}


def test_returned_arrays_are_never_used_again():
    env, other = (VectorGlimpseHistory(make_vector()) for _ in range(2))
    shown, _ = env.reset(seed=0)
    expected, _ = other.reset(seed=0)
    for action in actions_for(12):
        for name, part in shown.items():
            assert (part == expected[name]).all()
            part[...] = 7
        shown, *_, infos = env.step(action)
        expected, *_ = other.step(action)
        for final in infos.get("final_obs", []):
            if final is not None:
                final["glimpses"][...] = 7


def test_an_episode_that_is_not_seen_from_the_start_and_other_observations_are_refused():
    env = VectorGlimpseHistory(make_vector())
    with pytest.raises(ValueError, match="observation_space must be a Dict with glimpse"):
        VectorGlimpseHistory(gym.make_vec("CartPole-v1", 2))
    with pytest.raises(ValueError, match=r"a Dict with glimpses.*where VectorGlimpseHistory wraps"):
        HistoryFeatures(make_vector().single_observation_space)
    history: Any = env.single_observation_space
    with pytest.raises(ValueError, match=r"a Dict with glimpse, .*: use HistoryFeatures"):
        GlimpseFeatures(history)
    env.reset(seed=0)
    actions = np.zeros((N, 7), np.float32)
    actions[:, -1] = -1  # go on
    env.env.step(actions)
    with pytest.raises(ValueError, match="seen from its first glimpse on"):
        env.step(actions)


# Features


def histories() -> tuple[dict[str, torch.Tensor], Any]:
    """Histories of 1 to T glimpses, and their space."""
    env = VectorGlimpseHistory(make_vector())
    shown = [env.reset(seed=0)[0]] + [env.step(action)[0] for action in actions_for(6)]
    obs = {name: torch.as_tensor(np.concatenate([s[name] for s in shown])) for name in shown[0]}
    return obs, env.single_observation_space


def test_features_equal_a_loop_over_the_glimpses_seen():
    obs, space = histories()
    features = HistoryFeatures(space, num_features=32, what_size=8, hidden_size=16)
    assert features.features_dim == 32
    with torch.no_grad():
        for i, got in enumerate(features(obs)):
            g = [
                features.glimpse_network(obs["glimpses"][i, t][None], obs["locations"][i, t][None])
                for t in range(int(obs["mask"][i].sum()))
            ]
            joined = torch.cat((torch.cat(g).sum(0), g[-1][0], obs["time"][i]))
            torch.testing.assert_close(got, features.hidden(joined).relu())


def test_values_in_masked_slots_have_no_effect():
    obs, space = histories()
    features = HistoryFeatures(space)
    hidden = obs["mask"] == 0
    assert hidden.any()
    garbled = {name: part.clone() for name, part in obs.items()}
    garbled["glimpses"][hidden] = torch.nan
    garbled["locations"][hidden] = torch.nan
    assert torch.equal(features(obs), features(garbled))
    nothing = {name: torch.zeros_like(part) for name, part in obs.items()}
    assert features(nothing).isfinite().all()
