"""What a trained agent does with its glimpses: where it looks and what it gains by it.

Functions that take :class:`~agents.evaluation.Beliefs` average over images and passes.

Dimension key:
    n: images
    M: passes over them
    m: images of a chunk
    T: glimpses per episode
    K: classes
    H, W: canvas height and width [px]
    P, G: glimpse planes, glimpse side [px]
    C: candidate locations
    D: size of the recurrent state
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, Literal

import torch
from torch import Tensor

from agents.evaluation import Beliefs
from agents.ram import RecurrentAttentionModel


def coverage(beliefs: Beliefs, part: Literal["centre", "object"], task: Any) -> Tensor:
    """Return how often the fovea covers the object, at each glimpse: shares in [0, 1], (T,).

    The fovea is the finest patch: the G pixels from c - G/2 on, where c is the location's pixel.

    Args:
        beliefs: Where the agent looked.
        part: ``"object"``: the fovea shares a pixel with the object's box. ``"centre"``: it
            covers the object's middle, the pixel right of and below its centre.
        task: The environment's, with ``side``, H [px], and ``glimpse_size``, G [px].
    """
    corner, size = beliefs.boxes[None, :, None].split(2, 3)  # (1, n, 1, 2), of what is to cover
    if part == "centre":
        corner, size = corner + size // 2, 1
    # The retina's own rule: rint((l + 1) (H / 2)) in float32, half to even.
    pixel = ((beliefs.locations + 1) * (task.side / 2)).round().long()  # (M, n, T, 2)
    fovea = pixel - task.glimpse_size // 2  # top left pixel
    overlaps = (fovea < corner + size) & (corner < fovea + task.glimpse_size)
    return overlaps.all(-1).float().mean((0, 1))


def location_spread(beliefs: Beliefs) -> Tensor:
    """Return the standard deviation of x and y across episodes, at each glimpse, (T, 2).

    Near 0 the agent looks at the same location whatever the image; uniform locations have 0.58.
    """
    return beliefs.locations.flatten(0, 1).std(0, correction=0)


def behaviour(beliefs: Beliefs, task: Any) -> dict[str, float]:
    """Return metrics that tell how a policy fails, given the task as :func:`coverage` is.

    All T glimpses count, after a stop too.

    - ``eval/most_named``: images that get the most frequent prediction [%]; 100 if the label has
      collapsed.
    - ``eval/centre_coverage``: glimpses after the first whose fovea covers the object's middle
      [%]; absent if T is 1.
    - ``eval/location_spread``: mean :func:`location_spread` of these glimpses; absent if T is 1.
    """
    prediction = beliefs.log_p[:, :, -1].argmax(-1).flatten()  # (M n,)
    metrics = {"eval/most_named": 100 * prediction.bincount().max().item() / len(prediction)}
    if beliefs.locations.shape[2] > 1:
        covered = coverage(beliefs, "centre", task)
        metrics["eval/centre_coverage"] = 100 * covered[1:].mean().item()
        metrics["eval/location_spread"] = location_spread(beliefs)[1:].mean().item()
    return metrics


def bits_gained(beliefs: Beliefs) -> Tensor:
    """Return the bits that glimpses 2..T add, E[log2 p_k - log2 p_(k-1)], (T - 1,).

    p_k is the probability of the true label after k glimpses, which must not be 0.
    """
    label = beliefs.labels[None, :, None, None].expand(*beliefs.log_p.shape[:3], 1)
    bits = beliefs.log_p.gather(3, label)[..., 0] / math.log(2)  # (M, n, T)
    return bits.mean((0, 1), dtype=torch.float64).diff().float()


@torch.no_grad()
def play_in_hindsight(
    model: RecurrentAttentionModel,
    start: Beliefs,
    canvases: Tensor,
    glimpse_fn: Callable[[Tensor, Tensor], Tensor],
    *,
    grid_size: int = 15,
    chunk_size: int = 16,
) -> Beliefs:
    """Replay episodes, one pass over n images, with locations that make the label likeliest.

    Each next location is the cell centre of a grid that makes the label in ``start`` likeliest
    after that glimpse. A low error proves little: the choice exploits whatever sways this
    classifier, which wrong labels in ``start`` measure.

    Args:
        model: In the mode to evaluate it in.
        start: Supplies the labels, the boxes and the first locations of its first pass.
        canvases: Of the first n images of ``start``, on the model's device.
            Shape (n, H, W) or (n, H, W, 3), uint8.
        glimpse_fn: The retina, from canvases and locations (n, 2) to glimpses (n, P, G, G).
        grid_size: Cells per side; C is its square.
        chunk_size: m, images per batch.

    Raises:
        ValueError: If there are no canvases or more than labels.
    """
    n = len(canvases)
    if not 1 <= n <= len(start.labels):
        raise ValueError(f"canvases must be 1 to {len(start.labels)}, as in start, got {n}")
    device = canvases.device
    centres = (2 * torch.arange(grid_size, device=device) + 1) / grid_size - 1
    candidates = torch.cartesian_prod(centres, centres)  # (C, 2)
    log_p, locations = [], []  # of each glimpse of a chunk, (m, T, K) and (m, T, 2)
    for begin in range(0, n, chunk_size):
        chunk = slice(begin, min(begin + chunk_size, n))
        images, label = canvases[chunk], start.labels[chunk].to(device)
        location, m = start.locations[0, chunk, 0].to(device), len(images)
        output, state = model(glimpse_fn(images, location), location, model.initial_state(m))
        beliefs, visited = [output.logits.log_softmax(1)], [location]
        tried = candidates.repeat(m, 1)  # (m C, 2), image by image
        glimpses = glimpse_fn(images.repeat_interleave(len(candidates), 0), tried)  # (m C, P, G, G)
        target = label.repeat_interleave(len(candidates))[:, None]  # (m C, 1)
        first = torch.arange(m, device=device) * len(candidates)
        for _ in range(start.log_p.shape[2] - 1):
            output, states = model(glimpses, tried, state.repeat_interleave(len(candidates), 0))
            belief = output.logits.log_softmax(1)  # (m C, K)
            best = first + belief.gather(1, target).view(m, -1).argmax(1)  # (m,)
            state = states[best]  # (m, D)
            beliefs.append(belief[best])
            visited.append(tried[best])
        log_p.append(torch.stack(beliefs, 1).cpu())
        locations.append(torch.stack(visited, 1).cpu())
    parts = torch.cat(log_p)[None], start.labels[:n], torch.cat(locations)[None]
    return Beliefs(*parts, start.boxes[:n])
