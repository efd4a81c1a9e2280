"""Every promise in docs/reliability.md has a test, and each test that the page names exists."""

import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs/reliability.md").read_text(encoding="utf-8")
PROMISES = [
    line for line in PAGE.partition("## Measured")[0].splitlines() if line.startswith("| ") and not line.endswith("| Tests |")
]


def test_every_promise_has_a_test():
    assert len(PROMISES) > 25
    for line in PROMISES:
        assert re.search(r"\[test_\w+\]\(\.\./tests/test_\w+\.py\)", line), line


def test_every_test_that_is_named_exists():
    named = re.findall(r"\[(test_\w+)\]\(\.\./(tests/test_\w+\.py)\)", PAGE)
    assert len(named) >= len(PROMISES)
    for name, file in named:
        assert re.search(rf"^def {name}\(", (ROOT / file).read_text(encoding="utf-8"), re.MULTILINE), f"{file}: no {name}"
