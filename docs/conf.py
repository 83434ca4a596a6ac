"""Sphinx's settings for the documentation site: `sphinx-build -n -W docs docs/_build`.

The build needs no network. Equations become MathML, which browsers draw themselves, with a font
that ziamath ships; the environments render their own pictures (:mod:`docs.pages`).
"""

from __future__ import annotations

import shutil
import sys
from importlib.resources import files
from pathlib import Path
from typing import Any

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.application import Sphinx
from sphinx.writers.html5 import HTML5Translator

ROOT = Path(__file__).parents[1]
DEMO = Path(__file__).parent / "demo"
sys.path.insert(0, str(ROOT))  # `train` is not part of the package

import ram_env  # noqa: E402
from docs import pages  # noqa: E402
from docs.docstrings import to_rst  # noqa: E402

project = "ram-env"
author = "The ram-env developers"
copyright = f"{author}, MIT licence"  # noqa: A001
version = release = ram_env.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build", "demo", "listings.md"]

myst_enable_extensions = ["dollarmath", "colon_fence"]
myst_heading_anchors = 3

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False
napoleon_use_ivar = True
napoleon_custom_sections = ["Source", "Observation Space"]

nitpick_ignore_regex = [
    # Other projects' names: the build looks nothing up in the network.
    (r"py:.*", r"(np|numpy|torch|nn|gymnasium|gym|spaces|stable_baselines3|sb3_contrib)\..*"),
    (r"py:.*", r"(collections|os|pathlib)\..*"),
    (r"py:.*", r"Tensor|ResetNeeded|ClosedEnvironmentError"),
    # Names that docstrings mention and the API page leaves out.
    (r"py:.*", r"CheckpointError|FROZEN_SHA256|HybridDistribution|HybridHead"),
    (r"py:.*", r"published_names|raster_locations"),
    (r"py:.*", r"ram_env\.tasks\.Task|agents\.sb3\.checkpoints\.AlgorithmT"),
]

html_theme = "pydata_sphinx_theme"
html_title = "ram-env"
html_context = {"default_mode": "auto"}
html_show_sourcelink = False
html_copy_source = False
html_math_renderer = "mathml"
html_static_path = ["_static", str(files("ziamath.fonts") / "STIXTwoMath-Regular.ttf")]
html_css_files = ["site.css"]
html_js_files = ["site.js"]
html_sidebars = {"[!e]*": [], "estimators": []}  # only the environments have neighbours to show
html_theme_options = {
    "navigation_with_keys": False,
    "secondary_sidebar_items": ["page-toc"],
    "header_links_before_dropdown": 8,
    "navbar_persistent": ["search-button"],
    "footer_start": ["copyright"],
    "footer_end": [],
}


def setup(app: Sphinx) -> None:
    """Register what this site adds to Sphinx."""
    app.add_html_math_renderer("mathml", (write_inline, None), (write_block, None))
    app.connect("autodoc-process-docstring", convert_docstring, priority=400)  # before napoleon
    app.connect("builder-inited", pages.write_pages)
    app.add_directive("results-section", pages.ResultsSection)
    if (DEMO / "index.html").exists():
        app.tags.add("demo")
    app.connect("build-finished", copy_demo)


def copy_demo(app: Sphinx, exception: Exception | None) -> None:
    """Copy the interactive demo beside the site's pages, if it was built."""
    if exception is None and "demo" in app.tags:
        folder = Path(app.outdir) / "demo"
        folder.mkdir(exist_ok=True)
        shutil.copy(DEMO / "index.html", folder)


def convert_docstring(
    app: Sphinx, what: str, name: str, thing: Any, options: Any, lines: list[str]
) -> None:
    """Typeset a docstring's equations and tables; leave out what an environment's page has."""
    if name in ("ram_env.GlimpseEnv", "ram_env.SignpostEnv"):
        lines[1:] = ["", "Specified on :doc:`the pages of the environments <environments>`."]
    lines[:] = to_rst("\n".join(lines)).splitlines()


def write_inline(self: HTML5Translator, node: nodes.math) -> None:
    """Write inline mathematics."""
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def write_block(self: HTML5Translator, node: nodes.math_block) -> None:
    """Write an equation on lines of its own, which scroll where it is wide."""
    equation = convert(node.astext(), display="block")
    self.body.append(f'<div class="math-block" tabindex="0">{equation}</div>')
    raise nodes.SkipNode
