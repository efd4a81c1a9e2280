"""What a training is: the settings of both stages, and the photos that the first learns from."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tinyfaces.data.annotations import AnnotatedImage, dismiss_doubtful, read_coco, read_wider, with_places_of_wider
from tinyfaces.data.labels import read_unlabelled, read_voc, read_yolo, without_labels
from tinyfaces.training.networks.proposal_network import VARIANTS
from tinyfaces.training.networks.second_stage_networks import PARTS, SECOND_STAGE_VARIANTS
from tinyfaces.training.photo_crops import CropSettings
from tinyfaces.training.typed_toml import load_settings

_UNLABELLED = "unlabelled"
_LABEL_READERS = {"yolo": read_yolo, "voc": read_voc}
LARGE_CROPS = CropSettings(
    size=896, grids=(1, 2), grid_shares=(0.7, 0.3), small_share=0.0, all_heights=(48.0, 850.0), scales=(0.12, 6.0)
)
NATURAL_CROPS = CropSettings(
    grids=(1,), grid_shares=(1.0,), scales=(0.35, 1.5), turned_share=0.04, lying_share=0.01, text_share=0.05
)
_PARTS = ("all", "held out", "rest")
_HELD_OUT = 20  # one photo in so many
_LOT = 7  # seed of the choice among a source's photos


@dataclass(frozen=True, kw_only=True)
class Source:
    """One set of photos.

    Attributes:
        annotations: a COCO json(.gz); with another `format` the folder wider_face_split or one of label files.
        images: the folder of the photos.
        share: how often crops are drawn from it, before normalising.
        format: "coco", "wider", "yolo", "voc", or "unlabelled" for photos of which the teacher alone says what is in them (all of
            the folder, or those that a COCO json in `annotations` lists, whatever boxes it has).
        split: of WIDER FACE: "train" or "val".
        places_of_wider: true where a COCO json holds WIDER FACE's own boxes, which count places from the middles of pixels.
        doubt: ignored boxes that score less than this are background (see `dismiss_doubtful`).
        doubt_from: height of such a box, in pixels; lower ones stay ignored.
        limit: at most so many photos, those with hard negatives first and the others by lot; all if left out.
        part: "all" photos, or "held out", every 20th, or the "rest".
    """

    annotations: str = ""
    images: str
    share: float = 1.0
    format: str = "coco"
    split: str = "train"
    places_of_wider: bool = False
    doubt: float = 0.0
    doubt_from: float = 0.0
    limit: int | None = None
    part: str = "all"

    @property
    def labelled(self) -> bool:
        """Whether anybody but the teacher says what is in the photos."""
        return self.format != _UNLABELLED


@dataclass(frozen=True)
class Config:
    """All there is to a run of the proposal network."""

    variant: str  # "accurate", "fast" or "thorough"
    train: tuple[Source, ...]
    dev: tuple[Source, ...]
    relabelled: str = ""  # a folder of `train relabel`, whose files are read in place of the training sources' own
    out: str = "runs/proposals"  # checkpoints, log, TensorBoard
    cache: str = "cache"  # decoded photos
    steps: int = 20_000
    batch: int = 16  # crops a step, over all processes
    crops: CropSettings = field(default_factory=CropSettings)
    large_every: int = 0  # every so many batches the crops are large_crops, fewer of them, for faces that fill a photo; 0: never
    large_crops: CropSettings = LARGE_CROPS
    natural_steps: int = 0  # so many of the last steps see natural_crops in place of crops: photos near their own size
    natural_crops: CropSettings = NATURAL_CROPS  # as large as crops
    fixed_norm_steps: int = 0  # so many of the last steps normalise as inference does, not by the statistics of their own batch
    echo: int = 1  # steps that each crop is used in, at every second one mirrored, where making crops takes long
    teacher: str = ""  # weights of a network whose outputs, at every point, are targets too
    teacher_weight: float = 1.0
    optimiser: str = "muon"  # for convolutions; or "adamw". Everything else is AdamW's
    muon_lr: float = 0.02
    adamw_lr: float = 0.002
    weight_decay: float = 0.01
    warmup: int = 300  # steps
    final_lr: float = 0.01  # of the peak, at the end of the cosine
    ema: float = 0.999
    clip: float = 10.0  # norm of the gradient
    bfloat16: bool = False  # autocast; gains where the processor has AVX-512 BF16 or AMX, or on a GPU
    channels_last: bool = True
    compile: bool = False  # torch.compile: a minute at the start, then a quarter faster on a CPU
    threads: int = 2  # of torch, a process; 0 leaves torch's choice
    workers: int = 1  # processes that make crops
    seed: int = 0
    save_every: int = 200  # steps
    evaluate_every: int = 3000  # steps
    evaluate_images: int = 200  # of the dev split, on the way; at the end all
    start: str = ""  # weights to begin from (.safetensors or a checkpoint), for fine-tuning


GROUP = 4
"""A batch of the second stage is made of groups of so many candidates, each with as many sharp targets as the others."""


@dataclass(frozen=True)
class SecondStageConfig:
    """All there is to a run of the second stage."""

    candidates: str  # folder that `tinyfaces train candidates` wrote
    variant: str = "slim"  # "slim" or "paper"
    generator: str = "srn+rn"  # "none" trains a judge, which sees the crop itself; for the ablation also "srn", "bicubic"
    out: str = "runs/second_stage"
    pretrain_steps: int = 2000  # of the generator on the pixel loss alone
    steps: int = 10_000  # in all
    batch: int = 64  # over all processes
    generator_every: int = 1  # once all learn together, the generator learns at one step in so many: a discriminator's is cheaper
    # with 0 it stays as `start` has it
    sharp: int = 1  # so many of four candidates have a sharp original; the others are as the proposal network sends them
    start: str = ""  # weights to begin from (.safetensors or a checkpoint)
    start_discriminator: bool = True  # false: only the generator begins from there
    lr: float = 1e-3  # Adam's peak: linear warm-up, then a cosine down to a hundredth
    warmup: int = 100  # steps
    adversarial: float = 0.001  # weights in the generator's loss, beside the pixel loss
    classification: float = 0.01
    box: float = 0.01
    real_fake_weight: float = 1.0  # of telling real from generated in the discriminator's loss, beside faces from the rest
    clip: float = 10.0  # norm of each network's gradient
    ema: float = 0.998  # of both networks' weights; the averages are what is measured and shipped
    held_out: int = 20  # one photo in so many is for measuring
    bfloat16: bool = False  # autocast; gains where the processor has AVX-512 BF16 or AMX, or on a GPU
    channels_last: bool = True
    threads: int = 2
    seed: int = 0
    save_every: int = 500
    evaluate_every: int = 1000


def load_config(path: Path, overrides: Mapping[str, object]) -> Config:
    """Read a TOML file and put `overrides` (names of Config or "crops.NAME") over it. Paths in it are relative to the working
    directory. Raises ValueError with one line that names the file."""
    config = load_settings(Config, path, overrides)
    config = dataclasses.replace(config, natural_crops=dataclasses.replace(config.natural_crops, size=config.crops.size))
    for source in config.train + config.dev:
        if source.part not in _PARTS:
            raise ValueError(f"{path}: part of a source is {source.part!r}, known are {', '.join(_PARTS)}")
        if source.labelled and not source.annotations:
            raise ValueError(f"{path}: a source has no annotations ({source.images})")
    if not all(source.labelled for source in config.dev):
        raise ValueError(f"{path}: photos without labels can't be measured on")
    if not config.teacher and not all(source.labelled for source in config.train):
        raise ValueError(f"{path}: photos without labels teach nothing without a teacher")
    if config.variant not in VARIANTS:
        raise ValueError(f"{path}: variant is {config.variant!r}, known are {', '.join(VARIANTS)}")
    for name in ("crops", "large_crops", "natural_crops"):
        getattr(config, name).check(f"{path}: {name}")
    return config


def load_second_stage_config(path: Path, overrides: Mapping[str, object]) -> SecondStageConfig:
    """Read a TOML file and put `overrides` over it. Raises ValueError with one line that names the file."""
    config = load_settings(SecondStageConfig, path, overrides)
    if config.variant not in SECOND_STAGE_VARIANTS:
        raise ValueError(f"{path}: variant is {config.variant!r}, known are {', '.join(SECOND_STAGE_VARIANTS)}")
    if config.generator not in PARTS:
        raise ValueError(f"{path}: generator is {config.generator!r}, known are {', '.join(PARTS)}")
    if config.generator_every < 0:
        raise ValueError(f"{path}: generator_every is {config.generator_every}, must be 0 or more")
    if config.generator_every == 0 and not config.start:
        raise ValueError(f"{path}: generator_every = 0 leaves the generator as `start` has it, and there is none")
    if not 0 <= config.sharp <= GROUP:
        raise ValueError(f"{path}: sharp is {config.sharp}, must be 0 to {GROUP}")
    if config.sharp == 0 and config.generator_every and config.generator != "none":
        raise ValueError(f"{path}: sharp = 0 leaves the generator nothing to restore; set it to 1, or generator_every to 0")
    if config.batch < 8 or config.batch % GROUP:
        raise ValueError(f"{path}: batch is {config.batch}, must be a multiple of 4 and at least 8")
    return config


def read_sources(
    sources: Sequence[Source], relabelled: str = "", tell: Callable[[str], None] | None = None
) -> tuple[list[AnnotatedImage], np.ndarray]:
    """Read the photos of sources.

    Args:
        sources: sets of photos.
        relabelled: a folder of annotation files that take the place of those of the same name.
        tell: called with a line about each photo that is missing or cannot be read; if left out, the first one raises.

    Returns:
        All photos, and how often each is drawn: (N,) float64, each source's share spread over its photos.

    Raises:
        ValueError: `relabelled` is missing, or annotations or images cannot be used.
    """
    if relabelled and not Path(relabelled).is_dir():
        raise ValueError(f"{relabelled}: no such folder of relabelled annotations")
    images: list[AnnotatedImage] = []
    weights: list[np.ndarray] = []
    for source in sources:
        if source.format == "wider":
            read = read_wider(Path(source.annotations), Path(source.images), source.split, tell)
        elif not source.labelled and source.annotations:
            listed = read_coco(source.annotations, source.images, tell)
            listed = [listed[n] for n in drawn_first([len(image.hard_negatives) > 0 for image in listed], source.limit)]
            read = [without_labels(image.path, image.width, image.height) for image in listed]
        elif not source.labelled:
            read = read_unlabelled(source.images, tell)
        elif source.format in _LABEL_READERS:
            read = _LABEL_READERS[source.format](source.annotations, source.images, tell)
        else:
            annotations = Path(source.annotations)
            other = Path(relabelled) / annotations.name
            read = read_coco(other if relabelled and other.exists() else annotations, Path(source.images), tell)
            if source.places_of_wider:
                read = [with_places_of_wider(image) for image in read]
        if source.part != "all":
            read = [image for n, image in enumerate(read) if (n % _HELD_OUT == 0) == (source.part == "held out")]
        read = [read[n] for n in drawn_first([len(image.hard_negatives) > 0 for image in read], source.limit)]
        images += [dismiss_doubtful(image, source.doubt, source.doubt_from) for image in read]
        weights.append(np.full(len(read), source.share / max(len(read), 1)))
    return images, np.concatenate(weights)


def drawn_first(has_negatives: Sequence[bool], limit: int | None) -> list[int]:
    """Places of at most `limit` photos, in their order: those with hard negatives come first, the others by lot."""
    count = len(has_negatives)
    if limit is None or limit >= count:
        return list(range(count))
    lot = np.random.default_rng(_LOT).random(count)
    return sorted(sorted(range(count), key=lambda n: lot[n] - bool(has_negatives[n]))[:limit])


def sources_of(annotations: Sequence[Path], images: Path) -> dict[str, list[dict[str, object]]]:
    """Settings that train on a user's photos and measure on every 20th of them, which is held out.

    Args:
        annotations: COCO files, or WIDER FACE's folder wider_face_split.
        images: the folder of the photos.

    Returns:
        The sections `train` and `dev` of a configuration.
    """
    given = [
        {"annotations": str(path), "images": str(images), "format": "wider" if path.is_dir() else "coco"} for path in annotations
    ]
    return {"train": [{**one, "part": "rest"} for one in given], "dev": [{**one, "part": "held out"} for one in given]}
