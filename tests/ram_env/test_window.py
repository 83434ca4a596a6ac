"""A window shows frames, closes for good, and never touches audio."""

import copy
import os
import pickle
import sys
from types import SimpleNamespace

import numpy as np
import pytest
from gymnasium.error import DependencyNotInstalled

from ram_env.window import Window

FRAME = np.full((40, 60, 3), (10, 20, 30), np.uint8)


@pytest.fixture
def pygame(monkeypatch):
    """Give pygame with the dummy driver and no display before and after the test."""
    module = pytest.importorskip("pygame")
    monkeypatch.setenv("SDL_VIDEODRIVER", "dummy")
    module.display.quit()
    yield module
    module.display.quit()


@pytest.fixture
def window(pygame):
    window = Window("test", fps=0)
    yield window
    window.close()


def test_a_window_shows_the_frame_without_audio(pygame, window):
    assert not window.is_open
    window.show(FRAME)
    surface = window._window.get_surface()
    assert surface.get_size() == (60, 40)
    assert surface.get_at((59, 39))[:3] == (10, 20, 30)
    assert pygame.mixer.get_init() is None


@pytest.mark.parametrize(
    ("shape", "size"),
    # At most nine tenths of the smaller of two screens, 1000 x 500: 900 x 450.
    [((80, 90), (90, 80)), ((900, 600), (300, 450)), ((50, 1800), (900, 25))],
)
def test_a_window_follows_the_frames_shape_up_to_the_screen(
    pygame, window, shape, size, monkeypatch
):
    monkeypatch.setattr(pygame.display, "get_desktop_sizes", lambda: [(1000, 900), (1200, 500)])
    window.show(FRAME)
    window.show(np.zeros((*shape, 3), np.uint8))
    assert window._window.get_surface().get_size() == size


def test_a_window_keeps_the_pace(pygame, monkeypatch):
    paces = []
    monkeypatch.setattr(pygame.time, "Clock", lambda: SimpleNamespace(tick=paces.append))
    paced = Window("paced", fps=4)
    paced.show(FRAME)
    paced.show(FRAME)
    paced.close()
    assert paces == [4, 4]


def test_a_window_closed_by_the_user_stays_closed_and_others_stay_open(pygame, window):
    other = Window("other", fps=0)
    window.show(FRAME)
    other.show(FRAME)
    pygame.event.post(pygame.event.Event(pygame.WINDOWCLOSE, window=window._window))
    other.show(FRAME)  # the process has one event queue: any window reads it
    window.show(FRAME)
    assert (window.is_open, other.is_open) == (False, True)
    other.close()
    other.close()  # harmless and final
    other.show(FRAME)
    assert not other.is_open


def test_a_window_outlives_others_quitting_the_display(pygame, window):
    window.show(FRAME)
    pygame.display.quit()
    window.show(FRAME)
    assert window._window.get_surface().get_size() == (60, 40)
    pygame.display.quit()
    pygame.display.init()
    window.show(FRAME)
    assert window._window.get_surface().get_size() == (60, 40)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, lambda w: pickle.loads(pickle.dumps(w))])
def test_a_copy_is_a_new_window(window, duplicate):
    window.show(FRAME)
    twin = duplicate(window)
    assert not twin.is_open
    twin.show(FRAME)
    twin.close()
    assert window.is_open


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="displays by Linux's variables")
@pytest.mark.usefixtures("pygame")
def test_without_a_display_nothing_is_shown_and_the_environment_is_kept(monkeypatch, window):
    for name in ("DISPLAY", "WAYLAND_DISPLAY", "SDL_VIDEODRIVER"):
        monkeypatch.delenv(name, raising=False)
    before = dict(os.environ)
    window.show(FRAME)
    assert window.is_open
    assert dict(os.environ) == before


@pytest.mark.parametrize("found", [None, np], ids=["none", "one without windows"])
def test_a_missing_pygame_names_the_extra(monkeypatch, found):
    monkeypatch.setitem(sys.modules, "pygame", found)
    with pytest.raises(
        DependencyNotInstalled, match=r'pip install -e "\.\[human\]" in the checkout'
    ):
        Window("test", fps=0).show(FRAME)
