"""The environment that passes through the stages of a curriculum."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

from agents.distributed import all_lanes, gathered, num_ranks, rank
from agents.runs.files import convert
from ram_env.states import join_states, split_state
from train.curriculum import Stage

WINDOW = 1000
"""Episodes, about, over which the success rate is a running mean."""


class CurriculumEnv(VectorWrapper):
    """A vector environment that passes through stages and ends with the task.

    Without stages it is the task. ``get_state`` holds the stage and its success rate, so that a
    resumed run goes on as if it had never stopped. Under torchrun the lanes are this rank's, and
    the state and the success rate are those of all ranks.

    Args:
        make: Makes the task's vector environment; takes keywords that differ.
        stages: From :func:`read_curriculum`.
        seeds: Seeds of its lanes by number of the stage, from 0.

    Raises:
        ValueError: If a stage has other spaces or classes than the task.
    """

    def __init__(
        self,
        make: Callable[..., VectorEnv[Any, Any, Any]],
        stages: Sequence[Stage],
        seeds: Callable[[int], Sequence[int]],
    ):
        self._stages, self._seeds = tuple(stages), seeds
        task: Any = make()
        self._envs: list[Any] = []
        for number, stage in enumerate(stages, 1):
            try:
                self._envs.append(make(**stage.env))
            except ValueError as error:  # such as a canvas smaller than the images
                raise ValueError(f"stage {number} of the curriculum: {error}") from error
        self._envs.append(task)
        for number, env in enumerate(self._envs, 1):
            for name in ("single_observation_space", "single_action_space", "num_classes"):
                wanted, got = getattr(task, name), getattr(env, name)
                if wanted != got:
                    raise ValueError(
                        f"stage {number} of the curriculum must have the task's {name}, "
                        f"{wanted}, got {got}"
                    )
        self.stage, where = 0, getattr(task, "device", None)
        self._success = torch.zeros((), dtype=torch.float64, device=where)
        super().__init__(self._envs[0])

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the present stage's environment."""
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self.env, name)

    @property
    def valid(self) -> Any:
        """Whether all actions so far were allowed, of an environment that doesn't refuse others."""
        return getattr(self.env, "valid", True)

    def __str__(self) -> str:
        """Return which stage of how many this is, and what is different in it."""
        here = f"stage {self.stage + 1} of {len(self._envs)}: "
        changes = self._stages[self.stage].env if self.stage < len(self._stages) else {}
        return here + (", ".join(f"{k}={v}" for k, v in changes.items()) or "the task")

    def begin(self) -> tuple[Any, dict[str, Any]]:
        """Reset all lanes with the stage's seeds; return observations and infos."""
        return self.env.reset(seed=[*self._seeds(self.stage)])  # pyright: ignore[reportArgumentType]

    def step(self, actions: Any) -> Any:
        """Step all lanes, and follow the success rate if the stage has to."""
        obs, reward, terminated, truncated, infos = self.env.step(actions)
        if self._target is not None and (ended := terminated | truncated).any():
            right = torch.as_tensor(reward > 0).float()
            right = right if ended.all() else right[torch.as_tensor(ended)]
            right = all_lanes(right, axis=0)  # of ranks that end as many episodes at once
            self._success += (right.mean() - self._success) * min(1, len(right) / WINDOW)
        return obs, reward, terminated, truncated, infos

    def advance(self, share: float) -> tuple[Any, dict[str, Any]] | None:
        """Begin the next stage if it is due after a share of the budget.

        Returns:
            Its first observations and infos, in all lanes; None if the stage goes on.
        """
        before = self.stage
        while self.stage < len(self._stages) and (
            share >= self._stages[self.stage].until
            or (self._target is not None and self._success >= self._target)
        ):
            self.stage += 1
            self._success.zero_()
        self.env = self._envs[self.stage]
        return self.begin() if self.stage > before else None

    @property
    def _target(self) -> float | None:
        return self._stages[self.stage].success if self.stage < len(self._stages) else None

    def get_state(self) -> dict[str, Any]:
        """Return the state, ready for JSON, and the curriculum that it is of."""
        stages = msgspec.to_builtins(self._stages)
        env: Any = self.env
        state = {"stages": stages, "stage": self.stage, "success": float(self._success)}
        return {**state, "env": join_states(gathered(env.get_state()))}

    def set_state(self, state: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Restore what :meth:`get_state` returned; return the observations and infos there.

        Raises:
            ValueError: If the state is invalid or of another curriculum.
        """
        saved = convert(state, _State)
        if saved.stages != self._stages or saved.stage > len(self._stages):
            got = msgspec.to_builtins(self._stages)
            raise ValueError(
                f"its curriculum is {state['stages']}, and the run's is now {got}: restore the "
                "file, or start a new run"
            )
        own = split_state(saved.env, rank(), num_ranks())
        current = self._envs[saved.stage].set_state(own)
        self.stage = saved.stage
        self._success.fill_(saved.success)
        self.env = self._envs[saved.stage]
        return current


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """What :meth:`CurriculumEnv.get_state` returns."""

    stages: tuple[Stage, ...]
    stage: Annotated[int, msgspec.Meta(ge=0)]
    success: Annotated[float, msgspec.Meta(ge=0, le=1)]
    env: dict[str, Any]
