"""The application: its addresses, and what happens at each."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from fastapi import FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse
from fastapi.staticfiles import StaticFiles
from fastapi_offline import FastAPIOffline
from pydantic import BaseModel, Field

from tinyfaces import __version__
from tinyfaces.detection.detector import MAX_SCALE
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.runtime import usable_cpus
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.service.limits import Limits
from tinyfaces.service.memory import Budget, HeldBytes
from tinyfaces.service.metrics import Metrics
from tinyfaces.service.pictures import ANONYMISE_THRESHOLD, Method, PictureKind, make_picture, stacked
from tinyfaces.service.queue import DetectionQueue, Engine, QueueFull
from tinyfaces.service.uploads import Upload, boxes_within, busy, decode, open_picture, read_boxes, receive
from tinyfaces.weights import models as shipped

PAGE = Path(__file__).parent / "page"

_ONLY_THIS_SERVICE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_PAGE_HEADERS = {
    "Content-Security-Policy": _ONLY_THIS_SERVICE,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}
_NOT_ANSWERED = 499
_Answer = TypeVar("_Answer")
Restore: TypeAlias = Callable[[Pixels, npt.NDArray[np.float32]], Pixels]
_MethodOption = Annotated[Method, Query(description="How faces are made unrecognisable; solid leaves nothing of them.")]


class Detection(BaseModel):
    """The faces of a picture, highest score first; boxes are x1 y1 x2 y2 in pixels of the upright picture."""

    file: str
    width: int
    height: int
    model: str
    threshold: float
    boxes: list[tuple[float, float, float, float]]
    scores: list[float]


class Model(BaseModel):
    """A model that is loaded. What is measured of shipped ones is told: average precision by face height."""

    name: str
    threshold: float
    description: str = ""
    parameters: int | None = None
    gmac: float | None = None
    training_data: str = ""
    ap: dict[str, float] = {}


class Models(BaseModel):
    """What the service offers. limits: megabytes and megapixels of a picture."""

    version: str
    default: str
    models: list[Model]
    limits: dict[str, float]
    restores: bool


class Problem(BaseModel):
    """Why a request was refused, in a line."""

    detail: str


_REFUSALS: dict[int | str, dict[str, Any]] = {
    status: {"model": Problem, "description": text}
    for status, text in {
        400: "No file, a broken form, or a file name that is a path.",
        408: "The upload took too long to arrive.",
        413: "More bytes or pixels than allowed.",
        415: "Not a picture.",
        422: "A damaged picture, or an option out of its range.",
        429: "The queue is full; `Retry-After` says when to try again.",
        503: "Not answered in time.",
    }.items()
}
_PICTURE: dict[str, Any] = {"image/jpeg": {}, "image/png": {}}


def _body(*fields: str) -> dict[str, Any]:
    properties: dict[str, Any] = {"file": {"type": "string", "format": "binary", "description": "The picture."}}
    for name in fields:
        properties[name] = {"type": "string", "description": "JSON: [[x1, y1, x2, y2], ...] in pixels."}
    content = {"multipart/form-data": {"schema": {"type": "object", "required": [*properties], "properties": properties}}}
    if not fields:
        content["image/*"] = {"schema": {"type": "string", "format": "binary"}}
    return {"requestBody": {"required": True, "content": content}}


def create_app(
    engines: Mapping[str, Engine], limits: Limits | None = None, *, lanes: int = 2, restore: Restore | None = None
) -> FastAPI:
    """The web application.

    engines: by the name under which requests choose them; the first is the default. lanes: batches that run at once.
    restore: gives the faces at boxes (N, 4) of an image HxWx3 with their surroundings, restored, as (N, S, S, 3) uint8 RGB.
    """
    limits = limits or Limits()
    default = next(iter(engines))
    queue = DetectionQueue(limits.queue, lanes, lambda size: metrics.batch_images.observe(size))
    held_uploads = HeldBytes(int(limits.held_megabytes * 1e6))
    held_pixels = Budget(int(limits.held_megapixels * 1e6))
    metrics = Metrics(lambda: queue.taken, lambda: queue.waiting, lambda: held_uploads.held)
    threads = ThreadPoolExecutor(usable_cpus(), "pictures")

    @asynccontextmanager
    async def running(app: FastAPI) -> AsyncIterator[None]:
        async with queue.running():
            yield
        threads.shutdown()

    app = FastAPIOffline(
        redoc_url=None,
        title="tinyfaces",
        version=__version__,
        description="Finds tiny faces in photos. Nothing that is sent is kept.",
        lifespan=running,
    )
    app.add_middleware(lambda app: metrics.watching(app))
    app.mount("/page", StaticFiles(directory=PAGE), name="page")

    async def in_thread(work: Callable[..., _Answer], *arguments: Any) -> _Answer:
        return await asyncio.get_running_loop().run_in_executor(threads, work, *arguments)

    async def answer(request: Request, work: Callable[[Upload], Awaitable[Response]]) -> Response:
        """What `work` makes of the request's upload, unless there is no room or no time for it."""
        try:
            queue.check_room()  # before anything is read
            with held_uploads.share() as share:
                upload = await receive(request, limits, share)
                with queue.place():
                    async with asyncio.timeout(limits.answer_seconds):
                        return await _while_connected(request, work(upload))
        except QueueFull:
            raise busy("the queue is full") from None
        except TimeoutError:
            message = f"not answered within {limits.answer_seconds:g} s"
            raise HTTPException(503, message, {"Retry-After": "5"}) from None

    @app.post(
        "/v1/detect",
        tags=["pictures"],
        summary="Find the faces in a picture",
        responses={200: {"model": Detection, "content": _PICTURE, "description": "As `output` asks."}, **_REFUSALS},
        openapi_extra=_body(),
    )
    async def detect(
        request: Request,
        output: Annotated[
            Literal["json", "annotated", "anonymised"],
            Query(description="Boxes and scores, or the picture with its faces framed or made unrecognisable."),
        ] = "json",
        threshold: Annotated[
            float | None,
            Query(ge=0, le=1, description="Score from which a detection counts; the model's own if left out, 0.2 to anonymise."),
        ] = None,
        scale: Annotated[
            Annotated[float, Field(gt=0, le=MAX_SCALE)] | Literal["auto"] | None,
            Query(
                description="Enlarge before looking: 2 finds faces half as large in four times the time. If left out, pictures "
                "below 0.3 megapixels are enlarged, at most 1.5 times."
            ),
        ] = None,
        min_height: Annotated[float, Query(ge=0, description="Leave out faces less high, in pixels.")] = 0,
        max_height: Annotated[float | None, Query(ge=0, description="Leave out higher faces, in pixels.")] = None,
        model: Annotated[str | None, Query(description="One of /v1/models.")] = None,
        method: _MethodOption = "blur",
    ) -> Response:
        """Send a form with a `file`, or the bytes of a picture. Gives JSON, or a picture (PNG for a PNG, JPEG otherwise)."""
        name = default if model is None else model
        if name not in engines:
            raise HTTPException(422, f"model: choose from {', '.join(engines)}")
        engine = engines[name]
        own = min(engine.threshold, ANONYMISE_THRESHOLD) if output == "anonymised" else engine.threshold
        lowest = own if threshold is None else threshold

        async def work(upload: Upload) -> Response:
            # What a model enlarges by itself is small: the limit is for what was asked.
            image = await in_thread(open_picture, upload, limits, 1.0 if scale is None else scale)
            format, file = image.format, upload.name
            async with held_pixels.held(image.width * image.height):
                pixels = await in_thread(decode, image)
                faces = await queue.detect(engine, pixels, lowest, scale)
                faces = faces[(faces.heights >= min_height) & (faces.heights <= (np.inf if max_height is None else max_height))]
                height, width = pixels.shape[:2]
                metrics.faces.inc(len(faces))
                metrics.pixels.inc(width * height)
                if output != "json":
                    return await picture(output, pixels, faces, method, file, format)
            facts = {"file": file, "width": width, "height": height, "model": name, "threshold": lowest}
            return await in_thread(lambda: JSONResponse({**facts, **faces.to_dict()}))

        return await answer(request, work)

    @app.post(
        "/v1/picture",
        tags=["pictures"],
        summary="Frame known faces, or make them unrecognisable",
        response_class=Response,
        responses={200: {"content": _PICTURE, "description": "The picture."}, **_REFUSALS},
        openapi_extra=_body("boxes"),
    )
    async def known_faces(
        request: Request,
        output: Annotated[PictureKind, Query(description="Framed or unrecognisable.")] = "annotated",
        method: _MethodOption = "blur",
    ) -> Response:
        """Send a form with a `file` and the `boxes` of its faces: nothing is detected. Gives the picture."""

        async def work(upload: Upload) -> Response:
            boxes = read_boxes(upload.fields.get("boxes"), limits)
            image = await in_thread(open_picture, upload, limits)
            format, file = image.format, upload.name
            async with held_pixels.held(image.width * image.height):
                pixels = await in_thread(decode, image)
                boxes = boxes_within(boxes, pixels)
                faces = Faces(boxes, np.ones(len(boxes), np.float32))
                return await picture(output, pixels, faces, method, file, format)

        return await answer(request, work)

    async def restored(request: Request) -> Response:
        """Send a form with a `file` and `boxes`: the picture, or a part of it, and faces in it.

        Gives a PNG of the faces with their surroundings, restored, one below the other. They show what is likely, not
        what was there: never take them for evidence of who someone is.
        """
        assert restore is not None
        restorer = restore

        async def work(upload: Upload) -> Response:
            boxes = read_boxes(upload.fields.get("boxes"), limits)
            image = await in_thread(open_picture, upload, limits)
            async with held_pixels.held(image.width * image.height):
                pixels = await in_thread(decode, image)
                crops = await in_thread(restorer, pixels, boxes_within(boxes, pixels))
            return Response(await in_thread(stacked, crops), media_type="image/png")

        return await answer(request, work)

    if restore is not None:
        app.post(
            "/v1/restore",
            tags=["pictures"],
            summary="Restore small faces",
            response_class=Response,
            responses={200: {"content": {"image/png": {}}, "description": "The restored faces."}, **_REFUSALS},
            openapi_extra=_body("boxes"),
        )(restored)

    async def picture(kind: PictureKind, pixels: Pixels, faces: Faces, method: Method, name: str, source: str | None) -> Response:
        format, suffix = ("PNG", "png") if source == "PNG" else ("JPEG", "jpg")
        content = await in_thread(make_picture, kind, pixels, faces, MaskStyle(method), format)
        called = quote(f"{Path(name).stem or 'picture'}_{kind}.{suffix}", safe="")
        headers = {"Content-Disposition": f"inline; filename*=UTF-8''{called}", "X-Faces": str(len(faces))}
        return Response(content, media_type=f"image/{format.lower()}", headers=headers)

    @app.get("/v1/models", tags=["service"], summary="What is loaded", response_model=Models)
    async def models() -> Models:
        """The loaded models, with what was measured of them, and the limits of uploads."""
        records = shipped()
        known = []
        for name, engine in engines.items():
            facts = {}
            if name in records:
                record = records[name]
                facts = {key: getattr(record, key) for key in ("description", "parameters", "gmac", "training_data", "ap")}
            known.append(Model(name=name, threshold=engine.threshold, **facts))
        sizes = {"megabytes": limits.megabytes, "megapixels": limits.megapixels}
        return Models(version=__version__, default=default, models=known, limits=sizes, restores=restore is not None)

    @app.get("/healthz", tags=["service"], summary="Whether the service lives")
    async def health() -> dict[str, str]:
        """`{"status": "ok"}`."""
        return {"status": "ok"}

    @app.get("/metrics", tags=["service"], summary="Counters for Prometheus", response_class=Response)
    async def numbers() -> Response:
        """Requests, times, batch sizes, queue and memory, in Prometheus' text format."""
        return Response(metrics.as_text(), media_type="text/plain; version=0.0.4")

    @app.get("/", include_in_schema=False)
    async def page() -> FileResponse:
        return FileResponse(PAGE / "index.html", headers=_PAGE_HEADERS)

    @app.exception_handler(RequestValidationError)
    async def one_line(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        problem = error.errors()[0]
        return JSONResponse({"detail": f"{problem['loc'][1]}: {problem['msg']}"}, 422)

    return app


async def _while_connected(request: Request, work: Awaitable[Response]) -> Response:
    """The answer, or an empty one nobody gets if the client leaves before: its work is then given up."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    tasks = [working, asyncio.create_task(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=_NOT_ANSWERED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
