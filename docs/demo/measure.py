"""Measure how fast the page draws: `python docs/demo/measure.py`, after `docs/demo/build.py`.

Prints the median and the 95th percentile [ms] of a frame in Chromium, per task: a glimpse of Watch
(all canvases drawn; the episodes are computed beforehand) and a drag of Draw (the whole episode
computed and drawn). Each frame waits until its pixels are there.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import tyro
from playwright.sync_api import sync_playwright

PAGE = Path(__file__).with_name("index.html")
FRAMES = """([mode, envId, n]) => {
  $("task").value = envId;
  chooseMode(mode);
  return Array.from({ length: n }, (_, k) => {
    const start = performance.now();
    if (mode === "draw") moveDigit(state.digits[0], k % 30, k % 7), update();
    else go(k % view.path.length);
    $("scene").getContext("2d").getImageData(0, 0, 1, 1);
    return performance.now() - start;
  });
}"""


def main(page: Path = PAGE, num_frames: int = 300) -> None:
    """Open the page, measure and print ``num_frames`` per task and mode."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox"]
        )
        tab = browser.new_page(viewport={"width": 1280, "height": 900})
        tab.goto(page.resolve().as_uri())
        tab.wait_for_selector("body[data-ready]")
        for env_id in tab.evaluate("Object.keys(data.tasks)"):
            for mode in ("watch", "draw"):
                times = tab.evaluate(FRAMES, [mode, env_id, num_frames])
                median, slow = np.percentile(times, [50, 95])
                print(f"{env_id} {mode}: {median:.1f} ms, 95 % below {slow:.1f} ms")
        browser.close()


if __name__ == "__main__":
    tyro.cli(main)
