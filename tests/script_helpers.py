"""What tests of the scripts share."""

import json
import logging
import re
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
from safetensors.torch import save_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from agents.ram import RecurrentAttentionModel
from ram_env import GlimpseVectorEnv

LAST_LINE = re.compile(
    r"(test|validation) error \d+\.\d\d % \(95 % interval \d+\.\d\d-\d+\.\d\d, \d+ images\)"
)
"""What a script ends with."""

SMALL_RUN: dict[str, Any] = {"env_id": "SignpostGlimpse-v0", "threads": 1, "device": "cpu"}
SMALL_RUN |= {"hidden_size": 16, "conv_features": 2, "location_hidden": 8, "log_every": 1}
SMALL_RUN |= {"num_validations": 1, "validation_images": 100, "final_split": "none"}
"""Settings of train/reinforce.py with which an update takes milliseconds."""


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until something is so, on a busy machine for ten minutes at most."""
    deadline = time.monotonic() + 600
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def read_metrics(run_dir: Path) -> dict[str, dict[int, float]]:
    """Return the values of ``metrics.csv`` by tag and env steps."""
    rows = (row.split(",") for row in (run_dir / "metrics.csv").read_text().splitlines()[1:])
    metrics: dict[str, dict[int, float]] = {}
    for env_steps, tag, value in rows:
        metrics.setdefault(tag, {})[int(env_steps)] = float(value)
    return metrics


def read_events(folder: Path) -> list[tuple[str, int, float]]:
    """Return TensorBoard's scalars but the times, sorted, as tag, env steps and value."""
    logging.getLogger("tensorboard").setLevel(logging.ERROR)  # it warns of every resume
    events = EventAccumulator(str(folder), size_guidance={"scalars": 0}).Reload()
    return sorted(
        (tag, event.step, event.value)
        for tag in events.Tags()["scalars"]
        for event in events.Scalars(tag)
        if not tag.startswith("time/")
    )


def write_run(folder: Path, model: RecurrentAttentionModel, **settings: Any) -> Path:
    """Write what is read of a run that ended with this model; return the folder."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"config": settings}))
    (folder / "model.json").write_text(json.dumps(asdict(model.config)))
    save_file(model.state_dict(), folder / "best.safetensors")
    return folder


def edit_json(path: Path, **changes: Any) -> None:
    """Change entries of a JSON file, a dict those in an entry; None removes one (RFC 7396)."""

    def merge(old: Any, new: Any) -> Any:
        if not (isinstance(old, dict) and isinstance(new, dict)):
            return new
        merged = {**old, **{name: merge(old.get(name), part) for name, part in new.items()}}
        return {k: v for k, v in merged.items() if v is not None or k not in new}

    path.write_text(json.dumps(merge(json.loads(path.read_text()), changes)))


def hide_infos(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Set entries of the infos of every environment to 0."""

    def hidden(call: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*words: Any, **keywords: Any) -> Any:
            answer = call(*words, **keywords)
            for infos in (answer[-1], answer[-1].get("final_info", {})):  # an ended episode's, too
                for name in infos.keys() & {*names}:
                    infos[name] = np.zeros_like(infos[name])
            return answer

        return wrapped

    for name in ("step", "reset"):
        monkeypatch.setattr(GlimpseVectorEnv, name, hidden(getattr(GlimpseVectorEnv, name)))


class Call(NamedTuple):
    """A call of a function or method, whose first argument is then ``self``."""

    args: tuple[Any, ...]
    keywords: dict[str, Any]
    result: Any


def note_calls(monkeypatch: pytest.MonkeyPatch, owner: Any, name: str) -> list[Call]:
    """Return a list to which every call of a function is added once it has returned."""
    calls, function = [], getattr(owner, name)

    def noting(*args: Any, **keywords: Any) -> Any:
        result = function(*args, **keywords)
        calls.append(Call(args, keywords, result))
        return result

    monkeypatch.setattr(owner, name, noting)
    return calls


def register_variant(
    monkeypatch: pytest.MonkeyPatch, env_id: str, base: str, **keywords: Any
) -> None:
    """Register, for a test, an id that differs from another one in some keywords."""
    spec = gymnasium.spec(base)
    variant = replace(spec, id=env_id, kwargs={**spec.kwargs, **keywords})
    monkeypatch.setitem(gymnasium.registry, env_id, variant)
