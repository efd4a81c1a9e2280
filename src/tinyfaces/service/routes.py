"""The addresses of the service, and what happens at each."""

import json
import math
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from fastapi import APIRouter, Depends, HTTPException, Query, Request, Response
from fastapi.responses import FileResponse, JSONResponse
from pydantic import Field

from tinyfaces import __version__
from tinyfaces.detection.detector import MAX_SCALE
from tinyfaces.detection.faces import Faces
from tinyfaces.detection.merging import joined
from tinyfaces.jobs.cover_threshold import BY_HEIGHT, CoverThreshold
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.selection import Selection, read_corners
from tinyfaces.service.pictures import Method, PictureKind, stacked
from tinyfaces.service.schemas import PICTURE, REFUSALS, Detection, Model, Models, body
from tinyfaces.service.state import ServiceState
from tinyfaces.service.uploads import COVER, Upload, boxes_within, read_boxes
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
        if given.count(name) > 1 and name not in _REPEATED:
            raise HTTPException(422, f"{name}: given twice")


_REPEATED = ("only_region", "except_region")
"""Options that may be given several times."""

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


_StrengthOption = Annotated[
    int, Query(ge=1, le=5, description="Of blur and pixelate: 1 leaves up to 5x5 averages of each face, 5 a single one.")
]


@pictures.post(
    "/detect",
    summary="Find the faces in a picture",
    responses={200: {"model": Detection, "content": PICTURE, "description": "As `output` asks."}, **REFUSALS},
    openapi_extra=body(optional=["also_boxes"], cover=True),
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
            ge=0,
            le=1,
            description="Score from which a detection counts; by default what the model recommends. To anonymise, by default "
            "`cover_threshold` of /v1/models, which depends on the height.",
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
    only_region: Annotated[
        list[str] | None,
        Query(
            description="Corners of a polygon such as `0,0 100,0 100,80`, in pixels or relative to the picture (0-1): only faces "
            "whose centre is in it, or in another one given, are taken."
        ),
    ] = None,
    except_region: Annotated[
        list[str] | None, Query(description="Such a polygon: faces whose centre is in it are left out.")
    ] = None,
    model: Annotated[str | None, Query(description="One of /v1/models.")] = None,
    method: _MethodOption = "blur",
    strength: _StrengthOption = 1,
) -> Response:
    """Send a form with a `file`, or the bytes of a picture. The answer is JSON, or a picture (PNG for a PNG, JPEG otherwise).

    A form may have `also_boxes`, such as those of number plates. They are added to what is found, with the score 1.
    """
    name = state.default if model is None else model
    if name not in state.engines:
        raise HTTPException(422, f"model: choose from {', '.join(state.engines)}")
    engine = state.engines[name]
    own = None if output == "anonymised" else engine.threshold
    counts = CoverThreshold.of(own if threshold is None else threshold)

    selection = _selection(min_height, max_height, only_region or [], except_region or [])

    async def work(upload: Upload) -> Response:
        given = read_boxes("also_boxes", upload.fields.get("also_boxes", "[]"), state.limits)
        cover = await state.cover_of(upload)
        # What a model enlarges by itself is small: the limit is for what was asked.
        async with state.decoded(upload, 1.0 if scale is None else scale) as picture:
            added = boxes_within(given, picture.pixels)
            faces = counts.apply(await state.queue.detect(engine, picture.pixels, counts.lowest, scale))
            height, width = picture.pixels.shape[:2]
            faces, left_clear = selection.pick(faces, width, height)
            if len(added):
                faces = joined([faces, Faces(added, np.ones(len(added), np.float32))])[0]
            state.metrics.faces.inc(len(faces))
            state.metrics.pixels.inc(width * height)
            if output != "json":
                drawn = await state.drawn(output, picture, faces, MaskStyle(method, strength=strength), cover)
                drawn.headers["X-Threshold"] = json.dumps(counts.settings())
                drawn.headers["X-Left-Clear"] = json.dumps(left_clear)
                return drawn
        facts = {"file": upload.name, "width": width, "height": height, "model": name, "threshold": counts.lowest}
        return await state.in_thread(lambda: JSONResponse({**facts, **faces.to_dict(), "left_clear": left_clear}))

    return await state.answer(request, work, ["also_boxes", COVER])


def _selection(low: float, high: float | None, only: list[str], excepted: list[str]) -> Selection:
    """Which faces a request asks for. Raises HTTPException 422."""
    try:
        only_regions = [read_corners(text, "only_region") for text in only]
        except_regions = [read_corners(text, "except_region") for text in excepted]
        return Selection(low, math.inf if high is None else high, only_regions, except_regions)
    except ValueError as error:
        raise HTTPException(422, str(error)) from None


@pictures.post(
    "/picture",
    summary="Frame known faces, or make them unrecognisable",
    response_class=Response,
    responses={200: {"content": PICTURE, "description": "The picture."}, **REFUSALS},
    openapi_extra=body("boxes", cover=True),
)
async def known_faces(
    request: Request,
    state: _State,
    output: Annotated[PictureKind, Query(description="Framed or unrecognisable.")] = "annotated",
    method: _MethodOption = "blur",
    strength: _StrengthOption = 1,
) -> Response:
    """Send a form with a `file` and the `boxes` of its faces; nothing is detected. The answer is the picture.

    `boxes` may be an answer of /v1/detect, after a person has checked it.
    """

    async def work(upload: Upload) -> Response:
        given = read_boxes("boxes", upload.fields.get("boxes"), state.limits)
        cover = await state.cover_of(upload)
        async with state.decoded(upload) as picture:
            boxes = boxes_within(given, picture.pixels)
            faces = Faces(boxes, np.ones(len(boxes), np.float32))
            return await state.drawn(output, picture, faces, MaskStyle(method, strength=strength), cover)

    return await state.answer(request, work, ["boxes", COVER])


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
        given = read_boxes("boxes", upload.fields.get("boxes"), state.limits)
        assert state.restore is not None
        async with state.decoded(upload) as picture:
            crops = await state.in_thread(state.restore, picture.pixels, boxes_within(given, picture.pixels))
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
    own: dict[str, Any] = {"version": __version__, "default": state.default, "models": known}
    return Models(**own, limits=sizes, restores=state.restore is not None, cover_threshold=BY_HEIGHT)


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
