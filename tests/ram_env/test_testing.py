"""The vector-env checker passes sound environments and names the fault of broken ones."""

import doctest
import re
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv

from ram_env import testing
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
        self.fault, self.last_seed = fault, None
        if fault == "names another mode":
            self.metadata = {"autoreset_mode": "SameStep"}
        if fault == "has a label too many":
            self.num_classes = 3
        if fault == "has a space of another size":
            self.action_space = spaces.MultiDiscrete([3] * (num_envs + 1))

    def reset(self, *, seed: Any = None, options: Any = None):
        if self.fault != "takes the mask away":  # as Gymnasium's does
            options = options and dict(options)
        if self.fault == "ignores seeds":
            seed = None
        elif self.fault == "repeats itself":
            seed = self.last_seed = self.last_seed if seed is None else seed
        elif self.fault == "seeds all lanes alike" and isinstance(seed, int):
            seed = [seed] * self.num_envs
        elif self.fault == "resets all lanes":
            options = None
        elif self.fault == "knows few seeds" and seed is not None:
            listed = range(seed, seed + self.num_envs) if isinstance(seed, int) else seed
            seed = [None if each is None else each % self.num_envs for each in listed]
        elif self.fault == "parts equal seeds" and isinstance(seed, list) and len({*seed}) == 1:
            seed = seed[0]
        elif self.fault == "takes no list" and isinstance(seed, list):
            raise TypeError("seed must be an int")
        mask = (options or {}).get("reset_mask")
        if self.fault == "skips an episode" and mask is not None:
            super().reset(seed=seed, options=dict(options))
        obs, infos = super().reset(seed=seed, options=options)
        if self.fault == "moves other lanes" and mask is not None:
            obs["x"][~mask] /= 2
        return obs, infos

    def step(self, actions: np.ndarray):
        mode, rested = self.autoreset_mode, np.flatnonzero(self._autoreset_envs)
        obs, reward, terminated, truncated, infos = super().step(actions)
        ended = np.flatnonzero(terminated)
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
            case "pays while it rests":
                reward += 1
            case "flags with integers":
                out[2] = terminated.astype(int)
            case "never ends":
                out[2] = np.zeros_like(terminated)
            case "shows float64":
                obs["x"] = obs["x"].astype(float)
            case "shows what is out of bounds":
                obs["x"] += 1
            case "has a label too many":
                everywhere = np.ones(self.num_envs, bool)
                infos |= {"label": 3 * everywhere, "_label": everywhere}
            case "has no mask":
                infos.pop("_start")
            case "tells of other lanes":
                infos |= {"won": np.ones(self.num_envs), "_won": np.zeros(self.num_envs, bool)}
            case "forgets the last observation":
                out[4] = {k: v for k, v in infos.items() if "final_obs" not in k}
            case "forgets the last info":
                out[4] = {k: v for k, v in infos.items() if "final_info" not in k}
            case "shares its memory":
                infos |= {"copy": infos["start"], "_copy": infos["_start"].copy()}
            case "ends with the next start" if mode is AutoresetMode.SAME_STEP:
                for lane in ended:
                    infos["final_obs"][lane]["x"][:] = obs["x"][lane]
            case "stays at its end" if mode is AutoresetMode.SAME_STEP:
                for lane in ended:
                    obs["x"][lane] = infos["final_obs"][lane]["x"]
            case "acts while it rests" if mode is AutoresetMode.NEXT_STEP:
                for lane in rested:
                    obs["x"][lane] = self.envs[lane].step(1)[0]["x"]
            case "starts by itself" if mode is AutoresetMode.DISABLED:
                for lane in ended:
                    obs["x"][lane] = self.envs[lane].reset()[0]["x"]
        return tuple(out)


FAULTS = {
    "names another mode": r"spaces .*metadata\['autoreset_mode'\] must be",
    "has a space of another size": "spaces .*action_space must be",
    "returns four parts": "outputs .*step must return 5 parts, got 4",
    "pays integers": r"outputs .*reward must be floats of shape \(4,\), got int64",
    "flags with integers": "outputs .*terminated must be bools",
    "never ends": "outputs .*no episode ended",
    "shows float64": r"outputs .*dtype of obs\['x'\] must be float32 but is float64",
    "shows what is out of bounds": r"outputs .*obs\['x'\] must lie in",
    "has a label too many": r"outputs .*infos\['label'\] must be in 0\.\.2, got",
    "has no mask": "outputs .*a mask _NAME for each entry NAME",
    "tells of other lanes": r"outputs .*infos\['won'\] must be None or 0",
    "changes the action": "outputs .*the action after the step",
    "pays while it rests": r"autoreset \(NEXT_STEP\): .* must have reward 0",
    "forgets the last observation": r"autoreset \(SAME_STEP\): infos\['final_obs'\]",
    "forgets the last info": r"autoreset \(SAME_STEP\): infos\['final_info'\]",
    "ignores seeds": r"seeds .*of the same seed: \['obs'\]\['x'\]",
    "seeds all lanes alike": "lane_seeds .*seeded seed \\+ i",
    "repeats itself": "lane_seeds .*None in a list of seeds must not seed its lane",
    "parts equal seeds": "lane_seeds .*lanes of equal seeds must start alike",
    "knows few seeds": "distinct .*other seeds must not start alike",
    "resets all lanes": "reset_mask .*of the masked lanes",
    "skips an episode": "reset_mask .*lane 0 .* must start its next episode",
    "moves other lanes": "reset_mask .*lane 1 .* must stay as it was",
    "takes the mask away": "arguments .*reset's arguments afterwards",
    "reuses arrays": "reuse .*a later call changed",
    "shares its memory": "reuse .*two returned arrays share memory",
    "pays float32": r"single .*\['reward'\] .*float32.* is not",
}
UNEQUAL = {  # episodes that depend on the autoreset mode
    "ends with the next start": r"\(SAME_STEP\): .* lane 0, action 2: \['obs after'\]",
    "stays at its end": r"\(SAME_STEP\): .* lane 0, action 3: \['obs before'\]",
    "acts while it rests": r"\(NEXT_STEP\): .* lane 0, action 3: \['obs before'\]",
    "starts by itself": r"\(\w+\): unlike the mode DISABLED, lane 0, action 2: \['obs after'\]",
}
WITHOUT = {  # other messages, with these checks left out
    ("repeats itself", "lane_seeds"): "distinct .*an unseeded reset must not start again",
    ("seeds all lanes alike", "lane_seeds"): "distinct .*lanes seeded differently must not start",
    **{(fault, "single"): f"episodes {message}" for fault, message in UNEQUAL.items()},
}


@pytest.mark.parametrize(
    ("fault", "skip", "message"),
    [
        *((fault, [], message) for fault, message in FAULTS.items()),
        *((fault, [skip], message) for (fault, skip), message in WITHOUT.items()),
    ],
)
def test_a_fault_is_named(fault, skip, message):
    with pytest.raises(AssertionError, match=f"(?s)^{message}"):
        check_vector_env(lambda n, mode: Broken(n, mode, fault), Toy, skip=skip)


def test_what_the_environment_raises_gets_the_checks_name():
    with pytest.raises(TypeError, match="must be an int") as caught:
        check_vector_env(lambda n, mode: Broken(n, mode, "takes no list"), skip=["outputs"])
    assert re.search("'autoreset' of autoreset mode NEXT_STEP", caught.value.__notes__[0])


def test_sound_environments_pass():
    check_vector_env(lambda n, mode: Broken(n, mode, ""), Toy)
    check_vector_env(  # without lists of seeds, masks and a single environment
        lambda n, mode: gym.make_vec("CartPole-v1", n, "vector_entry_point"),
        modes=[AutoresetMode.NEXT_STEP],
        skip=["lane_seeds", "reset_mask"],
        num_steps=100,
        reset_every=40,
    )
    check_vector_env(  # a Tuple of integers, and starts that are often alike
        lambda n, mode: SyncVectorEnv([lambda: gym.make("Blackjack-v1")] * n, autoreset_mode=mode),
        lambda: gym.make("Blackjack-v1"),
        skip=["arguments", "distinct"],
    )


def test_the_example_in_the_docstring_runs():
    assert doctest.testmod(testing, raise_on_error=True).attempted == 2


def test_bad_arguments_are_refused():
    with pytest.raises(ValueError, match=r"skip must name some of spaces, .* got \['space'\]"):
        check_vector_env(lambda n, mode: Broken(n, mode, ""), skip=["space"])
    for modes in ([], ["SameStep"], AutoresetMode.SAME_STEP):
        with pytest.raises(ValueError, match="modes must be AutoresetModes, at least one, got"):
            check_vector_env(lambda n, mode: Broken(n, mode, ""), modes=modes)  # pyright: ignore[reportArgumentType]
    with pytest.raises(ValueError, match="num_envs must be at least 2"):
        check_vector_env(lambda n, mode: Broken(n, mode, ""), num_envs=1)
