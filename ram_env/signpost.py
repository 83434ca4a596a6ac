"""The signpost board: a task whose bounds are known exactly, with a dial for each difficulty.

Dimension key:
    n: boards drawn
    m: cells per side
    L: cells on the path, chain + 1
    P: cells with a mark
"""

import numpy as np

from ram_env.arrays import Array, device_of, to_device
from ram_env.draws import below
from ram_env.scenes import Drawn

CELL = 8  # side of a cell [px]
NUM_SCENES = {"train": 2**31, "validation": 5_000, "test": 10_000, "train+validation": 2**31}


class SignpostScenes:
    """Coloured boards (see :class:`~ram_env.scenes.Scenes`); board k depends on the split and k.

    The dials are those of :class:`~ram_env.env.SignpostEnv`.
    """

    object_size: tuple[int, int] = (CELL, CELL)
    channels = 3
    frozen = True
    is_sample = False

    def __init__(
        self, split: str, board_size: int = 3, chain: int = 1, parts: int = 1, num_marks: int = 4
    ):
        self._dials = board_size, chain, parts, num_marks
        self.side = CELL * board_size
        self.num_classes = num_marks**parts
        self.num_scenes = NUM_SCENES[split]
        self.num_words = chain + 1 + board_size**2 + parts
        self.source = f"signpost boards, {split}: procedural, no data needed"

    def draw(
        self, canvases: Array, margin: int, lanes: np.ndarray, index: np.ndarray, words: np.ndarray
    ) -> Drawn:
        """Paint boards (see :meth:`ram_env.scenes.Scenes.draw`); ``index`` is in the words."""
        m, chain, parts, num_marks = self._dials
        path = _draw_path(words[:, : chain + 1], m * m)  # (n, L)
        targets = below(words[:, chain + 1 : -parts], m * m)  # (n, m * m)
        n = np.arange(len(words))[:, None]
        targets[n, path[:, :-1]] = path[:, 1:]
        marks = below(words[:, -parts:], num_marks)  # (n, P), last cell first
        colours = np.zeros((len(words), 3, m * m), np.uint8)
        colours[:, 0] = 255 * (targets % m) // (m - 1)
        colours[:, 1] = 255 * (targets // m) // (m - 1)
        ends = path[:, : -parts - 1 : -1]  # (n, P), last cell first
        colours[n, 2, ends] = 255 * (marks + 1) // num_marks
        board = colours.reshape(-1, 3, m, m).repeat(CELL, 2).repeat(CELL, 3)
        device, inside = device_of(canvases), slice(margin, margin + self.side)
        canvases[to_device(lanes, device), :, inside, inside] = to_device(board, device)
        labels = (marks * num_marks ** np.arange(parts)).sum(1)
        end, start = path[:, -1], path[:, 0]
        positions = np.stack([end % m, end // m], 1) * CELL
        centres = (2 * np.stack([start % m, start // m], 1) + 1) / m - 1
        return Drawn(labels, positions, centres.astype(np.float32))


def _draw_path(words: np.ndarray, num_cells: int) -> np.ndarray:
    """Draw L different cells, (n, L), all orders equally likely: a partial Fisher-Yates shuffle."""
    cells = np.tile(np.arange(num_cells), (len(words), 1))  # (n, num_cells)
    n = np.arange(len(words))
    for step in range(words.shape[1]):
        other = step + below(words[:, step], num_cells - step)
        cells[n, step], cells[n, other] = cells[n, other], cells[n, step]
    return cells[:, : words.shape[1]]
