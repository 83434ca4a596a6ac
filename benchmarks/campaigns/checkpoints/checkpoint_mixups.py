"""Checkpoints that are sound, but not of the run that wants to go on from them."""

from __future__ import annotations

import shutil
from collections.abc import Callable

import torch
from safetensors.torch import load_file, save_file

from benchmarks.campaigns.checkpoints.checkpoint_damage import Fault, Target, edit_state
from benchmarks.campaigns.checkpoints.small_runs import checkpoint_path, edit_json, make_run, seal

_CHANGED = r"config.json was changed.*checkpoint 3"


def _take_all(target: Target) -> None:
    shutil.rmtree(target.path)
    shutil.copytree(target.other, target.path)


def _of_another_model(group: str) -> Callable[[Target], None]:
    """Take a group from a run of a wider model, and seal it."""

    def damage(target: Target) -> None:
        wider = target.other.parent.parent.with_name("wider")
        if not wider.exists():
            make_run(wider, width=3)
        source = checkpoint_path(wider, int(target.path.name[5:])) / f"{group}.safetensors"
        shutil.copyfile(source, target.path / source.name)
        seal(target.path)

    return damage


def _edit_tensors(
    group: str, change: Callable[[dict[str, torch.Tensor]], dict[str, torch.Tensor]]
) -> Callable[[Target], None]:
    def damage(target: Target) -> None:
        path = target.path / f"{group}.safetensors"
        save_file(change(load_file(path)), path)
        seal(target.path)

    return damage


def _lose_a_group(target: Target) -> None:
    target.choose("*.safetensors").unlink()
    seal(target.path)


def _edit_config(target: Target) -> None:
    config = target.path.parent.parent / "config.json"
    edit_json(config, lambda content: content["config"].update(seed=5))


def _put_a_file_for_all(target: Target) -> None:
    shutil.rmtree(target.path.parent)
    target.path.parent.write_bytes(b"a file")


REFUSED = [
    Fault("of a run with other settings", _take_all, _CHANGED),
    Fault("other settings in config.json", _edit_config, _CHANGED),
    Fault("weights of another model", _of_another_model("model"), "model.safetensors is of ano"),
    Fault("mean of another model", _of_another_model("mean_model"), "mean_model.safetensors is"),
    Fault("best of another model", _of_another_model("best_model"), "best_model.safetensors is"),
    Fault("optimiser of another model", _of_another_model("optimizer"), "optimizer.safetensors is"),
    Fault(
        "weights of another type",
        _edit_tensors("model", lambda ts: {name: t.double() for name, t in ts.items()}),
        "model.safetensors is of another model: .* must be torch.float32",
    ),
    Fault(
        "a generator too many",
        _edit_tensors("generators", lambda ts: {**ts, "more": ts["torch"].clone()}),
        r"generators.safetensors is of another model or device: \['more'\]",
    ),
    Fault(
        "a number too many for the optimiser",
        _edit_tensors("optimizer", lambda ts: {**ts, "9.step": torch.zeros(())}),
        "optimizer.safetensors is of another model: '9.step'",
    ),
    Fault("a group missing", _lose_a_group, "checkpoint must hold"),
    Fault("another environment", edit_state(lambda s: s.update(env={})), "environment cannot go"),
    Fault("no environment", edit_state(lambda s: s.pop("env")), "environment cannot go on"),
    Fault("a best error that is none", edit_state(lambda s: s.update(best_error="low")), "best_er"),
    Fault("no settings", edit_state(lambda s: s.pop("config")), "checkpoint 3 has no config"),
    Fault("no env steps", edit_state(lambda s: s.update(env_steps=None)), "3 has no env_steps"),
    Fault(
        "metrics without numbers",
        edit_state(lambda s: s.update(metrics={"train/loss": "low"})),
        "checkpoint 3 has metrics without number",
    ),
    Fault("a file in place of all checkpoints", _put_a_file_for_all, "Not a directory.*checkpoint"),
]
