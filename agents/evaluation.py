"""Evaluate a trained agent on every image of a split, with an interval around the error.

Dimension key:
    N: sub-environments, each of which plays one episode at a time
    n: images in the split
    M: passes over the split
    T: glimpses per episode
    K: classes
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any, NamedTuple

import torch
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from torch import Tensor

from agents.actions import sample_label, sample_location
from agents.controls import Control, to_boxes
from agents.episodes import NOT_FINITE, play_episode
from agents.ram import Output, RecurrentAttentionModel


@dataclass(frozen=True)
class Score:
    """A number of misclassified images, ``wrong``, among ``total`` images."""

    wrong: int
    total: int

    @property
    def error(self) -> float:
        """Percentage of images misclassified."""
        return 100 * self.wrong / self.total

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of the error [%].

            (k + z^2 / 2 -+ z sqrt(k (n - k) / n + z^2 / 4)) / (n + z^2),  z = Phi^-1(0.975)

        Source:
            Wilson (1927), "Probable inference, the law of succession, and statistical inference".
        """
        k, n, z = self.wrong, self.total, NormalDist().inv_cdf(0.975)
        centre, half = k + z**2 / 2, z * math.sqrt(k * (n - k) / n + z**2 / 4)
        low, high = (100 * (centre + sign * half) / (n + z**2) for sign in (-1, 1))
        return max(0.0, low), min(100.0, high)

    def to_json(self) -> dict[str, Any]:
        """Return error and interval [%], and the numbers of images, as JSON values."""
        return {"error": self.error, "interval": list(self.interval), **asdict(self)}

    def __str__(self) -> str:
        low, high = self.interval
        return f"error {self.error:.2f} % (95 % interval {low:.2f}-{high:.2f}, {self.total} images)"


class Beliefs(NamedTuple):
    """What a model looked at and believed, at every glimpse of every pass; on the CPU.

    Attributes:
        log_p: Log-probabilities of the classes. Shape (M, n, T, K), float32.
        labels: True classes. Shape (n,), int64.
        locations: Locations of the glimpses, as executed, in [-1, 1]. Shape (M, n, T, 2), float32.
        boxes: The objects' boxes, from :func:`agents.controls.to_boxes`. Shape (n, 4), int64.
        stop_logits: Log-odds of stopping, float32. Shape (M, n, T); None if the model can't stop.
    """

    log_p: Tensor
    labels: Tensor
    locations: Tensor
    boxes: Tensor
    stop_logits: Tensor | None = None


def evaluate(model: RecurrentAttentionModel, env: VectorEnv, num_images: int) -> Score:
    """Classify every image of a split once, with mean locations.

    Arguments and errors are those of :func:`play_split`: the env needs ``order="sequential"`` and
    ``action_format="dict"``.
    """
    return score_by_glimpse(play_split(model, env, num_images))[-1]


@torch.no_grad()
def play_split(
    model: RecurrentAttentionModel,
    env: VectorEnv,
    num_images: int,
    *,
    num_passes: int = 1,
    std: float | Tensor = 0.0,
    generator: torch.Generator | None = None,
    control: Control | None = None,
    on_batch: Callable[[], None] | None = None,
) -> Beliefs:
    """Show every image of a split ``num_passes`` times and record what the model believes.

    Each pass begins with other first locations, if the env draws them. Only the noise of sampled
    and random locations depends on the number of sub-environments.

    Args:
        model: In the mode to evaluate it in.
        env: A vector env with ``order="sequential"`` and ``action_format="dict"``, in the
            autoreset mode ``SAME_STEP``, whose episodes all have the same length.
        num_images: n, images in the split; visits after the last pass are dropped.
        num_passes: M; above 1 the split's canvases must be frozen, as in validation and test.
        std: Standard deviation of the location policy; 0 executes its mean.
        generator: Source of the noise of locations, on the model's device. None gives every call
            the same noise.
        control: Chooses the locations in the policy's place. Its noise is always the same.
        on_batch: Called after every batch of episodes; may raise to stop early.

    Raises:
        ValueError: If a number is out of range, the env does not show the split in turn, or its
            passes show objects at other places.
        FloatingPointError: If the model's outputs are not finite.
    """
    _check_playable(env, num_images, num_passes, std)
    device, num_visits = model.initial_state(1).device, num_passes * num_images
    samples = bool(torch.as_tensor(std > 0).any())
    own = torch.Generator(device).manual_seed(0)  # the control's
    generator = generator or torch.Generator(device).manual_seed(0)
    batches: list[list[Tensor]] = []
    carry = env.reset(seed=0)
    for visit in range(0, num_visits, env.num_envs):  # of sub-env 0; sub-env i makes visit + i
        infos = carry[1]
        label, box = torch.as_tensor(infos["label"]), to_boxes(infos, device)
        counted = min(env.num_envs, num_visits - visit)
        check_in_turn(torch.as_tensor(infos["index"])[:counted], visit, num_images)

        def act(step: int, output: Output, box: Tensor = box) -> tuple[Tensor, Tensor, Tensor]:
            location = output.location_mean
            if samples:
                noise = torch.randn(location.shape, generator=generator, device=device)
                location, _ = sample_location(location, std, noise)
            if control is not None:
                uniform = 2 * torch.rand(location.shape, generator=own, device=device) - 1
                location = control(step, location, box, uniform)
            return location, torch.zeros(len(location)), output.logits.argmax(1)

        steps, carry = play_episode(model, env, carry, act)
        outputs = [step.output for step in steps]
        log_p = torch.stack([output.logits.log_softmax(1) for output in outputs], 1)
        locations = torch.stack([step.location for step in steps], 1)
        stops = [output.stop_logit for output in outputs if output.stop_logit is not None]
        parts = [log_p, locations, *([torch.stack(stops, 1)] if stops else [])]
        if not all(part.isfinite().all() for part in parts):
            raise FloatingPointError(NOT_FINITE)
        batches.append([part[:counted].cpu() for part in (label, box, *parts)])
        if on_batch is not None:
            on_batch()
    labels, boxes, log_p, locations, *stop_logits = (
        torch.cat(parts).unflatten(0, (num_passes, num_images))
        for parts in zip(*batches, strict=True)
    )
    if not (boxes == boxes[0]).all():
        raise ValueError("num_passes must be 1 on this split: each pass draws other canvases")
    return Beliefs(log_p, labels[0], locations, boxes[0], *stop_logits)


def _check_playable(env: VectorEnv, num_images: int, num_passes: int, std: float | Tensor) -> None:
    """Raise the ValueErrors of :func:`play_split` that need no episode."""
    if min(num_images, num_passes) < 1:
        sizes = (num_images, num_passes)
        raise ValueError(f"num_images and num_passes must be at least 1, got {sizes}")
    if not torch.as_tensor(std >= 0).all():
        raise ValueError(f"std must be at least 0, got {std}")
    mode = env.metadata.get("autoreset_mode")
    if mode is not AutoresetMode.SAME_STEP:
        raise ValueError(f"env must have the autoreset mode SAME_STEP, got {mode}")
    if not isinstance(env.single_action_space, spaces.Dict):
        raise ValueError(f"env must have action_format='dict', got {env.single_action_space}")
    if "stop" in env.single_action_space.spaces:
        raise ValueError("env must have allow_stop=False: stops are scored afterwards")


def check_in_turn(index: Tensor, visit: int, num_images: int) -> None:
    """Raise ValueError unless ``index``, (n,), are the images of ``visit`` and those after it."""
    expected = [v % num_images for v in range(visit, visit + len(index))]
    if (shown := index.tolist()) != expected:
        raise ValueError(
            f"env must show images 0 to {num_images - 1} in turn (order='sequential', and "
            f"num_images the split's), got {shown[:5]}... at visit {visit}"
        )


def score_by_glimpse(beliefs: Beliefs) -> list[Score]:
    """Score the first pass after 1, 2, ..., T glimpses; an interval needs independent images."""
    wrong = beliefs.log_p[0].argmax(-1) != beliefs.labels[:, None]  # (n, T)
    return [Score(int(count), len(wrong)) for count in wrong.sum(0)]


def score_at_stop(beliefs: Beliefs) -> tuple[Score, float]:
    """Score the first pass where each episode stops, and return the mean number of glimpses too.

    An episode stops at the first glimpse with odds above 1, at the latest after T.
    """
    stops = torch.zeros(beliefs.log_p.shape[1:3], dtype=torch.bool)  # (n, T)
    if beliefs.stop_logits is not None:
        stops = beliefs.stop_logits[0] > 0
    stops[:, -1] = True
    last = stops.int().argmax(1)  # (n,), the first maximum
    labels = beliefs.log_p[0, torch.arange(len(last)), last].argmax(-1)
    return Score(int((labels != beliefs.labels).sum()), len(last)), 1 + last.double().mean().item()


def score_sampled_labels(beliefs: Beliefs, generator: torch.Generator) -> Score:
    """Score labels that are sampled from the beliefs after the last glimpse of the first pass."""
    p = beliefs.log_p[0, :, -1].softmax(-1).to(generator.device)  # (n, K), of any temperature
    clocks = torch.empty_like(p).exponential_(generator=generator)
    labels = sample_label(p, clocks).cpu()
    return Score(int((labels != beliefs.labels).sum()), len(labels))


def score_mean_of_passes(beliefs: Beliefs) -> Score:
    """Score the mean over all M passes of the probabilities after the last glimpse.

    This protocol costs M times one pass: do not compare its error with a single pass's.
    """
    log_mean = beliefs.log_p[:, :, -1].logsumexp(0)  # (n, K), up to a constant
    return Score(int((log_mean.argmax(1) != beliefs.labels).sum()), len(log_mean))
