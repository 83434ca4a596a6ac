"""The task as a Gymnasium environment: :mod:`ram_env.episodes`, with its rules, for one lane.

Dimension key: S scales, C colour planes (1 grey, 3 colour), glimpse side G [px], K classes,
T glimpses per episode.
"""

from typing import Any

import numpy as np
from gymnasium import Env
from gymnasium.error import ResetNeeded

from ram_env.base import EpisodesEnv
from ram_env.checks import check_seed
from ram_env.tasks import SignpostTask


class GlimpseEnv(EpisodesEnv, Env[dict[str, np.ndarray], Any]):
    """Classify the object in an image that is seen only through small glimpses.

    Description:
    An image holds one object, perhaps among clutter. The agent never sees the whole image,
    only a retina patch around its current location: S concentric squares, each twice as wide
    as the one before and averaged down to the same G x G numbers. Each action says where to
    look next and predicts the object's class. After T glimpses the last prediction is scored.
    The task is that of Mnih et al. (2014), "Recurrent models of visual attention",
    arXiv:1406.6247.

    A location is (x, y) with x to the right and y down: (-1, -1) is the image's top left
    corner, (0, 0) its centre.

    Action Space:
    ``action_format`` chooses the space. A location outside [-1, 1] is clipped. The location of
    the last action is not used. Earlier predictions count only for the rewards below that
    say so.

    | format | space | entries |
    |---|---|---|
    | ``"box"`` | ``Box(-1, 1, (2 + K,), float32)`` | x, y, then K class scores: the first highest wins; scores may have any finite value |
    | ``"dict"`` | ``Dict(location=Box(-1, 1, (2,)), label=Discrete(K))`` | where to look next, and the class |
    | ``"multidiscrete"`` | ``MultiDiscrete([columns, rows, K])`` | column j and row i of ``grid_size``; the location is the cell's centre, ((2j+1)/columns - 1, (2i+1)/rows - 1) |

    With ``allow_stop`` the action ends with one more entry: a number, where > 0 stops (box);
    ``stop=Discrete(2)`` (dict); a 2 in ``nvec`` (multidiscrete). An action that stops ends the
    episode, and its prediction is scored.

    Observation Space:
    A ``Dict`` of float32 boxes:

    | key | shape | range | meaning |
    |---|---|---|---|
    | ``glimpse`` | (S C, G, G) | [0, 1] | what the retina sees; channel s C + c is colour c at scale s, finest first |
    | ``location`` | (2,) | [-1, 1] | centre of that glimpse |
    | ``time`` | (1,) | [0, 1] | glimpses seen / T: 1 when the next action is scored |

    ``info`` holds what is hidden from the agent: ``label``, ``index`` (the image's number in
    its split), ``position`` ((x, y) of the object's top left pixel) and ``object_size`` (its
    width and height [px]). At the end it also holds ``correct`` and ``prediction``.

    Rewards:
    - ``"final"``: 1 if the last prediction is correct, else 0; 0 before.
    - ``"dense"``: 1/T at every step whose prediction is correct. A stop at step t earns
      (T - t + 1)/T, so stopping neither gains nor loses.
    - ``"log_score"`` (box only): log-softmax of the scores at the true class, floored at -7,
      divided by T, at every step. An early stop is weighted as in ``"dense"``. Above the floor
      this is a proper scoring rule: calibrated beliefs score highest. With more than
      e^7 = 1,096 classes a uniform belief is on the floor, too. With scores in [-1, 1] no class
      has a belief above e^2 / (e^2 + K - 1), 0.45 of ten classes: scale them for sharper ones.

    ``glimpse_cost`` is subtracted at every step.

    Starting State:
    A random image of the split on a fresh canvas, and a first location uniform over the
    image. In the splits ``"validation"`` and ``"test"`` image k always has the same canvas
    and first location; with ``order="sequential"`` each pass after the first has first locations
    of its own. Reset options: ``index`` fixes the image, ``location`` the first location. Neither
    changes another draw, but no piece of clutter is ever cut from the image itself.

    A seed s fixes all later episodes, whatever the actions: the k-th episode since the
    seed depends on s and k alone. With ``order="sequential"`` it depends on k alone.

    Episode End:
    The episode terminates after T actions, or when the agent stops. The horizon is part of the
    task: ``truncated`` is never True. The last observation repeats the last glimpse.

    Arguments:
    Every number is a keyword, as in ``gym.make("MNISTGlimpse-v0", num_glimpses=6)``.

    - ``dataset`` ("MNIST"): "MNIST", "FashionMNIST", "KMNIST", "CIFAR10" or a name registered
      with :func:`ram_env.register_dataset`.
    - ``data_dir`` (None): folder with the files; ``env.spec.to_json()`` needs a string. If None,
      or if it lacks them, the files come from ``$RAM_ENV_DATA``, the user's cache folder or a
      download.
    - ``split`` ("train"): "train", "validation", "test" or "train+validation".
    - ``order`` ("random"): "random" draws images with replacement; "sequential" goes through the
      split in order, again and again; the lanes of the native vector environment share one pass.
      A seeded reset starts from the first image.
    - ``canvas_size`` (28): side of the canvas [px].
    - ``translate`` (False): place the object anywhere wholly inside instead of in the centre.
    - ``object_scale`` (1): size of the object relative to its image's, 0.5 to 1.5, rounded to whole
      pixels; or (lowest, highest), from which each episode draws a size, uniformly. A pixel
      is the mean of the image over its area. Clutter keeps its size.
    - ``num_clutter`` (0), ``clutter_size`` (8): number and side [px] of squares that are cut
      from other images of the split and added at uniform places.
    - ``glimpse_size`` (8): G [px], even. ``num_scales`` (1): S. ``num_glimpses`` (7): T.
    - ``action_format`` ("box"), ``grid_size`` ((9, 9): columns and rows of "multidiscrete").
    - ``reward`` ("final"), ``allow_stop`` (False), ``glimpse_cost`` (0.0): see above.
    - ``render_mode`` (None): "rgb_array". ``gymnasium.make`` also takes "human", a window.

    :data:`ram_env.tasks.TASKS` lists the keywords of each id.

    Version History:
    v0: first release.
    """

    def __init__(self, *, render_mode: str | None = None, **keywords: Any):
        self._make(keywords, 1, None, render_mode)
        self.closed = False
        self.observation_space = self._episodes.observation_space  # pyright: ignore[reportAttributeAccessIssue]
        self.action_space = self._episodes.action_format.space

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
        """Begin the next episode, or with a seed the first episode of that seed.

        Args:
            seed: An int >= 0, or None to continue with the present seed.
            options: ``index`` of the image and ``location`` (x, y) of the first glimpse.

        Returns:
            Observation and info.

        Raises:
            ValueError: If the seed or an option is not allowed. The environment is left unchanged.
        """
        check_seed(seed)
        self._begin(seed, [seed], options, vector=False)
        self.closed = False
        return self._observe(), self._describe()

    def step(self, action: Any) -> tuple[dict[str, np.ndarray], float, bool, bool, dict[str, Any]]:
        """Look at a new location and predict the class.

        Args:
            action: An action in the task's format; array-likes are accepted.

        Returns:
            Observation, reward, terminated, truncated (always False) and info.

        Raises:
            ValueError: If the action is not allowed. The environment is left unchanged.
            ResetNeeded: Before the first reset and after the episode's end.
            ClosedEnvironmentError: After ``close``.
        """
        self._check_open("step")
        episodes = self._episodes
        if not episodes.running[0]:
            raise ResetNeeded("call reset() before step(), and after the end of an episode")
        decision = episodes.action_format.parse(action)
        reward, correct, ends = episodes.step(decision)
        info = self._describe()
        if ends[0]:
            info |= {"correct": bool(correct[0]), "prediction": int(decision.label[0])}
        return self._observe(), float(reward[0]), bool(ends[0]), False, info

    def render(self) -> np.ndarray | None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Return a frame (H, W, 3), uint8; None, with a warning, without a render mode.

        Raises:
            ResetNeeded: Before the first ``reset``.
            ClosedEnvironmentError: After ``close``.
        """
        frames = self._render_lanes()
        return None if frames is None else frames[0]

    def close(self) -> None:
        """Close the environment; ``reset`` reopens it, unlike a vector env's."""
        self.closed = True

    def _observe(self) -> dict[str, np.ndarray]:
        return {name: batch[0] for name, batch in self._episodes.observe().items()}

    def _describe(self) -> dict[str, Any]:
        hidden = {name: values[0] for name, values in self._episodes.describe().items()}
        return {**hidden, "label": int(hidden["label"]), "index": int(hidden["index"])}


class SignpostEnv(GlimpseEnv):
    """Follow coloured signposts to the cell that shows the label; all bounds are known.

    Description:
    The image is a board of m x m cells of 8 x 8 px, each of one colour. Red and green point to
    a cell (red 255 c / (m-1) to its column, green 255 r / (m-1) to its row); blue is a mark. A
    path of ``chain`` steps starts at a random cell, on whose centre the first glimpse lies. Each
    cell on the path points to the next, no cell comes twice, and all other cells point anywhere.
    The last ``parts`` cells each carry one of ``num_marks`` marks, blue 255 (v+1) / num_marks;
    all others have blue 0. The label is the marks read as a number, last cell first:
    sum_k v_k num_marks^k. Colours are rounded down. No data is needed.

    The accuracies of reference policies are known. Chance is 1/K. If T covers the path
    (T > chain) the optimum is 1; with fewer glimpses, each within one cell, it is lower. (A
    glimpse on a corner shows four cells, so that on small boards a few of them read the board
    without following the path; ``multidiscrete`` looks at cell centres alone.) Looking at random
    cells with chain 1 and parts 1 reaches q + (1 - q)/K, q = 1 - (1 - 1/m^2)^(T-1). Following the
    path and naming the last mark alone, which needs no memory, reaches num_marks^-(parts-1). (A
    policy without memory can do better, by encoding a mark in its location.)

    Action Space:
    That of :class:`GlimpseEnv`, with K = num_marks^parts.

    Observation Space:
    That of :class:`GlimpseEnv`, in colour: glimpses are (3 S, G, G).

    Rewards:
    As in :class:`GlimpseEnv`.

    Starting State:
    A random board of the split, with the first glimpse on the path's first cell. Board k of
    a split is always the same: "train" has 2^31 boards, "validation" 5,000, "test" 10,000.
    ``info["position"]`` is the top left pixel of the path's last cell.

    Episode End:
    As in :class:`GlimpseEnv`.

    Arguments:
    The dials ``board_size`` (3: m, exploration), ``chain`` (1: credit assignment), ``parts``
    (1: memory) and ``num_marks`` (4); ``glimpse_size`` (4), ``num_scales`` (1) and
    ``num_glimpses`` (4: slack); ``grid_size`` (the board's cells); and, as in
    :class:`GlimpseEnv`, ``split``, ``order``, ``action_format``, ``reward``, ``allow_stop``, ``glimpse_cost`` and
    ``render_mode``.

    Version History:
    v0: first release.
    """

    task_class = SignpostTask
