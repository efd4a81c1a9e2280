"""ONNX Runtime's outputs are torch's, and bad checkpoints are told."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("safetensors")

from tinyfaces.detection.runtime import load_session  # noqa: E402
from tinyfaces.training.checkpoints import load_network  # noqa: E402
from tinyfaces.training.export import export, store_in_float16  # noqa: E402
from tinyfaces.training.folding import folded  # noqa: E402
from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork  # noqa: E402


def _network(variant):
    """With weights and statistics as after some training, so that batch normalisation does something."""
    torch.manual_seed(0)
    network = ProposalNetwork(VARIANTS[variant])
    for _ in range(3):
        network.train()(torch.rand(2, 3, 64, 64) * 255)
    for parameter in network.parameters():
        parameter.data += 0.02 * torch.randn_like(parameter)
    return network.eval()


@pytest.mark.parametrize("variant", VARIANTS)
@torch.no_grad()
def test_parity(variant, tmp_path):
    network = _network(variant)
    torch.save({"average": network.state_dict(), "variant": variant}, tmp_path / "best.pt")
    export(tmp_path / "best.pt", tmp_path / "out" / "net.onnx")
    session = load_session(tmp_path / "out" / "net.onnx")
    again, name = load_network(tmp_path / "out" / "net.safetensors")
    assert name == variant
    rng = np.random.default_rng(0)
    for shape in ((1, 3, 64, 64), (2, 3, 96, 192), (5, 3, 32, 32)):
        images = rng.uniform(0, 255, shape).astype(np.float32)
        expected = network(torch.from_numpy(images))
        for ours, theirs, copy in zip(session.run(images), expected, again(torch.from_numpy(images)), strict=True):
            assert np.abs(ours - theirs.numpy()).max() < 1e-3
            torch.testing.assert_close(copy, theirs)
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == ["net.onnx", "net.safetensors"]


@torch.no_grad()
def test_fusing_leaves_no_normalisation_and_the_same_outputs():
    network = _network("accurate")
    merged = folded(network)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in merged.modules())
    images = torch.rand(1, 3, 64, 64) * 255
    for ours, theirs in zip(merged(images), network(images), strict=True):
        torch.testing.assert_close(ours, theirs, atol=1e-3, rtol=1e-3)


@torch.no_grad()
def test_weights_of_16_bits_take_half_the_room_and_give_nearly_the_same(tmp_path):
    network = _network("fast")
    torch.save({"average": network.state_dict(), "variant": "fast"}, tmp_path / "best.pt")
    export(tmp_path / "best.pt", tmp_path / "full.onnx")
    export(tmp_path / "best.pt", tmp_path / "half.onnx", in_float16=True)
    store_in_float16(tmp_path / "half.onnx")
    for ending in ("onnx", "safetensors"):
        full, half = ((tmp_path / f"{name}.{ending}").stat().st_size for name in ("full", "half"))
        assert 0.48 < half / full < 0.6
    images = np.random.default_rng(0).uniform(0, 255, (2, 3, 96, 160)).astype(np.float32)
    again, _ = load_network(tmp_path / "half.safetensors")
    expected = load_session(tmp_path / "full.onnx").run(images)
    for ours, copy, theirs in zip(
        load_session(tmp_path / "half.onnx").run(images), again(torch.from_numpy(images)), expected, strict=True
    ):
        tolerance = 0.005 * np.abs(theirs).max()
        assert 0 < np.abs(ours - theirs).max() < tolerance and np.abs(copy.numpy() - theirs).max() < tolerance


def test_bad_checkpoints(tmp_path):
    (tmp_path / "bad.pt").write_bytes(b"nonsense")
    torch.save({"average": {}}, tmp_path / "other.pt")
    torch.save({"average": {}, "variant": "fast"}, tmp_path / "empty.pt")
    torch.save({"variant": "fast"}, tmp_path / "none.pt")
    for name, word in [
        ("bad.pt", "cannot be read as weights"),
        ("none.pt", "'average' is missing"),
        ("other.pt", "variant"),
        ("empty.pt", "cannot be read"),
        ("no.pt", "no such file"),
    ]:
        with pytest.raises(ValueError, match=word) as caught:
            export(tmp_path / name, tmp_path / "x.onnx")
        assert name in str(caught.value) and "\n" not in str(caught.value)
    assert not (tmp_path / "x.onnx").exists()
