"""Devices: auto takes what works, says in one line what does not, and `tinyfaces env` tells it all. GPUs are simulated here."""

from importlib import metadata
from types import SimpleNamespace

import numpy as np
import onnxruntime
import pytest
from typer.testing import CliRunner

from tinyfaces import Detector, ModelError
from tinyfaces.cli import app
from tinyfaces.cli import env as env_command  # noqa: F401
from tinyfaces.detection import devices, runtime
from tinyfaces.detection.devices import PROVIDERS, chosen_device, problem_with
from tinyfaces.detection.runtime import RuntimeOptions, load_session


class _Gpu:
    """ONNX Runtime with a provider that is the CPU's under another name. works: whether a session gets it; off: its error."""

    def __init__(self, *there: str, works: bool = True, off: float = 0.0) -> None:
        self._there, self._works, self._off = there, works, off
        self.SessionOptions = onnxruntime.SessionOptions
        self.GraphOptimizationLevel = onnxruntime.GraphOptimizationLevel
        self.opened: list[str] = []
        self.severity = 2

    def set_default_logger_severity(self, severity):
        self.severity = severity

    def get_available_providers(self):
        return [*self._there, "CPUExecutionProvider"]

    def InferenceSession(self, path, options, providers):
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        self.opened.append(providers[0])
        assert self.severity == 4 or providers == ["CPUExecutionProvider"], "a library that is missing is not printed"
        gpu = providers[0] != "CPUExecutionProvider"
        got = providers if self._works else ["CPUExecutionProvider"]

        def run(names, inputs):
            return [output + self._off * gpu for output in session.run(names, inputs)]

        return SimpleNamespace(run=run, get_providers=lambda: got, get_inputs=session.get_inputs, get_outputs=session.get_outputs)


@pytest.fixture(autouse=True)
def chosen_anew():
    chosen_device.cache_clear()
    yield
    chosen_device.cache_clear()


@pytest.mark.parametrize("device", ["cuda", "directml"])
def test_auto_takes_a_gpu_that_works_and_float32_there(monkeypatch, toy_model, device):
    gpu = _Gpu(PROVIDERS[device][0])
    monkeypatch.setattr(runtime, "quiet_onnxruntime", lambda: gpu)
    options = RuntimeOptions()
    assert options.runs_on == device and options.file_for(toy_model) == toy_model
    images = np.zeros((1, 3, 64, 64), np.float32)
    for ours, theirs in zip(
        load_session(toy_model, options=options).run(images),
        load_session(toy_model, options=RuntimeOptions(device="cpu")).run(images), strict=True,
    ):  # fmt: skip
        np.testing.assert_array_equal(ours, theirs)
    assert gpu.opened[0] == PROVIDERS[device][0] == gpu.opened[2], "the first is the trial"
    assert RuntimeOptions(precision="int8").runs_on == "cpu" == RuntimeOptions("openvino").runs_on


@pytest.mark.parametrize("fault, words", [({"works": False}, "a library of it is missing"), ({"off": 1.0}, "off by 1")])
def test_auto_falls_back_with_one_line(monkeypatch, caplog, fault, words):
    gpu = _Gpu("CUDAExecutionProvider", **fault)
    monkeypatch.setattr(runtime, "quiet_onnxruntime", lambda: gpu)
    assert [RuntimeOptions().runs_on for _ in range(3)] == ["cpu"] * 3
    assert len(caplog.messages) == 1 and words in caplog.messages[0] and "\n" not in caplog.messages[0]
    assert len(gpu.opened) <= 2, "tried once"
    assert gpu.severity == 2


def test_the_best_of_several_is_taken(monkeypatch):
    gpu = _Gpu("DmlExecutionProvider", "CUDAExecutionProvider")
    assert chosen_device(gpu).device == "cuda"
    assert chosen_device(_Gpu("CoreMLExecutionProvider")).device == "cpu", "not measured, so only on request"


def test_the_trial_passes_on_the_cpu_itself():
    assert problem_with("cpu", onnxruntime) is None


def test_here_auto_is_the_cpu_and_says_nothing(caplog, toy_model):
    Detector(toy_model)
    assert chosen_device(onnxruntime).device == "cpu" and not caplog.messages


@pytest.mark.parametrize("device", ["cuda", "directml", "coreml"])
def test_a_device_that_is_not_there_is_one_line_that_says_what_is_needed(toy_model, device):
    if PROVIDERS[device][0] in onnxruntime.get_available_providers():
        pytest.skip("it is there")
    with pytest.raises(ModelError, match=f"device '{device}' needs onnxruntime") as caught:
        Detector(toy_model, device=device)
    assert "\n" not in str(caught.value)


def test_directml_gets_one_call_at_a_time(monkeypatch, toy_model):
    monkeypatch.setattr(runtime, "quiet_onnxruntime", lambda: _Gpu("DmlExecutionProvider"))
    session = load_session(toy_model, options=RuntimeOptions(device="directml"))
    assert not session._turn.locked()
    inner, held = session._session.run, []
    session._session.run = lambda *given: held.append(session._turn.locked()) or inner(*given)
    session.run(np.zeros((1, 3, 64, 64), np.float32))
    assert held == [True]


@pytest.fixture
def owners(monkeypatch):
    known = {"onnxruntime": ["onnxruntime"], "cv2": ["opencv-python-headless"]}
    monkeypatch.setattr(metadata, "packages_distributions", lambda: known)
    return known


def test_env_tells_what_is_chosen_and_why(owners):
    done = CliRunner().invoke(app, ["env"])
    assert done.exit_code == 0, done.output
    for words in ("tinyfaces ", "packages: numpy ", "processor: ", "processors used: ", "devices: cpu", "--device auto: cpu, as",
                  "--precision auto: "):  # fmt: skip
        assert words in done.output
    assert "fault" not in done.output


def test_env_names_two_owners_of_a_module(owners):
    owners["onnxruntime"] = ["onnxruntime", "onnxruntime-gpu"]
    done = CliRunner().invoke(app, ["env"])
    assert done.exit_code == 1
    assert "fault: onnxruntime and onnxruntime-gpu both own the module onnxruntime: pip uninstall" in done.output
    owners["onnxruntime"] = ["onnxruntime"]
    owners["cv2"] = ["opencv-python", "opencv-python-headless"]
    done = CliRunner().invoke(app, ["env"])
    assert done.exit_code == 0 and "warning: opencv-python and opencv-python-headless both own the module cv2" in done.output
    owners["onnxruntime"] = []
    assert "fault: no package with the module onnxruntime" in CliRunner().invoke(app, ["env"]).output
    assert devices.DEVICES[0] == "auto"
