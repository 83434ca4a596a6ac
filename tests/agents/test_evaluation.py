"""Evaluation: every image once, whatever the number of environments, and an honest interval."""

import math
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from torch import nn

from agents.controls import Control
from agents.episodes import play_episode, to_env, to_tensors
from agents.evaluation import (
    Beliefs,
    Score,
    evaluate,
    play_split,
    score_at_stop,
    score_by_glimpse,
    score_mean_of_passes,
    score_sampled_labels,
)
from agents.ram import Output, RAMConfig, RecurrentAttentionModel


def test_sampled_labels_are_drawn_from_the_belief_and_repeat_with_their_generator():
    # 5000 images of class 0; the belief in it is 0.7
    beliefs = beliefs_of([[[[0.7, 0.2, 0.1]]] * 5000], [0] * 5000)
    noise = [torch.Generator().manual_seed(seed) for seed in (0, 0, 1)]
    first, again, other = (score_sampled_labels(beliefs, generator) for generator in noise)
    assert first == again != other
    assert first.total == 5000
    assert abs(first.wrong - 1500) < 4 * (5000 * 0.7 * 0.3) ** 0.5


def test_a_score_reads_as_the_readme_says():
    # Wilson for 5 of 100: (p + z^2/2n +- z sqrt(p(1-p)/n + z^2/4n^2)) / (1 + z^2/n),
    # z = 1.96: (0.05 + 0.0192 +- 0.0469...) / 1.0384 = 2.15 % and 11.18 %
    assert str(Score(5, 100)) == "error 5.00 % (95 % interval 2.15-11.18, 100 images)"
    assert Score(0, 50).interval == (0, pytest.approx(7.13, abs=0.01))
    assert max(Score(n, n).interval[1] for n in range(1, 100)) == 100


class Sampler(nn.Module):
    """Believes what it has seen so far, by arithmetic that no batch size can round otherwise."""

    def initial_state(self, n):
        return torch.zeros(n, 1)

    def forward(self, glimpse, location, state):
        state = state + glimpse[:, 0, 3:5, 4]  # (N, 2)
        logits = torch.cat([state, location], 1)
        return Output(state - 1, logits, state[:, 0]), state


def make_toy_env(num_envs, **keywords: Any):
    """Make a vector env that passes through the 40 images of the toy dataset."""
    task = {"dataset": "toy", "canvas_size": 40, "translate": True, "num_glimpses": 3}
    task |= {"split": "validation", "order": "sequential", "action_format": "dict"}
    return gymnasium.make_vec("MNISTGlimpse-v0", num_envs=num_envs, **{**task, **keywords})


def play(env, num_images=40, **keywords) -> Beliefs:
    return play_split(Sampler(), env, num_images, **keywords)  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("num_envs", [1, 9, 40, 64, 200])  # a batch may span passes, or all
def test_beliefs_are_those_of_single_episodes_whatever_the_batch(toy_dataset, num_envs):
    batches = []
    beliefs = play(make_toy_env(num_envs), num_passes=2, on_batch=lambda: batches.append(1))
    assert len(batches) == math.ceil(80 / num_envs)
    assert beliefs.log_p.shape == (2, 40, 3, 4)
    assert not beliefs.log_p.requires_grad
    assert beliefs.locations.shape == (2, 40, 3, 2)
    env = make_toy_env(1, autoreset_mode="Disabled")
    model, obs, infos = Sampler(), *env.reset(seed=5)
    for visit in range(80):  # a slow loop
        p, k, state = visit // 40, visit % 40, torch.zeros(1, 1)
        assert beliefs.labels[k] == int(infos["label"][0])
        box = np.concatenate([infos["position"][0], infos["object_size"][0]])
        assert beliefs.boxes[k].tolist() == box.tolist()
        for t in range(3):
            glimpse, location = torch.tensor(obs["glimpse"]), torch.tensor(obs["location"])
            output, state = model(glimpse, location, state)
            assert torch.equal(beliefs.locations[p, k, t], location[0])
            assert torch.equal(beliefs.log_p[p, k, t], output.logits.log_softmax(1)[0])
            action = {"location": output.location_mean.detach().numpy(), "label": np.zeros(1, int)}
            obs, *_ = env.step(action)
        obs, infos = env.reset()


def test_a_random_control_looks_everywhere_and_the_same_way_whatever_noise_is_given(toy_dataset):
    env = make_toy_env(40)
    control, noise = Control("random", env), (None, torch.Generator().manual_seed(1))
    first, again = (play(env, control=control, generator=g, num_passes=5) for g in noise)
    assert torch.equal(first.locations, again.locations)
    seen = first.locations[:, :, 1:].reshape(-1, 2)  # 400, uniform in [-1, 1]
    assert seen.mean(0).abs().max() < 0.15
    assert (seen.std(0) - 3**-0.5).abs().max() < 0.08


@pytest.mark.parametrize("device", [None, "cpu"])
def test_each_pass_has_its_own_first_locations_and_the_first_is_evaluates(toy_dataset, device):
    env = make_toy_env(16, device=device)
    beliefs = play(env, num_passes=3)
    first = beliefs.locations[:, :, 0].flatten(0, 1)  # (M n, 2)
    assert len(first.unique(dim=0)) == 120
    assert beliefs.log_p.device.type == "cpu"
    score = evaluate(Sampler(), env, 40)  # pyright: ignore[reportArgumentType]
    assert score_by_glimpse(beliefs)[-1] == score


def test_a_sampled_location_scatters_around_the_mean_and_repeats_with_its_generator(toy_dataset):
    env = make_toy_env(40)

    def sample(seed: int | None = 3) -> Beliefs:
        generator = None if seed is None else torch.Generator().manual_seed(seed)
        return play(env, std=0.1, generator=generator)

    mean, sampled = play(env), sample()
    off = sampled.locations - mean.locations
    assert not off[:, :, 0].any()  # the first location is the env's
    second = off[0, :, 1][mean.locations[0, :, 1].abs().lt(0.7).all(1)]  # what isn't clipped
    assert 0.07 < second.std() < 0.13
    assert torch.equal(sampled.locations, sample().locations)
    assert not torch.equal(sampled.locations, sample(4).locations)
    assert torch.equal(sample(None).locations, sample(None).locations)


def test_part_of_a_split_can_be_played_once_but_not_twice(toy_dataset):
    env = make_toy_env(8)
    whole, part = play(env), play(env, 10)
    assert torch.equal(part.log_p, whole.log_p[:, :10])
    with pytest.raises(ValueError, match="images 0 to 9 in turn"):
        play(env, 10, num_passes=2)


@pytest.mark.parametrize(
    ("env", "changes", "message"),
    [
        ({"order": "random"}, {}, "in turn"),
        ({"autoreset_mode": "NextStep"}, {}, "SAME_STEP"),
        ({"action_format": "box"}, {}, "env must have action_format='dict', got Box"),
        ({"allow_stop": True}, {}, "env must have allow_stop=False"),
        ({}, {"num_images": 0}, "num_images"),
        ({}, {"num_passes": 0}, "num_passes"),
        ({}, {"std": -0.1}, "std"),
        ({"split": "train"}, {"num_passes": 2}, "num_passes must be 1 on this split"),
    ],
)
def test_what_cannot_be_played_is_refused(toy_dataset, env, changes, message):
    with pytest.raises(ValueError, match=message):
        play(make_toy_env(8, **env), **changes)


def test_the_score_at_the_stop_is_what_an_episode_earns_that_really_stops_there(toy_dataset):
    torch.manual_seed(0)
    free, priced = (make_toy_env(40, allow_stop=stop, glimpse_cost=0.1) for stop in (False, True))
    model = RecurrentAttentionModel(RAMConfig((1, 8, 8), 4, hidden_size=8, stop_hidden=8))
    assert model.stop_network is not None
    last = model.stop_network[-1]
    assert isinstance(last, nn.Linear)
    logits = play_split(model, free, 40).stop_logits
    assert logits is not None
    with torch.no_grad():  # half of the episodes stop at once
        last.bias.sub_(logits[0, :, 0].median())
    score, glimpses = score_at_stop(play_split(model, free, 40))
    assert 1 < glimpses < 3
    obs, _ = priced.reset(seed=0)
    state, going, earned = model.initial_state(40), torch.ones(40, dtype=torch.bool), 0.0
    while going.any():
        with torch.no_grad():
            output, state = model(*to_tensors(obs, torch.device("cpu")), state)
        assert output.stop_logit is not None
        action = {"location": output.location_mean, "label": output.logits.argmax(1)}
        action["stop"] = (output.stop_logit > 0).long()
        obs, reward, ended, _, _ = priced.step(to_env(action, obs))
        earned += reward[going.numpy()].sum()
        going &= ~torch.as_tensor(ended)
    assert earned / 40 == pytest.approx(1 - score.error / 100 - 0.1 * glimpses)


def beliefs_of(probabilities, labels) -> Beliefs:
    """Make beliefs from probabilities (M, n, T, K)."""
    log_p = torch.tensor(probabilities).log()
    m, n, t, _ = log_p.shape
    return Beliefs(log_p, torch.tensor(labels), torch.zeros(m, n, t, 2), torch.zeros(n, 4).long())


def test_the_score_at_the_stop_by_hand():
    right, wrong = [0.9, 0.1], [0.2, 0.8]
    p = [[[right, wrong, wrong], [wrong, wrong, right], [wrong, right, wrong]]]
    beliefs = beliefs_of(p, [0, 0, 0])
    assert score_at_stop(beliefs) == (Score(2, 3), 3)  # without a stop network at the last glimpse
    # stops after glimpses 1, 3 (never before) and 2, the first of two; all of them right
    logits = torch.tensor([[[0.1, 5, 5], [-1, -0.1, -9], [-1, 0.1, 0.1]]])
    assert score_at_stop(beliefs._replace(stop_logits=logits)) == (Score(0, 3), 2)


def test_scores_by_hand():
    # Image 0 is of class 0, image 1 of class 1; two passes, two glimpses.
    beliefs = beliefs_of(
        [
            [[[0.4, 0.6, 0], [0.7, 0.2, 0.1]], [[0.8, 0.2, 0], [0.6, 0.4, 0]]],
            [[[0.1, 0.9, 0], [0.01, 0.5, 0.49]], [[0.3, 0.7, 0], [0.1, 0.9, 0]]],
        ],
        [0, 1],
    )
    # pass 0: both wrong after one glimpse, image 1 after two
    assert score_by_glimpse(beliefs) == [Score(2, 2), Score(1, 2)]
    # mean after two glimpses: image 0 (0.355, 0.35, 0.295), right (a geometric mean would
    # name 1: 0.08, 0.32, 0.22); image 1 (0.35, 0.65, 0), right
    assert score_mean_of_passes(beliefs) == Score(0, 2)


def test_of_several_passes_the_first_is_scored():
    right, wrong = [[0.1, 0.9], [0.1, 0.9]], [[0.9, 0.1], [0.9, 0.1]]  # of one image, two glimpses
    beliefs = beliefs_of([[right], [wrong]], [1])
    beliefs = beliefs._replace(stop_logits=torch.tensor([[[1.0, 1.0]], [[-1.0, 1.0]]]))
    assert score_at_stop(beliefs) == (Score(0, 1), 1)
    cold = beliefs._replace(log_p=beliefs.log_p / 0.001)  # labels may be of any temperature
    assert score_sampled_labels(cold, torch.Generator()) == Score(0, 1)


@pytest.mark.parametrize(("broken", "error"), [(math.nan, FloatingPointError), (0.0, ValueError)])
def test_a_refused_action_counts_as_divergence_only_where_an_output_is_not_finite(
    toy_dataset, broken, error
):
    def act(_: int, output: Output) -> Any:
        output.baseline.fill_(broken)
        return torch.full((8, 2), torch.nan), torch.zeros(8), torch.zeros(8).long()

    env: Any = make_toy_env(8)
    model: Any = Sampler()
    with pytest.raises(error, match="not finite" if error is FloatingPointError else "location"):
        play_episode(model, env, env.reset(), act)
