"""Many lanes of one task in one environment: Gymnasium's vector API over the rules.

Dimension key:
    N: lanes (sub-environments)
    S, C, G: scales, colour planes, glimpse side [px]
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
from gymnasium.error import ClosedEnvironmentError, ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ram_env.arrays import Array, dtype_name, new_empty, to_device
from ram_env.display import Display, check_render_mode
from ram_env.draws import draw_key, lane_key
from ram_env.episodes import Episodes, TaskFacts
from ram_env.reset_options import read_options, seeds_of_lanes
from ram_env.tasks import ImageTask, SignpostTask, Task, check_int


class GlimpseVectorEnv(TaskFacts, VectorEnv[dict[str, Array], Any, Array]):
    """N lanes of :class:`~ram_env.env.GlimpseEnv`, computed together.

    Description:
    Lane i of a vector env seeded s is, to the bit, the single env seeded s + i: the same
    observations, rewards, flags and infos as ``SyncVectorEnv`` over N single envs, in every
    autoreset mode. ``gymnasium.make_vec(id, num_envs=N)`` makes it.

    Action Space:
    A batch of the single env's actions: ``Box(-1, 1, (N, 2 + K))``, a dict of (N, ...)
    arrays, or ``MultiDiscrete`` of shape (N, 3). In the mode ``NEXT_STEP`` the action of a
    lane that is being reset is ignored.

    Observation Space:
    The single env's dict with a leading N; fresh arrays at every call.

    Rewards:
    As the single env's. Shape (N,), float64, or float32 on a device.

    Starting State:
    As the single env's. ``reset`` takes a seed s (lane i gets s + i), a list of N seeds, or
    None (every lane goes on with its next episode). Lanes seeded alike play the same
    canvases and first locations: M equal seeds are M rollouts of one image. Options:
    ``index`` and ``location``, one or one a lane, and ``reset_mask`` (N,), bool: resets the
    masked lanes and tells of them only.

    Episode End:
    As the single env's; what follows is the autoreset mode's business: ``SAME_STEP`` (the
    default) begins the next episode at once and tells of the old one in ``final_obs`` and
    ``final_info``; ``NEXT_STEP`` begins it at the next step; ``DISABLED`` wants a reset with
    ``reset_mask``.

    Arguments:
    Those of the single env, and

    - ``num_envs``: N.
    - ``autoreset_mode``: An ``AutoresetMode`` or its value (``"SameStep"``, ``"NextStep"``,
      ``"Disabled"``; the value survives ``env.spec.to_json()``).
    - ``device``: None for NumPy, or a torch device such as ``"cuda"``: canvases, glimpses,
      rewards, flags and infos are then tensors there, bit-identical to NumPy's (rewards of
      ``"log_score"`` but for rounding), and ``final_obs`` is one batched dict. While the
      lanes are in step with each other and actions come as ``"box"`` or ``"dict"`` tensors,
      only the draws of new episodes cross the bus, and one flag a step tells whether the
      actions were valid.

    With ``order="sequential"`` lane i of N makes visits i, i + N, i + 2 N, ..., so that N
    lanes pass through a split together; a seeded reset begins again at visit i.

    The vector wrapper ``RecordVideo`` misses each episode's last frame in ``SAME_STEP`` mode,
    as Gymnasium says; make the environment with ``autoreset_mode="NextStep"`` for videos.

    Version History:
    v0: first release.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium's own declaration
        "render_modes": ["rgb_array", "human"],
        "render_fps": 4,
        "autoreset_mode": AutoresetMode.SAME_STEP,
    }
    task_class: ClassVar[type[Task]] = ImageTask

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        device: str | None = None,
        render_mode: str | None = None,
        **keywords: Any,
    ):
        check_int("num_envs", num_envs, 1, 2**24)
        self.num_envs = num_envs
        self.autoreset_mode = _read_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        check_render_mode(render_mode, self.metadata)
        self.render_mode = render_mode
        self.device = _read_device(device)
        self.task = self.task_class.from_keywords(keywords)
        self._episodes = Episodes(self.task, num_envs, self.device, record=render_mode is not None)
        self._display = Display(self._episodes, render_mode, self.metadata)
        self.single_observation_space = self._episodes.observation_space
        self.single_action_space = self._episodes.action_format.space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def reset(
        self,
        *,
        seed: int | Sequence[int | None] | None = None,
        options: dict[str, Any] | None = None,
    ) -> tuple[dict[str, Array], dict[str, Any]]:
        """Begin new episodes in all lanes, or in those of ``options["reset_mask"]``.

        Args:
            seed: For all lanes (lane i gets seed + i), one a lane, or None.
            options: ``index``, ``location``, ``reset_mask``; read, never changed.

        Returns:
            Observations of all lanes; infos of the lanes that were reset.

        Raises:
            ValueError: If the seed or an option is not allowed; nothing has changed then.
            ResetNeeded: If ``reset_mask`` leaves out a lane that was never reset.
            ClosedEnvironmentError: After ``close``.
        """
        self._check_open("reset")
        seeds = seeds_of_lanes(seed, self.num_envs)
        episodes = self._episodes
        asked = read_options(options, self.num_envs, episodes.scenes.num_scenes, vector=True)
        lanes = asked.lanes
        if np.delete(episodes.seen, lanes).min(initial=1) == 0:
            raise ResetNeeded("reset all lanes before resetting some with options['reset_mask']")
        if isinstance(seed, int):
            super().reset(seed=seed)
        self._seed(lanes, [seeds[lane] for lane in lanes])
        episodes.begin(lanes, asked.index, asked.location)
        obs = episodes.observe()
        infos = self._describe(lanes)
        self._display.update()
        return obs, infos

    def step(self, actions: Any) -> tuple[dict[str, Array], Array, Array, Array, dict[str, Any]]:
        """Move all lanes.

        Args:
            actions: A batch in the task's action format, of shape (N, ...).

        Returns:
            Observations, rewards (N,), terminated (N,), truncated (N,), always False, and infos.

        Raises:
            ValueError: If an action is not allowed; nothing has changed then.
            ResetNeeded: Before the first reset, or in ``DISABLED`` mode after a lane's end.
            ClosedEnvironmentError: After ``close``.
        """
        self._check_open("step")
        episodes = self._episodes
        active = self._who_moves()
        move = episodes.action_format.parse(actions, (self.num_envs,), active, self.device)
        resting = None if active is None else np.flatnonzero(~active)
        if resting is not None:  # NEXT_STEP
            episodes.begin(resting)
        reward, correct, ends = episodes.step(move, active)
        ended = np.flatnonzero(ends)
        if self.autoreset_mode is AutoresetMode.SAME_STEP:
            finals = self._finish(ended, correct, move.label)
            infos = {**self._describe(np.arange(self.num_envs)), **finals}
        else:
            infos = self._describe(np.arange(self.num_envs))
            infos |= self._outcome(ended, correct, move.label)
        obs = episodes.observe()
        self._display.update()
        terminated = self._flags(ends)
        return obs, reward, terminated, self._flags(np.zeros_like(ends)), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return one frame a lane (``"rgb_array"``); ``"human"`` shows them by itself."""
        self._check_open("render")
        return self._display.render()

    def close_extras(self, **kwargs: Any) -> None:
        """Close the window."""
        self._display.close()

    def get_state(self) -> dict[str, Any]:
        """Return all that the lanes' future depends on, ready for JSON, mid-episode too.

        Of a lane that was never reset the future also depends on ``np_random``, which is not
        in it: seed it first.
        """
        return self._episodes.get_state()

    def set_state(self, state: dict[str, Any]) -> tuple[dict[str, Array], dict[str, Any]] | None:
        """Continue exactly where :meth:`get_state` was called.

        Returns:
            The observations and infos there, as from ``reset``, or None if the lanes had not
            been reset yet.

        Raises:
            ValueError: If the state is of another version, task or number of lanes.
        """
        self._check_open("set_state")
        self._episodes.set_state(state)
        if not self._episodes.seen.all():
            return None
        return self._episodes.observe(), self._describe(np.arange(self.num_envs))

    def _check_open(self, call: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"{call}() was called after close()")

    def _who_moves(self) -> np.ndarray | None:
        """Return the lanes whose action counts, None for all."""
        episodes = self._episodes
        if episodes.running.all():
            return None
        if not episodes.seen.all():
            raise ResetNeeded("call reset() before step()")
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            over = np.flatnonzero(~episodes.running).tolist()
            raise ResetNeeded(
                f"the episodes of lanes {over} are over: call reset(options={{'reset_mask': ...}})"
            )
        return episodes.running.copy()

    def _seed(self, lanes: np.ndarray, seeds: list[int | None]) -> None:
        """Give seeded lanes their keys, and keys from np_random to lanes that have none."""
        keyed = self._episodes.keyed[lanes]
        new = [i for i, seed in enumerate(seeds) if seed is not None or not keyed[i]]
        keys = [draw_key(self.np_random) if (s := seeds[i]) is None else lane_key(s) for i in new]
        self._episodes.seed(lanes[new], np.array(keys, np.uint64))

    def _finish(self, ended: np.ndarray, correct: Array, prediction: Array) -> dict[str, Any]:
        """Begin the next episode of ended lanes; return what SAME_STEP tells of the old."""
        if not len(ended):
            return {}
        final_obs = self._episodes.observe(ended)
        final_info = {**self._describe(ended), **self._outcome(ended, correct, prediction)}
        self._display.update()  # the last decision, and whether it was right
        self._episodes.begin(ended)
        infos: dict[str, Any] = {"final_info": final_info}
        if self.device is None:  # one dict a lane, as Gymnasium's vector envs do
            infos["final_obs"] = np.full(self.num_envs, None, object)
            for row, lane in enumerate(ended):
                infos["final_obs"][lane] = {name: part[row] for name, part in final_obs.items()}
        else:
            infos["final_obs"] = {name: self._spread(p, ended) for name, p in final_obs.items()}
        return {**infos, "_final_info": self._mask(ended), "_final_obs": self._mask(ended)}

    def _describe(self, lanes: np.ndarray) -> dict[str, Array]:
        """Return label, index and position of some lanes as infos: zeros elsewhere."""
        everyone = len(lanes) == self.num_envs
        infos = self._episodes.describe(None if everyone else lanes)
        if not everyone:
            infos = {name: self._spread(values, lanes) for name, values in infos.items()}
        return infos | {f"_{name}": self._mask(lanes) for name in infos}

    def _outcome(self, ended: np.ndarray, correct: Array, prediction: Array) -> dict[str, Array]:
        """Return correct and prediction of ended lanes as infos: zeros elsewhere."""
        if not len(ended):
            return {}
        mask = self._mask(ended)
        infos = {"correct": correct & mask, "prediction": prediction * mask}
        return infos | {f"_{name}": self._mask(ended) for name in infos}

    def _spread(self, values: Array, lanes: np.ndarray) -> Array:
        """Put rows (n, ...) at their lanes, (N, ...), zeros elsewhere."""
        full = new_empty(values, (self.num_envs, *values.shape[1:]), dtype_name(values))
        full[:] = 0
        full[to_device(lanes, self.device)] = values
        return full

    def _mask(self, lanes: np.ndarray) -> Array:
        mask = np.zeros(self.num_envs, bool)
        mask[lanes] = True
        return self._flags(mask)

    def _flags(self, flags: np.ndarray) -> Array:
        """Bring flags (N,) to the device, without the bus where all agree."""
        if self.device is None:
            return flags
        import torch

        if flags.all() or not flags.any():
            return torch.full((self.num_envs,), bool(flags[0]), device=self.device)
        return to_device(flags, self.device)


class SignpostVectorEnv(GlimpseVectorEnv):
    """N lanes of :class:`~ram_env.env.SignpostEnv`, computed together.

    Description:
    The task of :class:`~ram_env.env.SignpostEnv`, as :class:`GlimpseVectorEnv` plays any.

    Action Space:
    As :class:`GlimpseVectorEnv`'s, with K = num_marks^parts.

    Observation Space:
    As :class:`GlimpseVectorEnv`'s, in colour.

    Rewards:
    As :class:`GlimpseVectorEnv`'s.

    Starting State:
    As :class:`~ram_env.env.SignpostEnv`'s, for every lane.

    Episode End:
    As :class:`GlimpseVectorEnv`'s.

    Arguments:
    Those of :class:`~ram_env.env.SignpostEnv`, and ``num_envs``, ``autoreset_mode`` and
    ``device``.

    Version History:
    v0: first release.
    """

    task_class = SignpostTask


def _read_mode(mode: AutoresetMode | str) -> AutoresetMode:
    try:
        return AutoresetMode(mode)
    except ValueError:
        allowed = [allowed.value for allowed in AutoresetMode]
        raise ValueError(
            f"autoreset_mode must be an AutoresetMode or one of {allowed}, got {mode!r}"
        ) from None


def _read_device(device: Any) -> str | None:
    if device is None:
        return None
    import torch

    try:
        chosen = torch.device(device)
        torch.empty(0, device=chosen)
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(
            f"device must be None or a torch device that works here, got {device!r}: {error}"
        ) from error
    return str(chosen)
