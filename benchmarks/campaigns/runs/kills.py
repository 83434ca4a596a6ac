"""Campaigns about runs that are killed, stopped, out of disk or out of numbers.

Each case disturbs a short run of a training script and then goes on with it as a person would.
Whatever happened, it must end with the same bytes as the run that nothing happened to: weights,
optimiser, state, metrics, TensorBoard's scalars, result. Most cases run in processes forked
from a warm server, where a fault can be aimed at one call of one function; some run in real
processes, which are watched and shot at from outside.
"""

from __future__ import annotations

import shlex
import shutil
import signal
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from agents.machine import interpreter
from benchmarks.campaigns.runs.breakdowns import broken_numbers, full_disks
from benchmarks.campaigns.runs.process_faults import (
    Act,
    Fault,
    arm,
    kill,
    kill_after,
    kill_half_way,
    send,
)
from benchmarks.campaigns.runs.processes import Outcome, Signal
from benchmarks.campaigns.runs.run_ends import newest
from benchmarks.campaigns.runs.runs import SAVES, UPDATES, VALIDATIONS, VARIANTS, Run, undisturbed

__all__ = ["broken_numbers", "full_disks", "killed_runs", "signalled_runs"]

Attack = Fault | Signal  # what happens to one process
_Plan = Callable[[np.random.Generator, str], list[Attack]]

_UPDATE = "agents.training.Training.move_mean"  # once an update
_SAVE = "agents.run_log.RunLog.save_checkpoint"
_SAVE_CALLS = {"os.write": 7, "os.fsync": 9, "os.replace": 1, "os.mkdir": 1}  # of every save
_PRUNE_CALLS = {"os.replace": 2, "shutil.rmtree": 1, "os.unlink": 7, "os.rmdir": 1}


# Killed


def killed_runs(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Kill runs with SIGKILL, at moments of all kinds, once or several times.

    Args:
        rounds: Cases to run.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    moments = list(_MOMENTS)
    for number in range(rounds):
        rng = np.random.default_rng(number)
        moment = moments[number % len(moments)]
        real = _MOMENTS[moment] in (_when_seen, _at_any_time) and number >= len(moments)
        variant = _choose_variant(number, real)
        attacks = (_at_any_time_of_a_real if real else _MOMENTS[moment])(rng, variant)
        where = "in real processes, " if real else ""
        name = f"{number}: {variant}, {moment}: {where}{', '.join(map(str, attacks))}"
        yield name, _kill(Run(variant, folder / f"killed {number}", real), attacks)


def _kill(run: Run, attacks: list[Attack]) -> str | None:
    for attack in attacks:
        outcome = _strike(run, attack)
        if outcome.status != -signal.SIGKILL:
            return f"it was not killed by {attack}: {outcome.told}"
    return run.finish()


def _choose_variant(number: int, real: bool) -> str:
    """Return a case's variant; a task that isn't the package's is known in forked ones only."""
    names = [name for name in VARIANTS if not real or name != "conv"]
    return names[number % len(names)]


def _strike(run: Run, attack: Attack) -> Outcome:
    """Let something happen to the run's next process."""
    if isinstance(attack, Fault):
        return run.go([attack])
    outcome = run.go(signals=[attack])
    while outcome.status != -signal.SIGKILL and (run.folder / "result.json").exists():
        shutil.rmtree(run.folder)  # it had ended before: again, but sooner
        attack = replace(attack, delay=attack.delay / 2)
        outcome = run.go(signals=[attack])
    return outcome


def _pick(rng: np.random.Generator, calls: dict[str, int]) -> Fault:
    """Choose a function, one of its calls (up to the number given) and a way to die there."""
    function = str(rng.choice(list(calls)))
    acts = (kill, kill_after, kill_half_way) if function == "os.write" else (kill, kill_after)
    call = int(rng.integers(1, calls[function] + 1))
    return Fault(function, call, acts[rng.integers(len(acts))])


def _before_config(rng: np.random.Generator, variant: str) -> list[Attack]:
    calls = {
        "filelock.FileLock.acquire": 1,
        "agents.run_log.describe_machine": 1,
        "os.write": 1,
        "os.mkdir": 1,
    }
    return [_pick(rng, calls)]


def _before_checkpoint(rng: np.random.Generator, variant: str) -> list[Attack]:
    calls = {"agents.run_log.RunLog.note_facts": 1, "os.replace": 4, _UPDATE: SAVES[0]}
    return [_pick(rng, calls)]


def _while_saving(rng: np.random.Generator, variant: str) -> list[Attack]:
    save = int(rng.integers(1, len(SAVES) + 1))
    return [Fault(_SAVE, save, partial(arm, _pick(rng, _SAVE_CALLS)))]


def _while_pruning(rng: np.random.Generator, variant: str) -> list[Attack]:
    """The last save is the most delicate one: no other comes after it to tidy up."""
    save = int(rng.choice([4, 5, 6, 7, 7, 7]))
    return [Fault(_SAVE, save, partial(arm, _pick(rng, _PRUNE_CALLS)))]


def _while_validating(rng: np.random.Generator, variant: str) -> list[Attack]:
    return [_in_evaluation(rng, variant, kill)]


def _at_the_end(rng: np.random.Generator, variant: str) -> list[Attack]:
    there = _pick(rng, {"os.write": 1, "os.replace": 1})
    result = Fault("agents.run_log.RunLog.result", 1, partial(arm, there))
    return [result if rng.random() < 0.5 else _in_evaluation(rng, variant, kill, final=True)]


def _while_resuming(rng: np.random.Generator, variant: str) -> list[Attack]:
    calls = {
        "agents.run_log.latest_checkpoint": 1,
        "os.replace": 3,
        "os.write": 3,
        "torch.utils.tensorboard.SummaryWriter.__init__": 1,
        "agents.run_log.RunLog.scalars": 1,
        "agents.training.unpack_optimizer": 1,
        "agents.training.Training.unpack": 1,
    }
    first = Fault(_UPDATE, int(rng.integers(SAVES[0] + 1, UPDATES + 1)), kill)
    return [first, _pick(rng, calls)]


def _several_times(rng: np.random.Generator, variant: str) -> list[Attack]:
    calls = {_UPDATE: 8, "os.write": 12, "os.replace": 4}  # never enough to come to the end
    return [_pick(rng, calls) for _ in range(rng.integers(3, 5))]


def _when_seen(rng: np.random.Generator, variant: str) -> list[Attack]:
    names = ["run.lock", "config.json", "best.safetensors", "checkpoints/step_*"]
    names += [f"checkpoints/step_{update:08d}" for update in SAVES]
    return [Signal(rng.uniform(0, 0.03), str(rng.choice(names)))]


def _at_any_time(rng: np.random.Generator, variant: str) -> list[Attack]:
    return [Signal(rng.uniform(0, undisturbed(variant)[1]))]


def _at_any_time_of_a_real(rng: np.random.Generator, variant: str) -> list[Attack]:
    sights = [(None, 4.0), ("run.lock", 4.0), ("checkpoints/step_*", 1.0)]
    sights += [("checkpoints/.step_*.new", 0.03), ("best.safetensors.new", 0.03)]
    sight, longest = sights[rng.integers(len(sights))]
    return [Signal(rng.uniform(0, longest), sight)]


_MOMENTS: dict[str, _Plan] = {
    "before config.json": _before_config,
    "before the first checkpoint": _before_checkpoint,
    "while saving": _while_saving,
    "while validating": _while_validating,
    "at the end": _at_the_end,
    "while resuming": _while_resuming,
    "several times": _several_times,
    "when seen": _when_seen,
    "at any time": _at_any_time,
    "while pruning": _while_pruning,
}


def _in_evaluation(
    rng: np.random.Generator, variant: str, act: Act, *, final: bool = False
) -> Fault:
    """Choose a moment in a validation, or in the final evaluation."""
    function, calls = ("reset", 3) if variant == "conv" else ("step", 40)
    there = Fault(f"ram_env.GlimpseVectorEnv.{function}", int(rng.integers(1, calls + 1)), act)
    if final:
        return Fault("agents.training.Training.is_best", len(VALIDATIONS), partial(arm, there))
    save = SAVES.index(int(rng.choice(VALIDATIONS))) + 1
    return Fault(_SAVE, save, partial(arm, there))


# Stopped


def signalled_runs(rounds: int, folder: Path) -> Iterator[tuple[str, str | None]]:
    """Stop runs with SIGINT and SIGTERM; the printed command must go on with them.

    Args:
        rounds: Cases to run.
        folder: Scratch directory.

    Yields:
        A case's name, and None or what went wrong.
    """
    signals = (signal.SIGINT, signal.SIGTERM)
    for number in range(rounds):
        rng = np.random.default_rng(number)
        when = _WHEN[number % len(_WHEN)]
        first = signals[(number + number // len(_WHEN)) % 2]
        real = when is _from_outside and number >= len(_WHEN)
        variant = _choose_variant(number, real)
        run = Run(variant, folder / f"signalled {number} :100: [red]", real)
        what = when.__name__.strip("_").replace("_", " ")
        yield f"{number}: {variant}, {first.name} {what}", when(run, first, rng)


def _in_training(run: Run, number: signal.Signals, rng: np.random.Generator) -> str | None:
    update = int(rng.integers(1, UPDATES + 1))
    outcome = run.go([Fault(_UPDATE, update, partial(send, number))])
    if newest(run.folder) != update:
        return f"update {update} was not saved but {newest(run.folder)}"
    return _go_on(run, number, outcome)


def _in_validation(run: Run, number: signal.Signals, rng: np.random.Generator) -> str | None:
    return _go_on(run, number, run.go([_in_evaluation(rng, run.variant, partial(send, number))]))


def _in_the_final_evaluation(
    run: Run, number: signal.Signals, rng: np.random.Generator
) -> str | None:
    fault = _in_evaluation(rng, run.variant, partial(send, number), final=True)
    return _go_on(run, number, run.go([fault]))


def _from_outside(run: Run, number: signal.Signals, rng: np.random.Generator) -> str | None:
    longest = 4.0 if run.real else undisturbed(run.variant)[1]
    sent = Signal(rng.uniform(0, longest), "config.json", number)
    return _go_on(run, number, _strike(run, sent))


def _twice(run: Run, number: signal.Signals, rng: np.random.Generator) -> str | None:
    """The second signal comes while the update is being saved."""
    second = signal.Signals(rng.choice([signal.SIGINT, signal.SIGTERM]))
    update = int(rng.integers(1, UPDATES + 1))
    again = Fault("agents.checkpoints.write_file", int(rng.integers(1, 8)), partial(send, second))
    outcome = run.go(
        [Fault(_UPDATE, update, partial(arm, again)), Fault(_UPDATE, update, partial(send, number))]
    )
    if outcome.status != -second:
        return f"the second signal, {second.name}, did not end it at once: {outcome.told}"
    if newest(run.folder) == update:
        return f"update {update} was saved all the same"
    return run.finish()


def _in_a_resumed_run(run: Run, number: signal.Signals, rng: np.random.Generator) -> str | None:
    run.go([Fault(_UPDATE, int(rng.integers(1, UPDATES + 1)), kill)])
    call = rng.choice(["agents.training.Training.unpack", "agents.run_log.RunLog.note_facts"])
    if newest(run.folder) == 0:
        call = "agents.run_log.RunLog.note_facts"
    return _go_on(run, number, run.go([Fault(str(call), 1, partial(send, number))]))


_WHEN = (
    _in_training,
    _in_validation,
    _in_the_final_evaluation,
    _twice,
    _in_a_resumed_run,
    _from_outside,
)


def _go_on(run: Run, number: signal.Signals, outcome: Outcome) -> str | None:
    """Check that a run has stopped in good order; go on with it by the command it printed."""
    if outcome.status != 128 + number:
        return f"the exit status should be {128 + number}: {outcome.told}"
    if not outcome.errors.startswith(f"{number.name}: stopping") or outcome.errors.count("\n") != 1:
        return f"stderr should hold one line about the signal: {outcome.errors[:500]!r}"
    printed = outcome.output.splitlines()[-1].rpartition("to go on with it: ")[2]
    if shlex.split(printed) != [interpreter(), run.script, "--resume", str(run.folder)]:
        return f"the printed command is {printed!r}"
    return run.finish()
