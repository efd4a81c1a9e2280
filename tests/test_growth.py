"""A network grown from a smaller one: the same outputs at first, and free to learn more."""

import dataclasses

import pytest

torch = pytest.importorskip("torch")

from tinyfaces.training.growth import grown  # noqa: E402
from tinyfaces.training.networks.proposal_network import ACCURATE, FAST, THOROUGH, ProposalNetwork  # noqa: E402

WIDER = dataclasses.replace(FAST, widths=(24, 32, 48, 64, 80), depths=(2, 1, 2, 1), pyramid=(24, 32, 40, 48), fine=1)


def trained(shape):
    """A network whose normalisations have statistics, scales and shifts of their own."""
    torch.manual_seed(3)
    network = ProposalNetwork(shape)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5)
            torch.nn.init.uniform_(module.bias, -0.2, 0.2)
            module.running_mean.uniform_(-0.5, 0.5)
            module.running_var.uniform_(0.5, 2.0)
    return network.eval()


@pytest.mark.parametrize("small, large", [(FAST, WIDER), (ACCURATE, THOROUGH)])
def test_the_larger_network_has_the_smaller_ones_outputs(small, large):
    network = trained(small)
    larger = grown(network, large).eval()
    images = torch.rand(1, 3, 96, 128) * 255
    with torch.no_grad():
        for before, after in zip(network(images), larger(images), strict=True):
            torch.testing.assert_close(after, before, rtol=1e-4, atol=1e-4)


def test_new_channels_get_gradients():
    larger = grown(trained(FAST), WIDER).train()
    sum(output.square().sum() for output in larger(torch.rand(2, 3, 64, 64) * 255)).backward()
    new_inputs = larger.stages[0][0][0].weight.grad[: FAST.widths[1], FAST.widths[0] :]
    assert new_inputs.abs().sum() > 0


def test_a_shape_that_is_smaller_somewhere_is_refused():
    with pytest.raises(ValueError, match="would shrink"):
        grown(trained(FAST), dataclasses.replace(WIDER, pyramid=(8, 32, 40, 48)))
