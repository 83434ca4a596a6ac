"""Scanpaths: where somebody looked on a frozen canvas, as JSON, replayed in the environment.

Dimension key: T glimpses per episode, K classes.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Literal

import gymnasium
import msgspec
import numpy as np
from gymnasium.error import Error

from ram_env.checks import expect
from ram_env.registration import find_task

_Coordinate = Annotated[float, msgspec.Meta(ge=-1, le=1)]


@dataclass(frozen=True, eq=False)
class Scanpath:
    """An episode on a frozen canvas, as :func:`episode_from_json` replayed it.

    Attributes:
        env_id: Id of the environment.
        split: "validation" or "test".
        index: Number of the image in its split.
        locations: (x, y) of every glimpse, the first included. Shape (T, 2), float32.
        labels: Class answered after each glimpse, -1 for none. Shape (T,), int64.
        rewards: What the environment paid for each action. Shape (T,), float64.
    """

    env_id: str
    split: str
    index: int
    locations: np.ndarray
    labels: np.ndarray
    rewards: np.ndarray


class _File(msgspec.Struct, forbid_unknown_fields=True):
    """The JSON object; :func:`episode_from_json` describes its fields."""

    format: Literal["ram-env-scanpath"]
    version: Literal[1]
    env_id: str
    split: Literal["validation", "test"]
    index: Annotated[int, msgspec.Meta(ge=0)]
    data_is_sample: bool
    locations: list[tuple[_Coordinate, _Coordinate]]
    labels: list[int | None]
    rewards: list[float]


def episode_from_json(text: str | bytes) -> Scanpath:
    """Read a scanpath, replay it in its environment and check the rewards that it claims.

    ``docs/demo`` saves such files. Each is a JSON object with exactly these fields:

    | field | value |
    |---|---|
    | ``format``, ``version`` | ``"ram-env-scanpath"``, ``1`` |
    | ``env_id`` | a registered id, without a module |
    | ``split``, ``index`` | ``"validation"`` or ``"test"``; number of the image in it |
    | ``data_is_sample`` | whether the canvas is drawn from the sample of 5,000 digits |
    | ``locations`` | T pairs ``[x, y]`` in [-1, 1], one per glimpse, the first included |
    | ``labels`` | T classes, 0 to K - 1, or ``null`` before the last: the answer at each glimpse |
    | ``rewards`` | T numbers, what each action earned with ``reward="final"`` |

    Args:
        text: The file's content.

    Returns:
        The episode, with the environment's rewards.

    Raises:
        ValueError: If the text is not such an object, a value does not fit the environment, or
            the claimed rewards are not those of the replay.
        DatasetError: If the data are damaged.
        FileNotFoundError: If the data can be neither found nor downloaded.
    """
    try:
        file = msgspec.json.decode(text, type=_File)
    except (msgspec.DecodeError, RecursionError, UnicodeError) as error:
        raise ValueError(f"not a scanpath: {error}; see help(ram_env.episode_from_json)") from error
    module = f"env_id must be a registered id without a module, got {file.env_id!r}"
    expect(":" not in file.env_id, f"{module}: import the module and leave its name out")
    try:
        num_glimpses = find_task(file.env_id).num_glimpses
    except Error as error:
        raise ValueError(f"env_id {file.env_id!r} is not registered: {error}") from error
    counts = [len(part) for part in (file.locations, file.labels, file.rewards)]
    wanted = f"locations, labels and rewards must have {num_glimpses} entries, one per glimpse"
    expect(counts == [num_glimpses] * 3, f"{wanted} of {file.env_id}, got {counts}")
    expect(file.labels[-1] is not None, "the last of labels must be a class, got null")
    keywords: dict[str, Any] = {"split": file.split, "action_format": "dict", "grid_size": None}
    keywords |= {"reward": "final", "allow_stop": False}
    env: Any = gymnasium.make(file.env_id, **keywords).unwrapped
    drawn = f"data_is_sample must be {env.data_is_sample}, as here, got {file.data_is_sample}"
    same = env.data_is_sample == file.data_is_sample
    expect(same, f"{drawn}: replay it with the same data (see RAM_ENV_DATA)")
    locations = np.array(file.locations, np.float32)  # (T, 2)
    env.reset(options={"index": file.index, "location": locations[0]})
    steps = zip([*locations[1:], locations[-1]], file.labels, strict=True)
    actions = [{"location": location, "label": label or 0} for location, label in steps]
    rewards = [env.step(action)[1] for action in actions]  # only the last label counts
    claimed = f"rewards {file.rewards} are not those of the replay, {rewards}"
    expect(rewards == file.rewards, f"{claimed}: the file was changed, or is of other canvases")
    labels = np.array([-1 if label is None else label for label in file.labels], np.int64)
    return Scanpath(file.env_id, file.split, file.index, locations, labels, np.array(rewards))
