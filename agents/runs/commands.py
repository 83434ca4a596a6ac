"""What training scripts share as commands: ``--resume``, signals, errors in plain words."""

from __future__ import annotations

import os
import shlex
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from types import FrameType
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import gymnasium

from agents.runs.files import read_json

ConfigT = TypeVar("ConfigT")

DIVERGED = 3
"""Exit status of a run whose numbers are no numbers any more."""


@dataclass(frozen=True)
class RunConfig:
    """Settings that all training scripts share; every one is a flag."""

    env_id: str = "ClutteredMNISTGlimpse-v0"
    """Registered environment to train on."""
    seed: int = 0
    """Random seed for weights, exploration, images and locations."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Device for the networks; auto takes a GPU if there is one."""
    threads: int = int(os.environ.get("OMP_NUM_THREADS") or os.cpu_count() or 1)
    """CPU threads for the networks; by default OMP_NUM_THREADS, else one per core."""
    run_dir: Path | None = None
    """Folder to write the run to; by default a new one below runs/."""
    resume: Path | None = None
    """Folder of a run to resume with its own settings; takes no other flag."""
    final_split: Literal["test", "validation", "none"] = "test"
    """Split to judge once, at the end, with the weights that were best on validation."""
    num_validations: int = 12
    """Number of validations, evenly spaced; the last is at the end."""
    log_every: int = 100
    """Updates between two lines of metrics."""
    checkpoint_every: int = 1000
    """Updates between two checkpoints; each validation has one too."""

    def __post_init__(self) -> None:
        """Check the shared values; scripts extend this with their own."""
        for name in ("threads", "num_validations", "log_every", "checkpoint_every"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1, got {getattr(self, name)}")
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


class Stopped(SystemExit):
    """A signal ended the run in good order; the exit status is 128 + the signal's number."""


class Stop:
    """Lets SIGINT (Ctrl-C) and SIGTERM end a run in good order, where the run asks for it.

    As a context manager, in the main thread, it takes the signals over. The first one is
    remembered until :meth:`check`; a second one ends the process at once.
    """

    def __init__(self) -> None:
        self._signal: signal.Signals | None = None
        self._before: dict[signal.Signals, signal.Handlers] = {}

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self._signal is not None

    def check(self) -> None:
        """End the run here if a signal has come.

        Raises:
            Stopped: If so.
        """
        if self._signal is not None:
            raise Stopped(128 + self._signal)

    def __enter__(self) -> Stop:
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGINT, signal.SIGTERM):
                self._before[number] = signal.signal(number, self._remember)  # pyright: ignore[reportArgumentType]
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _remember(self, number: int, frame: FrameType | None) -> None:
        for each in self._before:
            signal.signal(each, signal.SIG_DFL)  # a second one ends the process at once
        self._signal = signal.Signals(number)
        line = f"{self._signal.name}: stopping when this update is saved; again to stop at once\n"
        os.write(2, line.encode())  # print() may not be called from a signal's handler


def read_resumed(config_class: type[ConfigT], arguments: Sequence[str]) -> ConfigT | None:
    """Return the settings of the run that ``--resume RUN_DIR`` names, or None without it.

    ``--env-id`` beside it, the run's own, allows the import of the module that it names.

    Args:
        config_class: The script's settings, with the fields ``run_dir``, ``resume`` and ``env_id``.
        arguments: The command line.

    Raises:
        ValueError: If there are other flags, or the folder holds no run of this script.
    """
    pairs = (word.split("=", 1) if word.startswith("--") else [word] for word in arguments)
    words = [part for pair in pairs for part in pair]
    if "--resume" not in words:
        return None
    flags = dict(zip(words[::2], words[1::2], strict=False))
    if len(words) != 2 * len(flags) or not flags.keys() <= {"--resume", "--env-id"}:
        raise ValueError(
            f"--resume RUN_DIR takes no other flag (but the run's own --env-id), got: "
            f"{shlex.join(arguments)}"
        )
    folder = Path(flags["--resume"])
    if not (folder / "config.json").exists():
        raise ValueError(f"{folder} holds no config.json: no run has begun there to go on with")
    settings = read_json(folder / "config.json").get("config")
    names = {field.name for field in fields(config_class)}  # pyright: ignore[reportArgumentType]
    if not isinstance(settings, dict) or settings.keys() != names:
        differing = sorted(names ^ settings.keys()) if isinstance(settings, dict) else "all"
        raise ValueError(
            f"{folder} was made by another script or version: settings {differing} differ"
        )
    hints = get_type_hints(config_class)
    for name, value in settings.items():
        if not _fits(value, hints[name]):
            raise ValueError(f"{folder / 'config.json'} holds a bad setting: {name} is {value!r}")
    check_env_id(settings["env_id"], folder, allowed=flags.get("--env-id"))
    return config_class(**{**settings, "run_dir": folder, "resume": folder})


def _fits(value: Any, kind: Any) -> bool:
    """Say whether a value from a JSON file is one that a field's annotation allows."""
    if get_origin(kind) is Literal:
        return value in get_args(kind)
    if get_args(kind):  # of a union
        return any(_fits(value, part) for part in get_args(kind))
    return type(value) in {float: (float, int), Path: (str,)}.get(kind, (kind,))


def check_env_id(env_id: str, run_dir: Path, allowed: str | None = None) -> None:
    """Refuse to import a module because a run folder says so.

    Args:
        env_id: As the run folder has it; Gymnasium imports the module before a colon.
        run_dir: The run folder.
        allowed: The environment that the user has named.

    Raises:
        ValueError: If there is such a module, other than ours and those that are imported already,
            and the user has not named it; if the user has named another environment; or if it is
            no text.
    """
    if not isinstance(env_id, str):
        raise ValueError(f"{run_dir / 'config.json'}: env_id must be a text, got {env_id!r}")
    if allowed not in (None, env_id):
        raise ValueError(f"{run_dir} is a run on {env_id!r}, got --env-id {allowed}")
    if allowed is None and (module := foreign_module(env_id)) not in (None, *sys.modules):
        raise ValueError(
            f"{run_dir / 'config.json'} wants the module {module!r} imported, which would run it: "
            f"say --env-id {shlex.quote(env_id)} if you trust it"
        )


def foreign_module(env_id: str) -> str | None:
    """Return the module that an environment's id names before a colon, unless it is ours."""
    module = env_id.rpartition(":")[0]
    return module if module not in ("", "ram_env") else None


def run(main: Callable[[ConfigT], None], read: Callable[[Sequence[str]], ConfigT]) -> None:
    """Read the command line and run; what a user can get wrong ends in one plain line.

    The exit status is then 1, and :data:`DIVERGED` where numbers were no numbers any more.
    """
    threading.excepthook = _report_thread
    try:
        main(read(sys.argv[1:]))
    except FloatingPointError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(DIVERGED)
    except (ValueError, OSError, gymnasium.error.Error) as error:
        sys.exit(f"error: {error}")


def _report_thread(error: threading.ExceptHookArgs) -> None:
    """Say that a thread has failed, but for what the main thread will say: no room to write."""
    if not issubclass(error.exc_type, OSError):  # TensorBoard's writer raises it again there
        threading.__excepthook__(error)
