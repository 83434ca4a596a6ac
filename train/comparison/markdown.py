"""Tables and numbers as reports write them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from train.comparison.statistics import Estimate

NONE = "-"


def document(sections: Iterable[list[str]]) -> str:
    """Join sections by empty lines."""
    return "\n\n".join("\n".join(lines) for lines in sections if lines) + "\n"


def table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    """Return the lines of a Markdown table."""
    cells = [[text.replace("|", "\\|") for text in row] for row in [header, *rows]]
    lines = [f"| {' | '.join(row)} |" for row in cells]
    return [lines[0], "|" + "---|" * len(header), *lines[1:]]


def estimate(of: Estimate) -> str:
    """Return a number with its interval, if there is one."""
    value, low, high = (two_decimals(each) for each in of)
    return value if low == NONE else f"{value} ({low} to {high})"


def two_decimals(number: float) -> str:
    """Return a number with two decimals, a dash for NaN."""
    return NONE if math.isnan(number) else f"{number:.2f}"


def grouped(text: str) -> str:
    """Return a whole number with commas, other text as it is."""
    return f"{int(text):,}" if text.isdecimal() else text


def whole(number: float) -> str:
    """Return a number without decimals, a dash for NaN."""
    return NONE if math.isnan(number) else f"{number:,.0f}"


def p_text(probability: float) -> str:
    """Return a p value."""
    return f"{probability:.1e}" if probability < 1e-4 else f"{probability:.4f}"
