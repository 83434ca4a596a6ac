"""The task as a Gymnasium environment; its rules are :mod:`ram_env.episodes`, for one lane.

Dimension key:
    S, C, G: scales, colour planes (1 grey, 3 colour), glimpse side [px]
    K: classes
    T: glimpses an episode
"""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np
from gymnasium import Env
from gymnasium.error import ClosedEnvironmentError, ResetNeeded

from ram_env.display import Display, check_render_mode
from ram_env.draws import draw_key, lane_key
from ram_env.episodes import Episodes, TaskFacts
from ram_env.reset_options import check_seed, read_options
from ram_env.tasks import ImageTask, SignpostTask, Task

_LANE = np.array([0])


class GlimpseEnv(TaskFacts, Env[dict[str, np.ndarray], Any]):
    """Name the object in an image that is seen only through small glimpses.

    Description:
    An image holds one object, perhaps among clutter. The agent never sees the image, only a
    retina patch around its current location: S concentric squares, each twice as wide as
    the one before and averaged down to the same G x G numbers. Each action says where to
    look next and which class the object is of; after T glimpses the last class is scored.
    The task is that of Mnih et al. (2014), "Recurrent models of visual attention",
    arXiv:1406.6247.

    A location is (x, y) with x to the right and y down: (-1, -1) is the image's top left
    corner, (0, 0) its middle.

    Action Space:
    Chosen by ``action_format``. A location outside [-1, 1] is clipped. The location of the
    last action is not used, labels before the last count only for rewards that say so.

    | format | space | entries |
    |---|---|---|
    | ``"box"`` | ``Box(-1, 1, (2 + K,), float32)`` | x, y, then K class scores: the first highest wins; scores may have any finite size |
    | ``"dict"`` | ``Dict(location=Box(-1, 1, (2,)), label=Discrete(K))`` | where to look next, and the class |
    | ``"multidiscrete"`` | ``MultiDiscrete([columns, rows, K])`` | column j and row i of ``grid_size``; the location is the cell's centre, ((2j+1)/columns - 1, (2i+1)/rows - 1) |

    With ``allow_stop`` there is one more entry, at the end: a number, > 0 stops (box);
    ``stop=Discrete(2)`` (dict); a 2 in ``nvec`` (multidiscrete). The label of an action
    that stops is scored, and the episode ends.

    Observation Space:
    A ``Dict`` of float32 boxes:

    | key | shape | range | meaning |
    |---|---|---|---|
    | ``glimpse`` | (S C, G, G) | [0, 1] | what the retina sees; channel s C + c is colour c at scale s, finest first |
    | ``location`` | (2,) | [-1, 1] | where that glimpse lies |
    | ``time`` | (1,) | [0, 1] | glimpses seen / T: 1 when the coming action is scored |

    ``info`` holds what is hidden from the agent: ``label``, ``index`` (of the image in its
    split) and ``position`` ((x, y) of the object's top left pixel); at the end also
    ``correct`` and ``prediction``.

    Rewards:
    - ``"final"``: 1 if the last label is right, else 0; 0 before.
    - ``"dense"``: 1/T at every step whose label is right; a stop at step t is paid
      (T - t + 1)/T, so stopping neither gains nor loses.
    - ``"log_score"`` (box only): log-softmax of the scores at the true class, floored at -7,
      divided by T, at every step; an early stop is paid as in ``"dense"``. Above the floor a
      proper scoring rule: it is highest for calibrated beliefs. With more than e^7 = 1,096
      classes not knowing anything is on the floor, too.

    ``glimpse_cost`` is taken off at every step.

    Starting State:
    A random image of the split on a fresh canvas, and a first location uniform over the
    image. In the splits ``"validation"`` and ``"test"`` image k always has the same canvas
    and first location. Reset options: ``index`` fixes the image, ``location`` the first
    location; no other draw changes.

    A seed s fixes all later episodes, whatever the actions: the k-th episode since the
    seed depends on s and k alone.

    Episode End:
    ``terminated`` after T actions, or when the agent stops. The horizon is part of the task:
    ``truncated`` is never True. The last observation repeats the last glimpse.

    Arguments:
    ``gym.make("MNISTGlimpse-v0", num_glimpses=6)``: every number is a keyword.

    - ``dataset`` ("MNIST"): "MNIST", "FashionMNIST", "KMNIST", "CIFAR10" or a name given to
      :func:`ram_env.register_dataset`.
    - ``data_dir`` (None): folder with the files, a text; else ``$RAM_ENV_DATA``, the user's cache
      folder, a download.
    - ``split`` ("train"): "train", "validation", "test" or "train+validation".
    - ``order`` ("random"): with replacement, or "sequential": image v mod n at visit v,
      whatever the seed; a seeded reset begins again at visit 0.
    - ``canvas_size`` (28): side [px].
    - ``translate`` (False): put the object anywhere wholly inside, else in the middle.
    - ``num_clutter`` (0), ``clutter_size`` (8): squares cut from other images of the split,
      added at uniform places.
    - ``glimpse_size`` (8): G [px], even. ``num_scales`` (1): S. ``num_glimpses`` (7): T.
    - ``action_format`` ("box"), ``grid_size`` ((9, 9): columns, rows of "multidiscrete").
    - ``reward`` ("final"), ``allow_stop`` (False), ``glimpse_cost`` (0.0).
    - ``render_mode`` (None): "rgb_array" or "human".

    | id | canvas | object | clutter | G | S | T |
    |---|---|---|---|---|---|---|
    | ``MNISTGlimpse-v0`` | 28 | centred | 0 | 8 | 1 | 7 |
    | ``TranslatedMNISTGlimpse-v0`` | 60 | anywhere | 0 | 12 | 3 | 8 |
    | ``ClutteredMNISTGlimpse-v0`` | 60 | anywhere | 4 | 12 | 3 | 8 |
    | ``LargeClutteredMNISTGlimpse-v0`` | 100 | anywhere | 8 | 12 | 4 | 8 |
    | ``FashionMNISTGlimpse-v0``, ``KMNISTGlimpse-v0`` | 28 | centred | 0 | 8 | 1 | 7 |
    | ``CIFAR10Glimpse-v0`` | 32 (colour) | centred | 0 | 8 | 2 | 7 |

    Version History:
    v0: first release.
    """

    metadata: dict[str, Any] = {  # noqa: RUF012 - Gymnasium's own declaration
        "render_modes": ["rgb_array", "human"],
        "render_fps": 4,
    }
    task_class: ClassVar[type[Task]] = ImageTask

    def __init__(self, *, render_mode: str | None = None, **keywords: Any):
        check_render_mode(render_mode, self.metadata)
        self.render_mode = render_mode
        self.task = self.task_class.from_keywords(keywords)
        self._episodes = Episodes(self.task, 1, record=render_mode is not None)
        self._display = Display(self._episodes, render_mode, self.metadata)
        self._closed = False
        self.observation_space = self._episodes.observation_space  # pyright: ignore[reportAttributeAccessIssue]
        self.action_space = self._episodes.action_format.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the next episode, or with a seed the first one of that seed.

        Args:
            seed: An int >= 0; None goes on.
            options: ``index`` of the image and ``location`` (x, y) of the first glimpse.

        Returns:
            Observation and info.

        Raises:
            ValueError: If the seed or an option is not allowed; nothing has changed then.
        """
        check_seed(seed)
        episodes = self._episodes
        asked = read_options(options, 1, episodes.scenes.num_scenes, vector=False)
        super().reset(seed=seed)
        if seed is not None or not episodes.keyed[0]:
            key = draw_key(self.np_random) if seed is None else lane_key(seed)
            episodes.seed(_LANE, np.array([key], np.uint64))
        episodes.begin(_LANE, asked.index, asked.location)
        self._closed = False
        self._display.update()
        return self._observe(), self._describe()

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Look at a new location and name the class.

        Args:
            action: In the task's action format; array-likes are accepted.

        Returns:
            Observation, reward, terminated, truncated (always False) and info.

        Raises:
            ValueError: If the action is not allowed; nothing has changed then.
            ResetNeeded: Before the first reset and after the episode's end.
            ClosedEnvironmentError: After ``close``.
        """
        self._check_open("step")
        episodes = self._episodes
        if not episodes.running[0]:
            before = "after the end of an episode" if episodes.seen[0] else "for the first time"
            raise ResetNeeded(f"call reset() before step() {before}")
        move = episodes.action_format.parse(action)
        reward, correct, ends = episodes.step(move)
        info = self._describe()
        if ends[0]:
            info |= {"correct": bool(correct[0]), "prediction": int(move.label[0])}
        self._display.update()
        return self._observe(), float(reward[0]), bool(ends[0]), False, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a frame (H, W, 3), uint8 (``"rgb_array"``); ``"human"`` shows by itself."""
        self._check_open("render")
        frames = self._display.render()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Close the window; ``reset`` opens the environment again (a vector env's doesn't)."""
        self._display.close()
        self._closed = True

    def get_state(self) -> dict[str, Any]:
        """Return all that the environment's future depends on, ready for JSON, mid-episode too.

        Of a lane that was never reset the future also depends on ``np_random``, which is not
        in it: seed it first.
        """
        return self._episodes.get_state()

    def set_state(
        self, state: dict[str, Any]
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]] | None:
        """Continue exactly where :meth:`get_state` was called.

        Wrappers have states of their own, which aren't in it: of a wrapped environment call
        ``env.reset()``, then ``env.unwrapped.set_state(state)``.

        Returns:
            The observation and info there, as from ``reset``, or None if it had not been reset
            yet.

        Raises:
            ValueError: If the state is of another version, task or dataset.
        """
        self._check_open("set_state")
        self._episodes.set_state(state)
        return (self._observe(), self._describe()) if self._episodes.seen[0] else None

    def _check_open(self, call: str) -> None:
        if self._closed:
            raise ClosedEnvironmentError(f"{call}() was called after close()")

    def _observe(self) -> dict[str, np.ndarray]:
        return {name: batch[0] for name, batch in self._episodes.observe().items()}

    def _describe(self) -> dict[str, Any]:
        hidden = self._episodes.describe()
        return {
            "label": int(hidden["label"][0]),
            "index": int(hidden["index"][0]),
            "position": hidden["position"][0],
        }


class SignpostEnv(GlimpseEnv):
    """Follow coloured signposts to the cell that carries the label; all bounds are known.

    Description:
    A board of m x m cells of 8 x 8 px, each of one colour. Red and green point to a cell
    (red 255 c / (m-1) its column, green 255 r / (m-1) its row), blue is a mark. A path of
    ``chain`` steps starts at a random cell, on whose centre the first glimpse lies; each
    cell on it points to the next, no cell comes twice, and all other cells point anywhere.
    The last ``parts`` cells carry one of ``num_marks`` marks, blue 255 (v+1) / num_marks;
    all others have blue 0. The label is the marks read as a number, last cell first:
    sum_k v_k num_marks^k. Colours are rounded down. No data is needed.

    Known: chance is 1/K. If T covers the path (T > chain) the optimum is 1; with fewer glimpses,
    each within one cell, it is below. (A glimpse on a corner shows four cells, so that on small
    boards a few of them read the board without following the path; ``multidiscrete`` looks at
    cell centres alone.) Looking at random cells with chain 1 and parts 1 reaches q + (1 - q)/K,
    q = 1 - (1 - 1/m^2)^(T-1); without memory, with parts >= 2, no policy on cell centres beats
    num_marks^-(parts-1).

    Action Space:
    As :class:`GlimpseEnv`'s, with K = num_marks^parts.

    Observation Space:
    As :class:`GlimpseEnv`'s, in colour: glimpses are (3 S, G, G).

    Rewards:
    As :class:`GlimpseEnv`'s.

    Starting State:
    A random board of the split, and the first glimpse on the path's first cell. Board k of
    a split is always the same; "train" has 2^31 boards, "validation" 5,000, "test" 10,000.
    ``info["position"]`` is the top left pixel of the path's last cell.

    Episode End:
    As :class:`GlimpseEnv`'s.

    Arguments:
    The dials ``board_size`` (3: m, exploration), ``chain`` (1: credit assignment), ``parts``
    (1: memory) and ``num_marks`` (4); ``glimpse_size`` (4), ``num_scales`` (1) and
    ``num_glimpses`` (4: slack); ``grid_size`` (the board's cells); and :class:`GlimpseEnv`'s
    ``split``, ``order``, ``action_format``, ``reward``, ``allow_stop``, ``glimpse_cost`` and
    ``render_mode``.

    Version History:
    v0: first release.
    """

    task_class = SignpostTask
