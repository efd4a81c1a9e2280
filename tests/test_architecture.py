"""The one-way rule of docs/architecture.md: a wing imports only wings below it, and only training imports torch."""

import ast
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "src/tinyfaces"
MODULES = sorted(PACKAGE.rglob("*.py"))

BELOW = {
    "files": set(),
    "weights": set(),
    "detection": {"files", "weights"},
    "parsing": set(),
    "jobs": {"files", "weights", "detection", "parsing"},
    "video": {"files", "detection", "jobs"},
    "data": {"files", "weights", "detection", "parsing"},
    "evaluation": {"files", "weights", "detection", "parsing", "data"},
    "training": {"files", "weights", "detection", "parsing", "data", "evaluation"},
    "service": {"files", "weights", "detection", "jobs"},
    "cli": {"files", "weights", "detection", "parsing", "jobs", "data", "evaluation", "training", "service"},
    "__init__": {"detection", "jobs", "video"},
    "__main__": {"cli"},
}
"""What each wing (a folder or module in the package's root) may import."""

ONLY_IN_TRAINING = {"torch", "torchmetrics", "tensorboard", "safetensors", "onnx", "cv2", "msgspec"}
LARGEST_ROOT = 6
PUBLIC = {"video"}
"""Modules in the root that users import: their names are for them, whatever a wing below calls its own."""


def wing_of(module: Path) -> str:
    """The folder in the package's root that a module lies in, or its own name."""
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def imports(source: str) -> Iterator[tuple[int, str]]:
    """Line and full name of whatever is imported, anywhere in a module."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from ((node.lineno, f"{'.' * node.level}{node.module or ''}.{alias.name}") for alias in node.names)


def violations(wing: str, source: str) -> list[str]:
    """What a module of a wing imports against the rule."""
    found = []
    for line, name in imports(source):
        first, _, rest = name.partition(".")
        if not first:
            found.append(f"line {line}: {name} is relative")
        elif first == "tinyfaces":
            target = rest.partition(".")[0]
            # The public names are for users: inside, a module says from which wing it takes something.
            if target not in {wing, "__version__"} | BELOW[wing]:
                found.append(f"line {line}: {wing} imports {name}")
        elif first in ONLY_IN_TRAINING and wing != "training":
            found.append(f"line {line}: {wing} imports {name}")
    return found


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_wing_imports_only_what_is_below_it(module):
    assert violations(wing_of(module), module.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "wing, line",
    [
        ("detection", "import torch.nn"),
        ("detection", "from tinyfaces.jobs.formats import as_json"),
        ("detection", "def late():\n    from tinyfaces.training import losses"),
        ("detection", "from tinyfaces import Detector"),
        ("jobs", "from tinyfaces import cli"),
        ("data", "from tinyfaces.jobs import inputs"),
        ("evaluation", "import tinyfaces.training.cache"),
        ("training", "from tinyfaces.cli.options import fail"),
        ("service", "from tinyfaces.cli import app"),
        ("service", "from ..training import losses"),
        ("files", "from tinyfaces.detection import images"),
        ("parsing", "from tinyfaces.detection import images"),
    ],
)
def test_the_rule_finds_violations(wing, line):
    assert len(violations(wing, line)) == 1


def test_wings_are_ordered():
    order = list(BELOW)
    assert all(order.index(other) < order.index(wing) for wing, others in BELOW.items() for other in others if wing != "__init__")
    assert {wing_of(module) for module in MODULES} == set(BELOW)


def test_no_two_modules_share_a_name():
    public = {PACKAGE / f"{name}.py" for name in PUBLIC}
    names = Counter(module.stem for module in MODULES if module.stem != "__init__" and module not in public)
    assert [name for name, count in names.items() if count > 1] == []
    assert not set(names) & (set(BELOW) - {"files", "__main__", *PUBLIC})


def test_few_modules_in_the_root():
    assert len(list(PACKAGE.glob("*.py"))) <= LARGEST_ROOT


def test_no_process_is_forked():
    """A fork copies locks that other threads hold, and some systems have none."""
    forks = {
        (module.name, word) for module in MODULES for word in ('"fork"', "os.fork", '"forkserver"') if word in module.read_text()
    }
    assert forks == set()
