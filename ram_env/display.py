"""How an environment shows itself: Gymnasium's render modes over frames and windows."""

import copy

import numpy as np
from gymnasium import logger
from gymnasium.error import ResetNeeded

from ram_env.arrays import to_host
from ram_env.episodes import Episodes
from ram_env.rendering import draw_frame, tile_frames
from ram_env.window import Window, require_pygame


class Display:
    """Frames for ``"rgb_array"``, a window for ``"human"``, nothing for None.

    Raises:
        gymnasium.error.DependencyNotInstalled: If the mode is ``"human"`` and pygame is missing.
    """

    def __init__(self, episodes: Episodes, render_mode: str | None, fps: int):
        if render_mode == "human":
            require_pygame()  # here, where nothing has happened yet
        self._episodes, self._mode = episodes, render_mode
        self._window = Window("ram_env", fps)

    def update(self) -> None:
        """Show the present state in the window, if there is one."""
        if self._mode == "human":
            self._window.show(tile_frames(self._frames()))

    def render(self) -> tuple[np.ndarray, ...] | None:
        """Return a frame (H, W, 3) for each lane, or None unless asked for ``"rgb_array"``.

        Raises:
            ResetNeeded: Before the first reset.
        """
        if not self._episodes.seen.all():
            raise ResetNeeded("call reset() before render()")
        if self._mode is None:
            logger.warn("render() shows nothing: make the environment with a render_mode")
        return self._frames() if self._mode == "rgb_array" else None

    def close(self) -> None:
        """Close the window; the next :meth:`update` opens a new one."""
        self._window.close()
        self._window = copy.copy(self._window)

    def _frames(self) -> tuple[np.ndarray, ...]:
        glimpses = to_host(self._episodes.observe()["glimpse"])
        return tuple(self._frame(lane, glimpse) for lane, glimpse in enumerate(glimpses))

    def _frame(self, lane: int, glimpse: np.ndarray) -> np.ndarray:
        """Draw one lane."""
        episodes = self._episodes
        assert episodes.path is not None
        label = int(episodes.describe(np.array([lane]))["label"][0])
        decided, ended = bool(episodes.decided[lane]), not episodes.running[lane]
        prediction = int(episodes.prediction[lane]) if decided else None
        return draw_frame(
            episodes.canvas(lane),
            episodes.path[lane, : episodes.seen[lane]],
            glimpse,
            num_glimpses=episodes.task.num_glimpses,
            scores=episodes.scores[lane] if decided and episodes.scores is not None else None,
            prediction=prediction,
            label=label,
            correct=prediction == label if ended and decided else None,
            stopped=bool(ended and episodes.seen[lane] < episodes.task.num_glimpses),
        )
