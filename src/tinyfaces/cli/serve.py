"""`tinyfaces serve`."""

from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from tinyfaces.cli.listening import SERVER, Port, listening_on
from tinyfaces.cli.options import (
    INPUT,
    MODEL,
    OUTPUT,
    SPEED,
    DetectorOptions,
    InputOptions,
    RuntimeChoice,
    app,
    command,
    errors,
    fail,
    missing_extra,
)
from tinyfaces.cli.review import open_desk
from tinyfaces.detection.restoring import Restorer
from tinyfaces.detection.runtime import usable_cpus
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.weights import models as shipped
from tinyfaces.weights import second_stage


@command(app)
def serve(
    runtime: RuntimeChoice,
    host: Annotated[
        str, typer.Option(rich_help_panel=SERVER, help="Address to listen on; 0.0.0.0 lets other machines connect.")
    ] = "127.0.0.1",
    port: Port = 8000,
    model: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=MODEL,
            help="A shipped model or the path of an ONNX file. May be given several times, the default first; all shipped "
            "models if not given.",
        ),
    ] = None,
    max_megabytes: Annotated[
        float, typer.Option(min=0.001, max=1000, rich_help_panel=INPUT, help="Largest upload, in megabytes.")
    ] = 32,
    max_megapixels: Annotated[
        float, typer.Option(min=0.001, max=175, rich_help_panel=INPUT, help="Largest picture, in megapixels.")
    ] = 50,
    queue: Annotated[
        int, typer.Option(min=1, rich_help_panel=SPEED, help="How many requests may wait; further ones are answered with 429.")
    ] = 64,
    timeout: Annotated[
        float, typer.Option(min=0.1, rich_help_panel=SPEED, help="Seconds after which a request is answered with 503.")
    ] = 60,
    receive_timeout: Annotated[
        float, typer.Option(min=0.1, rich_help_panel=SPEED, help="Seconds in which an upload must arrive.")
    ] = 30,
    review: Annotated[
        list[str] | None,
        typer.Option(
            rich_help_panel=INPUT,
            help="Photos, or folders of them, to review at /review, as with `tinyfaces review`; may be given several times. "
            "Only on this machine's own address.",
        ),
    ] = None,
    review_out: Annotated[
        str, typer.Option(rich_help_panel=OUTPUT, help="Folder for the photos that were reviewed.")
    ] = "anonymised",
) -> None:
    """Serve detection over HTTP, with a web page (needs the extra: pip install 'tinyfaces[serve]').

    Ctrl-C or SIGTERM stops it, once the requests under way are answered.
    """
    try:
        from tinyfaces.service.app import create_app
        from tinyfaces.service.limits import Limits
        from tinyfaces.service.queue import Engine
        from tinyfaces.service.review_routes import LOCAL_HOSTS, add_review
        from tinyfaces.service.server import run
    except ImportError as error:
        missing_extra(error, "serve")

    if review and host not in LOCAL_HOSTS:
        fail(f"--review shows your photos to whoever can reach {host}; it goes with 127.0.0.1 only")
    lanes = runtime.threads or usable_cpus()
    engines = {}
    for name in model or list(shipped()):
        key = name if name in shipped() else Path(name).stem
        if key in engines:
            fail(f"model '{key}' is given twice")
        options = DetectorOptions(**vars(runtime), model=name)
        alone = options.open(None)
        engines[key] = Engine(alone, options.open(None, lanes) if runtime.options().runs_on == "cpu" and lanes > 1 else alone)
    limits = Limits(
        megabytes=max_megabytes, megapixels=max_megapixels, queue=queue, receive_seconds=receive_timeout, answer_seconds=timeout
    )
    desk = None
    if review:
        finder = DetectorOptions(**vars(runtime), model=(model or ["accurate"])[0])
        desk = open_desk(InputOptions(review), finder, Masking(), review_out)
    listening = listening_on(host, port)
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}"
    try:
        errors.print(f"tinyfaces: serving {', '.join(engines)} on {address} (Ctrl-C stops it)")
        restore = Restorer(second_stage(), replace(runtime.options(), threads=1)).restore_faces
        created = create_app(engines, limits, lanes=lanes, restore=restore)
        with desk or nullcontext():
            if desk is not None:
                add_review(created, desk)
                errors.print(f"tinyfaces: review on {address}/review")
            run(created, listening, limits)
    except KeyboardInterrupt:
        errors.print("tinyfaces: stopped")
