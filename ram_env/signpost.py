"""The signpost board: a task whose bounds are known exactly, with a dial for each difficulty.

Dimension key:
    n: boards drawn
    m: cells a side
    L: cells on the path, chain + 1
    P: cells with a mark
"""

from dataclasses import dataclass

import numpy as np

from ram_env.arrays import Array, device_of, to_device
from ram_env.draws import below
from ram_env.scenes import Drawn

CELL = 8  # side of a cell [px]
NUM_SCENES = {"train": 2**31, "validation": 5_000, "test": 10_000, "train+validation": 2**31}


@dataclass(frozen=True)
class SignpostStyle:
    """The dials of the board.

    Attributes:
        board_size: m, cells a side (exploration).
        chain: Steps from the start to the end of the path (credit assignment).
        parts: Cells at the end of the path that carry a part of the label (memory).
        num_marks: Values of a part.
    """

    board_size: int = 3
    chain: int = 1
    parts: int = 1
    num_marks: int = 4


class SignpostScenes:
    """Coloured boards (see :class:`~ram_env.scenes.Scenes`); board k depends on the split and k.

    Args:
        style: The dials.
        split: Name of the list; the training list is practically endless (2^31 boards).
    """

    object_size: tuple[int, int] = (CELL, CELL)
    channels = 3
    frozen = True
    is_sample = False

    def __init__(self, style: SignpostStyle, split: str):
        self._style = style
        self.side = CELL * style.board_size
        self.num_classes = style.num_marks**style.parts
        self.num_scenes = NUM_SCENES[split]
        self.num_words = style.chain + 1 + style.board_size**2 + style.parts
        self.source = f"signpost boards, {split}: procedural, no data needed"

    def draw(
        self,
        canvases: Array,
        margin: int,
        lanes: np.ndarray,
        indices: np.ndarray,
        words: np.ndarray,
    ) -> Drawn:
        """Paint boards (see :meth:`ram_env.scenes.Scenes.draw`); ``indices`` are in the words."""
        style, m = self._style, self._style.board_size
        path = _draw_path(words[:, : style.chain + 1], m * m)  # (n, L)
        targets = below(words[:, style.chain + 1 : -style.parts], m * m)  # (n, m * m)
        n = np.arange(len(words))[:, None]
        targets[n, path[:, :-1]] = path[:, 1:]
        marks = below(words[:, -style.parts :], style.num_marks)  # (n, P), last cell first
        colours = np.zeros((len(words), 3, m * m), np.uint8)
        colours[:, 0] = 255 * (targets % m) // (m - 1)
        colours[:, 1] = 255 * (targets // m) // (m - 1)
        ends = path[:, : -style.parts - 1 : -1]  # (n, P), last cell first
        colours[n, 2, ends] = 255 * (marks + 1) // style.num_marks
        board = colours.reshape(-1, 3, m, m).repeat(CELL, 2).repeat(CELL, 3)
        self._write(canvases, margin, lanes, board)
        labels = (marks * style.num_marks ** np.arange(style.parts)).sum(1)
        end, start = path[:, -1], path[:, 0]
        positions = np.stack([end % m, end // m], 1) * CELL
        centres = (2 * np.stack([start % m, start // m], 1) + 1) / m - 1
        return Drawn(labels, positions, centres.astype(np.float32))

    def _write(self, canvases: Array, margin: int, lanes: np.ndarray, board: np.ndarray) -> None:
        device = device_of(canvases)
        inside = slice(margin, margin + self.side)
        canvases[to_device(lanes, device), :, inside, inside] = to_device(board, device)


def _draw_path(words: np.ndarray, num_cells: int) -> np.ndarray:
    """Draw different cells, all orders equally likely (a partial Fisher-Yates shuffle).

    Args:
        words: Shape (n, L), uint64.
        num_cells: To choose from.

    Returns:
        Cells. Shape (n, L), int64.
    """
    cells = np.tile(np.arange(num_cells), (len(words), 1))  # (n, num_cells)
    n = np.arange(len(words))
    for step in range(words.shape[1]):
        other = step + below(words[:, step], num_cells - step)
        cells[n, step], cells[n, other] = cells[n, other], cells[n, step]
    return cells[:, : words.shape[1]]
