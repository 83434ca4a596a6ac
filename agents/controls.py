"""Where to look if not where the agent wants to: controls that show what a policy is worth.

A control is put between the location policy and the environment, while classifier and memory
learn as ever. The first glimpse of an episode is the environment's in all of them.

Dimension key:
    N: episodes side by side
    T: glimpses an episode
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Control = Callable[[int, Tensor, Tensor], Tensor]  # step, learned, oracle -> executed location
Placer = Callable[[int, Tensor, Tensor], Tensor]  # step, learned, position -> executed location

CONTROLS = ("learned", "random", "centre", "raster", "oracle")


def make_control(name: str, num_glimpses: int, generator: torch.Generator | None = None) -> Control:
    """Return the function that says where an episode's next glimpse lies.

    It takes the step t from 0 to T - 1 (t + 1 glimpses were seen), the policy's location and
    the oracle's, both (N, 2), and returns the one to execute, (N, 2). The environment doesn't
    use that of step T - 1.

    Args:
        name: ``"learned"``: the policy's. ``"random"``: uniform in [-1, 1]. ``"centre"``: the
            middle of the image. ``"raster"``: place t of :func:`raster_places`, the same way
            every time. ``"oracle"``: the oracle's.
        num_glimpses: T.
        generator: Source of the random locations, on their device; None for torch's own.

    Raises:
        ValueError: If the name is unknown or ``num_glimpses`` below 1; in the function, if
            the step is out of range or a shape wrong.

    Source:
        The random control is Mnih et al. (2014), arXiv:1406.6247, section 4.1; the others
        are ours.
    """
    if num_glimpses < 1:
        raise ValueError(f"num_glimpses must be at least 1, got {num_glimpses}")
    places = raster_places(max(num_glimpses - 1, 1))
    last = len(places) - 1  # also for step T - 1, which moves nothing
    choices: dict[str, Control] = {
        "learned": lambda step, learned, oracle: learned,
        "random": lambda step, learned, oracle: _uniform_like(learned, generator),
        "centre": lambda step, learned, oracle: torch.zeros_like(learned),
        "raster": lambda step, learned, oracle: (
            places[min(step, last)].to(learned).repeat(len(learned), 1)
        ),
        "oracle": lambda step, learned, oracle: oracle.to(learned),
    }
    if name not in choices:
        raise ValueError(f"name must be one of {', '.join(choices)}, got {name!r}")
    choose = choices[name]

    def control(step: int, learned: Tensor, oracle: Tensor) -> Tensor:
        if not 0 <= step < num_glimpses:
            raise ValueError(f"step must be in 0..{num_glimpses - 1}, got {step}")
        _check_pairs("learned", learned)
        _check_pairs("oracle", oracle)
        if len(learned) != len(oracle):
            raise ValueError(
                f"learned and oracle must be of the same episodes, got {len(learned)} and "
                f"{len(oracle)}"
            )
        return choose(step, learned, oracle)

    return control


def raster_places(num_places: int) -> Tensor:
    """Divide the image into equal rows of nearly equal cells, and walk over their centres.

    The walk goes down row by row, to the right and to the left in turns. There are about as
    many rows as cells in a row; where the cells don't divide evenly, the middle rows have one
    more. Seven places (T = 8) are rows of 2, 3 and 2:

        y = -2/3:   1: (-1/2, y)   2: (1/2, y)
        y =  0:     3: (2/3, y)    4: (0, y)    5: (-2/3, y)
        y =  2/3:   6: (-1/2, y)   7: (1/2, y)

    On 60 px these cells are 30x20 and 20x20; the coarsest of the task's patches, 48 px, holds
    its whole cell. Six places (T = 7) are two rows of three.

    Args:
        num_places: At least 1.

    Returns:
        (x, y) in [-1, 1], in the order of the walk. Shape (num_places, 2), float32.

    Raises:
        ValueError: If ``num_places`` is below 1.
    """
    if num_places < 1:
        raise ValueError(f"num_places must be at least 1, got {num_places}")
    rows = round(num_places**0.5)
    fewest, more = divmod(num_places, rows)
    first = (rows - more) // 2  # of the rows with one more
    places = []
    for row in range(rows):
        cells = fewest + (first <= row < first + more)
        walk = range(cells) if row % 2 == 0 else reversed(range(cells))
        places += [((2 * cell + 1) / cells - 1, (2 * row + 1) / rows - 1) for cell in walk]
    return torch.tensor(places)


def oracle_location(position: Tensor, object_size: tuple[int, int], canvas_side: int) -> Tensor:
    """Return the centre of each object as a location.

    Args:
        position: The environment's ``info["position"]``: (x, y) of the objects' top left
            pixels [px]. Shape (N, 2).
        object_size: Width and height of an object's image [px].
        canvas_side: Side of the canvas [px].

    Returns:
        Locations (x, y) in [-1, 1]; the environment's pixel of each is the centre exactly.
        Shape (N, 2), float32.

    Raises:
        ValueError: If the shape is wrong or an object isn't wholly on the canvas.
    """
    _check_pairs("position", position)
    size = torch.tensor(object_size, device=position.device)  # (2,)
    if ((position < 0) | (position + size > canvas_side)).any():
        raise ValueError(
            f"an object of {object_size} px lies outside the canvas of {canvas_side} px: "
            f"positions go from {position.min().item()} to {position.max().item()}"
        )
    return (2 * position + size).to(torch.float32) / canvas_side - 1


def make_placer(
    name: str,
    num_glimpses: int,
    *,
    object_size: tuple[int, int],
    canvas_side: int,
    generator: torch.Generator | None = None,
) -> Placer | None:
    """Return a control that takes info["position"] in place of the oracle's location.

    Args:
        name: See :func:`make_control`.
        num_glimpses: T.
        object_size: Width and height of the objects' images [px].
        canvas_side: Side of the canvas [px].
        generator: Source of the random locations, on their device; None for torch's own.

    Returns:
        The control; None for ``"learned"``, which changes nothing.
    """
    if name == "learned":
        return None
    control = make_control(name, num_glimpses, generator)

    def place(step: int, learned: Tensor, position: Tensor) -> Tensor:
        if name != "oracle":
            return control(step, learned, learned)  # that argument isn't used
        return control(step, learned, oracle_location(position, object_size, canvas_side))

    return place


def normalised_score(accuracy: float, random_accuracy: float, oracle_accuracy: float) -> float:
    """Return how much of the way from random to oracle locations a policy has gone.

    Args:
        accuracy: Of the policy, in any unit that the three share.
        random_accuracy: Of a classifier trained with random locations; scores 0.
        oracle_accuracy: Of one trained with the oracle's; scores 1.

    Raises:
        ValueError: If the oracle isn't better than random locations.
    """
    if not oracle_accuracy > random_accuracy:
        raise ValueError(
            f"oracle_accuracy must be above random_accuracy, got {oracle_accuracy} and "
            f"{random_accuracy}"
        )
    return (accuracy - random_accuracy) / (oracle_accuracy - random_accuracy)


def _uniform_like(locations: Tensor, generator: torch.Generator | None) -> Tensor:
    """Draw locations uniform in [-1, 1], (N, 2)."""
    drawn = torch.rand(locations.shape, generator=generator, device=locations.device)
    return (2 * drawn - 1).to(locations)


def _check_pairs(name: str, pairs: Tensor) -> None:
    if pairs.ndim != 2 or pairs.shape[1] != 2:
        raise ValueError(f"{name} must have shape (N, 2), got {tuple(pairs.shape)}")
