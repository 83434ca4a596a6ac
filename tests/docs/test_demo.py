"""The page: its JavaScript computes what Python does, and a browser can use all of it.

Dimension key:
    n: canvases
    T: glimpses per episode
    K: classes
"""

import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import ram_env
from agents.runs.loading import load_pretrained
from docs.demo import build
from train.keywords import make_vector_env

SOURCES = Path(build.__file__).parent
SHOWN = [(env_id, name) for env_id, names in build.AGENTS.items() for name in names]
PAD = 280  # side of the drawing pad [px]


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The page, built in another process, of full MNIST or else of the sample of digits."""
    path = tmp_path_factory.mktemp("demo") / "index.html"
    command = [sys.executable, "-m", "docs.demo.build", "--output", str(path)]
    subprocess.run(command, check=True, cwd=SOURCES.parents[1])
    return path


# In Node


@pytest.fixture
def run_node(tmp_path):
    """Run ram.js in Node on arrays, by name; return a reader of the arrays that it writes."""
    node = shutil.which("node")
    if node is None:
        pytest.skip("needs node")

    def run(page: Path, name: str, **arrays: np.ndarray):
        for key, array in arrays.items():
            (tmp_path / key).write_bytes(np.ascontiguousarray(array).tobytes())
        script = Path(__file__).parent / "run_ram.js"
        command = [node, str(script), str(SOURCES / "ram.js"), str(page), str(tmp_path), name]
        subprocess.run(command, check=True)
        return lambda key, dtype: np.frombuffer((tmp_path / key).read_bytes(), dtype)

    return run


@pytest.mark.slow
@pytest.mark.usefixtures("full_mnist")
@pytest.mark.parametrize(("env_id", "name"), SHOWN)
def test_retina_and_network_are_those_of_python(env_id, name, html, run_node):
    model = load_pretrained(name)[0].double()  # float32's rounding is 7e-5 where logits reach 45
    rounded = {key: part.half().double() for key, part in model.state_dict().items()}
    model.load_state_dict(rounded)
    keywords = {"split": "validation", "order": "sequential", "action_format": "dict"}
    env = make_vector_env(env_id, build.NUM_CANVASES, **keywords)
    obs, _ = env.reset(seed=0)
    state, steps = model.initial_state(build.NUM_CANVASES), []
    for _ in range(env.task.num_glimpses):
        glimpse, location = (torch.as_tensor(obs[key]) for key in ("glimpse", "location"))
        with torch.no_grad():
            output, state = model(glimpse.double(), location.double(), state)
        steps.append([part.numpy() for part in (location, glimpse, output.logits, output[0])])
        label = output.logits.argmax(1).numpy()
        obs, *_ = env.step({"location": steps[-1][3], "label": label})
    locations, glimpses, logits, means = (np.stack(parts, 1) for parts in zip(*steps, strict=True))
    canvases = ram_env.frozen_canvases(env_id, "validation")[0][: build.NUM_CANVASES]

    result = run_node(html, name, canvases=canvases, locations=locations)
    np.testing.assert_array_equal(result("glimpses", np.float32), glimpses.ravel())
    chosen = locations.ravel()  # by the page itself, glimpse after glimpse
    for key, expected in (("logits", logits), ("means", means), ("chosen", chosen)):
        found = result(key, np.float32)
        np.testing.assert_allclose(found, expected.ravel(), rtol=0, atol=1e-4)
    np.testing.assert_array_equal(result("shown", np.uint8), canvases.ravel())


def preprocess_slowly(ink: np.ndarray) -> np.ndarray:
    """Scale into 20x20 by area and put the centre of mass in the middle."""
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
    height, width = (max(1, math.floor(20 * side / max(ink.shape) + 0.5)) for side in ink.shape)
    small = shares(height, ink.shape[0]) @ ink @ shares(width, ink.shape[1]).T
    y = (small.sum(1) * (np.arange(height) + 0.5)).sum() / small.sum()
    x = (small.sum(0) * (np.arange(width) + 0.5)).sum() / small.sum()
    top = min(max(math.floor(14 - y + 0.5), 0), 28 - height)
    left = min(max(math.floor(14 - x + 0.5), 0), 28 - width)
    image = np.zeros((28, 28), np.uint8)
    image[top : top + height, left : left + width] = np.floor(small + 0.5)
    return image


def shares(small: int, large: int) -> np.ndarray:
    """Return the share of each large pixel in the mean of each small one, (small, large)."""
    ends, pixel = np.arange(small + 1)[:, None] * large / small, np.arange(large)
    overlap = np.minimum(pixel + 1, ends[1:]) - np.maximum(pixel, ends[:-1])
    return overlap.clip(0) * small / large


def test_a_drawing_is_preprocessed_as_mnist_is(run_node):
    rng = np.random.default_rng(0)
    drawings = np.zeros((30, PAD, PAD), np.uint8)
    for drawing in drawings:  # bars, some cut off at the pad's edges
        for left, top, width, height in rng.integers(0, [PAD, PAD, 200, 200], (3, 4)):
            drawing[top : top + height + 1, left : left + width + 1] = rng.integers(1, 256)
    drawings[0] = 0
    drawings[0, -1, 3] = 200
    images = run_node(SOURCES, "drawings", drawings=drawings)("images", np.uint8)
    expected = np.stack([preprocess_slowly(ink) for ink in drawings])
    difference = images.reshape(expected.shape).astype(int) - expected
    assert abs(difference).max() <= 1  # grey levels that fall on a half
    assert (difference != 0).mean() < 0.01


# In a browser


@pytest.fixture(params=[360, 1280])
def page(request, html) -> Iterator[Any]:
    """The page, opened from its file; at the end: no error, no request, nothing to scroll to."""
    playwright = pytest.importorskip("playwright.sync_api")
    path = shutil.which("chromium") or shutil.which("google-chrome")
    if path is None:
        pytest.skip("needs chromium")
    problems, addresses = [], []
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": request.param, "height": 800})
        page.set_default_timeout(180_000)  # of a machine that is busy [ms]
        page.on("console", lambda sent: sent.type == "error" and problems.append(sent.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("request", lambda sent: addresses.append(sent.url))
        page.goto(html.as_uri())
        page.wait_for_selector("body[data-ready]")
        yield page
        assert page.evaluate("document.documentElement.scrollWidth") == request.param
        browser.close()
    assert problems == []
    assert [url for url in addresses if not url.startswith(("file:", "data:", "blob:"))] == []


def choose(page: Any, mode: str) -> None:
    page.get_by_text(mode.title(), exact=True).click()
    page.wait_for_selector(f"body[data-mode={mode}]")


def drag(page: Any, element: str, *points: tuple[float, float]) -> None:
    page.locator(element).scroll_into_view_if_needed()
    box = page.locator(element).bounding_box()
    for k, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if k == 0:
            page.mouse.down()
    page.mouse.up()


@pytest.mark.slow
def test_a_person_watches_and_draws(page):
    for env_id, agents in build.AGENTS.items():
        page.select_option("#task", env_id)
        last = ram_env.find_task(env_id).num_glimpses
        assert page.locator("#retina canvas").count() == ram_env.find_task(env_id).num_scales
        assert page.locator("#cards canvas").count() == len(agents)
        for t in range(2, last + 1):
            page.click("#step")
            assert page.inner_text("#status").startswith(f"Glimpse {t} of {last} ")
        assert "It is " in page.inner_text("#status")
        page.click("#back")
        assert "Believes" in page.inner_text("#status")
    page.click("#run")
    page.wait_for_selector("#step:disabled")  # at the last glimpse
    page.select_option("#task", "ClutteredMNISTGlimpse-v0")  # where a digit can be moved
    choose(page, "draw")
    drag(page, "#pad", (0.3, 0.2), (0.7, 0.2), (0.45, 0.85))
    page.wait_for_function("() => state.drawn && view.pixels.some((grey) => grey)")
    drag(page, "#scene", (0.5, 0.5), (0.1, 0.1))
    place = "[state.digits[0].x, state.digits[0].y]"
    assert page.evaluate(place) == [0, 0]
    page.focus("#scene")
    page.keyboard.press("ArrowRight")
    assert page.evaluate(place) == [1, 0]
    page.click("#clear")
    assert page.evaluate("view.pixels.every((grey) => grey === 0)")


@pytest.mark.slow
def test_a_person_plays_and_the_env_replays_the_saved_scanpath(page):
    page.select_option("#task", "ClutteredMNISTGlimpse-v0")
    choose(page, "play")
    last, side = page.evaluate("[task().numGlimpses, $('scene').clientWidth]")
    for t in range(2, last + 1):
        page.locator("#scene").click(position={"x": 20 * t, "y": 30})
        assert page.inner_text("#status").startswith(f"Glimpse {t} of {last}.")
    label = page.evaluate("episode().label")
    page.click(f"#answers button >> nth={label}")
    assert f"It is {label}. You say" in page.inner_text("#status")
    assert page.inner_text("#score").startswith("You 1 of 1")
    with page.expect_download() as download:
        page.click("#save")
    text = download.value.path().read_text()
    saved, replayed = json.loads(text), ram_env.episode_from_json(text)
    assert replayed.rewards.tolist() == saved["rewards"] == [0] * (last - 1) + [1]
    assert replayed.locations.tolist() == saved["locations"]
    clicked = [2 * 40 / side - 1, 2 * 30 / side - 1]
    assert saved["locations"][1] == pytest.approx(clicked, abs=2 / side)
