"""Full-image baselines: their sizes, their work, and what they take."""

import pytest
import torch
from torch import nn

from agents.baselines import BASELINES, count_parameters, make_baseline, multiply_adds
from agents.ram import RAMConfig, RecurrentAttentionModel


@pytest.mark.parametrize(
    ("name", "side", "parameters", "work"),
    [
        # 3600*64+64, 64*64+64, 64*10+10
        ("fc64", 60, 235_274, 3600 * 64 + 64 * 64 + 64 * 10),
        # the paper's: 3600*256+256, 256*256+256, 256*10+10
        ("fc256", 60, 990_218, 3600 * 256 + 256 * 256 + 256 * 10),
        # the paper's: 8*100+8, at (60-10)/5+1 = 11 places a side, 968*256+256, 256*10+10
        ("conv", 60, 251_442, 121 * 8 * 100 + 968 * 256 + 256 * 10),
        # the paper's: 8*100+8, at (28-10)//5+1 = 4 places a side without padding, 128*256+256, ...
        ("conv", 28, 36_402, 16 * 8 * 100 + 128 * 256 + 256 * 10),
    ],
)
def test_the_papers_baselines_have_the_papers_sizes(name, side, parameters, work):
    model = make_baseline(name, channels=1, side=side, num_classes=10)
    assert count_parameters(model) == parameters
    assert multiply_adds(model, (1, side, side)) == work


@pytest.mark.parametrize(
    ("side", "kernel", "first_pixels", "stage_pixels"),
    [
        # as in torchvision: 60, 30 px, 15 px after the pooling, then 15, 8, 4, 2 px per side
        (60, 7, 900, (225, 64, 16, 4)),
        # for small canvases, without pooling: 28 px, then 28, 14, 7, 4 px per side
        (28, 3, 784, (784, 196, 49, 16)),
    ],
)
def test_resnet18_equals_torchvisions_except_its_first_and_last_layer(
    side, kernel, first_pixels, stage_pixels
):
    model = make_baseline("resnet18", channels=1, side=side, num_classes=10)
    # torchvision's 11,689,512; a first convolution of 1 plane for 64*3*7*7; 10 classes for 1000
    parameters = 11_689_512 - (9_408 - 64 * kernel**2) - (513_000 - 5_130)
    assert count_parameters(model) == parameters
    # four stages of four 3x3 convolutions; all but the first begin with a 1x1 shortcut
    work = first_pixels * 64 * kernel**2 + 512 * 10
    widths = (64, 64, 128, 256, 512)
    for pixels, before, width in zip(stage_pixels, widths[:-1], widths[1:], strict=True):
        work += pixels * width * 9 * (before + 3 * width)
        work += pixels * width * before * (before != width)
    assert multiply_adds(model, (1, side, side)) == work


def test_multiply_adds_count_strides_groups_a_layer_used_twice_and_a_glimpse_of_the_agent():
    twice = nn.Linear(8, 8)
    conv = nn.Conv2d(4, 2, 3, stride=2, groups=2)  # 7x6 to 3x2: 6 places, 2 filters of 2*9 weights
    model = nn.Sequential(conv, nn.Flatten(), nn.Linear(12, 8), twice, twice)
    assert multiply_adds(model, (4, 7, 6)) == 6 * 2 * 18 + 12 * 8 + 2 * 64
    assert multiply_adds(nn.LSTMCell(4, 5), (4,)) == 4 * 5 * (4 + 5)  # four gates
    model = RecurrentAttentionModel(RAMConfig((3, 12, 12), num_classes=10))
    # what, where, joined, core, location, action, baseline
    work = 432 * 128 + 2 * 128 + 2 * 128 * 256 + 2 * 256 * 256 + 256 * (2 + 10 + 1)
    assert multiply_adds(model, (3, 12, 12), (2,), (256,)) == work


def test_counting_leaves_the_module_as_it_was():
    model = make_baseline("resnet18", channels=1, side=8, num_classes=3)
    model.network.get_submodule("layer1").eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    modes = [module.training for module in model.modules()]
    multiply_adds(model, (1, 8, 8))
    assert [module.training for module in model.modules()] == modes
    assert not any(module._forward_hooks for module in model.modules())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", BASELINES)
def test_every_baseline_maps_canvases_to_logits_and_every_weight_learns(name):
    torch.manual_seed(0)
    model = make_baseline(name, channels=3, side=32, num_classes=5)
    logits = model(torch.rand(2, 3, 32, 32))
    assert logits.shape == (2, 5)
    logits.square().sum().backward()
    assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 3, 28, 28), (2, 1, 28, 27)])
def test_what_a_baseline_cannot_take_is_refused(shape):
    with pytest.raises(ValueError, match=r"canvases must have shape \(N, \*\(1, 28, 28\)\)"):
        make_baseline("fc64", channels=1, side=28, num_classes=10)(torch.zeros(shape))
    with pytest.raises(ValueError, match="one of fc64, fc256, conv, resnet18, got 'fc128'"):
        make_baseline("fc128", channels=1, side=28, num_classes=10)
    with pytest.raises(ValueError, match="side must be at least 10, got 9"):
        make_baseline("conv", channels=1, side=9, num_classes=10)
