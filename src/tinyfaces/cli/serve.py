"""`tinyfaces serve`."""

from pathlib import Path
from typing import Annotated

import typer

from tinyfaces.cli.options import (
    BackendOption,
    DeviceOption,
    PrecisionOption,
    ThreadsOption,
    app,
    errors,
    fail,
    missing_extra,
    open_detector,
)
from tinyfaces.detection.runtime import RuntimeOptions, usable_cpus
from tinyfaces.weights import models as shipped


@app.command()
def serve(
    host: Annotated[str, typer.Option(help="Address to listen on; 0.0.0.0 lets other machines in.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 8000,
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="A shipped model or the path of an ONNX file; repeatable, the first is the default. Without it all shipped."
        ),
    ] = None,
    device: DeviceOption = "cpu",
    backend: BackendOption = "onnxruntime",
    precision: PrecisionOption = "auto",
    threads: ThreadsOption = None,
    max_megabytes: Annotated[float, typer.Option(min=0.001, max=1000, help="Of an upload.")] = 32,
    max_megapixels: Annotated[float, typer.Option(min=0.001, max=175, help="Of a picture.")] = 50,
    queue: Annotated[int, typer.Option(min=1, help="Requests that may wait for an answer; further ones get 429.")] = 64,
    timeout: Annotated[float, typer.Option(min=0.1, help="Seconds within which a request is answered, or gets 503.")] = 60,
    receive_timeout: Annotated[float, typer.Option(min=0.1, help="Seconds within which an upload must arrive.")] = 30,
) -> None:
    """Serve detection over HTTP, with a web page (needs the extra: pip install 'tinyfaces[serve]').

    Ctrl-C or SIGTERM stop it, after requests under way are answered.
    """
    try:
        from tinyfaces.service.app import create_app
        from tinyfaces.service.limits import Limits
        from tinyfaces.service.queue import Engine
        from tinyfaces.service.restoring import restorer
        from tinyfaces.service.server import listen, run
    except ImportError as error:
        missing_extra(error, "serve")

    engines = {}
    for name in model or list(shipped()):
        key = name if name in shipped() else Path(name).stem
        if key in engines:
            fail(f"model '{key}': given twice")
        alone = open_detector(name, None, None, device, backend, threads, precision=precision)
        shared = open_detector(name, None, None, device, backend, 1, precision=precision) if device == "cpu" else alone
        engines[key] = Engine(alone, shared)
    limits = Limits(
        megabytes=max_megabytes, megapixels=max_megapixels, queue=queue, receive_seconds=receive_timeout, answer_seconds=timeout
    )
    try:
        listening = listen(host, port)
    except OSError as error:
        fail(f"{host}:{port}: cannot be listened on ({(error.strerror or str(error)).lower()})")
    shown = f"[{host}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}"
    try:
        errors.print(f"tinyfaces: serving {', '.join(engines)} on {address} (Ctrl-C stops it)")
        restore = restorer(RuntimeOptions(backend, device, threads or usable_cpus(), precision, workers=threads or usable_cpus()))
        run(create_app(engines, limits, lanes=threads or usable_cpus(), restore=restore), listening, limits)
    except KeyboardInterrupt:
        errors.print("tinyfaces: stopped")
