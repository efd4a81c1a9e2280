"""The shipped models and what is known of them: `models.json` beside this file is a list of records."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_FOLDER = Path(__file__).parent


@dataclass(frozen=True)
class ModelRecord:
    """One shipped model.

    file: its name in this folder, int8_file: that of its int8 copy; bytes: of the first, sha256, int8_sha256: of both.
    parameters: their number. gmac: billions of multiply-adds at 640x480. threshold: the score from which a detection counts as a
    face by default. training_data: what it was trained on. ap, int8_ap: average precision by subset of the network alone, in
    float32 and in int8, as measured on the dev split. wild_ap, wild_int8_ap: the same by WIDER FACE's protocol on `wild_dev`
    (`tinyfaces.evaluation.wild_dev`), all its parts together.
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
    int8_file: str
    int8_sha256: str
    int8_ap: dict[str, float]
    wild_ap: dict[str, float]
    wild_int8_ap: dict[str, float]

    @property
    def path(self) -> Path:
        """Where the model's file lies."""
        return _FOLDER / self.file

    @property
    def int8_path(self) -> Path:
        """Where its int8 copy lies."""
        return _FOLDER / self.int8_file


@dataclass(frozen=True)
class SecondStageRecord:
    """The shipped judge and generator.

    variant: of the generator, see `tinyfaces.training.networks.second_stage_networks`. judge, generator: names of their ONNX
    files in this folder; sha256: of each file. parameters, gmac: of the judge, for one candidate; restoring_parameters,
    restoring_gmac: of the generator, for one face. training_data: what they were trained on. rules: for each shipped model of
    proposals, and "other" for any other detector, how the scores are fused (`tinyfaces.detection.fusion.FusionRule.from_dict`).
    """

    variant: str
    judge: str
    generator: str
    sha256: dict[str, str]
    parameters: int
    gmac: float
    restoring_parameters: int
    restoring_gmac: float
    training_data: str
    rules: dict[str, dict[str, Any]]

    @property
    def generator_path(self) -> Path:
        """Where the generator's file lies."""
        return _FOLDER / self.generator

    @property
    def judge_path(self) -> Path:
        """Where the judge's file lies."""
        return _FOLDER / self.judge


def second_stage() -> SecondStageRecord:
    """The shipped second stage, from `second_stage.json`."""
    return SecondStageRecord(**json.loads((_FOLDER / "second_stage.json").read_text(encoding="utf-8")))


def models() -> dict[str, ModelRecord]:
    """The shipped models by name, in the order of `models.json`."""
    entries = json.loads((_FOLDER / "models.json").read_text(encoding="utf-8"))
    return {entry["name"]: ModelRecord(**entry) for entry in entries}


def shipped_model(model: str | os.PathLike[str]) -> ModelRecord | None:
    """The shipped model that a name or the path of its file means; None where it is another one."""
    known = models()
    if isinstance(model, str) and model in known:
        return known[model]
    path = os.path.realpath(model)
    return next((one for one in known.values() if path in map(os.path.realpath, (one.path, one.int8_path))), None)
