"""Location controls: rules that choose where to look in the policy's place.

A control shows what a learned policy is worth: classifier and memory learn as ever, the
location policy doesn't. The environment draws an episode's first location, whatever the control.

Dimension key:
    N: episodes played in parallel
    T: glimpses per episode
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

CONTROLS = ("learned", "random", "centre", "raster", "oracle")


class Control:
    """Chooses the location of each next glimpse.

    Args:
        name: ``"learned"``: the policy's location. ``"random"``: uniform in [-1, 1]. ``"centre"``:
            the middle of the image. ``"raster"``: location t of :func:`raster_locations`.
            ``"oracle"``: the centre of the object.
        env: A ``ram_env.GlimpseVectorEnv``, for its T and, at each call, its canvas's side.

    Raises:
        ValueError: If the name is unknown.

    Source:
        The random control is Mnih et al. (2014), arXiv:1406.6247, section 4.1; the others
        are ours.
    """

    def __init__(self, name: str, env: Any):
        if name not in CONTROLS:
            raise ValueError(f"name must be one of {', '.join(CONTROLS)}, got {name!r}")
        self._name, self._env = name, env
        # step T - 1 moves nothing and repeats the last location
        walk = raster_locations(max(env.task.num_glimpses - 1, 1))
        self._raster = torch.cat([walk, walk[-1:]])[: env.task.num_glimpses]

    def __call__(self, step: int, learned: Tensor, box: Tensor, uniform: Tensor) -> Tensor:
        """Return the locations (x, y) to look at next, (N, 2).

        Args:
            step: t from 0 to T - 1, after t + 1 glimpses. The location of step T - 1 is unused.
            learned: The policy's locations. Shape (N, 2).
            box: The objects' boxes, from :func:`to_boxes`, for the oracle. Shape (N, 4).
            uniform: Noise, uniform in [-1, 1], for random locations. Shape (N, 2).

        """
        if self._name == "random":
            return uniform
        if self._name == "centre":
            return torch.zeros_like(learned)
        if self._name == "raster":
            self._raster = self._raster.to(learned)  # copied once: a CUDA graph can't
            return self._raster[step].expand_as(learned)
        if self._name == "oracle":
            return oracle_location(box, self._env.task.side).to(learned)
        return learned


def raster_locations(num_locations: int) -> Tensor:
    """Divide the image into equal rows of nearly equal cells, and walk over their centres.

    The walk goes down row by row, alternately to the right and to the left. There are about as
    many rows as cells per row; where the cells don't divide evenly, the middle rows have one more:
    seven locations are rows of 2, 3 and 2. Returns (x, y) in [-1, 1], (num_locations, 2), float32.
    """
    rows = round(num_locations**0.5)
    cells_per_row, longer_rows = divmod(num_locations, rows)
    first_longer = (rows - longer_rows) // 2
    locations = []
    for row in range(rows):
        cells = cells_per_row + (first_longer <= row < first_longer + longer_rows)
        walk = range(cells) if row % 2 == 0 else reversed(range(cells))
        locations += [((2 * cell + 1) / cells - 1, (2 * row + 1) / rows - 1) for cell in walk]
    return torch.tensor(locations)


def to_boxes(infos: dict[str, Any], device: torch.device) -> Tensor:
    """Return the objects' boxes as tensors, (N, 4): x and y of the corner, width, height [px].

    ``infos`` are those of a ``ram_env.GlimpseVectorEnv``.
    """
    parts = (torch.as_tensor(infos[name], device=device) for name in ("position", "object_size"))
    return torch.cat([*parts], 1)


def oracle_location(box: Tensor, canvas_side: int) -> Tensor:
    """Return the centres of boxes from :func:`to_boxes` as locations (x, y), (N, 2).

    ``canvas_side`` is in pixels. The retina maps a centre to exactly its pixel.
    """
    corner, size = box.split(2, 1)  # (N, 2)
    return (2 * corner + size).to(torch.float32) / canvas_side - 1
