"""What the extras install, all together, and what the tests do without them."""

import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, packages_distributions, requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement


def _installed_with(name: str, extras: set[str], seen: set[tuple[str, str]]) -> None:
    """Add a distribution, with each of its extras or "" for none, and all that it needs."""
    try:
        needed = [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:  # an extra that is not installed here
        needed = []
    for extra in {*extras, ""} - {extra for known, extra in seen if known == name}:
        seen.add((name, extra))
        for one in needed:
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                _installed_with(one.name.lower().replace("_", "-"), one.extras, seen)


def test_one_distribution_owns_cv2():
    seen: set[tuple[str, str]] = set()
    extras = {
        extra.split("==")[1].strip(" '\"")
        for line in requires("tinyfaces") or ()
        for extra in line.split(";")[1:]
        if "==" in extra
    }
    assert {"train", "video", "supervision"} <= extras
    _installed_with("tinyfaces", extras, seen)
    assert {name for name, _ in seen if name.startswith("opencv")} == {"opencv-python-headless"}


def test_videos_need_pyav_alone():
    alone: set[tuple[str, str]] = set()
    _installed_with("tinyfaces", set(), alone)
    seen: set[tuple[str, str]] = set()
    _installed_with("tinyfaces", {"video"}, seen)
    assert {name for name, _ in seen} - {name for name, _ in alone} == {"av"}


@pytest.mark.slow
def test_the_tests_load_without_any_extra():
    """They skip what needs one."""
    kept: set[tuple[str, str]] = {("pip", ""), ("setuptools", "")}
    for name in ("tinyfaces", "pytest", "pytest-timeout"):
        _installed_with(name, set(), kept)
    names = {name for name, _ in kept}
    hidden = [
        module
        for module, owners in packages_distributions().items()
        if not any(owner.lower().replace("_", "-") in names for owner in owners)
    ]
    assert {"onnx", "cv2", "torch", "scipy", "av", "fastapi"} & set(hidden)
    code = f"""
import sys, pytest
sys.modules.update(dict.fromkeys({json.dumps(hidden)}))
sys.exit(pytest.main(["--collect-only", "-q", "-p", "pytest_timeout", "-p", "no:cacheprovider", "tests"]))
"""
    environment = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=Path(__file__).parents[1], env=environment, capture_output=True, text=True, timeout=280
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
