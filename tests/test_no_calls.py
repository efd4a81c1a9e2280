"""Nothing leaves the machine, and nothing is left in the user's home: no library on the way sends data about its use."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from conftest import paint

ROOT = Path(__file__).parents[1]
_SECONDS = 11  # ONNX Runtime looks its collector up 9 s after it was loaded


def _python(code: str, home: Path, *arguments: str, before: tuple[str, ...] = ()) -> subprocess.CompletedProcess:
    """Run a program as a user whose home is new and who has set nothing."""
    kept = ("PATH", "LANG", "LC_ALL", "VIRTUAL_ENV", "PYTHONPATH", "SYSTEMROOT")  # not CI, which silences some libraries
    environment = {name: os.environ[name] for name in kept if name in os.environ}
    command = [*before, sys.executable, "-c", code, *arguments]
    return subprocess.run(command, capture_output=True, text=True, env={**environment, "HOME": str(home)}, cwd=home.parent)


@pytest.fixture
def home(tmp_path):
    (tmp_path / "home").mkdir()
    Image.fromarray(paint(64, 64, [(8, 8)])).save(tmp_path / "a.png")
    return tmp_path / "home"


COMMAND = "import sys; sys.argv[0] = 'tinyfaces'; from tinyfaces.cli import main; main()"
PYTHON = "import sys, tinyfaces; tinyfaces.Detector(sys.argv[1]).detect('a.png')"


@pytest.mark.parametrize("way", ["command", "python", "own detector first"])
def test_a_detection_creates_no_file_in_the_home(home, toy_model, way):
    if way == "command":
        done = _python(COMMAND, home, "anonymise", "a.png", "--model", str(toy_model))
    elif way == "python":
        done = _python(PYTHON, home, str(toy_model))
    else:
        code = "import sys, tinyfaces, onnxruntime; onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])"
        done = _python(code, home, str(toy_model))
    assert done.returncode == 0 and done.stderr == ""
    assert list(home.rglob("*")) == []


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
def test_a_detection_makes_no_look_up(home, toy_model):
    trace = home.parent / "trace.txt"
    watch = ("strace", "-f", "-o", str(trace), "-e", "trace=socket,connect,sendto,sendmmsg")
    done = _python(f"{PYTHON}; import time; time.sleep({_SECONDS})", home, str(toy_model), before=watch)
    if "ptrace" in done.stderr:
        pytest.skip("strace is not permitted here")
    assert done.returncode == 0, done.stderr
    assert [line for line in trace.read_text().splitlines() if "AF_INET" in line] == []


def test_who_imported_onnxruntime_before_is_told(home, toy_model):
    code = (
        "import sys, types, warnings; off = []\n"
        "sys.modules['onnxruntime'] = types.SimpleNamespace(disable_telemetry_events=lambda: off.append(1))\n"
        "import tinyfaces; print(len(off))"
    )
    told = _python(code, home)
    assert told.stdout == "1\n" and "onnxruntime was imported before tinyfaces" in told.stderr
    silent = _python("import os; os.environ['ORT_DISABLE_TELEMETRY'] = '1'; " + code, home)
    assert silent.stdout == "1\n" and silent.stderr == ""


def test_workers_and_further_processes_inherit_it(home):
    code = (
        "import json, os, subprocess, sys, tinyfaces\n"
        "child = 'import json, os; print(json.dumps(dict(os.environ)))'\n"
        "print(subprocess.run([sys.executable, '-c', child], capture_output=True, text=True).stdout)"
    )
    inherited = json.loads(_python(code, home).stdout)
    assert inherited["ORT_DISABLE_TELEMETRY"] == "1" and inherited["RAY_USAGE_STATS_ENABLED"] == "0"


def test_ray_sends_no_usage_statistics(home):
    pytest.importorskip("ray", reason="ray is not installed")
    code = (
        "import tinyfaces\ntry:\n from ray._common.usage import usage_lib\n"
        "except ImportError:\n from ray._private.usage import usage_lib\nprint(usage_lib.usage_stats_enabled())"
    )
    assert _python(code, home).stdout == "False\n"


FAKE_OPENVINO = """
try:
    import openvino_telemetry
    openvino_telemetry.Telemetry()
except ImportError:
    pass
"""
FAKE_TELEMETRY = """
print("sent")
class Telemetry:
    one = None
    def __new__(cls):
        if cls.one is None:
            cls.one = super().__new__(cls)
            cls.one.consent = True
        return cls.one
"""


def test_openvino_is_imported_without_its_telemetry(home):
    (home.parent / "openvino.py").write_text(FAKE_OPENVINO)
    (home.parent / "openvino_telemetry.py").write_text(FAKE_TELEMETRY)
    code = "import sys; sys.path.insert(0, '.'); from tinyfaces.detection.runtime import quiet_openvino\n{}quiet_openvino()\n"
    silent = _python(code.format("") + "import openvino_telemetry as later", home)
    assert silent.stdout == "sent\n" and silent.stderr == "", "only others may import it"
    told = _python(code.format("import openvino\n") + "print(sys.modules['openvino_telemetry'].Telemetry().consent)", home)
    assert told.stdout == "sent\nFalse\n" and "openvino was imported before tinyfaces" in told.stderr


def test_a_detection_with_openvino_creates_no_file_in_the_home(home, toy_model):
    pytest.importorskip("openvino", reason="openvino is not installed")
    code = "import sys, tinyfaces; tinyfaces.Detector(sys.argv[1], backend='openvino').detect('a.png')"
    done = _python(code, home, str(toy_model))
    assert done.returncode == 0 and list(home.rglob("*")) == []


def test_the_container_says_so_too():
    lines = (ROOT / "Containerfile").read_text()
    assert "ORT_DISABLE_TELEMETRY=1" in lines


def test_no_module_imports_onnxruntime_past_the_switch():
    """On Windows the environment says nothing; there only a call switches it off, which `quiet_onnxruntime` makes."""
    calls = {
        path.relative_to(ROOT).as_posix()
        for path in (ROOT / "src").rglob("*.py")
        if any(line.split()[:1] in (["import"], ["from"]) and line.split()[1].split(".")[0] == "onnxruntime"
               for line in path.read_text().splitlines())
    }  # fmt: skip
    assert calls == {"src/tinyfaces/detection/runtime.py", "src/tinyfaces/training/quantise.py"}
    assert "quiet_onnxruntime()" in (ROOT / "src/tinyfaces/training/quantise.py").read_text()


def test_the_documentation_site_asks_nobody():
    text = (ROOT / "mkdocs.yml").read_text()
    assert "font: false" in text
    assert not {"social", "privacy", "info", "analytics"} & {line.strip(" -:").split(":")[0] for line in text.splitlines()}
