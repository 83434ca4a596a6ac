"""The page: its JavaScript computes what Python does, and a browser can use all of it.

Dimension key:
    n: canvases
    T: glimpses per episode
    K: classes
"""

import itertools
import json
import math
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw

import ram_env
from agents.evaluation import evaluate
from agents.ram import RecurrentAttentionModel
from agents.runs.loading import load_pretrained
from docs.demo import build
from train.keywords import make_vector_env

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "docs" / "demo"
SHOWN = [(env_id, name) for env_id, names in build.AGENTS.items() for name in names]
NUM_EPISODES = build.NUM_CANVASES
PAD = 280  # side of the drawing pad [px]


@pytest.fixture(scope="module")
def html(tmp_path_factory) -> Path:
    """The page, built in another process, of full MNIST or else of the sample of digits."""
    path = tmp_path_factory.mktemp("demo") / "index.html"
    run_python(str(SOURCES / "build.py"), "--output", str(path))
    return path


def run_python(*arguments: str, text: str = "") -> str:
    command, environment = [sys.executable, *arguments], os.environ | {"PYTHONPATH": str(ROOT)}
    ran = subprocess.run(command, env=environment, input=text, capture_output=True, text=True)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


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


def make_validation_env(env_id: str, lanes: int) -> ram_env.GlimpseVectorEnv:
    keywords = {"split": "validation", "order": "sequential", "action_format": "dict"}
    return make_vector_env(env_id, lanes, **keywords)


def load_rounded(name: str) -> RecurrentAttentionModel:
    model, _ = load_pretrained(name)
    rounded = {
        key: torch.from_numpy(build.round_weights(tensor).astype(np.float32))
        for key, tensor in model.state_dict().items()
    }
    model.load_state_dict(rounded)
    return model


@pytest.mark.slow
@pytest.mark.usefixtures("full_mnist")
@pytest.mark.parametrize(("env_id", "name"), SHOWN)
def test_retina_and_network_are_those_of_python(env_id, name, html, run_node):
    model = load_rounded(name).double()  # float32's rounding is 7e-5 where logits reach 45
    env = make_validation_env(env_id, NUM_EPISODES)
    obs, _ = env.reset(seed=0)
    state, steps = model.initial_state(NUM_EPISODES), []
    for _ in range(env.task.num_glimpses):
        glimpse, location = (torch.as_tensor(obs[key]) for key in ("glimpse", "location"))
        with torch.no_grad():
            output, state = model(glimpse.double(), location.double(), state)
        steps.append([part.numpy() for part in (location, glimpse, output.logits, output[0])])
        label = output.logits.argmax(1).numpy()
        obs, *_ = env.step({"location": steps[-1][3], "label": label})
    locations, glimpses, logits, means = (np.stack(parts, 1) for parts in zip(*steps, strict=True))
    canvases, _ = ram_env.frozen_canvases(env_id, "validation")
    canvases = canvases[:NUM_EPISODES]

    result = run_node(html, name, canvases=canvases, locations=locations)
    np.testing.assert_array_equal(result("glimpses", np.float32), glimpses.ravel())
    np.testing.assert_allclose(result("logits", np.float32), logits.ravel(), rtol=0, atol=1e-4)
    expected = torch.as_tensor(logits).softmax(-1).numpy().ravel()
    np.testing.assert_allclose(result("probabilities", np.float32), expected, rtol=0, atol=1e-4)
    np.testing.assert_allclose(result("means", np.float32), means.ravel(), rtol=0, atol=1e-4)
    shown = result("shown", np.uint8).reshape(-1, *canvases.shape[1:])
    np.testing.assert_array_equal(shown, canvases[: len(shown)])
    chosen = result("chosen", np.float32)  # by the page itself, glimpse after glimpse
    np.testing.assert_allclose(chosen, locations[: len(shown)].ravel(), rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.usefixtures("full_mnist")
@pytest.mark.parametrize("name", [name for _, name in SHOWN])
def test_rounding_the_weights_costs_at_most_a_tenth_of_a_point(name):
    model, settings = load_pretrained(name)
    env = make_validation_env(settings["env_id"], 500)
    exact, rounded = (
        evaluate(each, env, env.num_images).error for each in (model, load_rounded(name))
    )
    assert rounded - exact <= 0.1


def draw_strokes(rng: np.random.Generator) -> np.ndarray:
    """Draw a polyline, smoothed, cut at the pad's edges or small in a corner."""
    image = Image.new("L", (PAD, PAD))
    points = [tuple(map(int, point)) for point in rng.integers(0, PAD, (5, 2))]
    ImageDraw.Draw(image).line(points, 255, int(rng.integers(1, 30)))
    side, left, top = map(int, rng.integers([PAD // 2, -20, -20], [2 * PAD, 60, 60]))
    drawn = Image.new("L", (PAD, PAD))
    drawn.paste(image.resize((side, side)), (left, top))
    return np.asarray(drawn)


def preprocess_slowly(ink: np.ndarray) -> np.ndarray:
    """Scale into 20x20 by area and put the centre of mass in the middle."""
    image = np.zeros((28, 28), np.uint8)
    if not ink.any():
        return image
    rows, columns = (np.flatnonzero(ink.any(axis)) for axis in (1, 0))
    ink = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1].astype(float)
    height, width = (max(1, math.floor(20 * side / max(ink.shape) + 0.5)) for side in ink.shape)
    small = shares(height, ink.shape[0]) @ ink @ shares(width, ink.shape[1]).T
    y = (small.sum(1) * (np.arange(height) + 0.5)).sum() / small.sum()
    x = (small.sum(0) * (np.arange(width) + 0.5)).sum() / small.sum()
    top = min(max(math.floor(14 - y + 0.5), 0), 28 - height)
    left = min(max(math.floor(14 - x + 0.5), 0), 28 - width)
    image[top : top + height, left : left + width] = np.floor(small + 0.5)
    return image


def shares(small: int, large: int) -> np.ndarray:
    """Return the share of each large pixel in the mean of each small one, (small, large)."""
    ends = np.arange(small + 1) * large / small
    return np.array(
        [
            [max(0.0, min(j + 1, end) - max(j, start)) / (end - start) for j in range(large)]
            for start, end in itertools.pairwise(ends)
        ]
    )


def test_a_drawing_is_preprocessed_as_mnist_is(run_node):
    rng = np.random.default_rng(0)
    dot = np.zeros((PAD, PAD), np.uint8)
    dot[-1, 3] = 200
    drawings = np.stack([np.zeros_like(dot), dot, *(draw_strokes(rng) for _ in range(30))])
    images = run_node(SOURCES, "drawings", drawings=drawings)("images", np.uint8)
    expected = np.stack([preprocess_slowly(ink) for ink in drawings])
    difference = images.reshape(expected.shape).astype(int) - expected
    assert abs(difference).max() <= 1  # grey levels that fall on a half
    assert (difference != 0).mean() < 0.01


# In a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api")
    found = filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome")))
    path = next(found, None)
    if path is None:
        pytest.skip("needs chromium")
    with playwright.sync_playwright() as driver:
        chromium = driver.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture(params=[360, 1280])
def page(request, html, browser) -> Iterator[Any]:
    """The page, opened from its file; at the end: no error, no request, nothing to scroll to."""
    page, problems, addresses = browser.new_page(), [], []
    page.set_viewport_size({"width": request.param, "height": 800})
    page.set_default_timeout(180_000)  # of a machine that is busy [ms]
    page.on("console", lambda message: message.type == "error" and problems.append(message.text))
    page.on("pageerror", lambda error: problems.append(str(error)))
    page.on("request", lambda sent: addresses.append(sent.url))
    page.goto(html.as_uri())
    page.wait_for_selector("body[data-ready]")
    yield page
    assert page.evaluate("document.documentElement.scrollWidth") == request.param
    assert problems == []
    assert [url for url in addresses if not url.startswith(("file:", "data:", "blob:"))] == []
    page.close()


def choose(page: Any, mode: str) -> None:
    page.get_by_text(mode.title(), exact=True).click()
    page.wait_for_selector(f"body[data-mode={mode}]")


def status(page: Any) -> str:
    return page.inner_text("#status")


@pytest.mark.slow
def test_a_person_watches(page):
    columns = "repeat(auto-fit, minmax(9px, 1fr))"  # cards side by side at every width
    page.evaluate(f"$('cards').style.gridTemplateColumns = '{columns}'")
    for env_id, agents in build.AGENTS.items():
        page.select_option("#task", env_id)
        last = ram_env.find_task(env_id).num_glimpses
        assert page.locator("#retina canvas").count() == ram_env.find_task(env_id).num_scales
        assert page.locator("#cards canvas").count() == len(agents)
        size = "(canvas) => canvas.width === Math.round(canvas.clientWidth * devicePixelRatio)"
        assert page.evaluate(f"[...document.querySelectorAll('#cards canvas')].every({size})")
        for t in range(2, last + 1):
            page.click("#step")
            assert status(page).startswith(f"Glimpse {t} of {last} ")
        assert re.search(r"Answers \d, \d+ %.*: (right|wrong)\. It is \d\.", status(page))
        assert page.is_disabled("#step")
        assert page.evaluate("document.activeElement.id") == "run"  # not lost with the button
        page.click("#back")
        assert "Believes" in status(page)
    page.click("#next")
    assert page.inner_text("#number") == f"Canvas 2 of {build.NUM_CANVASES}"
    page.clock.install(time=datetime(2026, 1, 1))
    page.clock.pause_at(datetime(2026, 1, 2))  # from now on time passes in run_for alone
    page.click("#run")
    assert page.inner_text("#run") == "Pause"
    page.clock.run_for(page.evaluate("PACE"))
    assert status(page).startswith("Glimpse 2 of 7 ")
    for button in ("step", "back"):
        page.click(f"#{button}")
        assert page.inner_text("#run") == "Run"
        page.click("#run")
    page.clock.run_for(page.evaluate("10 * PACE"))
    assert status(page).startswith("Glimpse 7 of 7 ")
    assert page.inner_text("#run") == "Run"
    page.focus("#glimpse")
    page.keyboard.press("End")
    assert status(page).startswith("Glimpse 7 of 7 ")


def drag(page: Any, element: str, *points: tuple[float, float]) -> None:
    page.locator(element).scroll_into_view_if_needed()
    box = page.locator(element).bounding_box()
    for k, (x, y) in enumerate(points):
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=4)
        if k == 0:
            page.mouse.down()
            for event in ("pointerup", "lostpointercapture"):  # of a second finger
                page.dispatch_event(element, event, {"pointerId": 99})
    page.mouse.up()


@pytest.mark.slow
def test_a_person_draws_and_drags(page):
    choose(page, "draw")
    page.click("#borrow")
    assert page.evaluate("state.digits.length") == 1
    early = "[{ offsetX: 9, offsetY: 9 }, this]"  # two points within a frame
    page.evaluate(f"PointerEvent.prototype.getCoalescedEvents = function () {{ return {early}; }}")
    drag(page, "#pad", (0.3, 0.2), (0.7, 0.2), (0.45, 0.85))
    assert page.evaluate("$('pad').getContext('2d').getImageData(9, 9, 1, 1).data[3]") > 0
    page.wait_for_function("state.drawn && view.pixels.some((grey) => grey)")
    place = "[state.digits[0].x, state.digits[0].y]"
    ink = "state.digits.map(({ image }) => image.reduce((a, b) => a + b))"
    assert len(page.evaluate(ink)) == 1  # a drawing replaces a digit that nobody moved
    assert page.evaluate(ink)[0] > 0
    assert page.evaluate(place) == [16, 16]
    for env_id in ("MNISTGlimpse-v0", "ClutteredMNISTGlimpse-v0"):
        page.select_option("#task", env_id)
    assert page.evaluate(place) == [16, 16]
    drag(page, "#scene", (0.5, 0.5), (0.1, 0.1))
    page.wait_for_function("view.pixels[30 * 60 + 30] === 0 && view.pixels.some((grey) => grey)")
    assert page.evaluate(place) == [0, 0]
    page.focus("#scene")
    page.keyboard.press("ArrowRight")
    page.keyboard.press("Control+ArrowRight")
    assert page.evaluate(place) == [1, 0]
    (shown,) = page.evaluate("state.digits.map(({ image, x, y }) => [[...image], x, y])")
    canvas = np.reshape(page.evaluate("[...view.pixels]"), (60, 60))
    assert canvas[shown[2] :, shown[1] :][:28, :28].ravel().tolist() == shown[0]
    page.click("#clutter")
    assert page.evaluate("state.clutter.length") == 4
    page.click("#another")
    page.focus("#pad")
    for key in ("Shift+ArrowDown", "ArrowLeft", "Shift+ArrowUp"):
        page.keyboard.press(key)
    assert len(page.evaluate(ink)) == 2
    assert page.evaluate("state.pen") == [132, 140]
    drag(page, "#scene", (0.1, 0.1), (0.2, 0.1))
    assert page.evaluate("state.digits.map(({ x }) => x)") == [16, 7]  # the keys move the last
    page.click("#borrow")
    drag(page, "#scene", (0.5, 0.5), (0.9, 0.9))
    page.click("#borrow")
    page.click("#another")
    drag(page, "#pad", (0.3, 0.2), (0.7, 0.2))
    assert len(page.evaluate(ink)) == 5  # moved or kept: no digit is replaced
    page.select_option("#task", "MNISTGlimpse-v0")
    assert "Answers" in status(page)
    page.click("#clear")
    page.select_option("#task", "ClutteredMNISTGlimpse-v0")
    assert page.evaluate("view.pixels.every((grey) => grey === 0)")


@pytest.mark.slow
@pytest.mark.parametrize(("page", "rightly"), [(360, True), (1280, False)], indirect=["page"])
def test_a_person_plays_and_the_env_replays_the_saved_scanpath(page, rightly):
    choose(page, "play")
    assert page.is_disabled("#answers button >> nth=0")
    last, top = page.evaluate("[task().numGlimpses, $('scene').offsetTop]")
    side = page.evaluate("$('scene').clientWidth")
    drag(page, "#scene", (0.5, 0.5), (0.5, -0.05))  # a press taken back
    assert status(page).startswith(f"Glimpse 1 of {last}.")
    for t in range(2, last + 1):
        if rightly:  # by keyboard
            page.focus("#scene")
            page.keyboard.press("ArrowRight")
            page.keyboard.press("Enter")
        else:
            page.locator("#scene").click(position={"x": 20 * t, "y": 30})
        assert status(page).startswith(f"Glimpse {t} of {last}.")
    assert page.evaluate("$('scene').offsetTop") == top  # a double tap gives no answer
    assert page.get_attribute("#scene", "aria-label") == "The canvas, hidden"
    label = page.evaluate("episode().label")
    page.focus("#task")
    page.keyboard.press(str(label))
    assert page.evaluate("state.answer") is None
    if rightly:
        page.focus("#scene")
        page.keyboard.press(str(label))
    else:
        page.click(f"#answers button >> nth={(label + 1) % 10}")
    verdict = "right" if rightly else "wrong"
    assert f"It is {label}. You say" in status(page)
    assert f": {verdict}. The agent says" in status(page)
    assert page.locator("#cards canvas").count() == 1
    assert page.inner_text("#score").startswith(f"You {int(rightly)} of 1")
    with page.expect_download() as download:
        page.click("#save")
    text = download.value.path().read_text()
    saved = json.loads(text)
    assert saved["rewards"] == [0] * (last - 1) + [int(rightly)]
    if not rightly:  # the first click, at (40, 30) px
        clicked = [2 * 40 / side - 1, 2 * 30 / side - 1]
        assert saved["locations"][1] == pytest.approx(clicked, abs=2 / side)
    read = "import sys, ram_env as r; e = r.episode_from_json(sys.stdin.read());"
    code = f"{read} print([e.locations.tolist(), e.rewards.tolist()])"
    printed = run_python("-c", code, text=text)
    assert json.loads(printed) == [saved["locations"], saved["rewards"]]
    page.click("#again")
    assert status(page).startswith("Glimpse 1 of")
    page.select_option("#task", "MNISTGlimpse-v0")
    assert page.inner_text("#score") == "Not played yet"
