"""What training scripts share beside their loops: seeds, gradients, means, all that is saved."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from agents.runs.checkpoints import (
    Checkpoint,
    CheckpointError,
    Tensors,
    check_like,
    pack_generators,
    pack_optimizer,
    unpack_generators,
    unpack_optimizer,
)


class Resumable(Protocol):
    """An environment that can go on where another one was."""

    def get_state(self) -> dict[str, Any]: ...  # noqa: D102

    def set_state(self, state: dict[str, Any]) -> Any: ...  # noqa: D102


ModelT = TypeVar("ModelT", bound=nn.Module)


class Training(Generic[ModelT]):
    """All that the rest of a run depends on, but for how many updates were done.

    Args:
        model: What learns.
        optimizer: Of its parameters.
        env: Where it learns.
        generators: By name, whatever draws random numbers beside torch itself.

    Attributes:
        mean_model: The running mean of the model's weights, which is what gets judged.
        best: The running mean that was kept by :meth:`is_best` last, or the first one.
        best_error: That error [%], or infinity.
    """

    def __init__(
        self,
        model: ModelT,
        optimizer: torch.optim.Optimizer,
        env: Resumable,
        generators: Mapping[str, torch.Generator] | None = None,
    ):
        self.model, self.optimizer, self.env = model, optimizer, env
        self.generators = generators or {}
        self.mean_model = copy.deepcopy(model).requires_grad_(False).eval()
        self.best: Tensors = copy.deepcopy(self.mean_model.state_dict())
        self.best_error = math.inf

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def move_mean(self, decay: float) -> None:
        """Move the running mean of the weights towards the weights.

        The means and variances of batch normalisation move along; its counters are copied.

        Args:
            decay: Share of the mean that stays, 0 to 1.
        """
        weights = self.model.state_dict()
        for name, mean in self.mean_model.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(weights[name], 1 - decay)
            else:
                mean.copy_(weights[name])

    def is_best(self, error: float, *, always: bool = False) -> bool:
        """Keep the running mean if its validation error is the lowest so far, and say so.

        Args:
            error: On validation [%].
            always: Keep the newest, whatever its error.
        """
        better = always or error <= self.best_error
        if better:
            self.best_error, self.best = error, copy.deepcopy(self.mean_model.state_dict())
        return better

    def pack(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Return tensors by group, and everything else, ready for JSON."""
        tensors = {
            "model": self.model.state_dict(),
            "mean_model": self.mean_model.state_dict(),
            "best_model": self.best,
            "optimizer": pack_optimizer(self.optimizer),
            "generators": pack_generators(self.generators, self._device),
        }
        best_error = self.best_error if math.isfinite(self.best_error) else None
        return tensors, {"best_error": best_error, "env": self.env.get_state()}

    def unpack(self, checkpoint: Checkpoint) -> Any:
        """Go on from what :meth:`pack` returned.

        Returns:
            What the environment shows there: observations and infos.

        Raises:
            CheckpointError: If it is of another model, environment or device.
        """
        tensors, expected = checkpoint.tensors, self.pack()[0]
        if tensors.keys() != expected.keys():
            raise CheckpointError(f"checkpoint must hold {sorted(expected)}, got {sorted(tensors)}")
        for group in ("model", "mean_model", "best_model"):
            check_like(group, tensors[group], expected[group])
        best_error = checkpoint.state.get("best_error", math.nan)
        if best_error is not None and not (isinstance(best_error, float) and best_error >= 0):
            raise CheckpointError(f"best_error must be a percentage or null, got {best_error!r}")
        try:
            shown = self.env.set_state(checkpoint.state["env"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the environment cannot go on from it: {error}") from error
        unpack_optimizer(self.optimizer, tensors["optimizer"])
        unpack_generators(self.generators, tensors["generators"], self._device)
        self.model.load_state_dict(tensors["model"])
        self.mean_model.load_state_dict(tensors["mean_model"])
        self.best = {name: part.to(self._device) for name, part in tensors["best_model"].items()}
        self.best_error = math.inf if best_error is None else best_error
        return shown


def check_finite(update: int, values: Mapping[str, Tensor]) -> None:
    """Stop a run whose numbers are no numbers any more.

    Args:
        update: Which update it is.
        values: By name.

    Raises:
        FloatingPointError: If one is not finite, naming the update and what it is.
    """
    if nn.utils.get_total_norm(values.values()).isfinite():  # quick, and nearly always so
        return
    broken = [name for name, value in values.items() if not value.isfinite().all()]
    if broken:
        raise FloatingPointError(
            f"update {update}: {', '.join(broken)} not finite; the learning rate may be too high"
        )


@contextmanager
def report_nonfinite_outputs(update: int, outputs: Sequence[Sequence[Tensor]]) -> Iterator[None]:
    """Turn an error into a FloatingPointError if the newest outputs are no numbers.

    Finite weights can be so large that what they compute is not finite: then the environment
    refuses a location, or torch a probability.

    Args:
        update: Which update it is.
        outputs: Of the model, the newest last; filled within.

    Raises:
        FloatingPointError: If so, naming the update.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if not outputs or all(part.isfinite().all() for part in outputs[-1]):
            raise
        raise FloatingPointError(
            f"update {update}: the model's outputs are not finite; the learning rate may be too "
            "high"
        ) from error


def check_validation_images(wanted: int | None, num_images: int) -> None:
    """Raise ValueError if ``--validation-images`` are more than the split has."""
    if wanted is not None and wanted > num_images:
        raise ValueError(
            f"validation_images must be at most {num_images}, the images of the validation split, "
            f"got {wanted}"
        )


def choose_device(name: str) -> torch.device:
    """Return the device called ``name``; "auto" is a GPU if there is one.

    Raises:
        ValueError: If a GPU is asked for and there is none.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError("device must be cpu or auto here, got cuda: torch sees no GPU")
    return torch.device(name)


def spread_seed(seed: int, num_envs: int, num_rollouts: int = 1) -> tuple[list[int], int]:
    """Spread the seed of a run; adjacent runs share nothing.

    Args:
        seed: Of the run.
        num_envs: N, lanes of the environment.
        num_rollouts: So many neighbouring lanes get one seed, and so play the same images;
            divides N.

    Returns:
        One seed a lane, and one for torch.
    """
    words = np.random.SeedSequence(seed).generate_state(num_envs + 1, np.uint64)
    lane_seeds = [int(word) for word in words[1 : num_envs // num_rollouts + 1]]
    return [seed for seed in lane_seeds for _ in range(num_rollouts)], int(words[0] >> np.uint64(1))


def validation_updates(num_updates: int, times: int) -> set[int]:
    """Return the updates, counted from 1, after which something happens; the last is one."""
    return {round(num_updates * (k + 1) / times) for k in range(times)} - {0}


def clip_gradients(model: nn.Module, max_norm: float, update: int) -> Tensor:
    """Shorten the gradient to ``max_norm`` if it is longer; return its norm before.

    Raises:
        FloatingPointError: If it is not finite, naming the update and the tensors.
    """
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    norm = nn.utils.get_total_norm(grads.values())
    if not norm.isfinite():
        broken = [name for name, grad in grads.items() if not grad.isfinite().all()]
        where = broken or "its norm"
        raise FloatingPointError(f"update {update}: the gradient is not finite in {where}")
    nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm
