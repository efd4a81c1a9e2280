"""`tinyfaces detect --ray` and `tinyfaces anonymise --ray`: work on a Ray cluster."""

from collections.abc import Callable
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

from tinyfaces.cli.options import (
    INPUT,
    SOME_FAILED,
    UNUSABLE,
    DetectorOptions,
    InputOptions,
    ProgressOptions,
    errors,
    fail,
    missing_extra,
)
from tinyfaces.cli.progress import bar
from tinyfaces.jobs.inputs import left_out_line
from tinyfaces.jobs.masking import MaskStyle

if TYPE_CHECKING:  # an extra
    from tinyfaces.jobs.cluster import Summary

RayAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=INPUT,
        help="Run on this Ray cluster, or 'local' (an extra), on photos only. Paths may be of any fsspec kind (s3://...); what "
        "was found is written as Parquet files.",
    ),
]


def detect_on_cluster(
    address: str,
    inputs: InputOptions,
    out: str | None,
    detector: DetectorOptions,
    threshold: float | None,
    progress: ProgressOptions,
) -> None:
    """Find the faces in all images on a cluster, write Parquet files to the folder `out`, and print a summary."""
    cluster = _cluster()
    if out is None:
        fail("--ray needs --out, a folder (of any fsspec kind) for Parquet files")
    _run("finding faces", cluster.detect, address, inputs, out, detector, threshold, progress)


def anonymise_on_cluster(
    address: str,
    inputs: InputOptions,
    out: str,
    detector: DetectorOptions,
    threshold: float | None,
    progress: ProgressOptions,
    style: MaskStyle,
    keep_metadata: bool,
) -> None:
    """Mask the faces in all images on a cluster, write the photos to the folder `out`, and print a summary."""
    cluster = _cluster()
    masks = {**asdict(style), "keep_metadata": keep_metadata}
    _run("masking faces", cluster.anonymise, address, inputs, out, detector, threshold, progress, masks=masks)


def _cluster() -> Any:
    try:
        from tinyfaces.jobs import cluster
    except ImportError as error:
        missing_extra(error, "ray")
    return cluster


def _run(
    label: str,
    job: "Callable[..., Summary]",
    address: str,
    inputs: InputOptions,
    out: str,
    detector: DetectorOptions,
    threshold: float | None,
    progress: ProgressOptions,
    **more: Any,
) -> None:
    if detector.device in ("auto", "cpu"):  # what is wrong here is wrong there, and is said before a cluster is asked
        detector.open(threshold)
    options = {
        "threshold": threshold, "scale": detector.scale, "stages": detector.stages, "device": detector.device,
        "backend": detector.backend, "precision": detector.precision,
    }  # fmt: skip
    try:
        with bar(label, None, "images", progress.quiet) as advance:
            summary = job(
                address, inputs.paths, out, model=detector.model, options=options, recursive=inputs.recursive,
                resume=progress.resume, advance=advance, **more,
            )  # fmt: skip
    except ValueError as error:  # RayError is one
        fail(str(error))
    if summary.left_out and not progress.quiet:
        errors.print(f"tinyfaces: {left_out_line(summary.left_out)}")
    for line in summary.problems:
        errors.print(f"tinyfaces: {line}")
    if not progress.quiet:
        typer.echo(summary.line())
    if summary.problems:
        raise typer.Exit(SOME_FAILED if summary.images else UNUSABLE)
