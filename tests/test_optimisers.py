"""The moving average of weights, the learning rate, and which optimiser moves what."""

from itertools import pairwise

import pytest

torch = pytest.importorskip("torch")
from torch import nn  # noqa: E402

from tinyfaces.training.networks.proposal_network import FAST, ProposalNetwork  # noqa: E402
from tinyfaces.training.optimisers import (  # noqa: E402
    MovingAverage,
    make_optimisers,
    set_learning_rate,
    set_mode,
    warmup_and_cosine,
)


def test_the_moving_average_is_its_formula():
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(1, 2, 1), nn.BatchNorm2d(2))
    average = MovingAverage(network, decay=0.9)
    expected = {name: value.clone() for name, value in network.state_dict().items()}
    for step in range(30):
        with torch.no_grad():
            for parameter in network.parameters():
                parameter.add_(torch.randn_like(parameter))
        network(torch.randn(4, 1, 3, 3))
        average.update(step)
        decay = min(0.9, (1 + step) / (10 + step))
        for name, value in network.state_dict().items():
            expected[name] = decay * expected[name] + (1 - decay) * value if value.is_floating_point() else value.clone()
    assert int(expected["1.num_batches_tracked"]) == 30
    for name, value in average.network.state_dict().items():
        torch.testing.assert_close(value, expected[name], msg=name)
    assert not torch.allclose(average.network[0].weight, network[0].weight), "it is no copy"
    assert not average.network.training and not any(p.requires_grad for p in average.network.parameters())


def test_the_moving_average_follows_weights_that_were_loaded():
    network = nn.Linear(2, 2)
    average = MovingAverage(network, decay=0.0)
    network.load_state_dict({"weight": torch.ones(2, 2), "bias": torch.ones(2)})
    average.update(0)
    assert (average.network.weight == 1).all() and (average.network.bias == 1).all()


def test_the_rate_warms_up_and_falls_to_its_end():
    rates = [warmup_and_cosine(step, 100, 10, 0.02) for step in range(101)]
    assert rates[:10] == pytest.approx([(step + 1) / 10 for step in range(10)])
    assert rates[55] == pytest.approx(0.51) and rates[100] == pytest.approx(0.02)
    assert all(a > b for a, b in pairwise(rates[10:]))


def test_muon_moves_the_convolutions_inside_and_rates_keep_their_ratio():
    network = ProposalNetwork(FAST)
    adamw, muon = make_optimisers(network, 0.02, 0.002, 0.01)
    inside = {id(p) for n, p in network.named_parameters() if p.ndim == 4 and not n.startswith(("stem", "heads"))}
    assert {id(p) for group in muon.param_groups for p in group["params"]} == inside
    assert sum(len(group["params"]) for o in (adamw, muon) for group in o.param_groups) == len(list(network.parameters()))
    set_learning_rate((adamw, muon), 0.5)
    set_learning_rate((adamw, muon), 0.25)
    assert [group["lr"] for o in (adamw, muon) for group in o.param_groups] == pytest.approx([0.0005, 0.0005, 0.005])
    (alone,) = make_optimisers(network, 0.02, 0.002, 0.01, "adamw")
    assert sum(len(group["params"]) for group in alone.param_groups) == len(list(network.parameters()))


def test_fixed_normalisations_keep_their_statistics():
    network = ProposalNetwork(FAST)
    for fixed in (True, False, True):
        set_mode(network, fixed)
        before = network.stem[1].running_mean.clone()
        network(torch.rand(2, 3, 64, 64) * 255)
        assert torch.equal(network.stem[1].running_mean, before) == fixed and network.training
