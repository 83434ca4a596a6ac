"""The site builds without warnings, loads nothing from elsewhere, and shows every environment."""

import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import ram_env

pytestmark = pytest.mark.slow
ROOT = Path(__file__).parents[2]


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


def test_no_page_loads_anything_from_an_address(site):
    loads = r'<(?:script|img|iframe|source|object|link)\b[^>]* (?:src|href|data)="(?:https?:)?//'
    imports = r"(url\(|@import)\s*[\"']?(https?:)?//"
    pages = [*site.rglob("*.html")]
    assert len(pages) > 15
    for pattern, paths in ((loads, pages), (imports, site.rglob("*.css"))):
        for path in paths:
            assert not re.search(pattern, path.read_text()), path


def test_every_id_has_a_page_with_its_picture(site):
    for env_id in ram_env.TASKS:
        text = (site / "environments" / f"{env_id}.html").read_text()
        assert 'id="observation-space"' in text
        (picture,) = re.findall(rf'<img [^>]*src="([^"]*{env_id}\.gif)"', text) or [None]
        if picture is None:
            assert "This build found no data" in text
        else:
            assert (site / "environments" / picture).exists()


def test_equations_are_typeset_and_sections_of_the_results_included(site):
    text = (site / "estimators.html").read_text()
    assert text.count("<math") > 15
    assert "log pi(" not in text  # the docstrings' own notation
    assert re.search(r"ppo_history.*?\d+\.\d\d \(\d", (site / "results.html").read_text())
