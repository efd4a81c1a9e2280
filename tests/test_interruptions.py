"""Runs that are killed, meet each other, or find the disk full end as an undisturbed run does."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("av", reason="PyAV is not installed (the extra video)")
SCRIPT = Path(__file__).parents[1] / "benchmarks/interruptions.py"


@pytest.mark.skipif(sys.platform != "linux", reason="the script forks, and mounts file systems in memory")
@pytest.mark.parametrize(
    "part,options", [("kills", ["--kills", "6"]), ("two at once", ["--minutes", "0.1"]), ("full disks", ["--levels", "2"])]
)
def test_nothing_is_lost_or_left_half_written(tmp_path, part, options):
    command = [sys.executable, SCRIPT, *options, "--photos", "4", "--frames", "4", "--commands", "anonymise", "json", "voc"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    figures = json.loads(done.stdout)
    if part not in figures:
        pytest.skip("file systems cannot be mounted here")
    counted = {"kills": "kills", "two at once": "rounds", "full disks": "disks"}[part]
    assert figures[part]["failures"] == [] and figures[part][counted] >= 1
    assert part != "full disks" or figures[part]["exit codes"].get("2", 0) >= 3
