"""A curriculum: easier stages of a task to train on first, then the task itself.

A TOML file lists the stages, each a change of the task's keywords, and when it ends::

    [[stages]]
    until = 0.06  # share of the training budget
    success = 0.8  # optional: ends the stage earlier, at this success rate
    env = { canvas_size = 28, num_clutter = 0 }

After the last stage the agent trains on the task. Every env step counts towards the budget, and
validation is always on the task. A curriculum uses its designer's knowledge of the task: don't rank
runs with one against runs without.

Source:
    Bengio et al. (2009), "Curriculum learning".
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import torch
from gymnasium.vector import VectorEnv, VectorWrapper

from agents.distributed import all_lanes, gathered, num_ranks, rank
from agents.runs.files import convert, read_toml
from ram_env.states import join_states, split_state
from ram_env.tasks import Task

FOLDER = Path(__file__).parent / "curricula"
WINDOW = 1000
"""Episodes, about, over which the success rate is a running mean."""
Share = Annotated[float, msgspec.Meta(gt=0, lt=1)]


class Stage(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """An easier version of the task.

    Attributes:
        until: Share of the training budget at which the stage ends.
        env: Keywords of the environment that differ from the task's.
        success: Success rate at which it ends earlier: the share of episodes whose last reward is
            positive. None: only ``until`` ends it.
    """

    until: Share
    env: dict[str, Any]
    success: Share | None = None


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """Form of a curriculum's file."""

    stages: Annotated[tuple[Stage, ...], msgspec.Meta(min_length=1)]


class _State(msgspec.Struct, forbid_unknown_fields=True):
    """What :meth:`CurriculumEnv.get_state` returns."""

    stages: tuple[Stage, ...]
    stage: Annotated[int, msgspec.Meta(ge=0)]
    success: Annotated[float, msgspec.Meta(ge=0, le=1)]
    env: dict[str, Any]


def read_curriculum(name: str, task: Task) -> tuple[Stage, ...]:
    """Return the stages of a file, or of ``train/curricula/<name>.toml``, for a task.

    Raises:
        ValueError: If the file can't be read, the shares don't rise, or a stage has an unknown
            keyword, changes more than the scene, or follows success where no last reward is
            positive. The message names the file.
    """
    path = Path(name) if name.endswith(".toml") else FOLDER / f"{name}.toml"
    stages = read_toml(path, _File).stages
    ends = [stage.until for stage in stages]
    if ends != sorted({*ends}):
        raise ValueError(f"{path}: until must rise from stage to stage, got {ends}")
    scene = {field.name for field in fields(task)} - {field.name for field in fields(Task)}
    scene -= {"dataset", "data_dir"}
    if others := {name for stage in stages for name in stage.env} - scene:
        what = f"may only change the scene ({sorted(scene)}), not what the agent sees or does"
        raise ValueError(f"{path}: env {what}, got {sorted(others)}")
    last_reward = 1 / task.num_glimpses if task.reward == "dense" else 1
    pays = task.reward != "log_score" and last_reward > task.glimpse_cost
    if not pays and any(stage.success for stage in stages):
        raise ValueError(
            f"{path}: success counts last rewards above 0, but reward={task.reward!r} with "
            f"glimpse_cost={task.glimpse_cost} has none: give until alone"
        )
    for stage in stages:
        try:
            replace(task, **stage.env)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    return stages


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
        self._envs: list[Any] = [*(make(**stage.env) for stage in stages), task]
        for name in ("single_observation_space", "single_action_space", "num_classes"):
            for env in self._envs:
                if getattr(env, name) != getattr(task, name):
                    raise ValueError(f"a stage must have the task's {name}, got {env.task}")
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
        changes = self._stages[self.stage].env if self.stage < len(self._stages) else {}
        what = ", ".join(f"{k}={v}" for k, v in changes.items()) or "the task"
        return f"stage {self.stage + 1} of {len(self._envs)}: {what}"

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
            raise ValueError(f"its curriculum is {saved.stages}, the run's is now {self._stages}")
        own = split_state(saved.env, rank(), num_ranks())
        self.stage, self.env = saved.stage, self._envs[saved.stage]
        self._success.fill_(saved.success)
        env: Any = self.env
        return env.set_state(own)
