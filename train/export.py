"""Export one step of a trained agent as ONNX: `python train/export.py NAME --onnx agent.onnx`.

The graph takes a glimpse, its location and the state, and returns what
:meth:`agents.ram.RecurrentAttentionModel.forward` does, for any number of episodes at once. Start
each episode with a state of zeros and feed ``next_state`` back. The environment clips
``location_mean`` to the image.
"""

from __future__ import annotations

from train import startup  # noqa: F401 - before slow imports

# isort: split
import json
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
import tyro
from torch import Tensor, nn

from agents.ram import RecurrentAttentionModel
from agents.runs.commands import parse_flags, run
from agents.runs.files import write_whole
from agents.runs.loading import find_run, load_run

INPUTS = ("glimpse", "location", "state")  # (N, P, G, G), (N, 2), (N, D)
OUTPUTS = ("location_mean", "logits", "baseline", "next_state")  # (N, 2), (N, K), (N,), (N, D)
STOP = "stop_logit"  # (N,), before next_state, where the model can stop


@dataclass(frozen=True)
class Config:
    """What to export and where to."""

    agent: tyro.conf.Positional[str]
    """Name of a published agent, such as cluttered, or a run folder of train/reinforce.py."""
    onnx: Path
    """New file to write, which ends in .onnx."""
    env_id: str | None = None
    """Environment id to note in the file. By default the run's own."""

    def __post_init__(self) -> None:
        """Check what would otherwise fail late."""
        if self.onnx.suffix != ".onnx" or self.onnx.exists() or not self.onnx.parent.is_dir():
            raise ValueError(f"onnx must be a new file NAME.onnx in a folder, got {self.onnx}")


class Step(nn.Module):
    """The model with its outputs in one flat tuple."""

    def __init__(self, model: RecurrentAttentionModel):
        super().__init__()
        self.model = model

    def forward(self, glimpse: Tensor, location: Tensor, state: Tensor) -> tuple[Tensor, ...]:
        """Process one glimpse: see :data:`INPUTS` and :data:`OUTPUTS`."""
        output, state = self.model(glimpse, location, state)
        return (*(part for part in output if part is not None), state)


def main(config: Config) -> None:
    """Load the agent, trace one step of it and write the file."""
    model, settings = load_run(find_run(config.agent), env_id=config.env_id)
    write_whole(config.onnx, to_onnx(model, settings))
    print(config.onnx)


def to_onnx(model: RecurrentAttentionModel, settings: Mapping[str, Any]) -> bytes:
    """Return one step of a model, and its environment, as the content of an ONNX file."""
    state = model.initial_state(2)
    example = (torch.zeros(2, *model.config.glimpse_shape), torch.zeros(2, 2), state)
    rows = {0: torch.export.Dim("N")}
    outputs = (*OUTPUTS[:-1], *([STOP] if model.stop_network else []), OUTPUTS[-1])
    names = {"input_names": INPUTS, "output_names": outputs}
    with warnings.catch_warnings(action="ignore"):  # the exporter warns of its own code
        program = torch.onnx.export(
            Step(model), example, dynamic_shapes=(rows,) * 3, verbose=False, **names
        )
    assert program is not None
    proto = program.model_proto
    for node in proto.graph.node:
        del node.metadata_props[:]  # stack traces with this machine's paths
    facts = {
        "env_id": settings.get("env_id") or "",
        "env_kwargs": json.dumps(settings.get("env_kwargs", {})),
        "glimpse_shape": json.dumps(model.config.glimpse_shape),
        "num_classes": str(model.config.num_classes),
        "state_size": str(state.shape[1]),
        "initial_state": "zeros",
    }
    onnx.helper.set_model_props(proto, facts)
    return proto.SerializeToString()


parse = partial(parse_flags, Config)
"""Returns the settings of a command line."""


if __name__ == "__main__":
    run(main, parse)
