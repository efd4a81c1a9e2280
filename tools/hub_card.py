"""Write the card of the models for the Hugging Face Hub: docs/model_card.md with the metadata that the Hub reads.

python tools/hub_card.py --out hub/README.md
"""

import argparse
import re
from pathlib import Path

from tinyfaces.files import write_atomically
from tinyfaces.weights import models

ROOT = Path(__file__).parents[1]
CARD = ROOT / "docs/model_card.md"
_LOCAL_LINK, _ITS_WORDS = re.compile(r"\[([^\]]+)\]\((?!\w+:)[^)]+\)"), r"\1"
_SUBSETS = ("easy", "medium", "hard")


def hub_card(text: str) -> str:
    """The Hub's card. text: of docs/model_card.md, whose links to other pages become plain words."""
    return f"---\n{_front_matter()}---\n\n{_LOCAL_LINK.sub(_ITS_WORDS, text)}"


def _front_matter() -> str:
    lines = [
        "license: other", "license_name: tinyfaces-weights", "license_link: WEIGHTS_LICENSE.md", "library_name: onnx",
        "pipeline_tag: object-detection", "tags:", "- face-detection", "- onnx", "- research-only", "model-index:",
    ]  # fmt: skip
    for record in models().values():
        lines += [f"- name: tinyfaces {record.name}", "  results:"]
        lines += [
            "  - task:",
            "      type: object-detection",
            "    dataset:",
            "      name: wild_dev",
            "      type: wild_dev",
            "    metrics:",
        ]
        for subset in _SUBSETS:
            lines += ["    - type: average_precision", f"      name: AP {subset}", f"      value: {record.wild_ap[subset]:.3f}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Read the options and write the card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="file to write, such as hub/README.md")
    write_atomically(parser.parse_args().out, hub_card(CARD.read_text(encoding="utf-8")).encode())


if __name__ == "__main__":
    main()
