"""`tinyfaces detect --ray` and `tinyfaces anonymise --ray`: work on a Ray cluster."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Annotated, Any, TypeAlias

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
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.inputs import left_out_line

RayAddress: TypeAlias = Annotated[
    str | None,
    typer.Option(
        metavar="ADDRESS",
        rich_help_panel=INPUT,
        help="Run on this Ray cluster, or 'local' (an extra), on photos only. Paths may be of any fsspec kind (s3://...); what "
        "was found is written as Parquet files.",
    ),
]


def options_given(options: Any) -> dict[str, bool]:
    """The options of a dataclass of them, as they are typed, and whether each is another than it is by itself."""
    return {f"--{one.name.strip('_').replace('_', '-')}": getattr(options, one.name) != one.default for one in fields(options)}


def refuse_with_ray(given: Mapping[str, bool], why: str) -> None:
    """End the command if an option was given that does not go with --ray. given: options, and whether they were given."""
    names = [name for name, is_given in given.items() if is_given]
    if names:
        listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
        fail(f"--ray {why}; {listed} {'does' if len(names) == 1 else 'do'} not go with it")


def run_on_cluster(
    address: str,
    inputs: InputOptions,
    out: str | None,
    detector: DetectorOptions,
    threshold: float | None,
    progress: ProgressOptions,
    masking: Masking | None = None,
) -> None:
    """Work on all images on a cluster, and print a summary.

    Args:
        address: Of the cluster.
        inputs: The images, of any fsspec kind.
        out: A folder of any fsspec kind.
        detector: Which detector.
        threshold: Its threshold.
        progress: Whether to go on with an earlier run, and what to show.
        masking: How faces are masked: the photos go to `out`. If None, they are only found: Parquet files go to `out`.
    """
    refuse_with_ray({"--threads": detector.threads is not None}, "gives each photo one thread")
    cluster = _cluster()
    if out is None:
        fail("--ray needs --out, a folder (of any fsspec kind) for Parquet files")
    if detector.device in ("auto", "cpu"):  # what is wrong here is wrong there, and is said before a cluster is asked
        detector.open(threshold)
    options = {
        "threshold": threshold, "scale": detector.scale, "stages": detector.stages, "device": detector.device,
        "backend": detector.backend, "precision": detector.precision,
    }  # fmt: skip
    work = cluster.Work(address, inputs.paths, out, detector.model, options, inputs.recursive, progress.resume)
    try:
        with bar("finding faces" if masking is None else "masking faces", None, "images", progress.quiet) as advance:
            summary = cluster.detect(work, advance) if masking is None else cluster.anonymise(work, masking, advance)
    except ValueError as error:  # RayError is one
        fail(str(error))
    if summary.left_out and not progress.quiet:
        errors.print(f"tinyfaces: {left_out_line(summary.left_out)}")
    for line in summary.problems:
        errors.print(f"tinyfaces: {line}")
    if not progress.quiet:
        for line in summary.lost:
            typer.echo(line)
        typer.echo(summary.line())
    if summary.problems:
        raise typer.Exit(SOME_FAILED if summary.images else UNUSABLE)


def _cluster() -> Any:
    try:
        from tinyfaces.jobs import cluster
    except ImportError as error:
        missing_extra(error, "ray")
    return cluster
