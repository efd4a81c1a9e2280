"""`tinyfaces detect --ray`: detection on a Ray cluster."""

import typer

from tinyfaces.cli.options import (
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


def detect_on_cluster(
    address: str,
    inputs: InputOptions,
    out: str | None,
    detector: DetectorOptions,
    threshold: float | None,
    progress: ProgressOptions,
) -> None:
    """Find the faces in all images on a cluster, write Parquet files to the folder `out`, and print a summary."""
    try:
        from tinyfaces.jobs import cluster
    except ImportError as error:
        missing_extra(error, "ray")
    if out is None:
        fail("--ray needs --out, a folder (of any fsspec kind) for Parquet files")
    if detector.device == "cpu":  # what is wrong here is wrong there, and is said before a cluster is asked
        detector.open(threshold)
    options = {
        "threshold": threshold, "scale": detector.scale, "stages": detector.stages, "device": detector.device,
        "backend": detector.backend, "precision": detector.precision,
    }  # fmt: skip
    try:
        with bar("finding faces", None, "images", progress.quiet) as advance:
            summary = cluster.detect(
                address, inputs.paths, out, model=detector.model, options=options, recursive=inputs.recursive,
                resume=progress.resume, advance=advance,
            )  # fmt: skip
    except cluster.RayError as error:
        fail(str(error))
    for line in summary.problems:
        errors.print(f"tinyfaces: {line}")
    if not progress.quiet:
        typer.echo(summary.line())
    if summary.problems:
        raise typer.Exit(SOME_FAILED if summary.images else UNUSABLE)
