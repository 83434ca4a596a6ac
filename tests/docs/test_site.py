"""The site builds without warnings, loads nothing from elsewhere, and answers in two clicks."""

import re
import subprocess
import sys
from html.parser import HTMLParser
from importlib.util import find_spec
from pathlib import Path
from urllib.parse import urldefrag

import pytest

import ram_env

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]
LOADING = {"script": "src", "img": "src", "iframe": "src", "source": "src", "object": "data"}


class Links(HTMLParser):
    """Where a page leads, and what it loads."""

    def __init__(self, page: Path):
        super().__init__()
        self.targets: list[str] = []
        self.loaded: list[str] = []
        self.feed(page.read_text())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {name: value or "" for name, value in attrs}
        if tag == "a" and "href" in values:
            self.targets.append(values["href"])
        elif tag == "link" and values.get("rel") not in ("next", "prev", "index", "search"):
            self.loaded.append(values["href"])
        elif LOADING.get(tag) in values:
            self.loaded.append(values[LOADING[tag]])


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The folder of the built site."""
    for library in ("sphinx", "myst_parser", "pydata_sphinx_theme", "latex2mathml", "ziamath"):
        if not find_spec(library):
            pytest.skip(f"needs the extra docs: {library} is not installed")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "sphinx", "-n", "-W", "-q", "-d", str(folder / "doctrees")]
    command += [str(ROOT / "docs"), str(folder / "html")]
    built = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert built.returncode == 0, built.stderr
    return folder / "html"


def within_clicks(start: Path, clicks: int) -> set[Path]:
    """Return the pages that a reader reaches from a page by following links."""
    reached, last = {start}, {start}
    for _ in range(clicks):
        targets = {
            (page.parent / urldefrag(target).url).resolve()
            for page in last
            for target in Links(page).targets
            if not re.match(r"\w+:", target) and urldefrag(target).url.endswith(".html")
        }
        last = {target for target in targets if target.exists()} - reached
        reached |= last
    return reached


@pytest.mark.parametrize(
    ("question", "answer"),
    [
        ("the observation space", r'id="observation-space".*?<code.*?glimpse.*?\(S C, G, G\)'),
        ("how to plug in one's own algorithm", r'id="your-own-algorithm".*?train/compare\.py'),
        ("the error of PPO", r"ppo_history.*?\d+\.\d\d \(\d+\.\d\d-\d+\.\d\d\)"),
        ("the weights' licence", r"weights are under the MIT licence"),
    ],
)
def test_two_clicks_lead_from_the_start_to(site, question, answer):
    pages = within_clicks(site / "index.html", 2)
    assert any(re.search(answer, page.read_text(), re.DOTALL) for page in pages), question


def test_no_page_loads_anything_from_an_address(site):
    pages = list(site.rglob("*.html"))
    assert len(pages) > 15
    for page in pages:
        for address in Links(page).loaded:
            assert not re.match(r"(https?:)?//", address), f"{page.name}: {address}"
    for style in site.rglob("*.css"):
        assert not re.search(r"(url\(|@import)\s*[\"']?(https?:)?//", style.read_text()), style


def test_every_id_has_a_page_with_its_picture(site):
    for env_id in ram_env.TASKS:
        page = site / "environments" / f"{env_id}.html"
        text = page.read_text()
        assert 'id="observation-space"' in text
        pictures = [name for name in Links(page).loaded if name.endswith(f"{env_id}.gif")]
        assert pictures or "This build found no files of" in text
        assert all((page.parent / name).exists() for name in pictures)


def test_equations_are_typeset(site):
    text = (site / "estimators.html").read_text()
    assert text.count("<math") > 15
    assert "log pi(" not in text  # the docstrings' own notation
