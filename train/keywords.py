"""Keywords of an environment on the command line, which need no registered id."""

from __future__ import annotations

from typing import Any

from agents.runs.files import read_inline


def read_keywords(text: str) -> dict[str, Any]:
    """Return keywords from TOML such as ``object_scale = [0.5, 1.5], num_clutter = 8``.

    Raises:
        ValueError: If it is not TOML, or holds a keyword that isn't the command line's to choose.
    """
    keywords = read_inline(text)
    if fixed := sorted(keywords.keys() & {"split", "order", "action_format", "data_dir"}):
        raise ValueError(
            f"env_kwargs must leave out {fixed}: the script sets split, order and action_format, "
            "and RAM_ENV_DATA names the folder with the data"
        )
    return keywords
