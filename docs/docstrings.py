"""Turn the docstrings' own notation into reStructuredText.

The docstrings stay readable as plain text: equations are indented lines in ASCII, tables are
Markdown. The site shows the same text with typeset equations and real tables.
"""

import re

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


def to_tex(equation: str) -> str:
    """Return the TeX of an equation in the docstrings' ASCII; later lines continue the first."""
    tex = re.sub(r"\bE\[", r"\\mathbb{E}[", equation)
    tex = re.sub(r"\bH\[", r"\\mathcal{H}[", tex)
    tex = re.sub(r"\^(?:\(([^()]*)\)|(-1)\b)", r"^{\1\2}", tex)
    tex = re.sub(r"\bsqrt\(((?:[^()]|\([^()]*\))*)\)", r"\\sqrt{\1}", tex)
    tex = re.sub(r"\b1/T\b", r"\\tfrac{1}{T}", tex)
    tex = re.sub(r", {2,}", r",\\qquad ", tex)
    tex = re.sub(r"(?<![\\A-Za-z{])[A-Za-z]+(?![A-Za-z{}])", lambda m: _WORDS.get(m[0], m[0]), tex)
    for sign, command in _SIGNS.items():
        tex = tex.replace(sign, command)
    lines = [line.strip() for line in tex.splitlines()]
    if len(lines) == 1:
        return lines[0]
    return r"\begin{split} & " + r" \\ & \quad ".join(lines) + r" \end{split}"


def to_rst(docstring: str) -> str:
    """Return a docstring without its indentation as reStructuredText."""
    text = re.sub(r"(?:^ *\|.*\|$\n?)+", _to_list_table, docstring, flags=re.MULTILINE)
    # An indented paragraph with an equals sign that is no code
    equation = r"(?<!::)\n\n(    .* = .*(?:\n    .*)*)"
    return re.sub(equation, lambda m: f"\n\n.. math::\n\n    {to_tex(m[1])}\n", text)


def _to_list_table(table: re.Match[str]) -> str:
    """Turn a Markdown table with a header row into a ``list-table``."""
    rows = [re.split(r"(?<!\\)\|", line.strip(" |")) for line in table[0].splitlines()]
    items = ["* - " + "\n      - ".join(map(str.strip, row)) for row in [rows[0], *rows[2:]]]
    return "\n    ".join(["\n.. list-table::", ":header-rows: 1\n", *items, "\n"])
