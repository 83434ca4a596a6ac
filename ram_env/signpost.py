"""The signpost board: a task whose bounds are known exactly, with a dial for each difficulty.

Dimension key: n boards drawn, m cells per side, L cells on the path, chain + 1, P cells with a
mark.
"""

from ram_env import arrays as xp
from ram_env.arrays import Array
from ram_env.draws import below
from ram_env.scenes import Drawn

CELL = 8  # side of a cell [px]
NUM_SCENES = {"train": 2**31, "validation": 5_000, "test": 10_000, "train+validation": 2**31}


class SignpostScenes:
    """Coloured boards (see :class:`~ram_env.scenes.Scenes`); board k depends on the split and k.

    The dials are those of :class:`~ram_env.env.SignpostEnv`.
    """

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

    def draw(self, canvases: Array, margin: int, lanes: Array, index: Array, words: Array) -> Drawn:
        """Paint boards (see :meth:`ram_env.scenes.Scenes.draw`); ``index`` is in the words."""
        m, chain, parts, num_marks = self._dials
        path = _draw_path(words[:, : chain + 1], m * m)  # (n, L)
        targets = below(words[:, chain + 1 : -parts], m * m)  # (n, m * m)
        lib, n = xp.library(targets), xp.arange(targets, 0, len(words))[:, None]
        targets[n, path[:, :-1]] = path[:, 1:]
        marks = below(words[:, -parts:], num_marks)  # (n, P), last cell first
        blue = lib.zeros_like(targets)
        blue[n, lib.flip(path, (1,))[:, :parts]] = 255 * (marks + 1) // num_marks
        red, green = (255 * part // (m - 1) for part in (targets % m, targets // m))
        colours = xp.cast(lib.stack([red, green, blue], 1), "uint8")  # (n, 3, m * m)
        board = xp.new_empty(colours, (len(words), 3, m, CELL, m, CELL), "uint8")
        board[:] = colours.reshape(-1, 3, m, 1, m, 1)
        inside = slice(margin, margin + self.side)
        canvases[lanes, :, inside, inside] = board.reshape(-1, 3, self.side, self.side)
        labels = (marks * num_marks ** xp.arange(marks, 0, parts)).sum(1)
        end, start = (lib.stack([cell % m, cell // m], 1) for cell in (path[:, -1], path[:, 0]))
        centres = (2 * xp.cast(start, "float64") + 1) / m - 1
        sizes = lib.full_like(end, CELL)
        return Drawn(labels, end * CELL, sizes, xp.cast(centres, "float32"))


def _draw_path(words: Array, num_cells: int) -> Array:
    """Draw L different cells, (n, L), all orders equally likely: a partial Fisher-Yates shuffle."""
    n = xp.cast(xp.arange(words, 0, len(words)), "int64")
    cells = 0 * n[:, None] + xp.arange(n, 0, num_cells)  # (n, num_cells)
    for step in range(words.shape[1]):
        other = step + below(words[:, step], num_cells - step)
        here = xp.copy(cells[:, step])
        cells[:, step], cells[n, other] = cells[n, other], here
    return cells[:, : words.shape[1]]
