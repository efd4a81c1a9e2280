"""The command line: a module for each group of commands."""

import io
import os
import sys
import warnings
from typing import Annotated

import typer

from tinyfaces.cli import anonymise, convert, count, detect, env, evaluate, models, page, restore, review, serve, train
from tinyfaces.cli.options import UNUSABLE, app
from tinyfaces.jobs.bulk import FULL

__all__ = [
    "anonymise", "app", "convert", "count", "detect", "env", "evaluate", "main", "models", "page", "restore", "review", "serve",
    "train",
]  # fmt: skip


def main() -> None:
    """Entry point of the `tinyfaces` command."""
    warnings.filterwarnings("ignore", module="PIL")  # about odd metadata, of files that are read all the same
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # file names need not be UTF-8
    try:
        app()
        sys.stdout.flush()
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(UNUSABLE)
    except OSError as error:
        if error.errno not in FULL:
            raise
        sys.stderr.write(f"tinyfaces: {error.filename or 'the standard output'}: {(error.strerror or str(error)).lower()}\n")
        sys.stderr.flush()
        os._exit(UNUSABLE)  # without the attempt to write the rest, which would end in a second message


def _version(wanted: bool) -> None:
    if wanted:
        from tinyfaces import __version__

        typer.echo(f"tinyfaces {__version__}")
        raise typer.Exit


@app.callback()
def common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Finds tiny faces in photos of crowds, stands and streets, on a plain CPU."""
