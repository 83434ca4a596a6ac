"""The command line of a training script: flags, --resume and its refusals, signals, errors."""

import json
import os
import signal
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal
from unittest.mock import Mock

import gymnasium
import pytest

from agents import torchrun
from agents.runs.commands import DIVERGED, Stop, Stopped, expert, parse_flags, read_resumed, run

SIGNALS = [signal.SIGINT, signal.SIGTERM]


@dataclass(frozen=True)
class Config:
    env_id: str = "SignpostGlimpse-v0"
    seed: int = 3
    rate: float = 0.5
    core: Literal["rnn", "lstm"] = "rnn"
    bf16: bool = False
    preset: Literal["best"] | None = None
    run_dir: Path | None = None
    resume: Path | None = None

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed must be at least 0, got {self.seed}")


def write_config(folder: Path, **changes: Any) -> str:
    """Write what a run folder begins with; return the folder's name."""
    settings = {**asdict(Config()), "run_dir": "elsewhere", **changes}
    (folder / "config.json").write_text(json.dumps({"config": settings}))
    return str(folder)


# Flags


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", Config(rate=0.25)),
        ("--seed 4 --bf16 --core lstm", Config(rate=0.25, seed=4, bf16=True, core="lstm")),
        ("--run-dir a/b --rate 1", Config(rate=1, run_dir=Path("a/b"))),
    ],
)
def test_flags_override_the_defaults(arguments, expected):
    given = arguments.split()
    assert parse_flags(Config, given, default=Config(rate=0.25)) == expected
    assert parse_flags(Config, ["--rate", "0.25", *given]) == expected


def test_resume_and_bad_flags_are_handled_before_the_run(tmp_path):
    config = parse_flags(Config, ["--resume", write_config(tmp_path)])
    assert config.resume == tmp_path
    with pytest.raises(ValueError, match="seed must be at least 0"):
        parse_flags(Config, ["--seed", "-1"])
    with pytest.raises(ValueError, match="seed must be at least 0"):
        parse_flags(Config, ["--rate", "1", "--seed", "-1"])
    with pytest.raises(SystemExit):
        parse_flags(Config, ["--colour", "red"])


@dataclass(frozen=True)
class Task:
    env_id: str = "SignpostGlimpse-v0"
    price: float = expert(0.5)
    """What a glimpse
    costs."""


@dataclass(frozen=True)
class LearningSettings:
    rate: float = 0.5
    preset: str | None = None
    """Settings to take."""


@dataclass(frozen=True)
class Composed(Task, LearningSettings):
    resume: Path | None = None


def test_a_class_of_several_bases_has_a_box_per_class_and_hides_flags_of_experts(capsys, tmp_path):
    (tmp_path / "quick.toml").write_text("# Takes seconds.\nrate = 4.0")
    shown = {}
    for flag in ("--help", "--help-all"):
        with pytest.raises(SystemExit) as ended:
            parse_flags(Composed, [flag, "--price", "2"], presets=tmp_path, description="Train.")
        assert ended.value.code == 0
        shown[flag] = capsys.readouterr().out
        boxes = (f"{k} options" for k in ("learning", "task", "composed"))
        places = [shown[flag].index(words) for words in ("Train.", *boxes)]
        assert places == sorted(places)
        assert "Settings to take. quick: Takes seconds." in shown[flag]
    assert "What a glimpse costs." in shown["--help-all"]
    assert "price" not in shown["--help"]
    assert shown["--help"].endswith("\nMore flags, for experts: --help-all\n")
    assert parse_flags(Composed, ["--price", "2", "--rate", "3"]) == Composed(price=2, rate=3)
    (tmp_path / "config.json").write_text(json.dumps({"config": asdict(Composed(price=3))}))
    assert parse_flags(Composed, ["--resume", str(tmp_path)]).price == 3


def test_a_preset_is_a_name_or_a_file_and_other_flags_override_it(tmp_path):
    mine = tmp_path / "mine.toml"
    mine.write_text("rate = 4.0\nprice = 2")
    for name in ("mine", str(mine)):
        made = Composed(rate=4, price=2, preset=name)
        assert parse_flags(Composed, ["--preset", name], presets=tmp_path) == made
        more = [f"--preset={name}", "--rate", "1"]
        assert parse_flags(Composed, more, presets=tmp_path) == replace(made, rate=1)
    assert parse_flags(Composed, ["--preset", "None"], presets=tmp_path) == Composed()
    with pytest.raises(ValueError, match=r"preset must be a \.toml file or among \['mine'\]"):
        parse_flags(Composed, ["--preset", "worst"], presets=tmp_path)
    mine.write_text("env_id = 'nowhere:Mine-v0'")
    with pytest.raises(ValueError, match=r"mine\.toml names the module 'nowhere'"):
        parse_flags(Composed, ["--preset", "mine"], presets=tmp_path)
    trusted = ["--preset", "mine", "--env-id", "nowhere:Mine-v0"]
    assert parse_flags(Composed, trusted, presets=tmp_path).env_id == "nowhere:Mine-v0"


@pytest.mark.parametrize("text", ["rate = 'fast'", "rates = 1", "resume = 'x'", "rate = "])
def test_a_preset_that_holds_something_else_is_refused_with_the_name_of_its_file(tmp_path, text):
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises(ValueError, match=r"x\.toml"):
        parse_flags(Composed, ["--preset", "x"], presets=tmp_path)


# --resume


@pytest.mark.parametrize("folder", ["run", "a=b --resume"])
@pytest.mark.parametrize("joined", [False, True])
def test_resume_takes_the_settings_of_the_run_but_for_its_folder(tmp_path, folder, joined):
    (tmp_path / folder).mkdir()
    name = write_config(tmp_path / folder, seed=7, rate=1, core="lstm", preset="best")
    config = read_resumed(Config, [f"--resume={name}"] if joined else ["--resume", name])
    where = {"run_dir": tmp_path / folder, "resume": tmp_path / folder}
    assert config == Config(seed=7, rate=1, core="lstm", preset="best", **where)
    with pytest.raises(ValueError, match="is a run on 'SignpostGlimpse-v0', got --env-id Other"):
        read_resumed(Config, ["--resume", name, "--env_id", "Other-v0"])
    assert read_resumed(Config, ["--seed", "4", "--run-dir", "resume"]) is None


REFUSED = ["--resume {} --seed 4", "--seed=4 --resume={}", "--resume {} --bf16", "--resume"]
REFUSED += ["--bf16 --resume {}", "--resume={} --resume={}", "--resume {} {}", "{} --resume"]


@pytest.mark.parametrize("arguments", REFUSED)
def test_resume_takes_no_other_flag(tmp_path, arguments):
    name = write_config(tmp_path)
    with pytest.raises(ValueError, match="--resume RUN_DIR takes no other flag"):
        read_resumed(Config, arguments.format(name, name).split())


@pytest.mark.parametrize("content", ['{"config": 3}', "{}", '{"config": {"seed": 3}}'])
def test_a_config_that_is_damaged_or_another_scripts_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_resumed(Config, ["--resume", str(tmp_path)])


WRONG = [("seed", "3"), ("seed", 3.5), ("seed", True), ("seed", None), ("seed", -1), ("bf16", 0)]
WRONG += [("rate", "fast"), ("core", "gru"), ("preset", "worst"), ("colour", "red")]


@pytest.mark.parametrize(("setting", "value"), WRONG)
def test_a_setting_of_a_wrong_type_is_refused_and_named(tmp_path, setting, value):
    name = write_config(tmp_path, **{setting: value})
    with pytest.raises(ValueError, match=rf"{tmp_path}.*{setting}"):
        read_resumed(Config, ["--resume", name])


# Signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_where_it_asks_for_it_and_a_second_one_at_once(number, capfd):
    before = [signal.getsignal(each) for each in SIGNALS]
    with Stop() as stop:
        stop.check()
        assert stop.requested is None
        signal.raise_signal(number)
        assert stop.requested == number
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL  # a Ctrl-C now ends it at once
        signal.raise_signal(signal.SIGTERM)  # Slurm sends several
        assert stop.requested == number
        with pytest.raises(Stopped) as stopped:
            stop.check()
    assert stopped.value.code == 128 + number
    assert capfd.readouterr().err == (
        f"{number.name}: stopping when this update is saved; Ctrl-C to stop at once\n"
    )
    assert [signal.getsignal(each) for each in SIGNALS] == before


def test_on_a_terminal_a_signal_wipes_the_bar_and_shows_the_cursor_again(monkeypatch, capfd):
    monkeypatch.setattr(os, "isatty", lambda descriptor: descriptor == 2)
    with Stop():
        signal.raise_signal(signal.SIGTERM)
    assert capfd.readouterr().err.startswith("\r\x1b[K\x1b[?25hSIGTERM: ")


def test_a_signal_is_remembered_though_nobody_reads_stderr(monkeypatch):
    monkeypatch.setattr(os, "write", Mock(side_effect=BrokenPipeError))
    with Stop() as stop:
        signal.raise_signal(signal.SIGINT)
        assert stop.requested == signal.SIGINT


# Errors


@pytest.fixture
def _own_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "argv", ["train/script.py", "--seed", "4"])


@pytest.mark.usefixtures("_own_excepthook")
@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ValueError("seed must be at least 0, got -1"), "error: seed must be at least 0, got -1"),
        (OSError(28, "No space left"), "error: [Errno 28] No space left"),
        (gymnasium.error.NameNotFound("no `Env`"), "error: no `Env`"),
        (ValueError("two lines:\n\x1b[2J"), "error: two lines:\n\\x1b[2J"),
        (FloatingPointError("update 3: loss not finite"), DIVERGED),
        (MemoryError("9 GiB"), "error: out of memory, so make something smaller: 9 GiB"),
        (
            RuntimeError("DefaultCPUAllocator: can't allocate memory\nC++"),
            "error: out of memory, so make something smaller: DefaultCPUAllocator: can't allocate "
            "memory",
        ),
        (KeyboardInterrupt(), 128 + signal.SIGINT),
        (KeyError("a bug"), KeyError),
    ],
)
def test_a_users_mistake_ends_in_one_line_and_a_bug_in_a_traceback(error, status, capsys):
    main = Mock(side_effect=error)
    with pytest.raises((SystemExit, KeyError)) as ended:
        run(main, list)
    main.assert_called_once_with(["--seed", "4"])
    # Python prints a string to stderr and exits with 1
    assert getattr(ended.value, "code", KeyError) == status
    diverged = "error: update 3: loss not finite\n"
    assert capsys.readouterr().err == (diverged if status == DIVERGED == 3 else "")


@pytest.mark.usefixtures("_own_excepthook")
@pytest.mark.parametrize("handler", [signal.SIG_IGN, lambda *_: None])
def test_a_ctrl_c_is_an_interrupt_unless_it_is_ignored_and_its_handler_comes_back(handler):
    before = signal.signal(signal.SIGINT, handler)
    inside = []
    run(lambda config: inside.append(signal.getsignal(signal.SIGINT)), list)
    assert signal.signal(signal.SIGINT, before) == handler
    assert inside == [handler if handler == signal.SIG_IGN else signal.default_int_handler]


@pytest.mark.usefixtures("_own_excepthook")
def test_a_script_refuses_to_run_with_the_modules_of_another_checkout(tmp_path, monkeypatch):
    module = tmp_path / "agents" / "runs" / "commands.py"
    module.parent.mkdir(parents=True)
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "train" / "reinforce.py")])
    called: list[Sequence[str]] = []
    run(called.append, list)  # as yet a user's own script
    module.touch()
    with pytest.raises(SystemExit, match=f"train/reinforce.py .*set PYTHONPATH={tmp_path}$"):
        run(called.append, list)
    monkeypatch.setattr(sys, "argv", ["/mine.py"])  # which has one folder above it
    run(called.append, list)
    assert called == [[], []]


@pytest.mark.usefixtures("_own_excepthook")
@pytest.mark.parametrize("rank", [0, 1])
def test_a_script_that_cannot_share_a_run_refuses_torchrun_and_the_first_process_says_so(
    monkeypatch, rank
):
    monkeypatch.setattr(torchrun, "_reports", True)
    monkeypatch.setattr(sys, "argv", ["train/sb3.py"])
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    monkeypatch.setenv("RANK", str(rank))
    called: list[Sequence[str]] = []
    with pytest.raises(SystemExit) as ended:
        run(called.append, list)
    assert called == []
    reason = "error: train/sb3.py doesn't run under torchrun: start it with python"
    assert ended.value.code == (1 if rank else reason)


@pytest.mark.usefixtures("_own_excepthook")
def test_a_thread_leaves_an_os_error_to_the_main_thread(capsys):
    def fail_in_a_thread(error: Exception) -> str:
        def fail() -> None:
            raise error

        thread = threading.Thread(target=fail)
        thread.start()
        thread.join()
        return capsys.readouterr().err

    run(lambda config: None, list)
    assert fail_in_a_thread(OSError(28, os.strerror(28))) == ""
    assert "KeyError: 'ours'" in fail_in_a_thread(KeyError("ours"))
