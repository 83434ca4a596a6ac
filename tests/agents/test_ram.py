"""The recurrent attention model: sizes, and which gradient reaches which network."""

import pytest
import torch
from torch import Tensor, nn

from agents.actions import sample_location
from agents.ram import RAMConfig, RectifierCore, RecurrentAttentionModel


def make_model(**changes) -> RecurrentAttentionModel:
    torch.manual_seed(0)
    settings = {"glimpse_shape": (3, 4, 4), "num_classes": 5, "hidden_size": 16, **changes}
    return RecurrentAttentionModel(RAMConfig(**settings))


def gradient_of(module: nn.Module) -> float:
    """Return the sum of absolute gradients, 0 where there are none."""
    return sum(float(p.grad.abs().sum()) for p in module.parameters() if p.grad is not None)


def reached_by(output: str, **changes) -> set[str]:
    """Return the networks that learn from an output of the second of two glimpses.

    ``"log_prob"`` is that of the location between them, which is executed as a constant.
    """
    model, glimpses = make_model(**changes), two_glimpses()[0]
    first, state = model(glimpses[0], torch.zeros(3, 2), model.initial_state(3))
    location, log_prob = sample_location(first.location_mean, 0.1, torch.randn(3, 2))
    second, _ = model(glimpses[1], location.requires_grad_(), state)
    {**second._asdict(), "log_prob": log_prob}[output].sum().backward()
    assert location.grad is None
    return {name for name, network in model.named_children() if gradient_of(network) > 0}


def test_the_papers_model_has_the_papers_size():
    model = RecurrentAttentionModel(RAMConfig((3, 12, 12), num_classes=10))
    # what 432*128+128, where 2*128+128, joined 2*(128*256+256), core 2*(256*256+256),
    # location 256*2+2, action 256*10+10, baseline 256+1
    parameters = 55_424 + 384 + 66_048 + 131_584 + 514 + 2_570 + 257
    assert sum(p.numel() for p in model.parameters()) == parameters


def two_glimpses() -> tuple[Tensor, Tensor]:
    """Return glimpses (T = 2, N = 3, P, G, G) and their locations (2, 3, 2)."""
    generator = torch.Generator().manual_seed(1)
    glimpses = torch.rand(2, 3, 3, 4, 4, generator=generator)
    return glimpses, torch.rand(2, 3, 2, generator=generator) * 2 - 1


def test_two_glimpses_go_through_the_papers_equations():
    model = make_model()
    net, core, h = model.glimpse_network, model.core, torch.zeros(3, 16)
    state = model.initial_state(3)
    for glimpse, location in zip(*two_glimpses(), strict=True):
        what = net.what(glimpse.flatten(1)).clamp(min=0)
        where = net.where(location).clamp(min=0)
        g = (net.join_what(what) + net.join_where(where)).clamp(min=0)
        h = (core.recurrent(h) + core.input(g)).clamp(min=0)
        output, state = model(glimpse, location, state)
        torch.testing.assert_close(state, h)
        torch.testing.assert_close(output.location_mean, model.location_network.mean(h).tanh())
        torch.testing.assert_close(output.logits, model.action_network(h))
        torch.testing.assert_close(output.baseline, model.baseline_network(h)[:, 0])


@pytest.mark.parametrize(("core", "whole"), [("lstm", nn.LSTM), ("gru", nn.GRU)])
def test_a_gated_core_is_torchs_and_what_the_model_says_comes_from_its_h(core, whole):
    model = make_model(core=core)
    cell = model.core.cell if core == "lstm" else model.core
    expected = whole(16, 16)
    expected.load_state_dict({f"{name}_l0": part for name, part in cell.state_dict().items()})
    glimpses, locations = two_glimpses()
    g = torch.stack(
        [model.glimpse_network(*pair) for pair in zip(glimpses, locations, strict=True)]
    )
    state = model.initial_state(3)
    for glimpse, location, h in zip(glimpses, locations, expected(g)[0], strict=True):
        output, state = model(glimpse, location, state)
        torch.testing.assert_close(output.logits, model.action_network(h))
        torch.testing.assert_close(output.baseline, model.baseline_network(h)[:, 0])


@pytest.mark.parametrize("location_hidden", [0, 6])
def test_a_location_is_a_tanh_or_an_offset_of_what_the_state_says(location_hidden):
    h, here = torch.randn(3, 16), torch.rand(3, 2) * 2 - 1
    assert make_model(location_hidden=location_hidden).location_std is None
    torch.testing.assert_close(make_model(initial_std=0.5).location_std, torch.tensor([0.5, 0.5]))
    for location in ("absolute", "offset"):
        net = make_model(location=location, location_hidden=location_hidden).location_network
        f = net.mean(h if net.hidden is None else net.hidden(h).clamp(min=0))
        expected = f.tanh() if location == "absolute" else here + f
        torch.testing.assert_close(net(h, here), expected)


def test_an_identity_core_starts_as_a_sum_over_glimpses():
    core = make_model(identity_core=True).core
    assert isinstance(core, RectifierCore)
    h = torch.randn(3, 16)
    # I h + 0 + W_g 0 + b_g
    torch.testing.assert_close(core(torch.zeros(3, 16), h), (h + core.input.bias).clamp(min=0))


@pytest.mark.parametrize("core", ["rnn", "gru", "lstm"])
@pytest.mark.parametrize(
    "extras", [{}, {"location_hidden": 6, "conv_features": 2, "stop_hidden": 3}]
)
def test_the_output_has_the_shapes_it_says_and_every_weight_learns(core, extras):
    model = make_model(core=core, **extras)
    _, state = model(torch.rand(7, 3, 4, 4), torch.rand(7, 2), model.initial_state(7))
    output, state = model(torch.rand(7, 3, 4, 4), torch.rand(7, 2), state)
    parts = [part for part in output if part is not None]
    assert [part.shape for part in parts] == [(7, 2), (7, 5), (7,), (7,)][: 3 + bool(extras)]
    torch.stack([part.sum() for part in parts]).sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


SEEING = {"glimpse_network", "core"}


@pytest.mark.parametrize(
    ("output", "changes", "reached"),
    [
        ("log_prob", {}, {"location_network", *SEEING}),
        ("log_prob", {"location_reaches_core": False}, {"location_network"}),  # the paper's
        ("logits", {}, {"action_network", *SEEING}),
        ("logits", {"location": "offset"}, {"action_network", *SEEING}),
        ("baseline", {}, {"baseline_network"}),
        ("stop_logit", {"stop_hidden": 5}, {"stop_network"}),
    ],
)
def test_a_gradient_reaches_only_the_networks_it_should(output, changes, reached):
    assert reached_by(output, **changes) == reached


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"location": "relative"}, "location"),
        ({"initial_std": -0.1}, "initial_std"),
        ({"core": "transformer"}, "core"),
        ({"location_hidden": -1}, "location_hidden"),
        ({"num_glimpses": -3}, "num_glimpses"),
        ({"num_classes": 0}, "num_classes"),
        ({"glimpse_shape": (3, 4, 5)}, "glimpse_shape"),
    ],
)
def test_a_bad_setting_is_refused(changes, named):
    with pytest.raises(ValueError, match=named):
        make_model(**changes)


def test_a_wrong_shape_is_refused():
    model = make_model()
    with pytest.raises(ValueError, match=r"glimpse must have shape \(2, 3, 4, 4\)"):
        model(torch.rand(2, 4, 4, 3), torch.zeros(2, 2), model.initial_state(2))
    with pytest.raises(ValueError, match="location"):
        model(torch.rand(2, 3, 4, 4), torch.zeros(2, 3), model.initial_state(2))
    with pytest.raises(ValueError, match="state"):
        model(torch.rand(2, 3, 4, 4), torch.zeros(2, 2), model.initial_state(1))


def test_a_capped_state_goes_no_further_and_learns_nothing_there():
    capped, free = (make_model(state_cap=cap) for cap in (0.05, 0.0))
    glimpse, location = two_glimpses()[0][0], torch.zeros(3, 2)
    _, below = capped(glimpse, location, capped.initial_state(3))
    _, plain = free(glimpse, location, free.initial_state(3))
    assert torch.equal(below, plain.clamp(max=0.05))
    assert (plain > 0.05).any()
    units = (plain > 0.05)[0]
    (grad,) = torch.autograd.grad(below[0, units].sum(), capped.core.input.weight)
    assert not grad.any()


@pytest.mark.parametrize("core", ["rnn", "lstm", "gru"])
def test_a_core_that_sees_the_time_tells_equal_glimpses_apart(core):
    glimpse, location = two_glimpses()[0][0], torch.zeros(3, 2)
    timed = make_model(core=core, num_glimpses=4)
    state = timed.initial_state(3)
    for seen in range(1, 4):
        _, state = timed(glimpse, location, state)
        assert torch.equal(state[:, -1], torch.full((3,), float(seen)))
    early, late = timed.initial_state(3), timed.initial_state(3)
    late[:, -1] = 2
    assert not torch.equal(*(timed(glimpse, location, each)[0].logits for each in (early, late)))
    assert timed.time is not None
    _, state = timed(glimpse, location, late)
    seen = timed.glimpse_network(glimpse, location) + 3 / 4 * timed.time.weight[:, 0]
    torch.testing.assert_close(state[:, :-1], timed.core(seen, late[:, :-1]))


def test_outputs_are_float32_where_the_networks_compute_in_bfloat16():
    model = make_model(stop_hidden=4)
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = model(two_glimpses()[0][0], torch.zeros(3, 2), model.initial_state(3))
    assert {part.dtype for part in output} == {torch.float32}


@pytest.mark.parametrize(("side", "pooled"), [(1, 1), (5, 2), (8, 2), (9, 3)])
def test_pooling_keeps_the_last_pixels_of_odd_glimpses(side, pooled):
    model = make_model(glimpse_shape=(3, side, side), conv_features=2)
    assert model.glimpse_network.what.in_features == 4 * pooled**2  # halved twice, rounded up
    glimpse = torch.rand(2, 3, side, side)
    assert model(glimpse, torch.zeros(2, 2), model.initial_state(2))[0].logits.isfinite().all()
