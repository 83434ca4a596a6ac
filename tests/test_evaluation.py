"""Evaluation: every image once, whatever the number of lanes, and an honest interval."""

import gymnasium
import pytest
import torch
from torch import nn

import ram_env
from agents.evaluation import Score, evaluate
from agents.ram import Output


class ConstantModel(nn.Module):
    """Looks at the middle and always names one class."""

    def __init__(self, label: int, num_classes: int):
        super().__init__()
        self.logits = nn.Parameter(torch.eye(num_classes)[label])

    def initial_state(self, n):
        return torch.zeros(n, 1)

    def forward(self, glimpse, location, state):
        n = len(glimpse)
        return Output(torch.zeros(n, 2), self.logits.expand(n, -1), torch.zeros(n)), state


@pytest.mark.parametrize("num_envs", [1000, 617])  # 617 does not divide 5000: some visits are extra
@pytest.mark.parametrize("device", [None, "cpu"])
def test_every_image_of_the_split_is_judged_once(num_envs, device):
    env = gymnasium.make_vec(
        "SignpostGlimpse-v0",
        num_envs=num_envs,
        device=device,
        split="validation",
        order="sequential",
        action_format="dict",
    )
    _, labels = ram_env.frozen_canvases("SignpostGlimpse-v0", "validation")
    score = evaluate(ConstantModel(2, 4), env, len(labels))  # pyright: ignore[reportArgumentType]
    assert score == Score(int((labels != 2).sum()), 5000)
    again = evaluate(ConstantModel(2, 4), env, len(labels))  # pyright: ignore[reportArgumentType]
    assert again == score


def test_a_score_reads_as_the_readme_says():
    # Wilson for 5 of 100: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),
    # z = 1.96: (0.05 + 0.0192 +- 0.0469...) / 1.0384 = 2.15 % and 11.18 %
    assert str(Score(5, 100)) == "error 5.00 % (95 % interval 2.15-11.18, 100 images)"


def test_no_mistake_still_leaves_doubt():
    low, high = Score(0, 50).interval
    assert low == 0
    assert high > 5
