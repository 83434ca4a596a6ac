"""The vector-env checker passes sound environments and names the fault of broken ones."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ram_env.testing import check_vector_env


class Toy(gym.Env):
    """Three steps from a random start; the last one's info has an entry more."""

    observation_space = spaces.Dict({"x": spaces.Box(0, 1, (2,))})
    action_space = spaces.Discrete(3, start=1)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.start, self.step_number = self.np_random.random(2, np.float32), 0
        return {"x": self.start.copy()}, {"start": self.start[0]}

    def step(self, action):
        self.step_number += 1
        ended = self.step_number == 3
        info = {"start": self.start[0], **({"won": int(action)} if ended else {})}
        return {"x": self.start / 2}, float(action), ended, False, info


class Broken(SyncVectorEnv):
    """N toys with at most one fault."""

    def __init__(self, num_envs: int, mode: AutoresetMode, fault: str):
        super().__init__([Toy] * num_envs, autoreset_mode=mode, copy=fault != "reuses arrays")
        self.fault = fault
        if fault == "names another mode":
            self.metadata = {"autoreset_mode": "SameStep"}
        if fault == "has a space of another size":
            self.action_space = spaces.MultiDiscrete([3] * (num_envs + 1))

    def reset(self, *, seed: Any = None, options: Any = None):
        if self.fault == "ignores seeds":
            seed = None
        elif self.fault == "seeds all lanes alike" and isinstance(seed, int):
            seed = [seed] * self.num_envs
        mask = (options or {}).get("reset_mask")
        if self.fault == "skips an episode" and mask is not None:
            super().reset(seed=seed, options=dict(options))
        obs, infos = super().reset(seed=seed, options=options)
        if self.fault == "moves other lanes" and mask is not None:
            obs["x"][~mask] /= 2
        return obs, infos

    def step(self, actions: np.ndarray):
        obs, reward, terminated, truncated, infos = super().step(actions)
        out: list[Any] = [obs, reward, terminated, truncated, infos]
        match self.fault:
            case "changes the action":
                actions[0] = 4 - actions[0]
            case "returns four parts":
                del out[3]
            case "pays integers":
                out[1] = reward.astype(int)
            case "pays float32":
                out[1] = reward.astype(np.float32)
            case "never ends":
                out[2] = np.zeros_like(terminated)
            case "shows what is out of bounds":
                obs["x"] += 1
            case "shares its memory":
                infos |= {"copy": infos["start"], "_copy": infos["_start"].copy()}
        return tuple(out)


FAULTS = {
    "names another mode": r"spaces .*metadata\['autoreset_mode'\] must be",
    "has a space of another size": "spaces .*action_space must be",
    "returns four parts": "spaces .*step must return 5 parts, got 4",
    "pays integers": r"spaces .*reward must be floats of shape \(4,\), got array",
    "never ends": "spaces .*no episode ended",
    "shows what is out of bounds": r"spaces .*obs must lie in",
    "changes the action": "spaces .*the action after the step",
    "ignores seeds": r"seeds .*of the same seed: \['obs'\]\['x'\]",
    "seeds all lanes alike": "lane_seeds .*seeded seed \\+ i",
    "skips an episode": "reset_mask .*lane 0 .* must start its next episode",
    "moves other lanes": "reset_mask .*lane 1 .* must stay as it was",
    "reuses arrays": "reuse .*a later call changed",
    "shares its memory": "reuse .*two returned arrays share memory",
    "pays float32": r"single .*\['reward'\] .*float32.* is not",
}


@pytest.mark.parametrize(("fault", "message"), FAULTS.items())
def test_a_fault_is_named(fault, message):
    with pytest.raises(AssertionError, match=f"(?s)^{message}"):
        check_vector_env(lambda n, mode: Broken(n, mode, fault), Toy)


def test_sound_environments_pass():
    check_vector_env(lambda n, mode: Broken(n, mode, ""), Toy)
    check_vector_env(  # without lists of seeds, masks and a single environment
        lambda n, mode: gym.make_vec("CartPole-v1", n, "vector_entry_point"),
        modes=[AutoresetMode.NEXT_STEP],
        skip=["lane_seeds", "reset_mask"],
        num_steps=100,
        reset_every=40,
    )
    check_vector_env(  # a Tuple of integers
        lambda n, mode: SyncVectorEnv([lambda: gym.make("Blackjack-v1")] * n, autoreset_mode=mode),
        lambda: gym.make("Blackjack-v1"),
    )


def test_an_unknown_check_is_refused():
    with pytest.raises(ValueError, match=r"skip must name some of spaces, .* got \['space'\]"):
        check_vector_env(lambda n, mode: Broken(n, mode, ""), skip=["space"])
