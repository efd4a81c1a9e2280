"""What several tests need: a detector whose right answer is known, and faces drawn for it."""

import os
from pathlib import Path

import numpy as np
import pytest
from typer.testing import CliRunner, Result

import tinyfaces  # noqa: F401  (which keeps ONNX Runtime silent in all tests)
from tinyfaces.cli import app

# Two threads for networks as small as those of the tests wait for each other more than they compute. Read by torch at its import.
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def toy_model(tmp_path_factory) -> Path:
    """A network in ONNX that finds pure red squares of 8 px on the grid of 8, and pure green ones of 32 px on that of 32.

    A cell's logit is 0.1 (mean of the channel - 205): 5 where the cell is filled, far below 0 where it isn't.
    """
    onnx = pytest.importorskip("onnx", reason="onnx is not installed (the extra train)")
    from onnx import TensorProto, helper, numpy_helper

    nodes, constants, outputs = [], [], []
    for stride in (4, 8, 16, 32):
        weight = np.zeros((5, 3, 1, 1), np.float32)
        bias = np.array([-50, 0, 0, 0, 0], np.float32)
        if stride in (8, 32):
            weight[0, 0 if stride == 8 else 1] = 0.1
            bias[0] = -20.5
        constants += [numpy_helper.from_array(weight, f"w{stride}"), numpy_helper.from_array(bias, f"b{stride}")]
        nodes.append(helper.make_node("AveragePool", ["images"], [f"p{stride}"], kernel_shape=[stride] * 2, strides=[stride] * 2))
        nodes.append(helper.make_node("Conv", [f"p{stride}", f"w{stride}", f"b{stride}"], [f"stride{stride}"]))
        outputs.append(helper.make_tensor_value_info(f"stride{stride}", TensorProto.FLOAT, ["n", 5, f"h{stride}", f"w{stride}"]))
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["n", 3, "h", "w"])
    graph = helper.make_graph(nodes, "toy", [images], outputs, constants)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(model)
    path = tmp_path_factory.mktemp("model") / "toy.onnx"
    onnx.save(model, path)
    return path


def paint(height: int, width: int, small=(), large=()) -> np.ndarray:
    """A black image with red 8 px squares at the (x, y) of `small` and green 32 px ones at those of `large`."""
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in large:
        image[y : y + 32, x : x + 32, 1] = 255
    for x, y in small:
        image[y : y + 8, x : x + 8, 0] = 255
    return image


def corners(small=(), large=()) -> set[tuple[int, int, int, int]]:
    """The boxes of the squares that `paint` draws."""
    return {(x, y, x + 8, y + 8) for x, y in small} | {(x, y, x + 32, y + 32) for x, y in large}


def found(faces) -> set[tuple[int, int, int, int]]:
    """Boxes of `Faces`, rounded to whole pixels."""
    return {tuple(round(side) for side in box) for box in faces.boxes.tolist()}


@pytest.fixture
def run(toy_model, tmp_path, monkeypatch):
    """A function that gives a command with the toy model, in a folder of its own, and checks its exit code."""
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str, code: int = 0) -> Result:
        result = CliRunner().invoke(app, [*arguments, "--model", str(toy_model)])
        assert result.exit_code == code, (result.output, result.exception)
        assert "Traceback" not in result.output
        return result

    return call


@pytest.fixture
def run_on_videos(run):
    """`run` in one thread and with a threshold of 0.5, as tests of videos have it."""
    return lambda *arguments, code=0: run(*arguments, "--threads", "1", "--threshold", "0.5", code=code)


_SLOW_FILES = (
    "test_cluster.py", "test_page.py", "test_no_calls.py", "test_proposal_loop.py", "test_second_stage_loop.py",
    "test_together.py", "test_export.py", "test_fuzz.py", "test_interruptions.py", "test_processes.py",
    "test_odd_videos.py", "test_server.py", "test_large.py", "test_proposal_network.py",
    "test_review_page.py", "test_review_film.py", "test_tab.py", "test_static_page.py",
)  # fmt: skip
_SLOW_WORDS = ("test_commands_run", "[thorough-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what trains, starts processes or a browser, or runs the largest model, beside tests that say so themselves."""
    for item in items:
        if item.path.name in _SLOW_FILES or any(word in item.name for word in _SLOW_WORDS):
            item.add_marker(pytest.mark.slow)
