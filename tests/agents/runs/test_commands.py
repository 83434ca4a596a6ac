"""What scripts share as commands: --resume and its refusals, signals, errors in one line."""

import json
import os
import re
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import gymnasium
import pytest

from agents.runs.commands import (
    DIVERGED,
    LOGGING_FLAGS,
    RUN_FLAGS,
    RunConfig,
    Stop,
    Stopped,
    check_env_id,
    default_threads,
    parse_flags,
    read_resumed,
    run,
)

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


# --resume


def test_without_resume_the_command_line_is_left_to_others():
    assert read_resumed(Config, []) is None
    assert read_resumed(Config, ["--seed", "4", "--run-dir", "resume"]) is None


@pytest.mark.parametrize("joined", [False, True])
def test_resume_takes_the_settings_of_the_run_but_for_where_it_lies_now(tmp_path, joined):
    name = write_config(tmp_path, seed=7, rate=1, core="lstm", preset="best")
    config = read_resumed(Config, [f"--resume={name}"] if joined else ["--resume", name])
    assert config == Config(
        seed=7, rate=1, core="lstm", preset="best", run_dir=tmp_path, resume=tmp_path
    )


def test_a_folder_may_have_any_name(tmp_path):
    folder = tmp_path / "a=b --resume"
    folder.mkdir()
    name = write_config(folder)
    for arguments in (["--resume", name], [f"--resume={name}"]):
        config = read_resumed(Config, arguments)
        assert config is not None
        assert config.resume == folder


@pytest.mark.parametrize(
    "arguments",
    [
        "--resume {} --seed 4",
        "--seed 4 --resume {}",
        "--resume={} --seed=4",
        "--seed=4 --resume={}",
        "--resume {} --bf16",
        "--bf16 --resume {}",
        "--resume {} --resume {}",
        "--resume={} --resume={}",
        "--resume {} {}",
        "--resume={} {}",
        "{} --resume",
        "--resume",
    ],
)
def test_resume_takes_no_other_flag(tmp_path, arguments):
    name = write_config(tmp_path)
    with pytest.raises(ValueError, match="--resume RUN_DIR takes no other flag"):
        read_resumed(Config, arguments.format(name, name).split())


def test_a_folder_without_a_run_is_refused(tmp_path):
    file = tmp_path / "file"
    file.touch()
    for folder in (tmp_path, tmp_path / "missing", file):
        with pytest.raises(ValueError, match=r"holds no config\.json"):
            read_resumed(Config, ["--resume", str(folder)])


@pytest.mark.parametrize("content", ["", "[]", '{"config": 3}', "{}", '{"config": {"seed": 3}}'])
def test_a_config_that_is_damaged_or_another_scripts_is_refused(tmp_path, content):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=str(tmp_path)):
        read_resumed(Config, ["--resume", str(tmp_path)])


def test_settings_of_another_script_or_version_are_named(tmp_path):
    name = write_config(tmp_path, colour="red")
    with pytest.raises(ValueError, match=r"another script or version: settings \['colour'\]"):
        read_resumed(Config, ["--resume", name])


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("seed", "3"),
        ("seed", 3.0),
        ("seed", True),
        ("seed", None),
        ("seed", -1),
        ("rate", "fast"),
        ("rate", False),
        ("core", "gru"),
        ("core", ["rnn"]),
        ("bf16", "no"),
        ("bf16", 0),
        ("preset", "worst"),
        ("env_id", 5),
    ],
)
def test_a_setting_of_a_wrong_type_is_refused_and_named(tmp_path, setting, value):
    name = write_config(tmp_path, **{setting: value})
    with pytest.raises(ValueError, match=rf"config.json.*{setting}"):
        read_resumed(Config, ["--resume", name])


def test_a_module_that_a_run_folder_names_is_not_imported(tmp_path):
    name = write_config(tmp_path, env_id="antigravity:Anything-v0")
    with pytest.raises(ValueError, match="names the module 'antigravity'"):
        read_resumed(Config, ["--resume", name])
    assert "antigravity" not in sys.modules


@pytest.mark.parametrize("env_id", [5, None, "\x1b[2J-v0"])
def test_an_environment_id_that_cannot_be_shown_is_refused(tmp_path, env_id):
    message = re.escape(f"env_id must be a printable string, got {env_id!r}")
    with pytest.raises(ValueError, match=message):
        check_env_id(env_id, tmp_path)


# Flags

GROUPS = {
    "run": ("seed", "run_dir", "resume"),
    "task": ("env_id",),
    "learning": ("rate", "core", "bf16", "preset"),
}


@pytest.mark.parametrize("groups", [None, GROUPS])
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("", Config(rate=0.25)),
        ("--seed 4 --bf16 --core lstm", Config(rate=0.25, seed=4, bf16=True, core="lstm")),
        ("--run-dir a/b --rate 1", Config(rate=1, run_dir=Path("a/b"))),
    ],
)
def test_flags_override_the_defaults_grouped_or_not(groups, arguments, expected):
    default = Config(rate=0.25)
    parsed = parse_flags(Config, arguments.split(), "Train.", default=default, groups=groups)
    assert parsed == expected


def test_resume_and_bad_flags_are_handled_before_the_run(tmp_path):
    config = parse_flags(Config, ["--resume", write_config(tmp_path)], "Train.", groups=GROUPS)
    assert config.resume == tmp_path
    with pytest.raises(ValueError, match="seed must be at least 0"):
        parse_flags(Config, ["--seed", "-1"], "Train.", groups=GROUPS)
    with pytest.raises(SystemExit):
        parse_flags(Config, ["--colour", "red"], "Train.", groups=GROUPS)


def test_help_has_a_box_per_group_and_the_docstrings(capsys):
    groups = {"run": RUN_FLAGS, "task": ("env_id",), "logging": LOGGING_FLAGS}
    with pytest.raises(SystemExit):
        parse_flags(RunConfig, ["--help"], "Train an agent.", groups=groups)
    shown = capsys.readouterr().out
    order = ("Train an agent.", "run options", "--seed", "task options", "logging options")
    places = [shown.index(words) for words in order]
    assert places == sorted(places)
    assert "Random seed for weights" in shown


@pytest.mark.parametrize(
    ("value", "threads"), [("3", 3), ("4,2", 4), ("0", None), ("many", None), ("", None)]
)
def test_threads_follow_omp_num_threads_where_it_is_a_number(monkeypatch, value, threads):
    monkeypatch.setenv("OMP_NUM_THREADS", value)
    assert default_threads() == (threads or os.cpu_count())


# Signals


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_the_run_where_it_asks_for_it(number, capfd):
    with Stop() as stop:
        stop.check()
        assert not stop.requested
        signal.raise_signal(number)
        assert stop.requested
        with pytest.raises(Stopped) as stopped:
            stop.check()
    assert stopped.value.code == 128 + number
    assert capfd.readouterr().err == (
        f"{number.name}: stopping when this update is saved; again to stop at once\n"
    )


@pytest.mark.parametrize("number", SIGNALS)
def test_a_second_signal_of_either_kind_finds_no_handler(number):
    with Stop():
        signal.raise_signal(number)
        assert [signal.getsignal(each) for each in SIGNALS] == [signal.SIG_DFL] * 2


@pytest.mark.parametrize("sent", [False, True])
def test_the_handlers_are_put_back(sent):
    before = [signal.getsignal(number) for number in SIGNALS]
    with Stop():
        assert [signal.getsignal(number) for number in SIGNALS] != before
        if sent:
            signal.raise_signal(signal.SIGTERM)
    assert [signal.getsignal(number) for number in SIGNALS] == before


def test_outside_the_main_thread_signals_are_left_alone():
    before, seen = signal.getsignal(signal.SIGTERM), []

    def enter() -> None:
        with Stop() as stop:
            seen.append((signal.getsignal(signal.SIGTERM), stop.requested))

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert seen == [(before, False)]


# Errors


@pytest.fixture
def _own_excepthook(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threading, "excepthook", threading.excepthook)
    monkeypatch.setattr(sys, "argv", ["train/script.py", "--seed", "4"])


@pytest.mark.usefixtures("_own_excepthook")
@pytest.mark.parametrize(
    "error",
    [
        ValueError("seed must be at least 0, got -1"),
        OSError(28, "No space left on device"),
        gymnasium.error.NameNotFound("Environment `Nothing` doesn't exist."),
        ValueError("config.json: unknown setting \x1b[2J"),
    ],
)
def test_what_a_user_can_get_wrong_ends_in_one_line_and_exit_status_1(error):
    def fail(config: list[str]) -> None:
        assert config == ["--seed", "4"]
        raise error

    with pytest.raises(SystemExit) as ended:
        run(fail, list)
    said = str(error).replace("\x1b", "\\x1b")
    assert ended.value.code == f"error: {said}"  # Python prints it to stderr and exits with 1


@pytest.mark.usefixtures("_own_excepthook")
def test_a_run_that_diverged_says_so_by_its_exit_status(capsys):
    def fail(config: list[str]) -> None:
        raise FloatingPointError("update 3: loss not finite")

    with pytest.raises(SystemExit) as ended:
        run(fail, list)
    assert ended.value.code == DIVERGED == 3
    assert capsys.readouterr().err == "error: update 3: loss not finite\n"


@pytest.mark.usefixtures("_own_excepthook")
def test_a_bad_command_line_ends_in_one_line_too():
    with pytest.raises(SystemExit) as ended:
        run(lambda config: None, lambda arguments: read_resumed(Config, ["--resume"]))
    assert str(ended.value.code).startswith("error: --resume RUN_DIR takes")


@pytest.mark.usefixtures("_own_excepthook")
def test_a_mistake_of_ours_keeps_its_traceback():
    def fail(config: list[str]) -> None:
        raise KeyError("ours")

    with pytest.raises(KeyError):
        run(fail, list)


@pytest.mark.usefixtures("_own_excepthook")
def test_a_thread_leaves_to_the_main_thread_what_that_will_say(capsys):
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
