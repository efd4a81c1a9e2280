"""The shipped models and what is known of them: `models.json` beside this file is a list of records."""

import json
from dataclasses import dataclass
from pathlib import Path

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ModelRecord:
    """One shipped model.

    file: its name in this folder; bytes, sha256: of that file. parameters: their number. gmac: billions of
    multiply-adds at 640x480. threshold: the score from which a detection counts as a face by default.
    training_data: what it was trained on. ap: average precision by subset, as measured on the dev split.
    """

    name: str
    file: str
    description: str
    parameters: int
    gmac: float
    bytes: int
    threshold: float
    training_data: str
    ap: dict[str, float]
    sha256: str

    @property
    def path(self) -> Path:
        """Where the model's file lies."""
        return _FOLDER / self.file


def models() -> dict[str, ModelRecord]:
    """The shipped models by name, in the order of `models.json`."""
    entries = json.loads((_FOLDER / "models.json").read_text(encoding="utf-8"))
    return {entry["name"]: ModelRecord(**entry) for entry in entries}
