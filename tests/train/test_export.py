"""An exported agent computes what the agent does, and the script refuses what it can't write."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from agents.ram import CORES, RAMConfig, RecurrentAttentionModel
from agents.runs.loading import load_pretrained
from tests.script_helpers import edit_json
from tests.train.test_evaluate import make_run

onnx = pytest.importorskip("onnx", reason="needs onnx and onnxscript")
pytest.importorskip("onnxscript", reason="needs onnx and onnxscript")
runtime = pytest.importorskip("onnxruntime", reason="needs onnxruntime")

from train.export import INPUTS, OUTPUTS, STOP, Config, main, to_onnx  # noqa: E402 - after the skips

BOARD = RAMConfig((3, 4, 4), 4, hidden_size=8)
OPTIONS: dict[str, dict[str, Any]] = {
    "rnn": {"state_cap": 2.0, "identity_core": True, "initial_std": 0.1},
    "gru": {"num_glimpses": 6, "location": "offset", "location_hidden": 4, "conv_features": 2},
    "lstm": {"num_glimpses": 6, "location": "offset", "stop_hidden": 4},
}


def make(name: str) -> RecurrentAttentionModel:
    if name not in CORES:
        return load_pretrained(name)[0]
    torch.manual_seed(0)
    config = RAMConfig((2, 5, 5), 3, hidden_size=8, core=name, **OPTIONS[name])
    return RecurrentAttentionModel(config).eval()


@torch.no_grad()
@pytest.mark.parametrize("name", ["cluttered", *CORES])
def test_an_exported_agent_equals_the_model_over_an_episode_of_any_number_of_images(name):
    model, rng = make(name), np.random.default_rng(0)
    options = runtime.SessionOptions()
    options.intra_op_num_threads = 1
    session = runtime.InferenceSession(to_onnx(model, {}), options)
    assert [each.name for each in session.get_inputs()] == [*INPUTS]
    stop = [STOP] if model.config.stop_hidden else []
    assert [each.name for each in session.get_outputs()] == [*OUTPUTS[:-1], *stop, OUTPUTS[-1]]
    for n in (1, 2, 7, 64):
        location: Any = rng.uniform(-1, 1, (n, 2)).astype(np.float32)
        expected, state = model.initial_state(n), np.zeros_like(model.initial_state(n))
        for _ in range(8):
            glimpse = rng.random((n, *model.config.glimpse_shape), np.float32)
            output, expected = model(torch.tensor(glimpse), torch.tensor(location), expected)
            given = dict(zip(INPUTS, (glimpse, location, state), strict=True))
            *got, state = session.run(None, given)
            parts = [part for part in output if part is not None]
            for ours, theirs in zip((*parts, expected), (*got, state), strict=True):
                np.testing.assert_allclose(theirs, ours.numpy(), rtol=1e-4, atol=1e-4)
            location = output.location_mean.clamp(-1, 1).numpy()


def test_the_file_tells_its_environment_and_state_and_no_path(tmp_path, capsys):
    path = tmp_path / "agent.onnx"
    folder = make_run(tmp_path / "run", BOARD)
    edit_json(folder / "config.json", config={"env_kwargs": "num_glimpses = 3"})
    main(Config(str(folder), path))
    assert capsys.readouterr().out == f"{path}\n"
    facts = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(facts.pop("glimpse_shape")) == [3, 4, 4]
    assert facts == {
        "env_id": "SignpostGlimpse-v0",
        "env_kwargs": '{"num_glimpses": 3}',
        "num_classes": "4",
        "state_size": "8",
        "initial_state": "zeros",
    }
    assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_what_cannot_be_written_or_read_is_refused(tmp_path):
    (tmp_path / "there.onnx").touch()
    for name in ("agent.pt", "nowhere/agent.onnx", "there.onnx"):
        with pytest.raises(ValueError, match=f"onnx must be a new file .*{name}"):
            Config("mnist", tmp_path / name)
    with pytest.raises(ValueError, match="'mnits' must be a run folder or one of "):
        main(Config("mnits", tmp_path / "agent.onnx"))
    assert [path.name for path in tmp_path.iterdir()] == ["there.onnx"]
