"""`tinyfaces train` and `tinyfaces export`."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from tinyfaces.cli.options import (
    SOME_FAILED,
    DetectorOptions,
    ModelName,
    Threads,
    app,
    command,
    errors,
    fail,
    keep,
    missing_extra,
    overrides_of,
    train_app,
)
from tinyfaces.cli.progress import bar
from tinyfaces.cli.runs import counted
from tinyfaces.jobs.inputs import find_inputs

_CALIBRATION_PHOTOS = 30
_WRITTEN_BESIDE = (".safetensors", ".int8.onnx", ".generator.onnx", ".discriminator.onnx")

ConfigOption = Annotated[Path, typer.Option(help="Settings, a TOML file such as those in configs/.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; repeatable.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start over, even if a run of this name could be continued.")]


@command(train_app, "proposals")
def train_proposals(
    config: ConfigOption,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(help="COCO file, or the folder wider_face_split of WIDER FACE, in place of the sources in --config."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the photos that --annotations name.")] = None,
    settings: SetOption = None,
    fresh: FreshOption = False,
) -> None:
    """Train the proposal network. It first says how long that will take, and continues where a killed run stopped.

    Every 20th photo of --annotations is held out to measure on.
    """
    try:
        from tinyfaces.training.proposal_loop import train
        from tinyfaces.training.settings import load_config, sources_of
    except ImportError as error:
        missing_extra(error, "train")
    if (annotations is None) != (images is None):
        fail("--annotations and --images go together")
    try:
        own = sources_of(annotations, images) if annotations and images else {}
        train(load_config(config, {**overrides_of(settings), **own}), resume=not fresh)
    except ValueError as error:  # AnnotationError and ImageError too
        fail(str(error))


@command(train_app, "average")
def train_average(
    first: Annotated[Path, typer.Argument(help="Checkpoint or .safetensors file of a proposal network.")],
    second: Annotated[Path, typer.Argument(help="Another one, which was trained further from the first.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Weight of the first.")] = 0.5,
) -> None:
    """Average the weights of two trainings.

    The average is often better than either.
    """
    try:
        from tinyfaces.training.averaging import average_weights
    except ImportError as error:
        missing_extra(error, "train")
    keep([first, second], [out])
    try:
        average_weights(first, second, share, out)
    except (ValueError, OSError) as error:
        fail(str(error))
    typer.echo(f"wrote {out}")


@command(train_app, "candidates")
def train_candidates(
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="Folder for the candidates.")],
    model: ModelName = "accurate",
    photos: Annotated[int | None, typer.Option(min=1, help="Search only this many, drawn at random; all by default.")] = None,
    settings: SetOption = None,
    threads: Threads = None,
) -> None:
    """Gather training data for the second stage.

    These are all boxes that the proposal network takes for faces in the training photos. --config is that of the proposal
    network. Its [[train]] sources are searched, except photos without labels, through its cache.
    """
    try:
        import numpy as np

        from tinyfaces.training.candidates import CandidateSettings, gather_candidates
        from tinyfaces.training.settings import load_config
        from tinyfaces.training.sources import open_sources
    except ImportError as error:
        missing_extra(error, "train")
    chosen = CandidateSettings()
    detector = DetectorOptions(model=model, stages="proposals", scale=1.0, threads=threads).open(chosen.threshold)
    try:
        proposals = load_config(config, overrides_of(settings))
        sources = [source for source in proposals.train if source.labelled]
        images, _, cache = open_sources(sources, Path(proposals.cache), _told)
        number = min(photos or len(images), len(images))
        drawn = np.sort(np.random.default_rng(0).permutation(len(images))[:number]).tolist()
        with bar("searching photos", number) as advance:
            for _ in gather_candidates(images, cache, detector, chosen, out, drawn):
                advance(1)
        typer.echo(f"{out}: candidates of {counted(number, 'photo')}")
    except ValueError as error:
        fail(str(error))


@command(train_app, "relabel")
def train_relabel(
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="Folder for the new annotation files, one for each source.")],
    model: ModelName = "accurate",
    settings: SetOption = None,
    threads: Threads = None,
) -> None:
    """Decide about ignored boxes with a trained model.

    This is self-training. For each [[train]] source of --config (COCO files only; photos without labels are skipped), a copy of
    the annotations is written. In it, ignored boxes are faces or background wherever the model's views of a photo (as it is,
    mirrored, enlarged) agree. Continue training with `--set relabelled=OUT`.
    """
    try:
        from tinyfaces.data.annotations import read_coco
        from tinyfaces.detection.images import ImageError
        from tinyfaces.training.relabel import RelabelSettings, settled, write_annotations
        from tinyfaces.training.settings import load_config
    except ImportError as error:
        missing_extra(error, "train")
    chosen = RelabelSettings()
    detector = DetectorOptions(model=model, stages="proposals", scale=1.0, threads=threads).open(chosen.threshold)
    try:
        sources = [source for source in load_config(config, overrides_of(settings)).train if source.labelled]
        if other := [source.annotations for source in sources if source.format != "coco"]:
            fail(f"{other[0]}: relabelling reads COCO files only")
        names = [Path(source.annotations).name for source in sources]
        if doubled := [name for name in names if names.count(name) > 1]:
            fail(f"{doubled[0]}: two sources have annotations of this name, and only one can be written to {out}")
        keep([Path(source.annotations) for source in sources], [out / name for name in names])
        known = [read_coco(source.annotations, source.images) for source in sources]
        out.mkdir(parents=True, exist_ok=True)
        with bar("searching photos", sum(map(len, known))) as advance:
            for source, name, images in zip(sources, names, known, strict=True):
                changed = []
                for image in images:
                    try:
                        changed.append(settled(image, detector, chosen))
                    except ImageError as error:
                        _told(f"{error}; its boxes stay as they are")
                        changed.append(image)
                    advance(1)
                target = out / name
                write_annotations(changed, Path(source.images), target)
                ignored = sum(int(image.ignore.sum()) for image in images)
                faces = sum(int((~b.ignore).sum() - (~a.ignore).sum()) for a, b in zip(images, changed, strict=True))
                background = sum(map(len, images)) - sum(map(len, changed))
                typer.echo(f"{target}: of {ignored:,} ignored boxes {faces:,} are faces, {background:,} background")
    except ValueError as error:
        fail(str(error))


@command(train_app, "second-stage")
def train_second_stage(config: ConfigOption, settings: SetOption = None, fresh: FreshOption = False) -> None:
    """Train the second stage on gathered candidates. It continues where a killed run stopped."""
    try:
        from tinyfaces.training.second_stage_loop import load_gan_config, train_gan
    except ImportError as error:
        missing_extra(error, "train")
    try:
        train_gan(load_gan_config(config, overrides_of(settings)), resume=not fresh)
    except ValueError as error:
        fail(str(error))


@command(app, "export")
def export_model(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run, or a .safetensors file that `export` wrote.")],
    out: Annotated[Path, typer.Argument(help="ONNX file to write; a .safetensors file is written beside it.")],
    photos: Annotated[
        Path | None,
        typer.Option(help="Also write an int8 copy, calibrated on the photos in this folder (30 are enough)."),
    ] = None,
) -> None:
    """Export trained weights to ONNX, and check that both give the same outputs.

    Photos that cannot be read are reported and left out; the exit code is then 1. NAME.int8.onnx, beside NAME.onnx, is used on
    processors made for int8. For a second stage, NAME.generator.onnx and NAME.discriminator.onnx are written, where OUT is
    NAME.onnx.
    """
    try:
        from tinyfaces.training.checkpoints import is_second_stage
        from tinyfaces.training.export import export, export_second_stage
    except ImportError as error:
        missing_extra(error, "train")
    problems: list[str] = []

    def tell(problem: str) -> None:
        errors.print(f"tinyfaces: {problem}")
        problems.append(problem)

    try:
        keep([checkpoint], [out, *(out.with_suffix(ending) for ending in _WRITTEN_BESIDE)])
        second = is_second_stage(checkpoint)
        if second and photos is not None:
            fail("--photos goes with a proposal network")
        difference = (export_second_stage if second else export)(checkpoint, out)
        if photos is not None:
            from tinyfaces.detection.runtime import PROPOSALS
            from tinyfaces.training.quantise import photo_batches, quantise

            found = find_inputs([str(photos)], recursive=False)
            batches = photo_batches((file.path for file in found.files if not file.is_video), tell)
            typer.echo(f"wrote {quantise(out, PROPOSALS, islice(batches, _CALIBRATION_PHOTOS))}")
    except ImportError as error:
        missing_extra(error, "train")
    except (ValueError, OSError) as error:
        fail(str(error))
    typer.echo(f"wrote {out}, largest difference from torch {difference:.1e}")
    if problems:
        raise typer.Exit(SOME_FAILED)


def _told(line: str) -> None:
    errors.print(f"tinyfaces: {line}")
