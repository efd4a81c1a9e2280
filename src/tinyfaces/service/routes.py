"""The addresses of the service, and what happens at each."""

from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import Field

from tinyfaces import __version__
from tinyfaces.detection.detector import MAX_SCALE
from tinyfaces.detection.faces import Faces
from tinyfaces.service.pictures import ANONYMISE_THRESHOLD, Method, PictureKind, stacked
from tinyfaces.service.schemas import PICTURE, REFUSALS, Detection, Model, Models, body
from tinyfaces.service.state import ServiceState
from tinyfaces.service.uploads import Upload, boxes_within, read_boxes
from tinyfaces.weights import models as shipped

PAGE = Path(__file__).parent / "page"


async def _only_known_options(request: Request) -> None:
    """Refuse options that an address does not have, as a misspelt one would do nothing."""
    known = [option.alias for option in request.scope["route"].dependant.query_params]
    given = [name for name, _ in request.query_params.multi_items()]
    for name in given:
        if name not in known:
            choice = f"choose from {', '.join(known)}" if known else "there are none"
            raise HTTPException(422, f"{name}: no such option; {choice}")
        if given.count(name) > 1:
            raise HTTPException(422, f"{name}: given twice")


pictures = APIRouter(prefix="/v1", tags=["pictures"], dependencies=[Depends(_only_known_options)])
"""Requests with a picture."""
restoring = APIRouter(prefix="/v1", tags=["pictures"], dependencies=[Depends(_only_known_options)])
"""The request that needs the second stage."""
service = APIRouter(tags=["service"])
"""Requests about the service itself."""

_ONLY_THIS_SERVICE = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src 'self' blob:; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
PAGE_HEADERS = {
    "Content-Security-Policy": _ONLY_THIS_SERVICE,
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-cache",
}


def _state_of(request: Request) -> ServiceState:
    state = request.app.state.service
    assert isinstance(state, ServiceState)
    return state


_State = Annotated[ServiceState, Depends(_state_of)]
_MethodOption = Annotated[Method, Query(description="How faces are made unrecognisable; solid leaves nothing of them.")]


@pictures.post(
    "/detect",
    summary="Find the faces in a picture",
    responses={200: {"model": Detection, "content": PICTURE, "description": "As `output` asks."}, **REFUSALS},
    openapi_extra=body(),
)
async def detect(
    request: Request,
    state: _State,
    output: Annotated[
        Literal["json", "annotated", "anonymised"],
        Query(description="Boxes and scores, or the picture with its faces framed or made unrecognisable."),
    ] = "json",
    threshold: Annotated[
        float | None,
        Query(
            ge=0, le=1, description="Score from which a detection counts; by default what the model recommends, 0.2 to anonymise."
        ),
    ] = None,
    scale: Annotated[
        Annotated[float, Field(gt=0, le=MAX_SCALE)] | Literal["auto"] | None,
        Query(
            description="Enlarge the picture first: at 2, faces half as large are found, in four times the time. By default, "
            "pictures below 0.3 megapixels are enlarged, at most 1.5 times."
        ),
    ] = None,
    min_height: Annotated[float, Query(ge=0, description="Leave out faces below this height, in pixels.")] = 0,
    max_height: Annotated[float | None, Query(ge=0, description="Leave out faces above this height, in pixels.")] = None,
    model: Annotated[str | None, Query(description="One of /v1/models.")] = None,
    method: _MethodOption = "blur",
) -> Response:
    """Send a form with a `file`, or the bytes of a picture. The answer is JSON, or a picture (PNG for a PNG, JPEG otherwise)."""
    name = state.default if model is None else model
    if name not in state.engines:
        raise HTTPException(422, f"model: choose from {', '.join(state.engines)}")
    engine = state.engines[name]
    own = min(engine.threshold, ANONYMISE_THRESHOLD) if output == "anonymised" else engine.threshold
    lowest = own if threshold is None else threshold

    async def work(upload: Upload) -> Response:
        # What a model enlarges by itself is small: the limit is for what was asked.
        async with state.decoded(upload, 1.0 if scale is None else scale) as picture:
            faces = await state.queue.detect(engine, picture.pixels, lowest, scale)
            faces = faces[(faces.heights >= min_height) & (faces.heights <= (np.inf if max_height is None else max_height))]
            height, width = picture.pixels.shape[:2]
            state.metrics.faces.inc(len(faces))
            state.metrics.pixels.inc(width * height)
            if output != "json":
                return await state.drawn(output, picture, faces, method)
        facts = {"file": upload.name, "width": width, "height": height, "model": name, "threshold": lowest}
        return await state.in_thread(lambda: JSONResponse({**facts, **faces.to_dict()}))

    return await state.answer(request, work)


@pictures.post(
    "/picture",
    summary="Frame known faces, or make them unrecognisable",
    response_class=Response,
    responses={200: {"content": PICTURE, "description": "The picture."}, **REFUSALS},
    openapi_extra=body("boxes"),
)
async def known_faces(
    request: Request,
    state: _State,
    output: Annotated[PictureKind, Query(description="Framed or unrecognisable.")] = "annotated",
    method: _MethodOption = "blur",
) -> Response:
    """Send a form with a `file` and the `boxes` of its faces; nothing is detected. The answer is the picture."""

    async def work(upload: Upload) -> Response:
        boxes = read_boxes(upload.fields.get("boxes"), state.limits)
        async with state.decoded(upload) as picture:
            boxes = boxes_within(boxes, picture.pixels)
            return await state.drawn(output, picture, Faces(boxes, np.ones(len(boxes), np.float32)), method)

    return await state.answer(request, work, ["boxes"])


@restoring.post(
    "/restore",
    summary="Restore small faces",
    response_class=Response,
    responses={200: {"content": {"image/png": {}}, "description": "The restored faces."}, **REFUSALS},
    openapi_extra=body("boxes"),
)
async def restored(request: Request, state: _State) -> Response:
    """Send a form with a `file`, the picture or a part of it, and the `boxes` of faces in it.

    The answer is a PNG of the restored faces with their surroundings, one below the other. They show what is likely, not what was
    there: they are no evidence of who someone is.
    """

    async def work(upload: Upload) -> Response:
        boxes = read_boxes(upload.fields.get("boxes"), state.limits)
        assert state.restore is not None
        async with state.decoded(upload) as picture:
            crops = await state.in_thread(state.restore, picture.pixels, boxes_within(boxes, picture.pixels))
        return Response(await state.in_thread(stacked, crops), media_type="image/png")

    return await state.answer(request, work, ["boxes"])


@service.get("/v1/models", summary="What is loaded", response_model=Models)
async def models(state: _State) -> Models:
    """The loaded models, with what was measured, and the limits of uploads."""
    records = shipped()
    known = []
    for name, engine in state.engines.items():
        facts: dict[str, Any] = {}
        if name in records:
            facts = {key: getattr(records[name], key) for key in ("description", "parameters", "gmac", "training_data", "ap")}
        known.append(Model(name=name, threshold=engine.threshold, **facts))
    sizes = {"megabytes": state.limits.megabytes, "megapixels": state.limits.megapixels}
    return Models(version=__version__, default=state.default, models=known, limits=sizes, restores=state.restore is not None)


@service.get("/healthz", summary="Whether the service is up")
async def health() -> dict[str, str]:
    """`{"status": "ok"}`."""
    return {"status": "ok"}


@service.get("/metrics", summary="Counters for Prometheus", response_class=Response)
async def numbers(state: _State) -> Response:
    """Requests, times, batch sizes, queue and memory, in Prometheus' text format."""
    return Response(state.metrics.as_text(), media_type="text/plain; version=0.0.4")


@service.get("/", include_in_schema=False)
async def page() -> FileResponse:
    """The web page."""
    return FileResponse(PAGE / "index.html", headers=PAGE_HEADERS)
