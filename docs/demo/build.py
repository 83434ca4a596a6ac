"""Write the interactive demo, one HTML file: `python docs/demo/build.py`.

The page watches the published agents, draws for them and plays in their place. It holds their
weights, rounded to float16, and the first canvases of each validation split, and it needs no
network.

Dimension key:
    n: canvases per task
    H: canvas side [px]
"""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import tyro

import ram_env
from agents.runs.files import read_json
from agents.runs.loading import load_pretrained, pretrained_dir
from train.keywords import make_vector_env

SOURCES = Path(__file__).parent
AGENTS = {  # of each task: our agent, then those it is compared with
    "ClutteredMNISTGlimpse-v0": ("cluttered", "cluttered-paper-rule"),
    "LargeClutteredMNISTGlimpse-v0": ("large-cluttered",),
    "TranslatedMNISTGlimpse-v0": ("translated",),
    "MNISTGlimpse-v0": ("mnist",),
}
GRU_NAMES = {  # torch's of its cell, and those of our rectifier core
    "core.weight_ih": "core.input.weight",
    "core.bias_ih": "core.input.bias",
    "core.weight_hh": "core.recurrent.weight",
    "core.bias_hh": "core.recurrent.bias",
}
NUM_CANVASES = 36  # per task: the first of the split, none picked


def main(output: Path = SOURCES / "index.html") -> None:
    """Write the page."""
    header, content = pack()
    page = (SOURCES / "template.html").read_text(encoding="utf-8")
    names = ("style.css", "ram.js", "page.js")
    parts = {name: (SOURCES / name).read_text(encoding="utf-8") for name in names}
    parts["header"] = json.dumps(header)
    parts["content"] = base64.b64encode(zlib.compress(content, 9)).decode()
    for name, part in parts.items():
        page = page.replace(f"{{{{{name}}}}}", part)
    output.write_text(page, encoding="utf-8")
    print(f"{output}: {output.stat().st_size / 1e6:.2f} MB")


def pack() -> tuple[dict[str, Any], bytes]:
    """Return what the page knows: a header and the bytes that it points into.

    The bytes are the low bytes of all weights, their high bytes (apart, they compress better), then
    the canvases of each task, (n, H, H). The header has an entry per agent, whose tensors begin
    at a number of weights, and one per task, whose canvases begin at a byte.
    """
    weights: list[np.ndarray] = []
    agents = {name: _pack_agent(name, weights) for names in AGENTS.values() for name in names}
    planes = np.concatenate(weights).view(np.uint8).reshape(-1, 2)  # (weights, low and high byte)
    content, tasks, sample = planes.T.tobytes(), {}, False
    for env_id, names in AGENTS.items():
        tasks[env_id], canvases, is_sample = _pack_task(env_id)
        tasks[env_id] |= {"start": len(content), "agents": names}
        content += canvases.tobytes()
        sample |= is_sample
    return {"numWeights": len(planes), "agents": agents, "tasks": tasks, "sample": sample}, content


def _pack_agent(name: str, weights: list[np.ndarray]) -> dict[str, Any]:
    """Add an agent's weights, without those of its baseline, and return its entry."""
    model, settings = load_pretrained(name)
    options = ("num_glimpses", "stop_hidden", "state_cap", "initial_std")
    if model.config.core == "lstm" or any(getattr(model.config, key) for key in options):
        raise ValueError(f"{name}: ram.js knows rnn and gru cores without {', '.join(options)}")
    tensors = {}
    for key, tensor in model.state_dict().items():
        if not key.startswith("baseline_network"):
            place = {"start": sum(map(len, weights)), "shape": list(tensor.shape)}
            tensors[GRU_NAMES.get(key, key)] = place
            weights.append(tensor.numpy().astype("<f2").ravel())
            assert np.isfinite(weights[-1]).all(), f"{name}: a weight is too large for float16"
    result = read_json(pretrained_dir(name) / "result.json")
    low, high = result["interval"]
    return {
        "offset": model.config.location == "offset",
        "core": model.config.core,
        "size": model.config.hidden_size,
        "std": settings["final_std"] or settings["std"],
        "error": f"{result['error']:.2f} % ({low:.2f}-{high:.2f})",
        "tensors": tensors,
    }


def _pack_task(env_id: str) -> tuple[dict[str, Any], np.ndarray, bool]:
    """Return a task's entry, its first validation canvases and whether they are the sample's."""
    env = make_vector_env(env_id, NUM_CANVASES, split="validation", order="sequential")
    task: Any = env.task
    obs, infos = env.reset(seed=0)
    episodes = {name: infos[name].tolist() for name in ("index", "label")}
    sizes = {
        "side": task.side,
        "glimpseSize": task.glimpse_size,
        "numScales": task.num_scales,
        "numGlimpses": task.num_glimpses,
        "clutterSize": task.clutter_size,
    }
    entry = {"episodes": episodes | {"location": obs["location"].tolist()}, "sizes": sizes}
    canvases, _ = ram_env.frozen_canvases(env_id, "validation")
    return entry, canvases[:NUM_CANVASES], env.data_is_sample


if __name__ == "__main__":
    tyro.cli(main)
