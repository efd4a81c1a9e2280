"""`tinyfaces train` and `tinyfaces export`."""

from itertools import islice
from pathlib import Path
from typing import Annotated

import typer

from tinyfaces.cli.options import (
    MODEL,
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
from tinyfaces.detection.runtime import usable_cpus
from tinyfaces.jobs.bulk import counted
from tinyfaces.jobs.inputs import find_inputs

_CALIBRATION_PHOTOS = 30
_WRITTEN_BESIDE = (".safetensors", ".int8.onnx", ".generator.onnx", ".discriminator.onnx")

ConfigOption = Annotated[Path, typer.Option(help="TOML file, such as those in configs/.")]
SetOption = Annotated[list[str] | None, typer.Option("--set", metavar="NAME=VALUE", help="Override a setting; repeatable.")]
FreshOption = Annotated[bool, typer.Option("--fresh", help="Start over, even where an interrupted run could be resumed.")]


@command(train_app, "proposals")
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
    """Train the proposal network.

    An interrupted run is resumed. The command first prints how long the training will take.

    Every 20th photo of --annotations is held out to measure on.
    """
    try:
        from tinyfaces.training.freed_memory import keep_freed_memory
        from tinyfaces.training.proposal_loop import train
        from tinyfaces.training.settings import load_config, sources_of
    except ImportError as error:
        missing_extra(error, "train")
    if (annotations is None) != (images is None):
        fail("--annotations and --images go together")
    keep_freed_memory()
    try:
        told = _Told()
        own = sources_of(annotations, images) if annotations and images else {}
        train(load_config(config, {**overrides_of(settings), **own}), resume=not fresh, tell=told)
    except ValueError as error:  # AnnotationError and ImageError too
        fail(str(error))
    told.end()


@command(train_app, "average")
def train_average(
    first: Annotated[Path, typer.Argument(help="Checkpoint or .safetensors file of a proposal network.")],
    second: Annotated[Path, typer.Argument(help="Another, trained on from it.")],
    out: Annotated[Path, typer.Argument(help="The checkpoint to write.")],
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Share of the first one's weights.")] = 0.5,
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
    model: Annotated[
        list[str] | None,
        typer.Option(rich_help_panel=MODEL, show_default="accurate", help="A model whose proposals are gathered; repeatable."),
    ] = None,
    photos: Annotated[int | None, typer.Option(min=1, help="Search only so many, drawn at random; all if left out.")] = None,
    settings: SetOption = None,
    threads: Threads = None,
) -> None:
    """Gather training data of the second stage.

    These are the proposals, right and wrong, that proposal networks make in the training photos. --config is that of a
    proposal network: its [[train]] sources (but for photos without labels) are searched, by way of its cache.
    """
    try:
        import numpy as np

        from tinyfaces.training.candidates import CandidateSettings, gather_candidates
        from tinyfaces.training.settings import load_config
        from tinyfaces.training.sources import open_sources
    except ImportError as error:
        missing_extra(error, "train")
    chosen = CandidateSettings()
    options = [DetectorOptions(model=name, stages="proposals", scale=1.0, threads=threads) for name in model or ["accurate"]]
    detectors = [one.open(chosen.threshold) for one in options]
    try:
        proposals = load_config(config, overrides_of(settings))
        sources = [source for source in proposals.train if source.labelled]
        told = _Told()
        images, _, cache = open_sources(sources, Path(proposals.cache), told)
        number = min(photos or len(images), len(images))
        drawn = np.sort(np.random.default_rng(0).permutation(len(images))[:number]).tolist()
        with bar("searching photos", number) as advance:
            for _ in gather_candidates(images, cache, detectors, chosen, out, drawn, tell=told):
                advance(1)
        typer.echo(f"{out}: candidates of {counted(number, 'photo')}")
    except ValueError as error:
        fail(str(error))
    told.end()


@command(train_app, "relabel")
def train_relabel(
    config: ConfigOption,
    out: Annotated[Path, typer.Option(help="Folder for the new annotation files, one for each source.")],
    model: ModelName = "accurate",
    settings: SetOption = None,
    threads: Threads = None,
) -> None:
    """Settle ignored boxes with a trained model.

    This is self-training, for boxes that the annotations leave ignored.

    Each [[train]] source of --config (COCO files; photos without labels are left out) is copied to OUT. In the copy, ignored
    boxes are faces or background where the model's views of a photo (as it is, mirrored, enlarged) agree. To use the copies,
    train with `--set relabelled=OUT`.
    """
    try:
        from tinyfaces.data.annotations import read_coco
        from tinyfaces.training.cache import problem_with
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
        told = _Told()
        known = [read_coco(source.annotations, source.images, told) for source in sources]
        out.mkdir(parents=True, exist_ok=True)
        with bar("searching photos", sum(map(len, known))) as advance:
            for source, name, images in zip(sources, names, known, strict=True):
                changed = []
                for image in images:
                    try:
                        changed.append(settled(image, detector, chosen))
                    except Exception as error:  # whatever is wrong with one photo, the others are searched
                        told(f"{problem_with(image.path, error)}; its boxes stay as they are")
                        changed.append(image)
                    advance(1)
                target = out / name
                write_annotations(changed, Path(source.images), target)
                ignored = sum(int(image.ignore.sum()) for image in images)
                faces = sum(int((~b.ignore).sum() - (~a.ignore).sum()) for a, b in zip(images, changed, strict=True))
                background = sum(map(len, images)) - sum(map(len, changed))
                typer.echo(f"{target}: {ignored:,} ignored boxes, {faces:,} of them now faces, {background:,} background")
    except ValueError as error:
        fail(str(error))
    told.end()


@command(train_app, "second-stage")
def train_second_stage(config: ConfigOption, settings: SetOption = None, fresh: FreshOption = False) -> None:
    """Train the judge of candidates, or generator and discriminator.

    They learn from gathered candidates (see `tinyfaces train candidates`). An interrupted run is resumed.
    """
    try:
        from tinyfaces.training import second_stage_loop
        from tinyfaces.training.freed_memory import keep_freed_memory
        from tinyfaces.training.settings import load_second_stage_config
    except ImportError as error:
        missing_extra(error, "train")
    keep_freed_memory()
    try:
        second_stage_loop.train_second_stage(load_second_stage_config(config, overrides_of(settings)), resume=not fresh)
    except ValueError as error:
        fail(str(error))


@command(train_app, "pack")
def train_pack(
    config: Annotated[Path, typer.Argument(help="TOML file of the photos, such as configs/packs.toml.")],
    out: Annotated[Path, typer.Argument(help="Folder for the packs.")],
    megabytes: Annotated[float, typer.Option(min=0.01, help="Largest size of a pack, about.")] = 45.0,
    workers: Annotated[int, typer.Option(min=1, help="Processes that encode photos.")] = 2,
) -> None:
    """Pack labelled photos into small archives.

    `tinyfaces train together` reads them, on another machine.
    """
    try:
        from tinyfaces.training.packs import PackConfig, write_packs
        from tinyfaces.training.typed_toml import load_settings
    except ImportError as error:
        missing_extra(error, "train")
    try:
        told = _Told()
        for path, photos in write_packs(load_settings(PackConfig, config, {}), out, megabytes, workers, told):
            typer.echo(f"{path}: {len(photos):,} photos, {path.stat().st_size / 1e6:.1f} MB")
    except (ValueError, OSError) as error:
        fail(str(error))
    told.end()


@command(train_app, "together")
def train_together(
    config: Annotated[Path, typer.Argument(help="TOML file, such as configs/together.toml.")],
    packs: Annotated[Path | None, typer.Option(help="Folder of the packs.")] = None,
    cache: Annotated[Path | None, typer.Option(help="Folder of decoded photos.")] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of checkpoints and the log.")] = None,
    seconds: Annotated[float | None, typer.Option(min=1.0, help="Time of the whole run.")] = None,
    batch: Annotated[int | None, typer.Option(min=1, help="Crops a step.")] = None,
    workers: Annotated[int | None, typer.Option(min=0, help="Processes that make crops; if left out, all cores but one.")] = None,
    steps: Annotated[int | None, typer.Option(min=1, help="Stop after so many steps, for a trial.")] = None,
    prepare: Annotated[
        Path | None, typer.Option(help="Only unpack and decode this pack; a running training takes it in.")
    ] = None,
    settings: SetOption = None,
    fresh: FreshOption = False,
) -> None:
    """Train several networks in a fixed time.

    All learn from the same crops, and larger ones teach smaller ones. An interrupted run is resumed.

    --packs, --cache, --out, --seconds and --batch replace the configuration's values. A checkpoint is written every minute.
    """
    try:
        from tinyfaces.training import together
        from tinyfaces.training.freed_memory import keep_freed_memory
        from tinyfaces.training.packs import prepare_pack
    except ImportError as error:
        missing_extra(error, "train")
    folders = {"packs": packs, "cache": cache, "out": out}
    given = {name: str(folder) for name, folder in folders.items() if folder is not None}
    numbers = {name: value for name, value in {"seconds": seconds, "batch": batch}.items() if value is not None}
    try:
        chosen = together.load_together_config(config, {**overrides_of(settings), **given, **numbers})
        told = _Told()
        if prepare is not None:
            prepare_pack(prepare, Path(chosen.cache), told)
        else:
            keep_freed_memory()
            cores = max(1, usable_cpus() - 1)
            together.train_together(chosen, cores if workers is None else workers, steps, _say, not fresh, told)
    except (ValueError, OSError) as error:
        fail(str(error))
    told.end()


@command(app, "export")
def export_model(
    checkpoint: Annotated[Path, typer.Argument(help="best.pt of a run, or a .safetensors file that `export` wrote.")],
    out: Annotated[Path, typer.Argument(help="The ONNX file to write; a .safetensors is put beside it.")],
    photos: Annotated[
        Path | None, typer.Option(help="Folder of photos: write an int8 copy too, which they calibrate (30 are enough).")
    ] = None,
) -> None:
    """Export trained weights to ONNX, and check that both give the same.

    NAME.int8.onnx, beside NAME.onnx, is used on processors that are made for int8.

    For a generator and its discriminator, NAME.generator.onnx and NAME.discriminator.onnx are written, where OUT is NAME.onnx.

    Photos that cannot be read are reported and left out; the exit code is then 1.
    """
    try:
        from tinyfaces.training.checkpoints import is_second_stage
        from tinyfaces.training.export import export, export_second_stage
    except ImportError as error:
        missing_extra(error, "train")
    told = _Told()
    try:
        keep([checkpoint], [out, *(out.with_suffix(ending) for ending in _WRITTEN_BESIDE)])
        second = is_second_stage(checkpoint)
        if second and photos is not None:
            fail("--photos goes with a proposal network")
        differences = export_second_stage(checkpoint, out) if second else {out: export(checkpoint, out)}
        if photos is not None:
            from tinyfaces.detection.runtime import PROPOSALS
            from tinyfaces.training.quantise import photo_batches, quantise

            found = find_inputs([str(photos)], recursive=False)
            batches = photo_batches((file.path for file in found.files if not file.is_video), told)
            typer.echo(f"wrote {quantise(out, PROPOSALS, islice(batches, _CALIBRATION_PHOTOS))}")
    except ImportError as error:
        missing_extra(error, "train")
    except (ValueError, OSError) as error:
        fail(str(error))
    for file, difference in differences.items():
        typer.echo(f"wrote {file}, largest difference from torch {difference:.1e}")
    told.end()


def _say(line: str) -> None:
    print(line, flush=True)


class _Told:
    """Prints a line about each photo that is left out. `end` then ends the command with the exit code that says so."""

    def __init__(self) -> None:
        self._any = False

    def __call__(self, line: str) -> None:
        self._any = True
        errors.print(f"tinyfaces: {line}")

    def end(self) -> None:
        if self._any:
            raise typer.Exit(SOME_FAILED)
