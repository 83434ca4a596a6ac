"""Many lanes of one task in one environment: Gymnasium's vector API over the rules.

Dimension key: N lanes (sub-environments).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium.error import ResetNeeded
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space

from ram_env import arrays as xp
from ram_env.arrays import Array
from ram_env.base import EpisodesEnv
from ram_env.checks import check_int, seeds_of_lanes, to_python
from ram_env.tasks import SignpostTask


class GlimpseVectorEnv(EpisodesEnv, VectorEnv[dict[str, Array], Any, Array]):
    """N lanes of :class:`~ram_env.env.GlimpseEnv`, computed together.

    Description:
    ``gymnasium.make_vec(id, num_envs=N)`` makes this class. Seeded s, its lane i returns the
    same bytes as the single env seeded s + i: observations, rewards, flags and infos equal
    those of a ``SyncVectorEnv`` over N single envs, in every autoreset mode.
    ``order="sequential"`` is the exception: see its paragraph below.

    Action Space:
    A batch of the single env's actions: ``Box(-1, 1, (N, 2 + K))``, a dict of (N, ...)
    arrays, or ``MultiDiscrete`` of shape (N, 3).

    Observation Space:
    The single env's dict with a leading N. Every call returns fresh arrays.

    Rewards:
    As in the single env. Shape (N,), float64, or float32 on a device.

    Starting State:
    As in the single env. ``reset`` takes a seed s (lane i gets s + i), a list of N seeds, or
    None (every lane continues with its next episode). Lanes with equal seeds play the same
    canvases and first locations: M equal seeds are M rollouts of one image. The options
    ``index`` and ``location`` hold one value, or one per lane. The option ``reset_mask``, (N,),
    bool, resets the masked lanes only, and infos describe those alone.

    Episode End:
    As in the single env. What happens next depends on ``autoreset_mode``:

    | mode | when the next episode begins | good for |
    |---|---|---|
    | ``"SameStep"`` (default) | at once; ``final_obs``, ``final_info`` hold the end | training |
    | ``"NextStep"`` | in the next step, which ignores the action, reward 0 | wrappers, video |
    | ``"Disabled"`` | when ``reset`` is called with ``reset_mask`` | your own schedule |

    Gymnasium's vector observation wrappers, such as ``FlattenObservation``, would not transform
    ``final_obs`` and therefore refuse ``"SameStep"``; ``RecordVideo`` misses each episode's last
    frame there. ``NormalizeObservation`` needs flattened observations.

    Arguments:
    Those of the single env, and

    - ``num_envs``: N.
    - ``autoreset_mode``: an ``AutoresetMode``, its value (``"SameStep"``) or its name
      (``"SAME_STEP"``). Strings survive ``env.spec.to_json()``.
    - ``device``: None for NumPy, or a torch device such as ``"cuda"``. Observations, rewards,
      flags and infos are then tensors there, bit-identical to NumPy's (``"log_score"`` rewards
      up to rounding), and ``final_obs`` is one batched dict. While the lanes are in step with
      each other and actions come as ``"box"`` or ``"dict"`` tensors, only one flag per step
      crosses the bus, which says whether the actions are valid. New episodes are drawn there.
      Gymnasium's vector wrappers expect NumPy and fail on tensors.

    With ``order="sequential"`` lane i of N makes visits i, i + N, i + 2 N, ..., whatever the
    seed, so that N lanes pass through a split together. What a lane plays then depends on N;
    what visit v shows does not. A seeded reset begins again at visit i.

    Version History:
    v0: first release.
    """

    metadata = {**EpisodesEnv.metadata, "autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(
        self,
        num_envs: int = 1,
        *,
        autoreset_mode: AutoresetMode | str = AutoresetMode.SAME_STEP,
        device: str | None = None,
        render_mode: str | None = None,
        **keywords: Any,
    ):
        self.num_envs = num_envs = to_python(num_envs)
        check_int("num_envs", num_envs, 1, 2**24)
        self.autoreset_mode = _read_mode(autoreset_mode)
        self.metadata = {**self.metadata, "autoreset_mode": self.autoreset_mode}
        self._make(keywords, num_envs, _read_device(device), render_mode)
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
            seed: An int (lane i gets seed + i), one seed per lane, or None.
            options: ``index``, ``location``, ``reset_mask``; read, never changed.

        Returns:
            Observations of all lanes and infos of the lanes that were reset.

        Raises:
            ValueError: If the seed or an option is not allowed. The environment is left unchanged.
            ResetNeeded: If ``reset_mask`` leaves out a lane that was never reset.
            ClosedEnvironmentError: After ``close``.
        """
        self._check_open("reset")
        lanes = self._begin(seed, seeds_of_lanes(seed, self.num_envs), options, vector=True)
        return self._observe(), self._describe(lanes)

    def step(self, actions: Any) -> tuple[dict[str, Array], Array, Array, Array, dict[str, Any]]:
        """Step all lanes.

        Args:
            actions: A batch in the task's action format, of shape (N, ...).

        Returns:
            Observations, rewards (N,), terminated (N,), truncated (N,), always False, and infos.

        Raises:
            ValueError: If an action is not allowed. The environment is left unchanged.
            ResetNeeded: Before the first reset, or in ``DISABLED`` mode after a lane's end.
            ClosedEnvironmentError: After ``close``.
        """
        self._check_open("step")
        episodes = self._episodes
        active = self._active_lanes()
        decision = episodes.action_format.parse(actions, (self.num_envs,), active, self.device)
        if active is not None:  # NEXT_STEP
            episodes.begin(np.flatnonzero(~active))
        reward, correct, ends = episodes.step(decision, active)
        ended = np.flatnonzero(ends)
        same_step = self.autoreset_mode is AutoresetMode.SAME_STEP
        end = (self._begin_ended if same_step else self._outcome)(ended, correct, decision.label)
        infos = {**self._describe(), **end}
        return self._observe(), reward, self._flags(ends), self._mask([]), infos

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return the single env's frame, (H, W, 3), uint8, for each lane; raises what it raises."""
        return self._render_lanes()

    def _active_lanes(self) -> np.ndarray | None:
        """Return the lanes whose action counts, None for all."""
        episodes = self._episodes
        if episodes.running.all():
            return None
        if not episodes.seen.all():
            raise ResetNeeded("call reset() before step()")
        if self.autoreset_mode is not AutoresetMode.NEXT_STEP:
            over = f"episodes of lanes {np.flatnonzero(~episodes.running).tolist()} have ended"
            raise ResetNeeded(f"{over}: call reset(options={{'reset_mask': ...}})")
        return episodes.running.copy()

    def _begin_ended(self, ended: np.ndarray, correct: Array, prediction: Array) -> dict[str, Any]:
        """Begin the next episode of ended lanes; return SAME_STEP's infos about the old one."""
        if not len(ended):
            return {}
        final_obs = self._episodes.observe(ended)
        final_info = {**self._describe(ended), **self._outcome(ended, correct, prediction)}
        self._episodes.begin(ended)
        infos: dict[str, Any] = {"final_info": final_info}
        if self.device is None:  # one dict per lane, as Gymnasium's vector envs do
            infos["final_obs"] = np.full(self.num_envs, None, object)
            for row, lane in enumerate(ended):
                infos["final_obs"][lane] = {name: part[row] for name, part in final_obs.items()}
        else:
            infos["final_obs"] = {name: self._spread(p, ended) for name, p in final_obs.items()}
        return {**infos, "_final_info": self._mask(ended), "_final_obs": self._mask(ended)}

    def _describe(self, lanes: np.ndarray | None = None) -> dict[str, Array]:
        """Return what is hidden in some lanes (None: all) as infos: zeros elsewhere."""
        infos = self._episodes.describe(lanes)
        if lanes is not None and len(lanes) < self.num_envs:
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
        full = xp.new_empty(values, (self.num_envs, *values.shape[1:]), xp.dtype_name(values))
        full[:] = 0
        full[self._episodes.on_device(lanes)] = values
        return full

    def _mask(self, lanes: Any) -> Array:
        """Return which lanes are among ``lanes`` (None: all), (N,), bool."""
        mask = np.full(self.num_envs, lanes is None)
        if lanes is not None:
            mask[lanes] = True
        return self._flags(mask)

    def _flags(self, flags: np.ndarray) -> Array:
        """Bring flags (N,) to the device, without a transfer where all agree."""
        if self.device is None:
            return flags
        import torch

        if flags.all() or not flags.any():
            return torch.full((self.num_envs,), bool(flags[0]), device=self.device)
        return xp.to_device(flags, self.device)


class SignpostVectorEnv(GlimpseVectorEnv):
    """N lanes of :class:`~ram_env.env.SignpostEnv`, computed together.

    See there for the task and its arguments, and :class:`GlimpseVectorEnv` for batches, seeds,
    autoreset modes and devices.
    """

    task_class = SignpostTask


def _read_mode(mode: AutoresetMode | str) -> AutoresetMode:
    for known in AutoresetMode:
        if mode in (known, known.value, known.name):
            return known
    raise ValueError(f"autoreset_mode must be one of {[*AutoresetMode]}, got {mode!r}")


def _read_device(device: Any) -> str | None:
    if device is None:
        return None
    import torch

    try:
        probe = torch.zeros((), device=torch.device(device))
        probe.item()  # which "meta" refuses
    except (RuntimeError, TypeError, AssertionError) as error:
        raise ValueError(f"device {device!r} does not work here: {error}") from error
    return str(probe.device)  # "cuda" with its number
