"""Prints the lowest version of each package that pyproject.toml allows, as constraints for pip, without tools of the tests."""

import re
import tomllib
from pathlib import Path

TOOLS = ("docs", "test")
"""Extras whose packages no user of the library needs."""
PINNED = {line.partition("==")[0] for line in Path("constraints.txt").read_text(encoding="utf-8").splitlines()}

project = tomllib.loads(Path("pyproject.toml").read_text(encoding="utf-8"))["project"]
extras = [lines for name, lines in project["optional-dependencies"].items() if name not in TOOLS]
lowest: dict[str, str] = {}
for line in (line for lines in [project["dependencies"], *extras] for line in lines):
    name, bound = re.fullmatch(r"([\w-]+)(?:\[[\w,]+\])?>=([\d.]+).*", line).groups()
    parts = [lowest.get(name, "0"), bound]
    lowest[name] = max(parts, key=lambda version: [int(part) for part in version.split(".")])
for name, version in sorted(lowest.items()):
    if name not in PINNED:
        print(f"{name}=={'.'.join([*version.split('.'), '0', '0'][: max(3, version.count('.') + 1)])}.*")
