"""An algorithm's tuning: the settings that it tries, in up to three phases, and their best."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from train.comparison.protocol import Algorithm, Choices, ComparedTask
from train.comparison.results import Trial

PHASES = {"trials": "trial", "retries": "retry", "finals": "final"}
"""Phases of a tuning, and what a run in one is called."""
TRIAL_SEED = 1000
"""Seed of a comparison's trials and of what they try; the next one is its finals'."""

optuna.logging.set_verbosity(optuna.logging.WARNING)


def draw_trials(algorithm: Algorithm, trials: int) -> list[dict[str, Any]]:
    """Return the settings that a tuning tries, by flag: the defaults, then draws from the space.

    Numbers from a span have three digits, as a table shows them.
    """
    if not algorithm.space or not trials:
        return []
    space: dict[str, BaseDistribution] = {
        flag: CategoricalDistribution(span.choices)
        if isinstance(span, Choices)
        else FloatDistribution(*span, log=True)
        for flag, span in algorithm.space.items()
    }

    def shorten(flag: str, value: Any) -> Any:
        span = algorithm.space[flag]
        if isinstance(span, Choices):
            return value
        return min(max(float(f"{value:.3g}"), span[0]), span[1])

    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(TRIAL_SEED))
    draws = (study.ask(space).params for _ in range(trials))
    return [{}, *({flag: shorten(flag, params[flag]) for flag in space} for params in draws)]


def best_trials(trials: Iterable[Trial]) -> list[Trial]:
    """Return trials by error, ties by number; those that diverged come last."""
    return sorted(trials, key=lambda t: (t.status == "diverged", t.error, t.number))


def tuning_phases(
    task: ComparedTask, trials: Iterable[Trial]
) -> Iterator[tuple[str, Sequence[int], list[Trial]]]:
    """Yield a tuning's phases up to the first that lacks trials, each as far as it is.

    All trials are run at a third of the budget; if none is good enough, again at the whole; then
    the best once more with another seed. The last phase's best trial is chosen.

    Args:
        task: The task of the tuning.
        trials: The algorithm's stored trials.

    Yields:
        The phase, the numbers of its trials, and those that have ended, the best first.
    """
    trials, best = list(trials), list[Trial]()
    for phase in PHASES:
        numbers: Sequence[int] = range(task.trials + 1)  # 0: the defaults
        if phase == "retries" and best[0].error < task.retry_above:
            continue
        if phase == "finals" and not (numbers := sorted(t.number for t in best[: task.finalists])):
            continue
        best = best_trials(t for t in trials if t.phase == phase and t.number in numbers)
        yield phase, numbers, best
        if len(best) < len(numbers):
            return
