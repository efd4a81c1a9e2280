"""Several processes learn what one does: the same weights after some steps, normalisations and both stages included."""

import os
import socket
from dataclasses import replace

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("tensorboard")
pytest.importorskip("cv2")

from forked import start_processes, wait_for  # noqa: E402
from test_proposal_loop import data  # noqa: E402, F401 (a fixture)
from test_second_stage_loop import _candidates  # noqa: E402
from tinyfaces.training import proposal_loop, second_stage_loop  # noqa: E402
from tinyfaces.training.candidate_batches import draw, make_pools  # noqa: E402
from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork  # noqa: E402
from tinyfaces.training.networks.second_stage_networks import make_networks  # noqa: E402
from tinyfaces.training.processes import Process  # noqa: E402
from tinyfaces.training.second_stage_loop import share_of_batch, train_second_stage  # noqa: E402
from tinyfaces.training.settings import SecondStageConfig, load_config  # noqa: E402
from tinyfaces.training.shared_norm import SharedBatchNorm2d, share_norms  # noqa: E402


def _joined(rank: int, trainings) -> None:
    """One process of several runs, one after the other, as torchrun would begin it. The first ones take part in each."""
    for world, port, train, config in trainings:
        if rank >= world:
            continue
        os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
        os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port), "CUDA_VISIBLE_DEVICES": ""}
        train(config)


def _first_stage(config) -> None:
    _compute_in_double()
    proposal_loop.measure = proposal_loop.measure_best = lambda *_: None  # which takes photos in float32
    proposal_loop.train(config)


def _second_stage(config) -> None:
    _compute_in_double()
    second_stage_loop.read_candidates = lambda folder: _candidates(80)
    train_second_stage(config)


def _compute_in_double() -> None:
    """Optimisers that divide by a gradient's size, and a generator against a discriminator, enlarge rounding errors within some
    steps a thousandfold. In double precision they stay small, and what is left would be a fault."""
    torch.set_default_dtype(torch.float64)
    torch.Tensor.float = torch.Tensor.double


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("localhost", 0))
        return free.getsockname()[1]


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):  # noqa: F811
    """Both configurations, and by the number of processes what both runs have come to."""
    first = load_config(data / "small.toml", {"steps": 3, "crops.size": 64, "evaluate_every": 100})
    second = SecondStageConfig(
        "here", steps=4, pretrain_steps=1, batch=16, warmup=2, threads=1, evaluate_every=100, out="",
        adversarial=0.1, classification=0.1, box=0.1,
    )  # fmt: skip
    trainings, places = [], {}
    for world in (4, 2, 1):
        places[world] = [tmp_path_factory.mktemp(f"{name}_{world}") for name in ("first", "second")]
        trainings += [
            (world, _free_port(), train, replace(config, out=str(place)))
            for train, config, place in zip((_first_stage, _second_stage), (first, second), places[world], strict=True)
        ]
    wait_for(start_processes(4, _joined, trainings))
    states = {world: [torch.load(place / "last.pt", weights_only=True) for place in places[world]] for world in places}
    return first, second, states


def _apart(a: dict, b: dict) -> float:
    """Distance of two networks' weights and statistics."""
    return sum((a[name].double() - b[name].double()).square().sum().item() for name in a if a[name].is_floating_point()) ** 0.5


def test_one_two_and_four_processes_train_the_same_proposal_network(trained):
    config, _, states = trained
    torch.manual_seed(config.seed)
    moved = _apart(states[1][0]["network"], ProposalNetwork(VARIANTS["fast"]).state_dict())
    for world in (2, 4):
        for part in ("network", "average"):
            apart = _apart(states[world][0][part], states[1][0][part])
            assert apart < 1e-9 * moved, (world, part, apart, moved)


def test_one_two_and_four_processes_train_the_same_second_stage(trained):
    _, config, states = trained
    torch.manual_seed(config.seed)
    for part, network in zip(("generator", "discriminator"), make_networks("slim", "srn+rn"), strict=True):
        moved = _apart(states[1][1][part], network.state_dict())
        for world in (2, 4):
            apart = _apart(states[world][1][part], states[1][1][part])
            assert apart < 1e-9 * moved, (world, part, apart, moved)


def _norms_of_uneven_shares(rank: int, port: int, folder: str) -> None:
    torch.distributed.init_process_group("gloo", init_method=f"tcp://localhost:{port}", rank=rank, world_size=2)
    values = torch.load(f"{folder}/values.pt")
    mine = (values[:1] if rank == 0 else values[1:]).requires_grad_()
    norm = torch.nn.BatchNorm2d(3)
    share_norms(norm)
    normalised = norm(mine)
    (normalised.pow(3) * mine.detach().cos()).sum().backward()
    torch.save((normalised.detach(), mine.grad, norm.state_dict()), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_normalisations_take_the_statistics_of_all_processes(tmp_path):
    """Of one crop in one process and three in the other: outputs, gradients and running statistics are those of all four."""
    torch.manual_seed(0)
    values = torch.randn(4, 3, 6, 5) * torch.tensor([1.0, 30.0, 0.1])[:, None, None] + 20
    torch.save(values, tmp_path / "values.pt")
    wait_for(start_processes(2, _norms_of_uneven_shares, _free_port(), str(tmp_path)))
    parts = [torch.load(tmp_path / f"{rank}.pt") for rank in range(2)]
    norm = torch.nn.BatchNorm2d(3)
    whole = values.clone().requires_grad_()
    normalised = norm(whole)
    (normalised.pow(3) * values.cos()).sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in parts]), normalised.detach(), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(torch.cat([part[1] for part in parts]), whole.grad, rtol=1e-3, atol=1e-3)
    for part in parts:
        for name, value in norm.state_dict().items():
            torch.testing.assert_close(part[2][name], value, rtol=1e-5, atol=1e-5)
    alone = torch.nn.BatchNorm2d(3)
    share_norms(alone)
    assert type(alone) is SharedBatchNorm2d and torch.equal(alone(values), torch.nn.BatchNorm2d(3)(values))


def test_each_process_gets_its_share_of_sharp_candidates():
    everything = _candidates(400)
    sharp_only_of_some = np.where(np.arange(400) % 5 == 0, everything.target, -1).astype(np.int32)
    everything = replace(everything, target=sharp_only_of_some)
    config = SecondStageConfig("here", batch=32)
    pools, _ = make_pools(everything, config)
    for world in (1, 2, 4, 8):
        shares = []
        for rank in range(world):
            mine = draw(pools, config, 7)[share_of_batch(32, Process(rank, world, torch.device("cpu")))]
            shares.append(mine)
            assert len(mine) == 32 // world and np.isin(mine[0::4], pools.sharp).all()
            assert np.isin(mine, pools.known).all()
        assert np.concatenate(shares).tolist() == draw(pools, config, 7).tolist()
    with pytest.raises(ValueError, match=r"a quarter of batch \(24\) is 6, must be a multiple of the 4 processes"):
        Process(0, 4, torch.device("cpu")).require_divisible("a quarter of batch (24)", 6)
