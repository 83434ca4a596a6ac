"""Starting a run from another one: its weights, and the flags that make a model they fit."""

from __future__ import annotations

from dataclasses import asdict

from agents.ram import RecurrentAttentionModel
from agents.runs.loading import check_data, find_run, load_run

_FREE = {"identity_core", "location_reaches_core", "state_cap"}
"""Fields of a model's configuration that may change when a run starts from its weights."""
_PRESENT = {"num_glimpses": "see_time", "initial_std": "learned_std", "stop_hidden": "stop network"}
"""Fields of which only presence must be the same, and what is then there."""


def initial_flags(name: str) -> list[str]:
    """Return the flags of train/reinforce.py that make a model of another run's kind and sizes.

    Args:
        name: The published agent or the run folder.

    Raises:
        ValueError: If there is neither, or the folder holds no whole run of that script.
    """
    config = load_run(find_run(name), env_id="")[0].config
    names = ("core", "hidden_size", "conv_features", "location", "location_hidden")
    flags = [f"--{each}={getattr(config, each)}" for each in names]
    flags.append("--see-time" if config.num_glimpses else "--no-see-time")
    return [*flags, "--learned-std" if config.initial_std else "--no-learned-std"]


def start_from(model: RecurrentAttentionModel, name: str, *, data: str, is_sample: bool) -> None:
    """Give a model the weights of a published agent or of a run folder, its learned std included.

    A stop network that the other lacks keeps its own.

    Args:
        model: Takes the weights.
        name: The published agent or the run folder.
        data: What the model will be trained on: see :func:`check_data`.
        is_sample: Whether that is the fallback sample of digits.

    Raises:
        ValueError: If there is neither, it has other networks or sizes than the model, or it was
            trained on other data, whose images overlap.
    """
    folder = find_run(name)
    other, _ = load_run(folder, env_id="")
    check_data(name, folder, data=data, is_sample=is_sample)
    theirs, mine = (asdict(each.config) for each in (other, model))
    if other.stop_network is None:
        theirs["stop_hidden"] = mine["stop_hidden"]
    for settings in (theirs, mine):
        settings |= {there: settings.pop(field) > 0 for field, there in _PRESENT.items()}
    if differing := sorted(key for key in mine.keys() - _FREE if mine[key] != theirs[key]):
        pairs = ", ".join(f"{key} {theirs[key]} and not {mine[key]}" for key in differing)
        raise ValueError(f"{name} can't be the start of this run: it has {pairs}")
    model.load_state_dict({**model.state_dict(), **other.state_dict()})
