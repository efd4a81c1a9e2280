"""`tinyfaces page`."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from tinyfaces.cli.options import INPUT, MODEL, OUTPUT, app, command, errors, fail, folder_of
from tinyfaces.parsing.texts import reason
from tinyfaces.service.site_folder import write_site
from tinyfaces.service.static_page import RUNTIME_FOLDER, RUNTIME_VERSION, static_page, tab_model


class TabPrecision(StrEnum):
    """Of the numbers that the networks compute with in a tab."""

    FLOAT32 = "float32"
    INT8 = "int8"


@command(app)
def page(
    static: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=OUTPUT,
            help="Where to write it: a new or empty folder, or one with an earlier page, which is replaced.",
        ),
    ],
    runtime: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            rich_help_panel=INPUT,
            help=f"The files of the npm package onnxruntime-web, version {RUNTIME_VERSION}.",
        ),
    ] = RUNTIME_FOLDER,
    model: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="Shipped model or path of an ONNX file; may be given several times, the first is the default. If it is not "
            "given: accurate and fast.",
        ),
    ] = None,
    precision: Annotated[
        TabPrecision,
        typer.Option(rich_help_panel=MODEL, help="int8: models of half the size, slightly less exact, no faster in a tab."),
    ] = TabPrecision.FLOAT32,
) -> None:
    """Write the web page as static files that search photos in the browser's tab, without a service.

    Any web server can serve the folder. Photos stay in the tab.
    """
    folder = folder_of("--static", static)
    try:
        models = [tab_model(name, precision) for name in model or ["accurate", "fast"]]
        files = static_page(models, runtime, precision)
        write_site(folder, files)
    except ValueError as error:  # ModelError, StaticPageError and SiteFolderError are such
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or static}: {reason(error).lower()}")
    size = sum(map(len, files.values())) / 1e6
    errors.print(f"tinyfaces: {len(files)} files, {size:.0f} MB, in {static}; to try it: python -m http.server -d {static}")
