"""The history is the episode so far: against lists kept by hand, in every autoreset mode."""

from __future__ import annotations

import warnings
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium.utils.env_checker import check_env
from gymnasium.vector import AutoresetMode

import ram_env  # noqa: F401
from agents.ram import RAMConfig, RectifierCore
from agents.sb3.history import GlimpseHistory, HistoryFeatures, VectorGlimpseHistory

N, T = 5, 4
KEYWORDS: dict[str, Any] = {"allow_stop": True, "num_glimpses": T, "num_scales": 2}


def make_vector(mode: AutoresetMode = AutoresetMode.SAME_STEP, **keywords: Any) -> Any:
    return gym.make_vec(
        "SignpostGlimpse-v0", num_envs=N, autoreset_mode=mode, **{**KEYWORDS, **keywords}
    )


def make_single() -> Any:
    return gym.make("SignpostGlimpse-v0", **KEYWORDS)


def actions_for(steps: int) -> np.ndarray:
    """Random actions of N lanes, of which about a third stop."""
    actions = np.random.default_rng(0).uniform(-1, 1, (steps, N, 7)).astype(np.float32)
    actions[:, :, -1] -= 0.35
    return actions


class SlowHistory:
    """One lane's episode, kept in a list."""

    def __init__(self):
        self.seen: list[dict[str, np.ndarray]] = []

    def begin(self, obs: dict[str, np.ndarray]) -> None:
        self.seen = [obs]

    def look(self, obs: dict[str, np.ndarray]) -> None:
        self.seen.append(obs)

    def end(self, obs: dict[str, np.ndarray]) -> None:
        assert (obs["glimpse"] == self.seen[-1]["glimpse"]).all()  # it repeats the last one
        self.seen[-1] = obs

    def check(self, shown: dict[str, np.ndarray]) -> None:
        assert set(shown) == {"glimpses", "locations", "mask", "time"}
        for t in range(T):
            known = t < len(self.seen)
            assert shown["mask"][t] == known
            glimpse = self.seen[t]["glimpse"] if known else 0
            location = self.seen[t]["location"] if known else 0
            assert (shown["glimpses"][t] == glimpse).all()
            assert (shown["locations"][t] == location).all()
        assert shown["time"] == self.seen[-1]["time"] == np.float32(len(self.seen) / T)


class Remembering(gym.vector.VectorWrapper):
    """Keeps the infos that it returned."""

    infos: dict[str, Any]

    def step(self, actions: Any) -> Any:
        said = super().step(actions)
        self.infos = said[4]
        return said


def row(obs: dict[str, np.ndarray], lane: int) -> dict[str, np.ndarray]:
    return {name: part[lane] for name, part in obs.items()}


@pytest.mark.parametrize("mode", list(AutoresetMode))
def test_it_equals_lists_kept_by_hand_through_many_episodes(mode):
    env, plain = VectorGlimpseHistory(make_vector(mode), T), make_vector(mode)
    slow = [SlowHistory() for _ in range(N)]
    shown, obs = env.reset(seed=1)[0], plain.reset(seed=1)[0]
    for lane in range(N):
        slow[lane].begin(row(obs, lane))
        slow[lane].check(row(shown, lane))
    over = np.zeros(N, bool)
    lengths = set()
    for action in actions_for(60):
        if mode is AutoresetMode.DISABLED and over.any():
            options = {"reset_mask": over}
            shown, obs = env.reset(options=options)[0], plain.reset(options=options)[0]
            for lane in np.flatnonzero(over).tolist():
                slow[lane].begin(row(obs, lane))
            for lane in range(N):
                slow[lane].check(row(shown, lane))
        was_over = over
        shown, _, over, _, infos = env.step(action)
        obs, _, _, _, plain_infos = plain.step(action)
        for lane in range(N):
            lengths.add(len(slow[lane].seen) if over[lane] else 0)
            if mode is AutoresetMode.NEXT_STEP and was_over[lane]:
                slow[lane].begin(row(obs, lane))
            elif over[lane] and mode is AutoresetMode.SAME_STEP:
                slow[lane].end(plain_infos["final_obs"][lane])
                slow[lane].check(infos["final_obs"][lane])
                slow[lane].begin(row(obs, lane))
            elif over[lane]:
                slow[lane].end(row(obs, lane))
            else:
                slow[lane].look(row(obs, lane))
            slow[lane].check(row(shown, lane))
    assert lengths >= {1, 2, 3, T}


def test_final_observations_and_only_they_are_changed_in_the_infos():
    inner, plain = Remembering(make_vector()), make_vector()
    env = VectorGlimpseHistory(inner, T)
    env.reset(seed=0)
    plain.reset(seed=0)
    for action in actions_for(12):
        *_, infos = env.step(action)
        *_, expected = plain.step(action)
        for before, final in zip(
            inner.infos.get("final_obs", []), expected.get("final_obs", []), strict=True
        ):
            assert (before is None) == (final is None)
            assert before is None or before.keys() == final.keys()
        assert infos.keys() == expected.keys()
        assert (infos["label"] == expected["label"]).all()
        if "final_obs" in infos:
            ended = infos["_final_obs"]
            assert [obs is not None for obs in infos["final_obs"]] == ended.tolist()
            assert all(env.single_observation_space.contains(o) for o in infos["final_obs"][ended])


def test_the_single_wrapper_equals_a_lane_of_the_vector_wrapper():
    vector = VectorGlimpseHistory(make_vector(), T)
    singles = [GlimpseHistory(make_single(), T) for _ in range(N)]
    shown, _ = vector.reset(seed=4)
    alone = [single.reset(seed=4 + lane)[0] for lane, single in enumerate(singles)]
    for action in actions_for(20):
        for lane, obs in enumerate(alone):
            assert all((obs[name] == shown[name][lane]).all() for name in shown)
        shown, _, _, _, infos = vector.step(action)
        for lane, single in enumerate(singles):
            alone[lane], _, ended, _, _ = single.step(action[lane])
            if ended:
                final = infos["final_obs"][lane]
                assert all((alone[lane][name] == final[name]).all() for name in final)
                alone[lane], _ = single.reset()


def test_gymnasiums_checker_is_content_and_the_wrapper_is_in_the_spec():
    env = GlimpseHistory(make_single(), T)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*is different from the unwrapped version")
        check_env(env, skip_render_check=True)
    assert env.spec is not None
    assert gym.make(env.spec).observation_space == env.observation_space


def test_spaces_and_types():
    env = VectorGlimpseHistory(make_vector(), T)
    shown, _ = env.reset(seed=0)
    assert env.observation_space.contains(shown)
    shapes = {name: (part.shape, part.dtype) for name, part in shown.items()}
    assert shapes == {
        "glimpses": ((N, T, 6, 4, 4), np.float32),
        "locations": ((N, T, 2), np.float32),
        "mask": ((N, T), np.float32),
        "time": ((N, 1), np.float32),
    }


def test_returned_arrays_are_never_used_again():
    env, other = VectorGlimpseHistory(make_vector(), T), VectorGlimpseHistory(make_vector(), T)
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


@pytest.mark.parametrize("wrong", [1, 2, 3, 5, 8, 12])
def test_another_number_of_glimpses_is_refused(wrong):
    env = VectorGlimpseHistory(make_vector(), wrong)
    with pytest.raises(ValueError, match=f"must be the environment's, got {wrong}"):
        env.reset(seed=0)


def test_nonsense_is_refused():
    with pytest.raises(ValueError, match="num_glimpses must be at least 1, got 0"):
        VectorGlimpseHistory(make_vector(), 0)
    with pytest.raises(ValueError, match="observation_space must be a Dict with glimpse"):
        GlimpseHistory(gym.make("CartPole-v1"), 3)
    with pytest.raises(ValueError, match="observation_space must be a Dict with glimpses"):
        HistoryFeatures(make_single().observation_space)
    space: Any = VectorGlimpseHistory(make_vector(), T).single_observation_space
    with pytest.raises(ValueError, match="join must be one of"):
        HistoryFeatures(space, join="mean")  # pyright: ignore[reportArgumentType]


# Features


def histories(n: int = 6) -> tuple[dict[str, torch.Tensor], Any]:
    """Histories of 1 to T glimpses, and their space."""
    env = VectorGlimpseHistory(make_vector(), T)
    shown = [env.reset(seed=0)[0]] + [env.step(action)[0] for action in actions_for(n)]
    obs = {name: torch.as_tensor(np.concatenate([s[name] for s in shown])) for name in shown[0]}
    return obs, env.single_observation_space


@pytest.mark.parametrize("join", ["sum", "concat"])
def test_features_equal_a_loop_over_the_glimpses_seen(join):
    obs, space = histories()
    features = HistoryFeatures(space, join=join, num_features=32, what_size=8, hidden_size=16)
    assert features.features_dim == 32
    with torch.no_grad():
        for i, got in enumerate(features(obs)):
            seen = int(obs["mask"][i].sum())
            g = [
                features.glimpse_network(obs["glimpses"][i, t][None], obs["locations"][i, t][None])
                for t in range(seen)
            ]
            unseen = [torch.zeros_like(g[0])] * (T - seen)
            parts = [sum(g), g[-1]] if join == "sum" else g + unseen
            joined = torch.cat([part[0] for part in parts] + [obs["time"][i]])
            torch.testing.assert_close(got, features.hidden(joined).relu())


@pytest.mark.parametrize("join", ["sum", "concat"])
def test_what_lies_under_the_mask_never_shows(join):
    obs, space = histories()
    features = HistoryFeatures(space, join=join)
    hidden = obs["mask"] == 0
    assert hidden.any()
    garbled = {name: part.clone() for name, part in obs.items()}
    garbled["glimpses"][hidden] = torch.nan
    garbled["locations"][hidden] = torch.nan
    assert torch.equal(features(obs), features(garbled))


def test_the_sum_does_not_care_for_the_order_of_earlier_glimpses_and_concat_does():
    obs, space = histories()
    full = {name: part[obs["mask"].all(1)] for name, part in obs.items()}
    order = torch.tensor([2, 0, 1, 3])
    mixed = {
        **full,
        "glimpses": full["glimpses"][:, order],
        "locations": full["locations"][:, order],
    }
    for features, same in (
        (HistoryFeatures(space, join="sum"), True),
        (HistoryFeatures(space, join="concat"), False),
    ):
        assert torch.allclose(features(full), features(mixed), atol=1e-6) is same


def test_the_sums_layer_is_as_large_as_the_papers_core():
    _, space = histories()
    core = RectifierCore(RAMConfig((6, 4, 4), 4))
    sizes = [
        sum(p.numel() for p in part.parameters()) for part in (HistoryFeatures(space).hidden, core)
    ]
    assert sizes[0] == sizes[1]


def test_nothing_seen_gives_finite_features():
    obs, space = histories()
    nothing = {name: torch.zeros_like(part) for name, part in obs.items()}
    assert HistoryFeatures(space)(nothing).isfinite().all()
