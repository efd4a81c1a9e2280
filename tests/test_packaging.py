"""What is packaged: the card for the Hub, stand-ins for ONNX Runtime, the container, the workflow."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tinyfaces.weights import models

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def test_the_hub_card_has_the_figures_of_the_weights(tmp_path):
    yaml = pytest.importorskip("yaml")
    command = [sys.executable, str(ROOT / "tools/hub_card.py"), "--out", str(tmp_path / "hub/README.md")]
    subprocess.run(command, check=True, timeout=60)
    _, head, text = (tmp_path / "hub/README.md").read_text(encoding="utf-8").split("---\n", 2)
    facts = yaml.safe_load(head)
    assert facts["license"] == "other" and facts["license_link"] == "WEIGHTS_LICENSE.md"
    assert (ROOT / facts["license_link"]).is_file()
    assert len(facts["model-index"]) == len(models()) > 1
    for entry, record in zip(facts["model-index"], models().values(), strict=True):
        assert entry["name"] == f"tinyfaces {record.name}"
        measured = {metric["name"]: metric["value"] for metric in entry["results"][0]["metrics"]}
        assert measured == {f"AP {subset}": round(record.wild_ap[subset], 3) for subset in ("easy", "medium", "hard")}
    assert "# Model card" in text and "The weights are for research use" in text
    assert not re.search(r"\]\((?!\w+:)", text), "a link would lead nowhere there"


@pytest.mark.parametrize("kind, package", [("gpu", "onnxruntime-gpu"), ("directml", "onnxruntime-directml")])
def test_a_stand_in_satisfies_the_dependency_and_owns_no_module(kind, package):
    from packaging.requirements import Requirement

    stand_in = tomllib.loads((ROOT / "runtimes" / kind / "pyproject.toml").read_text(encoding="utf-8"))
    needed = next(one for one in map(Requirement, PROJECT["dependencies"]) if one.name == "onnxruntime")
    assert stand_in["project"]["name"] == needed.name and needed.specifier.contains(stand_in["project"]["version"])
    (brought,) = map(Requirement, stand_in["project"]["dependencies"])
    assert brought.name == package and brought.specifier == needed.specifier
    assert stand_in["tool"]["setuptools"]["packages"] == []


def test_no_extra_brings_a_second_owner_of_onnxruntime():
    for name, packages in PROJECT["optional-dependencies"].items():
        assert not any(re.match(r"onnxruntime-(gpu|directml|openvino)", package) for package in packages), name


def test_the_workflow_covers_the_pythons_and_systems_that_are_promised():
    yaml = pytest.importorskip("yaml")
    text = (ROOT / ".github/workflows/tests.yml").read_text(encoding="utf-8")
    matrix = yaml.safe_load(text)["jobs"]["tests"]["strategy"]["matrix"]
    promised = [line.rpartition(" ")[2] for line in PROJECT["classifiers"] if re.search(r"Python :: 3\.\d+$", line)]
    assert matrix["python"] == promised and "OS Independent" in " ".join(PROJECT["classifiers"])
    assert {name.partition("-")[0] for name in matrix["system"]} == {"ubuntu", "windows", "macos"}
    assert "not run yet" in text


def test_the_container_is_small_unprivileged_and_watched():
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8")
    last = lines.rpartition("\nFROM ")[2]
    assert lines.count("\nFROM ") == 2 and "--from=builder" in last and "/source" not in last
    assert last.index("\nUSER tinyfaces") < last.index("\nCMD ") and "HEALTHCHECK" in last


def test_the_container_holds_no_gpl_unless_asked_for():
    """The wheels of pillow-heif contain x265."""
    lines = (ROOT / "Containerfile").read_text(encoding="utf-8").splitlines()
    steps = [line for line in lines if not line.startswith("#")]
    assert not any("heif" in line for line in steps) and steps.count("ARG EXTRAS=serve") == 2, "one for each stage"
    assert sum("[${EXTRAS}]" in line for line in steps) == 2
    assert not any("heif" in package for package in [*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["serve"]])


def test_the_lock_satisfies_what_is_asked_for():
    from packaging.requirements import Requirement

    locked = dict(
        line.strip().lower().replace("_", "-").split("==")
        for line in (ROOT / "requirements-dev.lock").read_text().splitlines() if "==" in line and not line.startswith("#")
    )  # fmt: skip
    extras = PROJECT["optional-dependencies"]
    for wanted in map(Requirement, [*PROJECT["dependencies"], *extras["train"], *extras["test"], *extras["serve"]]):
        if wanted.name != "tinyfaces":
            assert wanted.specifier.contains(locked[wanted.name.lower()]), wanted
