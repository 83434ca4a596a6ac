"""A window that shows frames, by pygame-ce."""

from __future__ import annotations

import contextlib
import os
import sys
import weakref
from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import pygame

_SCREEN = (1600, 1000)  # a window's largest size [px]


class Window:
    """A window that shows frames, opened at the first one.

    Once closed, by the user or by `close`, it stays closed: later frames are ignored, so a run
    goes on. Only pygame's display is started, never its audio; a Linux machine without a
    display shows nothing, without an error. A copied or unpickled window is a new one, not
    opened yet.

    Args:
        caption: The window's title.
        fps: The most frames a second that `show` lets through; 0 sets no limit.
    """

    def __init__(self, caption: str, fps: int) -> None:
        self._caption = caption
        self._fps = fps
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
        """Show a frame, scaled down where it is larger than a screen, and keep to the pace.

        Args:
            frame: An RGB picture. Shape (H, W, 3), uint8.

        Raises:
            gymnasium.error.DependencyNotInstalled: If pygame is missing.
        """
        if self._closed:
            return
        require_pygame()
        import pygame

        picture = _fitting_surface(frame)
        window = self._open(picture.get_size())
        window.get_surface().blit(picture, (0, 0))
        window.flip()
        _close_dismissed_windows()
        self._clock = self._clock or pygame.time.Clock()
        self._clock.tick(self._fps)

    def close(self) -> None:
        """Close the window for good; closing twice does nothing."""
        if self._window is not None:
            self._window.destroy()
        self._window = None
        self._closed = True

    def _open(self, size: tuple[int, int]) -> pygame.Window:
        """Return the window in that size, opened if need be."""
        import pygame

        if self._window is not None:
            with contextlib.suppress(pygame.error):  # if others have quit pygame's display: anew
                if self._window.get_surface().get_size() != size:
                    self._window.size = size
                return self._window
        self._window = None  # freed first: its dead handle could be the new window's
        with _dummy_driver_without_display():
            pygame.display.init()
        self._window = pygame.Window(self._caption, size)
        _OPENED.add(self)
        return self._window


_OPENED: weakref.WeakSet[Window] = weakref.WeakSet()


def _close_dismissed_windows() -> None:
    """Read the process's one event queue and close the windows that the user has closed."""
    import pygame

    for event in pygame.event.get():
        if event.type == pygame.WINDOWCLOSE and event.window is not None:
            for window in [w for w in _OPENED if w._window is event.window]:
                window.close()


def require_pygame() -> None:
    """Raise if pygame-ce is missing, also where the older pygame has taken its place."""
    try:
        import pygame
    except ImportError:
        pygame = None
    if not hasattr(pygame, "Window"):
        from gymnasium.error import DependencyNotInstalled

        raise DependencyNotInstalled('a window needs pygame-ce: pip install "ram-env[human]"')


@contextlib.contextmanager
def _dummy_driver_without_display() -> Iterator[None]:
    """Make SDL draw to nowhere on a Linux machine without a display, unless told otherwise."""
    asked = {"DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"} & os.environ.keys()
    if asked or not sys.platform.startswith("linux"):
        yield
        return
    os.environ["SDL_VIDEODRIVER"] = "dummy"
    try:
        yield
    finally:
        del os.environ["SDL_VIDEODRIVER"]


def _fitting_surface(frame: NDArray[np.uint8]) -> pygame.Surface:
    """Turn a frame into a surface that fits a screen."""
    import pygame

    height, width, _ = frame.shape
    picture = pygame.image.frombuffer(frame.tobytes(), (width, height), "RGB")
    shrink = min(1.0, _SCREEN[0] / width, _SCREEN[1] / height)
    if shrink == 1.0:
        return picture
    return pygame.transform.smoothscale(picture, (int(width * shrink), int(height * shrink)))
