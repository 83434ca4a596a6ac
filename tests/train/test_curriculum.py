"""Curricula: when a stage ends, what a state holds, and which files are refused."""

from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import gymnasium
import numpy as np
import pytest

from agents.training import spread_seed
from ram_env import find_task
from train.curriculum import FOLDER, CurriculumEnv, Stage, read_curriculum

LANES = 4
SIGNPOST = "SignpostGlimpse-v0"
STAGES = (Stage(0.25, {"board_size": 2}), Stage(0.5, {"board_size": 4}))


def make(*stages: Stage) -> CurriculumEnv:
    return CurriculumEnv(
        partial(gymnasium.make_vec, SIGNPOST, num_envs=LANES, action_format="dict"),
        stages,
        lambda stage: spread_seed(0, LANES, stage=stage)[0],
    )


def begin(*stages: Stage) -> CurriculumEnv:
    env = make(*stages)
    env.begin()
    return env


def play(env: CurriculumEnv) -> float:
    """Play an episode in all lanes; return the mean reward at its end."""
    action = {"location": np.zeros((LANES, 2), np.float32), "label": np.zeros(LANES, int)}
    rewards = [env.step(action)[1] for _ in range(env.task.num_glimpses)]
    return float(np.mean(rewards[-1]))


def test_stages_end_at_their_share_several_at_once_where_due_and_the_task_comes_last():
    env, sides = begin(*STAGES), []
    for share in np.arange(10) / 10:
        begun = env.advance(share)
        assert (begun is None) == (share not in (0.3, 0.5))
        sides.append(env.task.board_size)
    assert sides == [2, 2, 2, 4, 4, 3, 3, 3, 3, 3]
    assert str(env) == "stage 3 of 3: the task"
    env = begin(*STAGES)
    env.advance(0.6)
    assert env.stage == 2


def test_a_stage_ends_early_at_its_success_rate_which_counts_anew_in_the_next():
    env = begin(*(Stage(u, {"board_size": s}, success=0.002) for u, s in ((0.5, 2), (0.9, 4))))
    paid, rate = [], 0.0
    while env.advance(0.0) is None:
        paid.append(play(env))
        rate += (paid[-1] - rate) * LANES / 1000
        assert len(paid) < 200
    assert rate >= 0.002 > rate - paid[-1] * LANES / 1000
    assert (env.stage, env.get_state()["success"]) == (1, 0)


def test_every_stage_begins_with_episodes_of_its_own():
    env = make(Stage(0.25, {}), Stage(0.5, {}))
    begun = [env.begin(), env.advance(0.3), env.advance(0.6)]
    assert len({tuple(each[1]["index"]) for each in begun if each is not None}) == 3


@pytest.mark.parametrize("stages", [STAGES[:1], (*STAGES[:1], Stage(0.6, {"board_size": 4}))])
def test_a_state_of_another_curriculum_is_refused(stages):
    with pytest.raises(ValueError, match="its curriculum is"):
        make(*stages).set_state(begin(*STAGES).get_state())


def test_a_stage_with_other_classes_is_refused():
    with pytest.raises(ValueError, match="a stage must have the task's"):
        make(Stage(0.5, {"num_marks": 3}))


def test_our_curricula_grow_towards_their_task():
    tasks = {"cluttered-60": "Cluttered", "cluttered-100": "LargeCluttered"}
    assert {path.stem for path in FOLDER.glob("*.toml")} == tasks.keys()
    for name, prefix in tasks.items():
        task: Any = find_task(f"{prefix}MNISTGlimpse-v0")
        stages = [*(stage.env for stage in read_curriculum(name, task)), vars(task)]
        for keyword in ("canvas_size", "num_clutter"):
            values = [stage[keyword] for stage in stages]
            assert values == sorted(set(values))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "stages"),
        ("stages = []", "stages"),
        ("stages = [{ until = 0.2, env = {}, more = 1 }]", "more"),
        ("stages = [{ env = {} }]", "until"),
        ("stages = [{ until = 1.0, env = {} }]", "until"),  # the task would never come
        ("stages = [{ until = 0.5, success = 1.5, env = {} }]", "success"),
        ("stages = [{ until = 0.2, env = {} }, { until = 0.2, env = {} }]", "until must rise"),
        ("stages = [{ until = 0.2, env = { canvas = 9 } }]", r"only change the scene .*'canvas'"),
        (
            "stages = [{ until = 0.2, env = { num_glimpses = 9, dataset = 'KMNIST' } }]",
            r"may only change the scene .* got \['dataset', 'num_glimpses'\]",
        ),
        ("stages = [{ until = 0.2, env = { canvas_size = 0 } }]", "canvas_size must"),
    ],
)
def test_a_bad_file_is_refused_with_its_name_and_the_reason(tmp_path: Path, text, message):
    path = tmp_path / "bad.toml"
    path.write_text(text)
    with pytest.raises(ValueError, match=rf"^{path}.*{message}"):
        read_curriculum(str(path), find_task("ClutteredMNISTGlimpse-v0"))


def test_a_state_brings_back_its_stage_and_success_rate():
    stages = (STAGES[0], Stage(0.9, {"board_size": 4}, success=0.9))
    env, again = begin(*stages), begin(*stages)
    env.advance(0.3)
    while not env.get_state()["success"]:
        play(env)
    again.set_state(env.get_state())
    assert again.task.board_size == 4
    assert again.get_state() == env.get_state()


def test_only_lanes_whose_episode_ended_count_for_success():
    ended = np.array([True, False, False, False])
    lanes: Any = SimpleNamespace(step=lambda actions: ({}, np.ones(4), ended, ended & False, {}))
    env = make(Stage(0.9, {"board_size": 2}, success=0.9))
    env.env = lanes
    env.step(None)
    assert env._success.item() == pytest.approx(1 / 1000)  # one episode of a window of 1000


def test_a_last_reward_that_is_never_positive_cannot_end_a_stage_by_success(tmp_path):
    path = tmp_path / "stages.toml"
    path.write_text("stages = [{ until = 0.5, success = 0.5, env = { board_size = 2 } }]")
    read_curriculum(str(path), find_task(SIGNPOST, glimpse_cost=0.99))
    read_curriculum(str(path), find_task(SIGNPOST, reward="dense", glimpse_cost=0.24))
    # the last label earns 1, or 1/4 as each of four, or the logarithm of its probability
    for reward, price in (("final", 1.0), ("dense", 0.25), ("log_score", 0.0)):
        what = f"above 0, but reward='{reward}' with glimpse_cost={price} has none"
        with pytest.raises(ValueError, match=f"success counts last rewards {what}"):
            read_curriculum(str(path), find_task(SIGNPOST, reward=reward, glimpse_cost=price))
