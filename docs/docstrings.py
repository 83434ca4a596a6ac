"""Turn the docstrings' own notation into what Sphinx shows.

The docstrings stay readable as plain text: equations are indented lines in ASCII, tables are
Markdown, and an environment's sections are lines such as ``Action Space:``. The site shows the
same text with typeset equations, real tables and headings, so nothing is written twice.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

SECTIONS = (
    *("Description", "Action Space", "Observation Space", "Rewards", "Starting State"),
    *("Episode End", "Arguments", "Version History"),
)
"""Sections of a specification page, after Gymnasium's."""

_WORDS = {
    **{name: rf"\{name}\, " for name in ("log", "exp", "tanh")},
    **{name: rf"\{name} " for name in ("pi", "gamma", "Phi", "min", "max")},
    **{name: rf"\operatorname{{{name}}}" for name in ("mean", "std", "ReLU")},
    **{name: rf"\text{{{name}}}" for name in ("label", "absolute", "offset")},
    **{name: rf"\text{{ {name} }}" for name in ("if", "else")},
    "sum": r"\sum",
    "grad": r"\nabla ",
}
_SIGNS = {
    "(. ": r"(\cdot ",
    ">=": r"\ge ",
    "<=": r"\le ",
    "!=": r"\ne ",
    "...": r"\dots ",
    "-+": r"\mp ",
    "|": r"\mid ",
    "%": r"\%",
}
_TABLE_LINE = re.compile(r"\s*\|.*\|\s*$")


def to_tex(equation: str) -> str:
    """Return the TeX of an equation in the docstrings' ASCII; later lines continue the first."""
    tex = re.sub(r"\bE\[", r"\\mathbb{E}[", equation)
    tex = re.sub(r"\bH\[", r"\\mathcal{H}[", tex)
    tex = re.sub(r"\^(?:\(([^()]*)\)|(-1)\b)", r"^{\1\2}", tex)
    tex = re.sub(r"\bsqrt\(((?:[^()]|\([^()]*\))*)\)", r"\\sqrt{\1}", tex)
    tex = re.sub(r"\b1/T\b", r"\\tfrac{1}{T}", tex)
    tex = re.sub(r", {2,}", r",\\qquad ", tex)
    tex = re.sub(r"(?<![\\A-Za-z{])[A-Za-z]+(?![A-Za-z{}])", lambda m: _word(m[0]), tex)
    for sign, command in _SIGNS.items():
        tex = tex.replace(sign, command)
    lines = [line.strip() for line in tex.splitlines()]
    if len(lines) == 1:
        return lines[0]
    return r"\begin{split} & " + r" \\ & \quad ".join(lines) + r" \end{split}"


def to_rst(lines: list[str], *, title: str | None = None) -> list[str]:
    """Return a docstring's lines as reStructuredText.

    Args:
        lines: The docstring without its indentation.
        title: Character that underlines the headings of sections, which are then part of a page;
            None makes them rubrics inside an API entry.
    """
    return list(_convert(lines, title))


def _convert(lines: list[str], title: str | None) -> Iterator[str]:
    number = 0
    while number < len(lines):
        line = lines[number]
        if line.rstrip(":") in SECTIONS and line.endswith(":"):
            name = line.rstrip(":")
            yield from ([name, title * len(name), ""] if title else [f".. rubric:: {name}", ""])
            number += 1
        elif _TABLE_LINE.match(line):
            table = _while(lines, number, lambda text: bool(_TABLE_LINE.match(text)))
            yield from _to_list_table(table)
            number += len(table)
        elif _begins_equation(lines, number):
            block = _while(lines, number, lambda text: text.startswith("    "))
            yield from ["", ".. math::", "", f"    {to_tex(chr(10).join(block))}", ""]
            number += len(block)
        else:
            yield line
            number += 1


def _word(word: str) -> str:
    return _WORDS.get(word, word)


def _while(lines: list[str], start: int, holds: Callable[[str], bool]) -> list[str]:
    """Return the lines from ``start`` on up to the first for which the condition fails."""
    end = start
    while end < len(lines) and holds(lines[end]):
        end += 1
    return lines[start:end]


def _begins_equation(lines: list[str], number: int) -> bool:
    """Whether an indented paragraph begins here that is no code, list or section's text."""
    if not lines[number].startswith("    ") or " = " not in lines[number] or number < 2:
        return False
    before = [line for line in lines[:number] if line.strip()]
    return not lines[number - 1].strip() and not before[-1].endswith("::")


def _to_list_table(table: list[str]) -> Iterator[str]:
    """Turn a Markdown table with a header row into a ``list-table``."""
    rows = [re.split(r"(?<!\\)\|", line.strip().strip("|")) for line in table]
    yield from ["", ".. list-table::", "    :header-rows: 1", ""]
    for row in [rows[0], *rows[2:]]:
        for number, cell in enumerate(row):
            yield f"    {'*' if number == 0 else ' '} - {cell.strip()}"
    yield ""
