"""What training scripts share, all but their loops: settings, seeds, gradients, saved state."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from agents.distributed import on_first
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
from agents.runs.files import first_line
from agents.torchrun import own_gpu

ModelT = TypeVar("ModelT", bound=nn.Module)
_ADVICE = "the learning rate may be too high"
_NEVER = 2**62  # larger than any update's number
_CPU_BFLOAT16 = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")


class Training(Generic[ModelT]):
    """Everything that the rest of a run depends on, except the number of updates done.

    ``env`` has ``get_state`` and ``set_state``; ``stored`` holds parts by name, which have ``pack``
    and ``unpack``. ``mean_model``, the running mean of the weights, is evaluated and published.
    """

    def __init__(
        self,
        model: ModelT,
        optimizer: torch.optim.Optimizer,
        env: Any,
        stored: Mapping[str, Any] | None = None,
    ):
        self.model, self.optimizer, self.env = model, optimizer, env
        self.stored = stored or {}
        self.mean_model = copy.deepcopy(model).requires_grad_(False).eval()
        self.best: Tensors = copy.deepcopy(self.mean_model.state_dict())
        self.best_error = math.inf

    @property
    def _device(self) -> torch.device:
        return next(self.model.parameters()).device

    @torch.no_grad()
    def move_mean(self, decay: float | Tensor) -> None:
        """Move the running mean of the weights: mean = decay * mean + (1 - decay) * weights.

        The means and variances of batch normalisation move along; its counters are copied.
        """
        weights, step = self.model.state_dict(), 1 - decay
        step = step.float() if isinstance(step, Tensor) else step
        for name, mean in self.mean_model.state_dict().items():
            if mean.is_floating_point():
                mean.lerp_(weights[name], step)
            else:
                mean.copy_(weights[name])

    def is_best(self, error: float, *, always: bool = False) -> bool:
        """Keep the running mean as ``best`` if its error [%] is no higher than the best, or always.

        The error may include a price of glimpses. Returns whether it was kept.
        """
        better = always or error <= self.best_error
        if better:
            self.best_error, self.best = error, copy.deepcopy(self.mean_model.state_dict())
        return better

    def check(self) -> None:
        """Raise FloatingPointError if a number was not finite and nothing has said so yet."""

    def pack(self) -> tuple[dict[str, Tensors], dict[str, Any]]:
        """Return the tensors by group, and all other state as JSON values."""
        tensors = {
            "model": self.model.state_dict(),
            "mean_model": self.mean_model.state_dict(),
            "best_model": self.best,
            "optimizer": pack_optimizer(self.optimizer),
            "generators": pack_generators(self._device),
            **{name: part.pack() for name, part in self.stored.items()},
        }
        best_error = self.best_error if math.isfinite(self.best_error) else None
        return tensors, {"best_error": best_error, "env": self.env.get_state()}

    def unpack(self, checkpoint: Checkpoint) -> Any:
        """Restore what :meth:`pack` returned; return the environment's observations and infos.

        Raises CheckpointError if the checkpoint belongs to another model, environment or device.
        """
        tensors, expected = checkpoint.tensors, self.pack()[0]
        if tensors.keys() != expected.keys():
            raise CheckpointError(f"checkpoint must hold {sorted(expected)}, got {sorted(tensors)}")
        for group in ("model", "mean_model", "best_model", *self.stored):
            check_like(group, tensors[group], expected[group])
        best_error = checkpoint.state.get("best_error", math.nan)
        if best_error is not None and not (isinstance(best_error, float) and best_error >= 0):
            raise CheckpointError(f"best_error must be a percentage or null, got {best_error!r}")
        try:
            current = self.env.set_state(checkpoint.state["env"])
        except (KeyError, ValueError) as error:
            raise CheckpointError(f"the environment cannot resume from it: {error}") from error
        unpack_optimizer(self.optimizer, tensors["optimizer"])
        unpack_generators(tensors["generators"], self._device)
        for name, part in self.stored.items():
            part.unpack(tensors[name])
        self.model.load_state_dict(tensors["model"])
        self.mean_model.load_state_dict(tensors["mean_model"])
        self.best = {name: part.to(self._device) for name, part in tensors["best_model"].items()}
        self.best_error = math.inf if best_error is None else best_error
        return current


_RANGES: dict[str, Callable[[float], bool]] = {
    "at least 3": lambda x: x >= 3,
    "at least 2": lambda x: x >= 2,
    "at least 1": lambda x: x >= 1,
    "from 1 to 4096": lambda x: 1 <= x <= 4096,
    "at least 0": lambda x: 0 <= x < math.inf,
    "positive": lambda x: 0 < x < math.inf,
    "in [0, 1]": lambda x: 0 <= x <= 1,
    "in [0, 1)": lambda x: 0 <= x < 1,
}


def check_settings(settings: object, ranges: Mapping[str, Sequence[str]]) -> None:
    """Raise ValueError if a setting, other than None, is outside its range of ``_RANGES``."""
    for allowed, names in ranges.items():
        for name in names:
            value = getattr(settings, name)
            if value is not None and not _RANGES[allowed](value):
                raise ValueError(f"{name} must be {allowed}, got {value}")
            largest = 1e30 if isinstance(value, float) else 10**15
            if value is not None and value > largest and name != "seed":  # else torch overflows
                raise ValueError(f"{name} must be at most {largest:g}, got {value:g}")


def check_used(settings: Any, users: Mapping[str, tuple[bool, str]]) -> None:
    """Raise ValueError if a setting differs from its default though nothing uses it.

    ``users``: whether other settings use a setting, and what would, by its name.
    """
    default = {each.name: each.default for each in fields(settings)}
    for name, (used, user) in users.items():
        if not used and (got := getattr(settings, name)) != default[name]:
            raise ValueError(f"{name} needs {user}: set it to {default[name]}, got {got}")


class Watch:
    """Remembers on a device the first update in which something was not finite.

    The host waits for the device only when it asks.
    """

    def __init__(self, device: torch.device):
        self._first = torch.full((), _NEVER, device=device)

    def note(self, update: int | Tensor, finite: Tensor) -> None:
        """Note whether all is ``finite``, shape (), bool, in an update."""
        self._first.copy_(torch.where(finite, self._first, self._first.clamp(max=update)))

    def check(self) -> None:
        """Raise FloatingPointError, with the number of the update, if something was not finite."""
        if (update := int(self._first)) < _NEVER:
            what = "an output, loss, gradient or weight is not finite"
            raise FloatingPointError(f"update {update}: {what}; {_ADVICE}")


def check_finite(
    update: int | Tensor, values: Mapping[str, Tensor], watch: Watch | None = None
) -> None:
    """Raise FloatingPointError if a tensor is NaN or infinite, or tell ``watch``.

    The message names the update and the tensors that are not finite.
    """
    finite = nn.utils.get_total_norm(values.values(), math.inf).isfinite()  # all at once
    if watch is not None:
        watch.note(update, finite)
    elif not finite:
        broken = [name for name, value in values.items() if not value.isfinite().all()]
        raise FloatingPointError(f"update {update}: {', '.join(broken)} not finite; {_ADVICE}")


def check_validation_images(wanted: int | None, num_images: int) -> None:
    """Raise ValueError if ``--validation-images`` exceeds the size of the split."""
    if wanted is not None and wanted > num_images:
        limit = f"{num_images}, the size of the validation split"
        raise ValueError(f"validation_images must be at most {limit}, got {wanted}")


def choose_device(name: str) -> torch.device:
    """Return the device that ``--device`` names, a GPU with its number; "auto" prefers a GPU.

    Under torchrun, "cuda" is this rank's GPU. Raises ValueError if torch finds no such device.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    name = own_gpu(name)
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # which the device "meta" can't do
    except (RuntimeError, AssertionError) as error:
        allowed = "auto, cpu, or the cuda or cuda:N of a GPU that torch finds"
        raise ValueError(f"device must be {allowed}, got {name}: {first_line(error)}") from error
    return probe.device


def choose_bf16(wanted: bool, device: torch.device, log: Any) -> bool:
    """Return whether to compute in bfloat16: if it is wanted and the hardware has it.

    A resumed run keeps its choice, ``dtype`` in its log's ``config.json``.
    """
    if device.type == "cuda":
        has = torch.cuda.is_bf16_supported(including_emulation=False)
    else:  # torch 2.10 can't tell, and computes in float32
        abilities = getattr(torch.cpu, "get_capabilities", dict)()
        has = device.type != "cpu" or any(abilities.get(name) for name in _CPU_BFLOAT16)
    name = "bfloat16" if wanted and has else "float32"
    return on_first(lambda: log.decide("dtype", name)) == "bfloat16"


def spread_seed(
    seed: int, num_envs: int, num_rollouts: int = 1, *, stage: int = 0
) -> tuple[list[int], int]:
    """Derive a seed per sub-environment, and one for torch; adjacent run seeds share none.

    Groups of ``num_rollouts`` neighbours, a divisor of ``num_envs``, share a seed and so images.
    Stages of a curriculum share none.
    """
    key = (0, stage) if stage else ()  # (0,) is that of :class:`agents.noise.Noise`
    words = np.random.SeedSequence(seed, spawn_key=key).generate_state(num_envs + 1, np.uint64)
    env_seeds = [int(word) for word in words[1 : num_envs // num_rollouts + 1]]
    return [seed for seed in env_seeds for _ in range(num_rollouts)], int(words[0] >> np.uint64(1))


def validation_updates(num_updates: int, times: int) -> set[int]:
    """Return the updates, counted from 1, to validate after: evenly spaced, the last included."""
    return {round(num_updates * (k + 1) / times) for k in range(times)} - {0}


def cosine_rate(initial: float, progress: float) -> float:
    """Return a learning rate that falls to 0 along half a cosine; ``progress`` is 0 to 1."""
    return initial * (1 + math.cos(math.pi * progress)) / 2


def warmed_up_decay(decay: float, update: int) -> float:
    """Return the decay of the running mean of the weights in an update, counted from 0.

    The full decay would hold on to the random initial weights for 1 / (1 - decay) updates. So it
    starts at 1/10 and rises until it reaches ``decay``: in a young run the mean spans about the
    last ninth of its updates. Source: TensorFlow's ``ExponentialMovingAverage``.
    """
    return min(decay, (update + 1) / (update + 10))


def clip_gradients(
    model: nn.Module,
    max_norm: float,
    update: int | Tensor,
    values: Mapping[str, Tensor] | None = None,
    watch: Watch | None = None,
) -> Tensor:
    """Scale the gradient down to ``max_norm`` if it is longer; return its norm before.

    Raises FloatingPointError if it, or one of the ``values`` that it came from, is not finite, or
    tells ``watch``, as :func:`check_finite` does.
    """
    values = values or {}
    parameters = model.named_parameters()
    grads = {f"gradient of {name}": p.grad for name, p in parameters if p.grad is not None}
    norm = nn.utils.get_total_norm(grads.values())
    try:
        check_finite(update, {**values, "norm of the gradient": norm}, watch)
    except FloatingPointError:
        check_finite(update, {**values, **grads})  # which names the weights
        raise
    nn.utils.clip_grads_with_norm_(model.parameters(), max_norm, norm)
    return norm
