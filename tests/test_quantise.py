"""int8 copies: what they say is what the network says, and they are used where they should be."""

import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from tinyfaces.cli import app  # noqa: E402
from tinyfaces.detection import runtime  # noqa: E402
from tinyfaces.detection.runtime import PROPOSALS, ModelError, RuntimeOptions, int8_file, load_session  # noqa: E402
from tinyfaces.training.export import export  # noqa: E402
from tinyfaces.training.networks.proposal_network import VARIANTS, ProposalNetwork  # noqa: E402
from tinyfaces.training.quantise import photo_batches, quantise  # noqa: E402


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A checkpoint, photos, and the network exported with an int8 copy."""
    folder = tmp_path_factory.mktemp("int8")
    torch.manual_seed(0)
    network = ProposalNetwork(VARIANTS["fast"])
    rng = np.random.default_rng(0)
    (folder / "photos").mkdir()
    for number in range(4):
        coarse = Image.fromarray(rng.integers(0, 256, (12, 16, 3), np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(folder / f"photos/{number}.png")
    for batch in photo_batches(sorted((folder / "photos").iterdir())):
        network.train()(torch.from_numpy(batch))  # so that the normalisations know such photos
    torch.save({"average": network.state_dict(), "variant": "fast"}, folder / "best.pt")
    result = CliRunner().invoke(
        app, ["export", str(folder / "best.pt"), str(folder / "m.onnx"), "--photos", str(folder / "photos")]
    )
    assert result.exit_code == 0 and "m.int8.onnx" in result.output
    return folder


def test_outputs_are_near_those_of_float32(made):
    exact, whole = (
        load_session(made / "m.onnx", options=RuntimeOptions(precision=precision)) for precision in ("float32", "int8")
    )
    for batch in photo_batches(sorted((made / "photos").iterdir())):
        cut = np.ascontiguousarray(batch[:, :, :224, :320])
        for a, b in zip(exact.run(cut), whole.run(cut), strict=True):
            assert np.corrcoef(a.ravel(), b.ravel())[0, 1] > 0.99
            assert 0 < np.abs(a - b).mean() < 0.1 * a.std() + 0.02


def test_the_copy_is_a_quarter_of_the_size(made):
    assert (made / "m.int8.onnx").stat().st_size < 0.5 * (made / "m.onnx").stat().st_size


def test_auto_takes_it_where_the_processor_is_made_for_it(made, monkeypatch):
    batch = next(photo_batches([made / "photos/0.png"]))

    def first(precision):
        return load_session(made / "m.onnx", options=RuntimeOptions(precision=precision)).run(batch)[0]

    for able, expected in ((True, "int8"), (False, "float32")):
        monkeypatch.setattr(runtime, "multiplies_int8", lambda able=able: able)
        np.testing.assert_array_equal(first("auto"), first(expected))
    assert (first("int8") != first("float32")).any()


def test_what_cannot_be_had_is_said(made, tmp_path):
    export(made / "best.pt", tmp_path / "n.onnx")
    for settings, words in [
        ({"precision": "int4"}, "int4"), ({"precision": "int8"}, "n.int8.onnx"),
        ({"precision": "int8", "device": "cuda"}, "cuda"), ({"precision": "bfloat16"}, "openvino"),
    ]:  # fmt: skip
        with pytest.raises(ModelError, match=words):
            load_session(tmp_path / "n.onnx", PROPOSALS, RuntimeOptions(**settings))


def test_exporting_anew_drops_the_copy_of_the_network_before(made, tmp_path):
    export(made / "best.pt", tmp_path / "n.onnx")
    quantise(tmp_path / "n.onnx", PROPOSALS, photo_batches([made / "photos/0.png"]))
    assert int8_file(tmp_path / "n.onnx").is_file()
    export(made / "best.pt", tmp_path / "n.onnx")
    assert not int8_file(tmp_path / "n.onnx").exists()


def test_no_photo_no_copy(made, tmp_path):
    (tmp_path / "none").mkdir()
    result = CliRunner().invoke(
        app, ["export", str(made / "best.pt"), str(tmp_path / "n.onnx"), "--photos", str(tmp_path / "none")]
    )
    assert result.exit_code != 0 and "calibrate" in result.output
    assert not (tmp_path / "n.int8.onnx").exists()


def test_photos_that_cannot_be_read_are_told_and_the_others_calibrate(made, tmp_path):
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos/bad.jpg").write_text("no photo")
    (tmp_path / "photos/._a.png").write_text("a Mac's")
    arguments = ["export", str(made / "best.pt"), str(tmp_path / "n.onnx"), "--photos", str(tmp_path / "photos")]
    assert "calibrate" in CliRunner().invoke(app, arguments).output
    (tmp_path / "photos/good.png").write_bytes((made / "photos/0.png").read_bytes())
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 1 and (tmp_path / "n.int8.onnx").is_file(), result.output
    assert sum("bad.jpg" in line for line in result.output.splitlines()) == 1 and "._a" not in result.output
