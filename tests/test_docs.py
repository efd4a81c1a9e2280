"""The docs: commands marked `<!-- run -->` are run, the options of all others exist, links lead somewhere, the site builds."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
import typer
from PIL import Image
from typer.testing import CliRunner

from serving import running_service
from tinyfaces.cli import app

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = "<!-- run -->"


@dataclass(frozen=True)
class Block:
    """A block of code. language: empty for commands. lines: without their indent and trailing comments."""

    page: str
    language: str
    lines: tuple[str, ...]
    run: bool


def blocks_of(page: Path) -> list[Block]:
    """Fenced blocks, and commands indented by four spaces."""
    found: list[Block] = []
    marked = False
    lines = iter(page.read_text(encoding="utf-8").splitlines())
    for line in lines:
        if line.startswith("```"):
            code = []
            while not (inner := next(lines)).startswith("```"):
                code.append(inner)
            language = line.strip("` ")
            found.append(
                Block(page.name, "" if language in ("sh", "bash", "console", "shell") else language, tuple(code), marked)
            )
            marked = False
        elif re.match(r"    \S", line) and (found_command := command_of(line)):
            found.append(Block(page.name, "", (found_command,), marked))
        elif line.strip():
            marked = line.strip() == RUN
    return found


def command_of(line: str) -> str:
    command = re.sub(r"\s{2,}#.*|\s+# .*", "", line.strip())
    return command if re.match(r"(tinyfaces|python3?|pip|curl|torchrun|docker|tensorboard|mkdocs) ", command) else ""


BLOCKS = [block for page in PAGES for block in blocks_of(page)]
SHELL = [(block, command) for block in BLOCKS if not block.language for command in map(command_of, block.lines) if command]
OWN = [(block.page, command) for block, command in SHELL if command.startswith("tinyfaces ")]
TO_RUN = [(block.page, command) for block, command in SHELL if block.run]
SCRIPTS = [(block.page, "\n".join(block.lines)) for block in BLOCKS if block.language == "python" and block.run]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with photos named as in the docs."""
    folder = tmp_path_factory.mktemp("docs")
    (folder / "photos/more").mkdir(parents=True)
    (folder / "examples").mkdir()
    with Image.open(ROOT / "examples/solvay_1927.jpg") as photo:
        small = photo.convert("RGB").resize((400, 290))
    for name in ("photo.jpg", "photos/a.jpg", "photos/more/b.jpg", "examples/solvay_1927.jpg"):
        small.save(folder / name)
    return folder


@pytest.fixture(scope="module")
def port():
    with running_service() as service:
        yield service.port


def test_the_docs_have_commands():
    assert len(OWN) > 10 and len(TO_RUN) > 10 and len(SCRIPTS) >= 3


@pytest.mark.parametrize("page,command", dict.fromkeys(OWN))
def test_options_exist(page, command):
    words = shlex.split(command)[1:]
    group: object = typer.main.get_command(app)
    while words and hasattr(group, "commands") and words[0] in group.commands:
        group = group.commands[words.pop(0)]
    assert not hasattr(group, "commands") or words[:1] in ([], ["--help"], ["--version"]), f"no such command: {command}"
    known = {name for parameter in group.params for name in (*parameter.opts, *parameter.secondary_opts)} | {"--help"}
    for word in words:
        if word.startswith("-") and not re.fullmatch(r"-\d.*", word):
            assert word.split("=")[0] in known, f"{page}: {command}: no option {word}"


@pytest.mark.parametrize("page,command", TO_RUN)
def test_commands_run(page, command, place, port, monkeypatch):
    monkeypatch.chdir(place)
    if command.startswith("tinyfaces serve"):
        options = shlex.split(command)[2:]
        with running_service(*options) as service:
            os.kill(service.process.pid, signal.SIGTERM)
            assert service.process.wait(10) in (0, -signal.SIGTERM)
    elif command.startswith("tinyfaces "):
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, result.output
    elif command.startswith("curl "):
        if shutil.which("curl") is None:
            pytest.skip("no curl on this machine")
        words = shlex.split(command.replace("127.0.0.1:8000", f"127.0.0.1:{port}"))
        result = subprocess.run([*words, "--fail", "-sS"], capture_output=True, timeout=30)
        assert result.returncode == 0, (page, command, result.stdout, result.stderr)
        if "-o" in words:
            Image.open(words[words.index("-o") + 1]).load()
    else:
        pytest.fail(f"{page}: {command}: marked to be run, but the test does not know how")


@pytest.mark.parametrize("page,script", SCRIPTS)
def test_scripts_run(page, script, place, port, monkeypatch):
    monkeypatch.chdir(place)
    exec(compile(script.replace("127.0.0.1:8000", f"127.0.0.1:{port}"), page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)", page.read_text(encoding="utf-8")):
        if not re.match(r"\w+:", target):
            assert (page.parent / target).exists(), target


def test_the_site_builds_and_asks_nobody_else(tmp_path):
    pytest.importorskip("mkdocs", reason="needs the extra: pip install 'tinyfaces[docs]'")
    pytest.importorskip("mkdocstrings", reason="needs the extra: pip install 'tinyfaces[docs]'")
    command = [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", str(tmp_path / "site")]
    result = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert result.returncode == 0, result.stdout + result.stderr
    api = (tmp_path / "site/api/index.html").read_text()
    for text in ("Finds faces in images.", "The faces in an image, or in each of a list of images", "The web application."):
        assert text in api
    for page in (tmp_path / "site").rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)[^>]*>", page.read_text()):
            source = re.search(r'(?:src|href)="([^"]+)"', tag)
            loads = 'rel="canonical"' not in tag and 'rel="prev"' not in tag and 'rel="next"' not in tag
            assert not (source and loads and re.match(r"(https?:)?//", source[1])), tag
