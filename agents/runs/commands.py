"""The command line of a training script: its flags, ``--resume``, signals and errors."""

from __future__ import annotations

import inspect
import os
import re
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import MISSING, dataclass, field, fields, is_dataclass, make_dataclass, replace
from functools import cache
from itertools import chain, pairwise
from pathlib import Path
from types import FrameType
from typing import Annotated, Any, Literal, TypeVar, get_type_hints

import gymnasium
import torch

from agents import distributed, torchrun
from agents.runs.files import convert, first_line, read_toml
from agents.runs.records import printable, read_settings
from agents.training import check_settings

ConfigT = TypeVar("ConfigT")

_STOPPING = (signal.SIGINT, signal.SIGTERM)
_OUT_OF_MEMORY = re.compile("can't allocate memory|out of memory")  # torch's RuntimeErrors

DIVERGED = 3
"""Exit status of a run in which a loss or weight became NaN or infinite."""


def expert(default: Any) -> Any:
    """Return a field of a Config whose flag only ``--help-all`` shows."""
    return field(default=default, metadata={"expert": True})


@dataclass(frozen=True)
class RunConfig:
    """Settings that all training scripts share; every one is a flag."""

    env_id: str = "ClutteredMNISTGlimpse-v0"
    """Registered environment to train on; my_module:Mine-v0 for one that your module registers."""
    seed: int = 0
    """Random seed for weights, exploration, images and locations."""
    device: str = "auto"
    """Device for the networks: cpu, cuda, cuda:N, or auto, which takes a GPU if there is one."""
    threads: int = torch.get_num_threads()
    """CPU threads for the networks; by default OMP_NUM_THREADS, else one per core that the process
    may use."""
    run_dir: Path | None = None
    """Folder to write the run to; by default a new one below runs/."""
    resume: Path | None = None
    """Folder of a run to resume with its own settings; no other flag but the run's
    --env-id is allowed."""
    final_split: Literal["test", "validation", "none"] = "test"
    """Split to evaluate once, at the end, with the stored weights; none skips this."""
    num_validations: int = 12
    """Number of validations, evenly spaced; the last is at the end."""
    log_every: int = 100
    """Updates between two lines of metrics."""
    checkpoint_every: int = expert(1000)
    """Updates between two checkpoints; each validation has one too."""

    def __post_init__(self) -> None:
        """Check the shared values; scripts extend this with their own."""
        counts = ("num_validations", "log_every", "checkpoint_every")
        ranges = {"from 1 to 4096": ("threads",), "at least 1": counts, "at least 0": ("seed",)}
        check_settings(self, ranges)  # torch crashes where the system allows fewer threads


def parse_flags(
    config_class: type[ConfigT],
    arguments: Sequence[str],
    *,
    description: str | None = None,
    default: ConfigT | None = None,
    presets: Path | None = None,
) -> ConfigT:
    """Return the settings that a command line asks for.

    ``--help`` has a box of flags per class in the hierarchy, base first, called as the class is
    without a last word Config or Settings ("script" if nothing is left). A class with a field
    ``resume`` can ``--resume``.

    Args:
        config_class: Dataclass of settings. A field is a flag; the string below it, its help.
        arguments: Command line, without the program's name.
        description: Text above the flags in ``--help``; by default the first line of the class's
            module.
        default: Values of the flags that are not given.
        presets: Folder of TOML files that ``--preset`` takes by name: see :func:`read_preset`.
    """
    names = [each.name for each in fields(config_class)]  # pyright: ignore[reportArgumentType]
    if "resume" in names and (resumed := read_resumed(config_class, arguments)) is not None:
        return resumed
    helps = _read_helps(config_class)
    if presets is not None:
        helps = {**helps, "preset": f"{helps['preset']} {_list_presets(presets)}"}
        given = given_flags(arguments)
        if (name := given.get("--preset", "None")) != "None":
            default = read_preset(config_class, name, presets, allowed=given.get("--env-id"))
    if description is None:
        description = (sys.modules[config_class.__module__].__doc__ or "").partition("\n")[0]
    return config_class(**_read_flags(config_class, arguments, helps, default, description))


def _read_flags(
    config_class: type,
    arguments: Sequence[str],
    helps: Mapping[str, str],
    default: Any,
    description: str,
) -> dict[str, Any]:
    """Return the values of the flags by name: see :func:`parse_flags`."""
    import tyro  # an extra, which importing this module must not need

    hints = get_type_hints(config_class, include_extras=True)
    settings = {each.name: each for each in fields(config_class)}
    hidden: set[str] = set()
    if asked := {"-h", "--help", "--help-all"} & {*arguments}:
        arguments = ["--help"]  # tyro takes no hidden flag
        if "--help-all" not in asked:
            hidden = {name for name, each in settings.items() if "expert" in each.metadata}

    def flag(name: str) -> tuple[str, Any, Any]:
        kind = Annotated[hints[name], tyro.conf.arg(help=helps.get(name, ""))]
        kind = tyro.conf.Suppress[kind] if name in hidden else kind
        value = settings[name].default if default is None else getattr(default, name)
        return name, kind, field(default=value)

    # tyro draws one box per nested dataclass
    groups = _group_by_class(config_class).items()
    boxes = {title: make_dataclass(title, map(flag, names), frozen=True) for title, names in groups}
    silent = tyro.conf.arg(help="")  # else tyro parses the source of the boxes' module for a help
    nested = [
        (title, Annotated[box, silent], field(default=box()) if whole else field())
        for title, box in boxes.items()
        for whole in [all(each.default is not MISSING for each in fields(box))]
    ]
    parts = nested if len(boxes) > 1 else map(flag, hints)
    flags: Any = make_dataclass("Flags", parts, kw_only=True)
    flat = (tyro.conf.OmitArgPrefixes,)
    try:
        parsed = vars(tyro.cli(flags, args=arguments, description=description, config=flat))
    finally:
        if hidden:
            print("More flags, for experts: --help-all")
    flat_parts = map(vars, parsed.values()) if len(boxes) > 1 else (parsed,)
    return {name: value for part in flat_parts for name, value in part.items()}


@cache
def _read_helps(config_class: type) -> dict[str, str]:
    """Return the string below each field of a dataclass and of its bases, in one line each."""
    from docstring_parser import parse_from_object  # comes with tyro

    bases = [base for base in reversed(config_class.__mro__) if is_dataclass(base)]
    params = [param for base in bases for param in parse_from_object(base).params]
    return {param.arg_name: " ".join((param.description or "").split()) for param in params}


def _group_by_class(config_class: type) -> dict[str, list[str]]:
    """Return the fields by the class that brings them, in the order of the bases."""
    classes = [each for each in reversed(config_class.__mro__) if is_dataclass(each)]
    titles = [
        re.sub("(Config|Settings)$", "", each.__name__).lower() or "script" for each in classes
    ]
    owners = {
        name: title
        for each, title in zip(classes, titles, strict=True)
        for name in inspect.get_annotations(each)
    }
    names = [each.name for each in fields(config_class)]
    groups = {title: [name for name in names if owners[name] == title] for title in titles}
    return {title: group for title, group in groups.items() if group}


def _split(arguments: Sequence[str]) -> list[str]:
    """Return the words of a command line, those such as ``--seed=4`` in two."""
    parts = (word.split("=", 1) if word.startswith("--") else [word] for word in arguments)
    return [*chain(*parts)]


def given_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Return the word after each word of a command line, such as a value by its ``--flag-name``."""
    return {k.replace("_", "-"): v for k, v in pairwise(_split(arguments))}


def _list_presets(folder: Path) -> str:
    """Return the presets of a folder by name, with the comment in the first line of each."""
    lines = {
        path.stem: path.read_text("utf-8").partition("\n")[0] for path in folder.glob("*.toml")
    }
    return " ".join(f"{name}: {line.removeprefix('# ')}" for name, line in sorted(lines.items()))


def read_preset(
    config_class: type[ConfigT], name: str, folder: Path, *, allowed: str | None = None
) -> ConfigT:
    """Return the settings of a TOML file; missing ones have their defaults.

    Args:
        config_class: Dataclass of settings, with a field ``preset`` for the name.
        name: Path to the file, which ends in ``.toml``, or the name of one in ``folder``.
        folder: Folder with presets.
        allowed: Environment id whose module the file may name: see :func:`check_env_id`.

    Raises:
        ValueError: If there is no such file, or it holds an unknown or bad setting. The message
            names the file.
    """
    path = Path(name) if name.endswith(".toml") else folder / f"{name}.toml"
    if path.parent == folder and not path.exists():
        known = sorted(each.stem for each in folder.glob("*.toml"))
        raise ValueError(f"preset must be a .toml file or among {known}, got {name!r}")
    settings = read_toml(path)
    known = {each.name for each in fields(config_class)} - {"preset", "run_dir", "resume"}  # pyright: ignore[reportArgumentType]
    if unknown := sorted(settings.keys() - known):
        raise ValueError(f"{path} is not valid: unknown settings {unknown}")
    if "env_id" in settings:
        check_env_id(settings["env_id"], path, allowed)
    return replace(read_toml(path, config_class), preset=name)  # pyright: ignore[reportArgumentType]


class Stopped(SystemExit):
    """A signal ended the run after a checkpoint; the exit status is 128 + the signal's number."""


class Stop:
    """Lets SIGINT (Ctrl-C) and SIGTERM end a run where the run asks for it.

    As a context manager it handles both signals: the first one is :attr:`requested`. A Ctrl-C after
    that ends the process at once; a SIGTERM doesn't, as Slurm sends several. Under torchrun, which
    passes signals on and ends processes itself after 30 s, neither does.
    """

    requested: signal.Signals | None = None

    def check(self) -> None:
        """End the run here, by raising :class:`Stopped`, if a signal has arrived."""
        if self.requested is not None:
            raise Stopped(128 + self.requested)

    def __enter__(self) -> Stop:
        self._before = {number: signal.signal(number, self._remember) for number in _STOPPING}
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        again = "" if torchrun.launched() else "; Ctrl-C to stop at once"
        signal.signal(signal.SIGINT, signal.SIG_DFL if again else signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        self.requested = signal.Signals(number)
        line = f"{self.requested.name}: stopping when this update is saved{again}\n"
        if os.isatty(2):  # overwrite the bar, and show the cursor that it hid
            line = f"\r\x1b[K\x1b[?25h{line}"
        with suppress(OSError):  # stderr may be a pipe whose reader has ended
            if distributed.rank() == 0:
                os.write(2, line.encode())  # print() may not be called from a signal's handler


def read_resumed(config_class: type[ConfigT], arguments: Sequence[str]) -> ConfigT | None:
    """Return the settings of the run that ``--resume RUN_DIR`` names, or None without that flag.

    The only other flag is ``--env-id`` with the run's own environment, to allow its import.
    """
    words = _split(arguments)
    if "--resume" not in words:
        return None
    flags = {k.replace("_", "-"): v for k, v in zip(words[::2], words[1::2], strict=False)}
    if len(words) != 2 * len(flags) or not flags.keys() <= {"--resume", "--env-id"}:
        got = shlex.join(arguments)
        raise ValueError(
            f"--resume RUN_DIR takes no other flag, except the run's own --env-id, got: {got}"
        )
    folder = Path(flags["--resume"])
    settings = read_settings(folder)
    names = {each.name for each in fields(config_class)}  # pyright: ignore[reportArgumentType]
    if differing := sorted(names ^ settings.keys()):
        raise ValueError(f"{folder} is of another script or version: settings {differing} differ")
    allowed = flags.get("--env-id")
    if allowed not in (None, settings["env_id"]):
        raise ValueError(f"{folder} is a run on {settings['env_id']!r}, got --env-id {allowed}")
    check_env_id(settings["env_id"], folder / "config.json", allowed)
    settings |= {"run_dir": str(folder), "resume": str(folder)}
    try:
        return convert(settings, config_class)
    except ValueError as error:
        raise ValueError(f"{folder / 'config.json'}: {error}") from error


def check_env_id(env_id: Any, path: Path, allowed: str | None = None) -> None:
    """Refuse a module that only a file names: making an environment would import it."""
    if not isinstance(env_id, str) or not env_id.isprintable():
        raise ValueError(f"{path}: env_id must be a printable string, got {env_id!r}")
    module = env_id.rpartition(":")[0]
    if env_id != allowed and module not in ("", "ram_env", *sys.modules):
        advice = f"if you trust it, say --env-id {shlex.quote(env_id)}, or import it in Python"
        raise ValueError(f"{path} names the module {module!r}, and importing runs it: {advice}")


def run(
    main: Callable[[ConfigT], None],
    read: Callable[[Sequence[str]], ConfigT],
    *,
    several: bool = False,
) -> None:
    """Read the command line and run; report a user's mistake in one line, with status 1.

    ``several`` says whether the script may be one of the processes that torchrun starts.
    """
    threading.excepthook = _report_thread
    status: Any = 0
    handler = signal.getsignal(signal.SIGINT)
    if callable(handler):  # what is ignored, as in a shell's `cmd &`, stays so
        signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with torchrun.joined(allowed=several):
            _check_checkout(Path(sys.argv[0]).resolve())
            main(distributed.on_first(lambda: read(sys.argv[1:])))
    except FloatingPointError as error:
        if torchrun.reports():
            print(f"error: {printable(str(error))}", file=sys.stderr)
        status = DIVERGED
    except (ValueError, OSError, gymnasium.error.Error) as error:
        status = f"error: {printable(str(error))}" if torchrun.reports() else 1
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _OUT_OF_MEMORY.search(str(error)):
            raise
        status = f"error: out of memory, so make something smaller: {first_line(error)}"
    except SystemExit as error:
        status = error.code
    except KeyboardInterrupt:  # before or after what :class:`Stop` guards
        status = 128 + signal.SIGINT
    finally:
        if callable(handler):
            signal.signal(signal.SIGINT, handler)
    if status:
        sys.exit(status)


def _check_checkout(script: Path) -> None:
    """Raise a ValueError if a script of one checkout would run the modules of another one."""
    ours = Path(__file__).resolve()
    checkout, other = ours.parents[2], script.parent.parent
    if (other / ours.relative_to(checkout)).exists() and not other.samefile(checkout):
        raise ValueError(
            f"{script} would run with the modules installed from {checkout}: set PYTHONPATH={other}"
        )


def _report_thread(error: threading.ExceptHookArgs) -> None:
    """Report a failed thread, except for OSErrors: the main thread meets and reports them."""
    if not issubclass(error.exc_type, OSError):  # TensorBoard's writer raises it again there
        threading.__excepthook__(error)
