"""The configurations that tuning tries: Optuna's random sampler over an algorithm's space."""

from __future__ import annotations

from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution

from train.comparison.protocol import Algorithm, Setting
from train.comparison.sweeps import rounded

TRIAL_SEED = 1000
"""Seed of the trials and of their sampler; no seed that is reported."""


def draw_trials(algorithm: Algorithm, trials: int) -> list[dict[str, Any]]:
    """Return the configurations of an algorithm's tuning, by flag: first its defaults.

    They depend on the space alone: algorithms with the same space try the same values.
    """
    if not algorithm.space or not trials:
        return []
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(TRIAL_SEED))
    space = {setting.flag: to_distribution(setting) for setting in algorithm.space}
    drawn = [study.ask(space).params for _ in range(trials)]
    return [{}, *map(rounded, drawn)]


def to_distribution(setting: Setting) -> BaseDistribution:
    """Return what Optuna draws a setting from."""
    if setting.choices:
        return CategoricalDistribution(setting.choices)
    return FloatDistribution(setting.low, setting.high, log=True)
