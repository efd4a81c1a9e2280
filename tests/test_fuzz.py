"""Damaged photos, videos, annotations and uploads: a line or a result for each, and nothing half-written."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FUZZ = Path(__file__).parents[1] / "benchmarks/fuzz.py"
NUMBERS = {"photos": 300, "videos": 60, "labels": 200, "uploads": 200}


@pytest.mark.skipif(sys.platform != "linux", reason="the script measures memory by /proc")
@pytest.mark.parametrize("kind", NUMBERS)
def test_damaged_files_end_in_a_result_or_a_line(tmp_path, kind):
    needed = {"videos": ("av",), "labels": ("scipy", "torch"), "uploads": ("fastapi",)}
    for name in ("av", *needed.get(kind, ())):
        pytest.importorskip(name)
    command = [sys.executable, FUZZ, f"--{kind}", str(NUMBERS[kind]), "--seed", "5", "--keep", tmp_path / "kept"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    figures = json.loads(done.stdout.splitlines()[-1])[kind]
    answers = sum(number for name, number in figures.items() if name.isdecimal() or name in ("done", "refused", "in part"))
    right = figures["200"] if kind == "uploads" else figures["done"]
    assert figures["files"] == answers == NUMBERS[kind] and 0 < right < NUMBERS[kind]
