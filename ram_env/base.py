"""What the single and the vector environment share: their task, their state and their display.

Dimension key: N lanes (sub-environments), 1 in the single environment.
"""

from abc import abstractmethod
from typing import Any, ClassVar

import numpy as np
from gymnasium import logger
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from ram_env.arrays import to_host
from ram_env.checks import read_options
from ram_env.draws import draw_key, lane_key
from ram_env.episodes import Episodes
from ram_env.tasks import ImageTask, Task


class EpisodesEnv:
    """Base of the environments: task properties, saved states and rendering.

    Attributes:
        task: The task, checked.
        data_source: How many images there are and where they came from, for logs.
        data_is_sample: Whether the images are the sample that no published result may use.
        glimpse_shape: Shape of a glimpse, (S * C, G, G).
        num_classes: Number of classes, K; labels are 0 .. K - 1.
        num_images: Number of images in the split, which is the episodes of a sequential pass.
    """

    metadata: dict[str, Any] = {"render_modes": ["rgb_array"], "render_fps": 4}  # noqa: RUF012
    task_class: ClassVar[type[Task]] = ImageTask
    closed: bool

    def _make(
        self, keywords: dict[str, Any], num_lanes: int, device: str | None, render_mode: str | None
    ) -> None:
        """Check the keywords, open the data and prepare N lanes."""
        modes = self.metadata["render_modes"]
        if render_mode is not None and render_mode not in modes:
            raise ValueError(f"render_mode must be None or one of {modes}, got {render_mode!r}")
        self.render_mode, self.device = render_mode, device
        self.task = self.task_class.from_keywords(**keywords)
        self._episodes = Episodes(self.task, num_lanes, device, record=render_mode is not None)
        self.glimpse_shape, scenes = self._episodes.glimpse_shape, self._episodes.scenes
        self.data_source, self.data_is_sample = scenes.source, scenes.is_sample
        self.num_classes, self.num_images = scenes.num_classes, scenes.num_scenes

    def get_state(self) -> dict[str, Any]:
        """Return everything that the future depends on, ready for JSON, mid-episode too.

        Before the first reset it also depends on ``np_random``, which the state doesn't hold.
        """
        return self._episodes.get_state()

    def set_state(self, state: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
        """Continue exactly where :meth:`get_state` was called.

        The environment must have the same autoreset mode, which the state doesn't hold. If it is
        wrapped, call ``env.reset()``, then ``env.unwrapped.set_state(state)``: the state holds
        nothing of the wrappers.

        Returns:
            The observations and infos of that moment, as from ``reset``, or None before one.

        Raises:
            ValueError: If the state is malformed, or belongs to another version, task or number of
                lanes, or a dataset of another name or size. The environment is left unchanged.
            ClosedEnvironmentError: After ``close``.
        """
        self._check_open("set_state")
        self._episodes.set_state(state)
        if not self._episodes.seen.all():
            return None
        return self._observe(), self._describe()

    def _begin(self, seed: Any, seeds: list[int | None], options: Any, *, vector: bool) -> Any:
        """Begin episodes in the lanes that the options name; return these lanes, (n,)."""
        episodes = self._episodes
        lanes, index, location = read_options(options, len(seeds), self.num_images, vector=vector)
        if np.delete(episodes.seen, lanes).min(initial=1) == 0:
            raise ResetNeeded("reset all lanes before resetting some with options['reset_mask']")
        if isinstance(seed, int):
            super().reset(seed=seed)  # pyright: ignore[reportAttributeAccessIssue]
        new = [lane for lane in lanes if seeds[lane] is not None or not episodes.seen[lane]]
        if new:
            given = [seeds[lane] for lane in new]
            generator = self.np_random  # pyright: ignore[reportAttributeAccessIssue]
            keys = [draw_key(generator) if s is None else lane_key(s) for s in given]
            episodes.seed(np.array(new), np.array(keys, np.uint64))
        episodes.begin(lanes, index, location)
        return lanes

    def _observe(self) -> dict[str, Any]:
        return self._episodes.observe()

    @abstractmethod
    def _describe(self) -> dict[str, Any]:
        """Return the present infos."""

    def _check_open(self, call: str) -> None:
        if self.closed:
            raise ClosedEnvironmentError(f"{call}() was called after close()")

    def _render_lanes(self) -> tuple[np.ndarray, ...] | None:
        """Return a frame (H, W, 3) for each lane, or None without a render mode."""
        self._check_open("render")
        if not self._episodes.seen.all():
            raise ResetNeeded("call reset() before render()")
        if self.render_mode is None:
            logger.warn("render() shows nothing: make the environment with a render_mode")
            return None
        glimpses = to_host(self._episodes.observe()["glimpse"])
        labels = to_host(self._episodes.describe()["label"])
        return tuple(map(self._frame, range(len(labels)), glimpses, labels.tolist()))

    def _frame(self, lane: int, glimpse: np.ndarray, label: int) -> np.ndarray:
        from ram_env import rendering  # and Pillow

        episodes, num_glimpses = self._episodes, self.task.num_glimpses
        assert episodes.path is not None
        seen, prediction = episodes.seen[lane], int(episodes.prediction[lane])
        decided, ended = prediction >= 0, not episodes.running[lane]
        return rendering.draw_frame(
            episodes.canvas(lane),
            episodes.path[lane, :seen],
            glimpse,
            num_glimpses=num_glimpses,
            scores=episodes.scores[lane] if decided and episodes.scores is not None else None,
            prediction=prediction if decided else None,
            label=label,
            correct=prediction == label if ended and decided else None,
            stopped=bool(ended and seen < num_glimpses),
        )
