"""A window that shows frames, by pygame-ce."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from typing import TYPE_CHECKING

import numpy as np
from gymnasium.error import DependencyNotInstalled
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pygame


class Window:
    """A window that shows frames, opened at the first one.

    Once closed, by the user or by `close`, it stays closed: later frames are ignored, and the
    run continues. Only pygame's display is started, never its audio. On a Linux machine without
    a display nothing is shown. A copied or unpickled window is a new one, not opened yet.

    Args:
        caption: The window's title.
        fps: The most frames per second; 0 sets no limit.
    """

    def __init__(self, caption: str, fps: int) -> None:
        self._caption, self._fps = caption, fps
        self._window: pygame.Window | None = None
        self._clock: pygame.time.Clock | None = None
        self._closed = False

    def __reduce__(self) -> tuple[type[Window], tuple[str, int]]:
        return type(self), (self._caption, self._fps)

    @property
    def is_open(self) -> bool:
        """Whether the window is on screen now."""
        return self._window is not None

    def show(self, frame: NDArray[np.uint8]) -> None:
        """Show an RGB picture, (H, W, 3), scaled down if it exceeds the screen, and keep the pace.

        Raises:
            gymnasium.error.DependencyNotInstalled: If pygame is missing.
        """
        if self._closed:
            return
        require_pygame()
        import pygame

        _start_display()
        picture = _fit_to_screen(frame)
        window = self._open(picture.get_size())
        window.get_surface().blit(picture, (0, 0))
        window.flip()
        for event in pygame.event.get():  # the process has one queue for all its windows
            if event.type == pygame.WINDOWCLOSE and event.window is not None:
                for window in [w for w in _OPENED if w._window is event.window]:
                    window.close()
        self._clock = self._clock or pygame.time.Clock()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window for good; closing twice does nothing."""
        if self._window is not None:
            self._window.destroy()
        self._window, self._closed = None, True

    def _open(self, size: tuple[int, int]) -> pygame.Window:
        """Return the window in that size, opened if need be."""
        import pygame

        if self._window is not None:
            with contextlib.suppress(pygame.error):  # someone else has quit pygame's display
                if self._window.get_surface().get_size() != size:
                    self._window.size = size
                return self._window
        self._window = None  # freed first: its dead handle could be the new window's
        self._window = pygame.Window(self._caption, size)
        _OPENED.add(self)
        return self._window


_OPENED: weakref.WeakSet[Window] = weakref.WeakSet()


def require_pygame() -> None:
    """Raise DependencyNotInstalled without pygame-ce, also if the older pygame replaces it."""
    try:
        import pygame
    except ImportError:
        pygame = None
    if not hasattr(pygame, "Window"):
        raise DependencyNotInstalled(
            "render_mode='human' needs pygame-ce: run python -m pip install -e \".[human]\" in the "
            "checkout of this project"
        )


def _start_display() -> None:
    """Start pygame's display; on a Linux machine without one, let SDL draw to nowhere."""
    import pygame

    asked = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"} & os.environ.keys()
    if not asked and sys.platform.startswith("linux"):
        os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        pygame.display.init()
    finally:
        if not asked:
            os.environ.pop("SDL_VIDEODRIVER", None)


def _fit_to_screen(frame: NDArray[np.uint8]) -> pygame.Surface:
    """Return the frame, scaled down to nine tenths of the smallest screen if it is larger."""
    import pygame

    height, width, _ = frame.shape
    picture = pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB")
    screen = np.min(pygame.display.get_desktop_sizes(), axis=0)
    shrink = float(min(1.0, *(0.9 * screen / (width, height))))
    if shrink == 1.0:
        return picture
    return pygame.transform.smoothscale(picture, (int(width * shrink), int(height * shrink)))
