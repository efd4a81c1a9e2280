"""`tinyfaces train` and `tinyfaces export`."""

from pathlib import Path
from typing import Annotated

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeRemainingColumn

from tinyfaces.cli.app import ModelOption, ThreadsOption, app, errors, fail, missing_extra, open_detector, overrides_of, train_app

ConfigOption = Annotated[Path, typer.Option(help="TOML file, such as those in configs/.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; repeatable.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Begin anew, where a run of this name could be gone on with.")]


@train_app.command("proposals")
def train_proposals(
    config: ConfigOption,
    annotations: Annotated[
        list[Path] | None,
        typer.Option(help="COCO file, or WIDER FACE's folder wider_face_split, in place of the configuration's."),
    ] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the photos of --annotations.")] = None,
    settings: SetOption = None,
    fresh: FreshOption = False,
) -> None:
    """Train the proposal network; says first how long it will take; goes on where a killed run stopped.

    Of the photos of --annotations every 20th is held out to measure on.
    """
    try:
        from tinyfaces.training.proposals import load_config, sources_of, train
    except ImportError as error:
        missing_extra(error, "train")
    if (annotations is None) != (images is None):
        fail("--annotations and --images go together")
    try:
        own = sources_of(annotations, images) if annotations and images else {}
        train(load_config(config, {**overrides_of(settings), **own}), resume=not fresh)
    except ValueError as error:  # AnnotationError and ImageError too
        fail(str(error))


@train_app.command("candidates")
def train_candidates(
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="Folder for the candidates.")],
    model: ModelOption = "accurate",
    photos: Annotated[int | None, typer.Option(min=1, help="Search only so many, drawn at random; all if left out.")] = None,
    settings: SetOption = None,
    threads: ThreadsOption = None,
) -> None:
    """Gather what the proposal network takes for faces in the training photos: the second stage's training data.

    --config is that of the proposal network: its [[train]] sources and cache are searched.
    """
    try:
        import numpy as np

        from tinyfaces.data.cache import open_cache
        from tinyfaces.data.candidates import CandidateSettings, gather_candidates
        from tinyfaces.training.proposals import load_config, read_sources
    except ImportError as error:
        missing_extra(error, "train")
    chosen = CandidateSettings()
    detector = open_detector(model, chosen.threshold, 1.0, "cpu", "onnxruntime", threads, "proposals")
    try:
        proposals = load_config(config, overrides_of(settings))
        images, _ = read_sources(proposals.train)
        cache = open_cache(images, Path(proposals.cache))
        number = min(photos or len(images), len(images))
        drawn = np.sort(np.random.default_rng(0).permutation(len(images))[:number]).tolist()
        columns = (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn(compact=True))
        with Progress(*columns, console=errors) as progress:
            for _ in progress.track(gather_candidates(images, cache, detector, chosen, out, drawn), total=number):
                pass
    except ValueError as error:
        fail(str(error))


@train_app.command("gan")
def train_second_stage(config: ConfigOption, settings: SetOption = None, fresh: FreshOption = False) -> None:
    """Train generator and discriminator on gathered candidates; goes on where a killed run stopped."""
    try:
        from tinyfaces.training.gan import load_gan_config, train_gan
    except ImportError as error:
        missing_extra(error, "train")
    try:
        train_gan(load_gan_config(config, overrides_of(settings)), resume=not fresh)
    except ValueError as error:
        fail(str(error))


@app.command("export")
def export_model(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run, or a .safetensors file that `export` wrote.")],
    out: Annotated[Path, typer.Argument(help="The ONNX file to write; a .safetensors is put beside it.")],
) -> None:
    """Export trained weights to ONNX, and check that both give the same.

    Of a second stage NAME.generator.onnx and NAME.discriminator.onnx are written, where OUT is NAME.onnx.
    """
    try:
        from tinyfaces.export import export, export_second_stage, is_second_stage
    except ImportError as error:
        missing_extra(error, "train")
    try:
        difference = (export_second_stage if is_second_stage(checkpoint) else export)(checkpoint, out)
    except (ValueError, OSError) as error:
        fail(str(error))
    typer.echo(f"wrote {out}, largest difference from torch {difference:.1e}")
