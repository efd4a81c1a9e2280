"""The docs: commands are parsed and run, examples are run, links lead somewhere, tables agree, the site builds."""

import csv
import gzip
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tomllib
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

import tinyfaces
from serving import running_service
from tinyfaces.cli import app
from tinyfaces.weights import models

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").glob("*.md"))]
LOGS = [ROOT / "CHANGELOG.md", *sorted((ROOT / "research").glob("*.md"))]
"""Their commands are what was once run, so only their links and words are tested."""
MOST_LINES = {"README.md": 110, "docs/training.md": 150}
OLD_WORDS = r"\b(cascades?|glances?|lessons?|in place of|people's boxes)\b"
"""Words that the glossary in docs/architecture.md replaced, or that native readers stumbled over."""
PROGRAMS = ("tinyfaces", "python", "python3", "pip", "curl", "torchrun", "docker", "mkdocs", "tensorboard")

NOT_RUN = {
    r"(python3?|pip|docker|mkdocs|torchrun|tensorboard) ": "no command of the package: makes environments, data or figures",
    r"tinyfaces train": "takes hours; test_proposal_loop.py and test_second_stage_loop.py train on photos that they make",
    r"tinyfaces export": "needs what training makes; test_export.py exports",
    r"tinyfaces (evaluate wider|detect WIDER_val)": "needs WIDER FACE; test_wider.py runs it",
    r"tinyfaces page": "needs files from npm; test_static_page.py runs it",
    r"tinyfaces review": "runs until it is stopped; test_review.py and test_review_page.py run it",
    r".* --ray ": "needs a cluster; test_cluster.py runs it",
}
"""Commands that aren't run here, and why; that their options exist is tested all the same."""


@dataclass(frozen=True)
class Block:
    """A block of code. language: empty for commands."""

    page: str
    language: str
    lines: tuple[str, ...]


def blocks_of(page: Path) -> list[Block]:
    """Fenced blocks, and commands indented by four spaces."""
    found: list[Block] = []
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.lstrip().startswith("```"):
            code = []
            while not (inner := next(lines)).lstrip().startswith("```"):
                code.append(inner)
            found.append(Block(page.name, line.strip("` ").replace("bash", "").replace("sh", ""), tuple(code)))
        elif command_of(line) and line.startswith("    "):
            found.append(Block(page.name, "", (line,)))
    return found


def command_of(line: str) -> str:
    """The command on a line, without a comment after it; empty where there is none."""
    words = line.split()
    return re.sub(r"\s+# .*", "", line.strip()) if words and words[0] in PROGRAMS else ""


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
COMMANDS = [
    (block.page, command) for block in BLOCKS if not block.language for command in map(command_of, block.lines) if command
]
OWN = [(page, command) for page, command in COMMANDS if command.startswith("tinyfaces ")]
TO_RUN = [(page, command) for page, command in COMMANDS if not any(re.match(pattern, command) for pattern in NOT_RUN)]
SCRIPTS = [(block.page, "\n".join(block.lines)) for block in BLOCKS if block.language == "python"]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    """A folder for each page, with the files that the docs name."""
    made: dict[str, Path] = {}

    def place(page: str) -> Path:
        if page not in made:
            made[page] = tmp_path_factory.mktemp("docs")
            fill(made[page])
        return made[page]

    return place


def fill(folder: Path) -> None:
    with Image.open(ROOT / "examples/solvay_1927.jpg") as photo:
        small = photo.convert("RGB").resize((240, 174))
    for name in (
        "photo.jpg", "crowd.jpg", "stadium.jpg", "a.jpg", "b.jpg", "panorama.tif", "photos/a.jpg", "photos/more/b.jpg",
        "party/a.jpg", "stands/a.jpg", "archive/a.jpg", "trip/day/a.jpg", "examples/solvay_1927.jpg",
    ):  # fmt: skip
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        small.save(folder / name)
    small.resize((800, 600)).save(folder / "square.jpg")
    for name in ("plates/a.txt", "yolo_labels/a.txt"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("0 0.5 0.5 0.1 0.1\n")
    small.resize((64, 64)).convert("RGBA").save(folder / "smile.png")
    (folder / "areas.json").write_text('{"left": [[0, 0], [0.5, 0], [0.5, 1], [0, 1]]}')
    annotations = [{"id": 1, "image_id": 1, "category_id": 1, "bbox": [100, 80, 9, 10], "area": 90, "iscrowd": 0}]
    images = [{"id": 1, "file_name": "a.jpg", "width": 240, "height": 174}]
    known = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "face"}]}
    (folder / "dev.json.gz").write_bytes(gzip.compress(json.dumps(known).encode()))
    shutil.copy(models()["fast"].path, folder / "my.onnx")


def add_videos(folder: Path, command: str) -> None:
    names = [name for name in re.findall(r"[\w/]+\.mp4", command) if not (folder / name).exists()]
    if names:
        av = pytest.importorskip("av", reason="needs the extra: pip install 'tinyfaces[video]'")
        pixels = np.asarray(Image.open(folder / "photo.jpg"))
        with av.open(str(folder / names[0]), "w") as container:
            stream = container.add_stream("h264", 10, width=pixels.shape[1], height=pixels.shape[0], pix_fmt="yuv420p")
            for _ in range(6):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels)))
            container.mux(stream.encode())


def skip_without_extra(told: str) -> None:
    if missing := re.search(r".*pip install 'tinyfaces\[\w+\]'", told):
        pytest.skip(missing[0])


@pytest.fixture(scope="module")
def localised():
    """A function that puts the address of a service, which starts at its first use, for the one that the docs name."""
    with ExitStack() as services:
        start = cache(lambda: services.enter_context(running_service("--model", "fast")).port)
        yield lambda text: text.replace("127.0.0.1:8000", f"127.0.0.1:{start()}") if "127.0.0.1:8000" in text else text


def test_the_docs_have_commands():
    assert len(OWN) > 20 and len(TO_RUN) > 20 and len(SCRIPTS) >= 3
    assert not [pattern for pattern in NOT_RUN if not any(re.match(pattern, command) for _, command in COMMANDS)]


@pytest.mark.parametrize("page,command", dict.fromkeys(OWN))
def test_commands_parse(page, command):
    words = shlex.split(command)[1:]
    group: Any = typer.main.get_command(app)
    while words and hasattr(group, "commands") and words[0] in group.commands:
        group = group.commands[words.pop(0)]
    assert not hasattr(group, "commands"), f"{page}: no such command: {command}"
    group.make_context("tinyfaces", words)  # raises an error that names the option


@pytest.mark.parametrize("page,command", TO_RUN)
def test_commands_run(page, command, places, localised, monkeypatch):
    monkeypatch.chdir(places(page))
    add_videos(places(page), command)
    if command.startswith("tinyfaces serve"):
        with running_service(*shlex.split(command)[2:]) as service:
            os.kill(service.process.pid, signal.SIGTERM)
            assert service.process.wait(10) in (0, -signal.SIGTERM)
    elif command.startswith("tinyfaces "):
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        skip_without_extra(result.output)
        assert result.exit_code == 0, result.output
    else:
        assert command.startswith("curl "), f"{page}: {command}: the test does not know how to run it"
        if shutil.which("curl") is None:
            pytest.skip("no curl on this machine")
        words = shlex.split(localised(command))
        result = subprocess.run([*words, "--fail", "-sS"], capture_output=True, timeout=30)
        assert result.returncode == 0, (result.stdout, result.stderr)
        if "-o" in words:
            Image.open(words[words.index("-o") + 1]).load()


@pytest.mark.parametrize("page,script", SCRIPTS)
def test_scripts_run(page, script, places, localised, monkeypatch):
    monkeypatch.chdir(places(page))
    add_videos(places(page), script)
    boxes, scores = np.array([[10, 10, 20, 22]], np.float32), np.array([0.4], np.float32)
    left_to_the_reader = {"tinyfaces": tinyfaces, "boxes": boxes, "scores": scores, "my_detector": lambda image: (boxes, scores)}
    try:
        exec(compile(localised(script), page, "exec"), left_to_the_reader)
    except (ImportError, tinyfaces.ImageError) as error:
        skip_without_extra(str(error))
        raise


@pytest.mark.parametrize("block", [block for block in BLOCKS if block.language in ("toml", "json")], ids=lambda block: block.page)
def test_settings_can_be_read(block):
    (tomllib.loads if block.language == "toml" else json.loads)("\n".join(line.strip() for line in block.lines))


@pytest.mark.parametrize("page,most", MOST_LINES.items())
def test_pages_stay_short(page, most):
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= most


def test_the_readme_goes_from_terms_to_daily_use_to_figures():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    parts = [
        "## Install and run",
        "## What you may do",
        "## Daily commands",
        "## Python",
        "## Accuracy",
        "<!-- test command -->",
        "## More",
    ]
    places = [text.index(part) for part in parts]
    assert places == sorted(places)
    for command in re.findall(r"pip install '[^']+'", text):
        assert "'.[" in command or "-e '.[" in command, f"nothing is on an index yet: {command}"


def test_package_metadata():
    assert metadata.version("tinyfaces") == tinyfaces.__version__
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"] == "Apache-2.0 AND LicenseRef-tinyfaces-weights" and "version" in project["dynamic"]
    assert "LicenseRef-tinyfaces-weights" in (ROOT / "WEIGHTS_LICENSE.md").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    "name,keys", [("CITATION.cff", {"cff-version", "title", "authors"}), (".pre-commit-config.yaml", {"repos"})]
)
def test_files_of_habit_can_be_read(name, keys):
    yaml = pytest.importorskip("yaml", reason="comes with the extra: pip install '.[docs]'")
    assert keys <= yaml.safe_load((ROOT / name).read_text(encoding="utf-8")).keys()


def _rows_below(page: str, words: str) -> dict[str, list[str]]:
    """The rows of the first table below some words of a page: the first cell, without marks, and the others."""
    lines = (ROOT / page).read_text(encoding="utf-8").replace("*", "").replace("`", "").split(words, 1)[1].splitlines()
    first = next(number for number, line in enumerate(lines) if line.startswith("|"))
    table = list(itertools.takewhile(lambda line: line.startswith("|"), lines[first + 2 :]))
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    return {row[0]: row[1:] for row in cells}


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("README.md", "WIDER FACE validation set"),
        ("docs/benchmark.md", "## WIDER FACE validation"),
        ("docs/model_card.md", "WIDER FACE validation, official"),
    ],
)
def test_wider_face_figures_are_those_that_were_measured(page, words):
    with (ROOT / "benchmarks/wider_val.csv").open(newline="") as file:
        known = {row["detector"]: row for row in csv.DictReader(file)}
    rows = _rows_below(page, words)
    assert "5f8825a" in (ROOT / page).read_text(encoding="utf-8") and len(rows) >= 2
    for name, shown in rows.items():
        row = known.get(name) or known.get(f"{name}, both stages") or known[f"tinyfaces {name}, both stages"]
        bands = ["easy", "medium", "hard", *(["all"] if len(shown) == 6 else []), "tiny", "micro"]
        assert shown == [row[band] or "-" for band in bands], name


@pytest.mark.parametrize(
    ("page", "words", "part", "bands"),
    [
        ("docs/second_stage.md", "## How much it helps", "wild_dev", "easy,medium,hard,tiny,<=10,16-32,all"),
        ("docs/second_stage.md", "777 photos of the dev split", "dev split", "all,<=10,10-16,16-32,people,people <=10"),
        ("docs/benchmark.md", "### Average precision by face height", "dev split", "all,<=10,10-16,16-32,32-96,>96"),
    ],
)
def test_figures_of_both_stages_are_those_that_were_measured(page, words, part, bands):
    measured = json.loads((ROOT / "docs/second_stage.json").read_text())[part]
    stages = {
        "first stage": "proposals",
        "both stages": "both",
        "alone": "proposals",
        "with our second stage": "both",
    }
    drawn = {"people": "people's boxes, all", "people <=10": "people's boxes, <=10"}
    known_as = {"SCRFD-2.5G": "scrfd_2.5g_kps", "SCRFD-0.5G": "scrfd_500m_kps", "YuNet n": "yunet_n"}
    compared = 0
    for name, shown in _rows_below(page, words).items():
        detector, _, stage = name.removeprefix("tinyfaces ").rpartition(", ")
        if stage in stages:
            figures = measured[known_as.get(detector, detector)][stages[stage]]
            known = [f"{figures[drawn.get(band, band)]:.3f}" for band in bands.split(",")]
            assert shown[: len(known)] == known, name
            compared += 1
    assert compared >= 6


def test_precision_and_recall_are_those_that_were_measured():
    measured = json.loads((ROOT / "docs/second_stage.json").read_text())["wild_dev"]
    rows = _rows_below("docs/second_stage.md", "Precision, recall and false detections")
    assert len(rows) == 6
    for name, (precision, recall, f1, _) in rows.items():
        model, stages = name.split(", ")
        figures = measured[model]["proposals" if stages == "first stage" else "both"]
        known = (f"{figures['precision']:.1%}", f"{figures['recall']:.1%}", f"{figures['f1']:.3f}")
        assert (precision, recall, f1) == known, name


@pytest.mark.parametrize("page", PAGES + LOGS, ids=lambda page: page.name)
def test_words_are_those_of_the_glossary(page):
    prose = re.sub(r"```.*?```|`[^`\n]*`|^    [^\n]*$", "", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    assert not re.findall(OLD_WORDS, prose)
    assert not re.findall(r"(?:^|[.:|] )Of [^.\n]*", prose, flags=re.MULTILINE), "a sentence begins with 'Of'"


@pytest.mark.parametrize("page", PAGES + LOGS, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target


@pytest.mark.slow
def test_the_site_builds_and_asks_nobody_else(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra: pip install 'tinyfaces[docs]'")
    pytest.importorskip("mkdocstrings", reason="needs the extra: pip install 'tinyfaces[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    api = (tmp_path / "site/api/index.html").read_text()
    for text in ("Finds faces in images.", "Find the faces in an image, or in each of a list of images", "The web application."):
        assert text in api
    for page in (tmp_path / "site").rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", page.read_text()):
            source = re.search(r'(?:src|href)="([^"]+)"', tag)
            loads = not re.search(r'rel="(canonical|prev|next)"', tag)
            assert not (source and loads and re.match(r"(https?:)?//", source[1])), tag
