"""What a trained agent does with its glimpses: where it looks and what it gains by it.

All but :func:`play_in_hindsight` are pure functions of :class:`~agents.evaluation.Beliefs`
and average over images and passes.

Dimension key:
    n: images
    M: passes over them
    m: images of a chunk
    T: glimpses an episode
    K: classes
    H, W: canvas height and width [px]
    P, G: glimpse planes, glimpse side [px]
    C: candidate locations
    D: size of the recurrent state
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from agents.evaluation import Beliefs
from agents.ram import RecurrentAttentionModel

GlimpseFunction = Callable[[Tensor, Tensor], Tensor]
"""Maps canvases (n, H, W) or (n, H, W, 3), uint8, and locations (n, 2) to (n, P, G, G)."""


def centre_coverage(
    beliefs: Beliefs, *, canvas_side: int, object_size: tuple[int, int], glimpse_size: int
) -> Tensor:
    """Return how often the fovea covers the middle of the object, at each glimpse.

    The fovea is the finest patch, the G pixels from c - G/2 on, where c is the location's
    pixel; the middle is the pixel right and below of the object's centre.

    Args:
        beliefs: Of n images.
        canvas_side: H [px].
        object_size: Width and height of the object [px].
        glimpse_size: G [px].

    Returns:
        Shares in [0, 1]. Shape (T,).
    """
    width, height = object_size
    return _overlap(beliefs, canvas_side, (width // 2, height // 2), (1, 1), glimpse_size)


def object_coverage(
    beliefs: Beliefs, *, canvas_side: int, object_size: tuple[int, int], glimpse_size: int
) -> Tensor:
    """Return how often the fovea shares a pixel with the object's square, at each glimpse.

    Args:
        beliefs: Of n images.
        canvas_side: H [px].
        object_size: Width and height of the object [px].
        glimpse_size: G [px].

    Returns:
        Shares in [0, 1]. Shape (T,).
    """
    return _overlap(beliefs, canvas_side, (0, 0), object_size, glimpse_size)


def location_spread(beliefs: Beliefs) -> Tensor:
    """Return the standard deviation of x and of y across episodes, at each glimpse.

    Near 0: the agent looks at the same place whatever the image. A uniform location has 0.58.

    Returns:
        In units of half an image. Shape (T, 2).
    """
    return beliefs.locations.flatten(0, 1).std(0, correction=0)


def behaviour(
    beliefs: Beliefs, *, canvas_side: int, object_size: tuple[int, int], glimpse_size: int
) -> dict[str, float]:
    """Return what tells kinds of failure apart, as metrics.

    Args:
        beliefs: Of n images.
        canvas_side: H [px].
        object_size: Width and height of the object [px].
        glimpse_size: G [px].

    Returns:
        - ``eval/most_named``: images that get the commonest answer [%], 100 if the label has
          collapsed;
        - ``eval/centre_coverage``: of the glimpses after the first, those whose fovea covers the
          object's middle [%];
        - ``eval/location_spread``: mean :func:`location_spread` of these glimpses, 0 if the
          agent looks at the same places whatever it sees. Neither stands there if T is 1.
    """
    named = beliefs.log_p[:, :, -1].argmax(-1).flatten()  # (M n,)
    metrics = {"eval/most_named": 100 * named.bincount().max().item() / len(named)}
    if beliefs.locations.shape[2] > 1:
        covered = centre_coverage(
            beliefs, canvas_side=canvas_side, object_size=object_size, glimpse_size=glimpse_size
        )
        metrics["eval/centre_coverage"] = 100 * covered[1:].mean().item()
        metrics["eval/location_spread"] = location_spread(beliefs)[1:].mean().item()
    return metrics


def sizes_of(env: Any) -> dict[str, Any]:
    """Return the sizes that coverage takes, of a ``ram_env.GlimpseVectorEnv``."""
    return {
        "canvas_side": env.task.side,
        "object_size": env.object_size,
        "glimpse_size": env.task.glimpse_size,
    }


def bits_gained(beliefs: Beliefs) -> Tensor:
    """Return what glimpses 2, ..., T tell of the label: E[log2 p_k - log2 p_(k-1)].

    p_k is the probability of the true label after k glimpses.

    Returns:
        Bits. Shape (T - 1,).
    """
    label = beliefs.labels[None, :, None, None].expand(*beliefs.log_p.shape[:3], 1)
    bits = beliefs.log_p.gather(3, label)[..., 0] / math.log(2)  # (M, n, T)
    return bits.mean((0, 1), dtype=torch.float64).diff().float()


@torch.no_grad()
def play_in_hindsight(
    model: RecurrentAttentionModel,
    start: Beliefs,
    canvases: Tensor,
    glimpse_fn: GlimpseFunction,
    *,
    grid_size: int = 15,
    chunk_size: int = 16,
) -> Beliefs:
    """Play episodes again with locations chosen by one who knows the label.

    Each next location is the cell centre of a grid that makes the true label likeliest after
    that glimpse. An error that is left points to the classifier, not the policy. A low one
    proves little: the chooser does not look for what there is to see but for what sways this
    classifier; give ``start`` wrong labels to see how far that goes. Nor is it a strict
    bound: the choice is greedy, the places few.

    Args:
        model: In the mode it should be judged in.
        start: Labels, positions and first locations are those of its first pass.
        canvases: Of the first n images of ``start``, on the model's device.
            Shape (n, H, W) or (n, H, W, 3), uint8.
        glimpse_fn: The retina.
        grid_size: Cells a side; C is its square.
        chunk_size: m, images at once.

    Returns:
        Beliefs of one pass over n images.

    Raises:
        ValueError: If there are no canvases or more than labels, or a size is below 1.
    """
    n, num_glimpses = len(canvases), start.log_p.shape[2]
    if not 1 <= n <= len(start.labels):
        raise ValueError(f"canvases must be 1 to {len(start.labels)}, as in start, got {n}")
    if grid_size < 1 or chunk_size < 1:
        raise ValueError(
            f"grid_size and chunk_size must be at least 1, got {grid_size} and {chunk_size}"
        )
    device = canvases.device
    labels, first_locations = start.labels[:n].to(device), start.locations[0, :n, 0].to(device)
    centres = (2 * torch.arange(grid_size, device=device) + 1) / grid_size - 1
    candidates = torch.cartesian_prod(centres, centres)  # (C, 2)
    chunks = [
        _play_chunk(
            model,
            canvases[part],
            labels[part],
            first_locations[part],
            candidates,
            num_glimpses,
            glimpse_fn,
        )
        for part in (slice(first, first + chunk_size) for first in range(0, n, chunk_size))
    ]
    log_p, locations = (torch.cat(parts).cpu() for parts in zip(*chunks, strict=True))
    return Beliefs(log_p[None], start.labels[:n], locations[None], start.positions[:n])


def _play_chunk(
    model: RecurrentAttentionModel,
    canvases: Tensor,
    label: Tensor,
    location: Tensor,
    candidates: Tensor,
    num_glimpses: int,
    glimpse_fn: GlimpseFunction,
) -> tuple[Tensor, Tensor]:
    """Return log-probabilities (m, T, K) and locations (m, T, 2) of m images in hindsight."""
    m, num_candidates = len(canvases), len(candidates)
    output, state = model(glimpse_fn(canvases, location), location, model.initial_state(m))
    log_p, locations = [output.logits.log_softmax(1)], [location]
    places = candidates.repeat(m, 1)  # (m C, 2): image by image
    glimpses = glimpse_fn(canvases.repeat_interleave(num_candidates, 0), places)  # (m C, P, G, G)
    wanted = label.repeat_interleave(num_candidates)[:, None]  # (m C, 1)
    first = torch.arange(m, device=canvases.device) * num_candidates
    for _ in range(num_glimpses - 1):
        output, states = model(glimpses, places, state.repeat_interleave(num_candidates, 0))
        beliefs = output.logits.log_softmax(1)  # (m C, K)
        best = first + beliefs.gather(1, wanted).view(m, num_candidates).argmax(1)  # (m,)
        state = states[best]  # (m, D)
        log_p.append(beliefs[best])
        locations.append(places[best])
    return torch.stack(log_p, 1), torch.stack(locations, 1)


def _overlap(
    beliefs: Beliefs,
    canvas_side: int,
    offset: tuple[int, int],
    size: tuple[int, int],
    glimpse_size: int,
) -> Tensor:
    """Return how often the fovea and a rectangle overlap, (T,).

    Args:
        beliefs: Of n images.
        canvas_side: H [px].
        offset: Of the rectangle's top left pixel from the object's, (x, y) [px].
        size: The rectangle's width and height [px].
        glimpse_size: G [px].
    """
    # The retina's own rule: rint((l + 1) (H / 2)) in float32, half to even.
    centre = ((beliefs.locations + 1) * (canvas_side / 2)).round().long()  # (M, n, T, 2)
    left = centre - glimpse_size // 2
    first = (beliefs.positions + torch.tensor(offset))[None, :, None]  # (1, n, 1, 2)
    overlaps = (left < first + torch.tensor(size)) & (first < left + glimpse_size)
    return overlaps.all(-1).float().mean((0, 1))
