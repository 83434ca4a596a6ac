"""What :mod:`benchmarks.campaigns.hostile.malice` plants, where, and what must be said of it.

To add a kind of file, put a sound one into ``Grounds``, write an opener beside it
(:mod:`benchmarks.campaigns.hostile.grounds`), and add a :class:`Case` here.
"""

from __future__ import annotations

import gzip
import io
import struct
import tarfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.campaigns.data.made_up import CIFAR_ARCHIVE, CIFAR_FOLDER, compress
from benchmarks.campaigns.hostile import hostile_content as hostile
from benchmarks.campaigns.hostile.grounds import (
    CHECKPOINT,
    Grounds,
    go_on,
    go_on_from_checkpoint,
    load,
    load_and_go_on,
    load_published,
    open_data,
    read_preset,
)
from benchmarks.campaigns.hostile.hostile_content import MODULE, Payloads
from benchmarks.campaigns.hostile.plants import (
    HUGE,
    Change,
    Plant,
    edit,
    holes,
    links,
    pipes,
    put,
    updates,
)

_BOMB = gzip.compress(bytes(2**25), 1) * 32  # unpacks to 1 GiB
_TENSORS, _STATE, _MANIFEST = (
    f"{CHECKPOINT}/{name}" for name in ("model.safetensors", "state.json", "manifest.json")
)
_BEST, _CONFIG, _SIZES, _RESULT, _METRICS, _TIMING = (
    f"run/{name}"
    for name in (
        *("best.safetensors", "config.json", "model.json", "result.json"),
        *("metrics.csv", "timing.csv"),
    )
)
_TEXTS = (_CONFIG, _SIZES, _RESULT, _STATE, _MANIFEST)
_IDX = "MNIST/raw/train-images-idx3-ubyte"
_NOT_USED = "step_00000003 cannot be used"
_NO_JSON = "(config|model|result|state|manifest).json is damaged, it is not JSON"


@dataclass(frozen=True)
class Case:
    """A kind of hostile content in a kind of place.

    Attributes:
        name: What it is.
        plants: Its variants.
        open: Opens what was planted, below the folder it is given.
        said: Pattern of what the error must say; None where there must be none, nor any harm.
    """

    name: str
    plants: Sequence[Plant]
    open: Callable[[Path], object]
    said: str | None


def make_cases(payloads: Payloads, grounds: Grounds) -> list[Case]:
    """Return all cases, those first that reach every loader."""
    pickles, data, tensors = _pickles(payloads), _datasets(payloads), _tensors()
    texts, lies = _texts(), _links(grounds)
    first = [*pickles[:7], *data[:3], *tensors[:2], texts[0], texts[1], lies[0]]
    return [*first, *pickles[7:], *data[3:], *tensors[2:], *texts[2:], *lies[1:], *_meanings()]


def _few(forms: Mapping[str, bytes]) -> dict[str, bytes]:
    return {form: forms[form] for form in ("a pickle", "a pickle in text", "a torch file")}


def _pickles(payloads: Payloads) -> list[Case]:
    """Pickles where other files should be."""
    forms, few = payloads.forms, _few(payloads.forms)
    extra = [f"run/{name}" for name in ("policy.pkl", "optimizer.pt", "sitecustomize.py")]
    extra += [
        f"idx/MNIST/processed/{part}.pt" for part in ("training", "test")
    ]  # of old torchvision
    said = f"{_NOT_USED}.*(model.safetensors|state.json|manifest.json)"
    return [
        Case(
            "a checkpoint", put([_TENSORS, _STATE, _MANIFEST], forms), go_on_from_checkpoint, said
        ),
        Case("pickles as weights", put([_BEST], forms), load, f"{_BEST} cannot be read"),
        Case("pickles as a loaded run", put([_CONFIG, _SIZES], few), load, _NO_JSON),
        Case("pickles as a resumed run", put([_CONFIG, _RESULT], few), go_on, _NO_JSON),
        Case("pickles as metrics", put([_METRICS, _TIMING], few), go_on, "csv is damaged"),
        Case("pickles as a preset", put(["presets/some.toml"], few), read_preset, ""),
        Case(
            "pickles in a published run",
            put(["published/some/best.safetensors"], forms),
            load_published,
            "best.safetensors is not the published file",
        ),
        Case(
            "pickles nobody asked for",
            put(extra, few),
            _then(load_and_go_on, open_data("idx")),
            None,
        ),
    ]


def _datasets(payloads: Payloads) -> list[Case]:
    """Files of datasets; CIFAR10's are pickles, which torchvision unpickles."""
    forms, few = payloads.forms, _few(payloads.forms)
    packed = {f"{form}, packed": compress(content) for form, content in few.items()}
    batch, archive = f"batches/{CIFAR_FOLDER}/data_batch_1", f"tar/{CIFAR_ARCHIVE}"
    archives = {"a bomb": _BOMB, **few, **_archives(payloads.forms["a pickle"])}
    many = struct.pack(">IIII", 0x803, 2**31, 28, 28) + bytes(99)
    lies = {"2^31 images": many, "2^31 axes": struct.pack(">II", 0x8FF, 2**31) + bytes(99)}
    bombs = {"a bomb": _BOMB, **{name: compress(content) for name, content in lies.items()}}
    idx, gz, said = f"idx/{_IDX}", f"gz/{_IDX}.gz", f"{_IDX}(.gz)? is damaged"
    both = _then(open_data("idx"), open_data("gz"))
    return [
        Case("pickles as images", put([idx], few) + put([gz], few | packed), both, said),
        Case(
            "pickles as CIFAR10",
            put([batch], forms),
            open_data("batches"),
            "data_batch_1 is damaged: MD5",
        ),
        Case(
            "pickles as CIFAR10, packed",
            put([archive], archives),
            open_data("tar"),
            "gz is damaged: MD5",
        ),
        Case("false sizes of images", put([idx], lies) + put([gz], bombs), both, said),
    ]


def _then(*openers: Callable[[Path], object]) -> Callable[[Path], None]:
    """Return what opens one thing after the other."""

    def opener(folder: Path) -> None:
        for each in openers:
            each(folder)

    return opener


def _archives(pickle: bytes) -> dict[str, bytes]:
    """Return archives whose members are pickles, or want to be put elsewhere."""
    outside = ("../../outside/evil", "/tmp/../evil", f"{CIFAR_FOLDER}/../../outside/evil")
    return {
        "packed pickles": _pack({f"{CIFAR_FOLDER}/data_batch_{i}": pickle for i in range(1, 6)}),
        "names outside": _pack(dict.fromkeys(outside, b"evil")),
    }


def _pack(members: Mapping[str, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:gz") as tar:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


def _tensors() -> list[Case]:
    """Files of tensors that lie, as weights and in a checkpoint whose manifest agrees."""
    said = f"{_BEST} (cannot be read|does not fit)|{_NOT_USED}|model.safetensors is of another"
    kinds = {
        "offsets": hostile.OFFSETS,
        "shapes": hostile.SHAPES,
        "headers": hostile.HEADERS,
        "types": hostile.TYPES,
    }
    return [
        Case(f"false {kind} of tensors", put([_BEST, _TENSORS], contents), load_and_go_on, said)
        for kind, contents in kinds.items()
    ]


def _texts() -> list[Case]:
    """JSON that is too much."""
    names = ("../../config.json", "/etc/passwd", "..", "", "a/../state.json", "C:\\x")
    listed = edit(_MANIFEST, {f"the name {name!r}": _list(name) for name in names})
    claimed = hostile.safetensors({"weight": hostile.tensor(shape=(2**34,), end=HUGE)})
    empty = [*holes([*_TEXTS, _BEST, _TENSORS, _METRICS]), *holes([_BEST, _TENSORS], claimed)]
    facts = edit(_MANIFEST, _FACTS)
    files = "(config|model|result|state|manifest).json|step_00000003 was renamed"
    too_much = "bytes, more than|cannot be read|does not fit|metrics.csv is damaged"
    return [
        Case("deep JSON", put(_TEXTS, hostile.DEEP), load_and_go_on, _NO_JSON),
        Case("a false manifest", [*listed, *facts], go_on_from_checkpoint, _NOT_USED),
        Case("numbers in JSON", put(_TEXTS, hostile.NUMBERS), load_and_go_on, _NO_JSON),
        Case("wide JSON", put(_TEXTS, hostile.WIDE), load_and_go_on, files),
        Case("files that are one hole", empty, load_and_go_on, too_much),
    ]


def _links(grounds: Grounds) -> list[Case]:
    """Links, pipes and devices where files should be."""
    other = grounds.outside / "run"
    names = ("log.txt", "run.lock", "config.json.new", "metrics.csv.new", "notes")
    written = [_METRICS, _TIMING, *(f"run/{name}" for name in names)]
    out = links(written, [other / "metrics.csv"]) + links(
        ["run/checkpoints"], [other / "checkpoints"]
    )
    system = [Path("/etc/passwd"), Path("/dev/zero"), Path("/proc/self/mem")]
    saved, loaded = [_TENSORS, _STATE, _MANIFEST], [_CONFIG, _SIZES, _BEST]
    return [
        Case("links out of a run", out, go_on, "is no plain file"),
        Case(
            "links in a checkpoint",
            links(saved, [*system, other / "config.json"]) + pipes(saved),
            go_on_from_checkpoint,
            f"{_NOT_USED}.* (is missing or|it is) no plain file",
        ),
        Case(
            "links in a loaded run",
            links(loaded, system) + pipes(loaded),
            load,
            "(config.json|model.json|best.safetensors) (cannot be read|is damaged)",
        ),
    ]


def _meanings() -> list[Case]:
    """JSON in order that says what it should not."""
    module = edit(_CONFIG, {"a module": lambda c: c["config"].update(env_id=f"{MODULE}:Evil-v0")})
    terminal = {"escapes": updates(commit="\33]0;title\7\n~", versions={"\33": "\n"})}
    state = "checkpoint 3 has|was renamed|best_error must|environment cannot go on"
    return [
        Case("a state without sense", edit(_STATE, _STATES), go_on_from_checkpoint, state),
        Case("settings without sense", edit(_CONFIG, _SETTINGS), go_on, "config.json|was made by"),
        Case("sizes without sense", edit(_SIZES, _MODELS), load, "model.json"),
        Case("a module to import", module, go_on, f"wants the module '{MODULE}' imported"),
        Case("a result for the terminal", put([_RESULT], _LINES), go_on, "result.json is damaged"),
        Case("versions for the terminal", edit(_STATE, terminal), go_on, None),
    ]


def _list(name: str) -> Change:
    """Return what lets a manifest list another name in place of a file's."""

    def change(manifest: dict[str, Any]) -> None:
        manifest["files"][name] = manifest["files"].pop("model.safetensors")

    return change


_FACTS: dict[str, Change] = {
    "no size": lambda m: m["files"]["state.json"].pop("bytes"),
    "a size that is a list": lambda m: m["files"]["state.json"].update(bytes=[1]),
    "no digest": lambda m: m["files"]["state.json"].pop("sha256"),
    "a digest that is an object": lambda m: m["files"]["state.json"].update(sha256={}),
    "a list of files": lambda m: m.update(files=[*m["files"]]),
    "a schema that is a list": updates(schema=[1]),
    "a schema that is a text": updates(schema="1"),
}
_STATES: dict[str, Change] = {
    "metrics that are a list": updates(metrics=[1]),
    "metrics that are lists": updates(metrics={"a": []}),
    "no metrics": lambda s: s.pop("metrics"),
    "steps that are a text": updates(env_steps="30"),
    "an update that is a list": updates(update=[3]),
    "settings that are a list": updates(config=[]),
    "a best error below 0": updates(best_error=-1.0),
    "a best error that is an object": updates(best_error={}),
    "an environment that is a text": updates(env={"count": "os.system"}),
    "an environment that is a list": updates(env=[]),
    "no environment": updates(env={}),
}
_SETTINGS: dict[str, Change] = {
    "settings that are a list": updates(config=[]),
    "more settings": lambda c: c["config"].update(command="os.system"),
    "fewer settings": lambda c: c["config"].pop("seed"),
    "other settings": lambda c: c["config"].update(seed=10**400),
    "settings of another type": lambda c: c["config"].update(seed={"a": 1}),
}
_MODELS: dict[str, Change] = {
    "huge sizes": updates(hidden_size=2**30),
    "large sizes": updates(hidden_size=30_000),
    "sizes past int64": updates(num_classes=10**30),
    "many pixels": updates(glimpse_shape=[1, 2**31, 2**31]),
    "texts as sizes": updates(hidden_size="2"),
    "objects as sizes": updates(what_size={}, glimpse_shape={"a": 1}),
    "another core": updates(core="os.system"),
    "more entries": updates(function="os.system"),
}
_LINES = {
    "no line": b"{}",
    "a line that is an object": b'{"line": {}}',
    "escapes": b'{"line": "\\u001b]0;title\\u0007"}',
    "two lines": b'{"line": "one\\nerror: two"}',
}
