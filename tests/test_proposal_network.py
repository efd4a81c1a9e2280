"""The proposal network: shapes, cost, what it says before training."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tinyfaces.training.networks.proposal_network import FACE_SIZES, STRIDES, VARIANTS, ProposalNetwork  # noqa: E402


@pytest.mark.parametrize("variant", VARIANTS)
def test_maps_of_four_branches(variant):
    outputs = ProposalNetwork(VARIANTS[variant]).eval()(torch.zeros(2, 3, 96, 160))
    assert [tuple(o.shape) for o in outputs] == [(2, 5, 96 // s, 160 // s) for s in STRIDES]


@pytest.mark.parametrize("variant,limit", [("accurate", 3.0), ("fast", 0.5)])
def test_cost_at_640x480(variant, limit):
    network = ProposalNetwork(VARIANTS[variant]).eval()
    macs = 0

    def add(layer, inputs, output):
        nonlocal macs
        macs += output.shape[2] * output.shape[3] * layer.out_channels * layer.in_channels * layer.kernel_size[0] ** 2

    for layer in network.modules():
        if isinstance(layer, nn.Conv2d):
            assert layer.groups == 1
            layer.register_forward_hook(add)
    network(torch.zeros(1, 3, 480, 640))
    assert 0.5 * limit < macs / 1e9 <= limit


def test_untrained_sizes_lie_in_each_branchs_range_and_scores_are_low():
    torch.manual_seed(0)
    outputs = ProposalNetwork(VARIANTS["fast"]).eval()(torch.rand(1, 3, 128, 128) * 255)
    for output, stride, (low, high) in zip(outputs, STRIDES, FACE_SIZES, strict=True):
        assert output[:, 0].sigmoid().max() < 0.1
        typical = (output[:, 3:].mean().exp() * stride).item()
        assert low <= typical < high


@pytest.mark.parametrize("variant", VARIANTS)
def test_an_image_shifted_by_the_largest_stride_gives_maps_shifted_alike(variant):
    torch.manual_seed(1)
    shape = VARIANTS[variant]
    # Few channels: what counts here are kernels, strides and dilations.
    few = {"widths": (8,) * 5, "pyramid": (8,) * 4, "inner": (8,) * 4, "surroundings": min(shape.surroundings, 8)}
    network = ProposalNetwork(dataclasses.replace(shape, **few)).eval()
    shift, unsure = (64, 768) if shape.surroundings else (32, 512)  # the latter more than half of what a point sees
    side = 2 * unsure + 256
    image = torch.zeros(1, 3, side, side) + 127.5
    image[:, :, side // 2 - 40 : side // 2 + 40, side // 2 - 40 : side // 2 + 40] = torch.rand(3, 80, 80) * 255
    moved = image.roll(shift, 3)
    for here, there, stride in zip(network(image), network(moved), STRIDES, strict=True):
        margin = unsure // stride
        torch.testing.assert_close(
            here.roll(shift // stride, 3)[..., margin:-margin, margin:-margin],
            there[..., margin:-margin, margin:-margin], atol=1e-3, rtol=1e-3,
        )  # fmt: skip


@pytest.mark.parametrize("surroundings,seen", [(0, 623), (32, 1199)])  # 1 + the sum over layers of (kernel - 1) x dilation x step
def test_how_much_of_an_image_a_point_of_stride_32_sees(surroundings, seen):
    torch.manual_seed(2)
    network = ProposalNetwork(dataclasses.replace(VARIANTS["fast"], surroundings=surroundings)).eval()
    image = (torch.rand(1, 3, 1536, 1536) * 255).requires_grad_()
    network(image)[-1][0, :, 24, 24].sum().backward()
    rows = torch.nonzero(image.grad[0].abs().sum((0, 2)))[:, 0]
    assert 0.9 * seen < rows.max() - rows.min() + 1 <= seen


def test_blocks_may_have_fewer_channels_between_their_convolutions():
    shape = dataclasses.replace(VARIANTS["fast"], depths=(1, 1, 1, 1), inner=(8, 16, 24, 40))
    network = ProposalNetwork(shape).eval()
    for stage, channels, around in zip(network.stages, shape.inner, shape.widths[1:], strict=True):
        block = stage[2]
        assert tuple(block.first[0].weight.shape) == (channels, around, 3, 3)
        assert tuple(block.second[0].weight.shape) == (around, channels, 3, 3)
    assert tuple(network.context[0].first[0].weight.shape[:2]) == (40, 64)
    assert [o.shape[2] for o in network(torch.zeros(1, 3, 64, 64))] == [16, 8, 4, 2]
