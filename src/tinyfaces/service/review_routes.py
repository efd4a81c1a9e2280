"""The addresses of a review. They answer this machine's own browser only, and no page of another site in it."""

from collections.abc import Callable
from typing import Annotated, Any, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field, FiniteFloat

from tinyfaces.detection.images import ImageError
from tinyfaces.jobs.review_store import FaceState, Outdated, ReviewedFace
from tinyfaces.service.review_desk import ReviewDesk
from tinyfaces.service.review_views import Region
from tinyfaces.service.routes import PAGE, PAGE_HEADERS

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names under which this machine reaches itself."""

_PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MOST_FACES = 20_000
_Answer = TypeVar("_Answer")


async def only_from_here(request: Request) -> None:
    """Refuse requests under a foreign name, which a rebound DNS entry makes, and those of other sites' pages."""
    host = urlsplit(f"//{request.headers.get('host', '')}").hostname
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "none")
    if host not in LOCAL_HOSTS:
        raise HTTPException(403, "a review answers under the names of this machine only")
    if (origin is not None and urlsplit(origin).netloc != request.headers.get("host")) or site not in ("none", "same-origin"):
        raise HTTPException(403, "a review answers its own page only")


reviewing = APIRouter(dependencies=[Depends(only_from_here)], include_in_schema=False)
"""All of them."""


def _desk_of(request: Request) -> ReviewDesk:
    desk = request.app.state.review
    assert isinstance(desk, ReviewDesk)
    return desk


_Desk = Annotated[ReviewDesk, Depends(_desk_of)]


class FaceChange(BaseModel):
    """A face as it is to be: box x1 y1 x2 y2 in pixels of the upright photo."""

    number: int = Field(ge=0, le=1_000_000)
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    state: FaceState


class Change(BaseModel):
    """Faces that were changed or added in an edition of a photo."""

    edition: int
    faces: list[FaceChange] = Field(max_length=_MOST_FACES)


class Acceptance(BaseModel):
    """Whether an edition of a photo is accepted."""

    edition: int
    accepted: bool


@reviewing.get("/review")
def page() -> FileResponse:
    """The review page."""
    return FileResponse(PAGE / "review.html", headers=PAGE_HEADERS)


@reviewing.get("/v1/review")
def queue(desk: _Desk, since: int = -1) -> JSONResponse:
    """The photos that changed since a revision."""
    return _json(desk.queue(since))


@reviewing.get("/v1/review/photos/{number}")
def photo(desk: _Desk, number: int) -> JSONResponse:
    """A photo's faces: [number, x1, y1, x2, y2, score or null, state, found] each."""
    known = _known(lambda: desk.photo(number))
    entry = desk.entry(number)
    faces = [[face.number, *face.box, face.score, face.state, face.found] for face in known.faces]
    width, height = known.size or (None, None)
    return _json({**entry, "edition": known.edition, "width": width, "height": height, "faces": faces})


@reviewing.get("/v1/review/photos/{number}/thumbnail")
def small(desk: _Desk, number: int) -> Response:
    """A small picture of a photo."""
    return Response(_known(lambda: desk.thumbnail(number)), media_type="image/jpeg", headers=_PRIVATE)


@reviewing.get("/v1/review/photos/{number}/picture")
def picture(
    desk: _Desk,
    number: int,
    covered: bool = False,
    region: Annotated[str | None, Query(pattern=r"^\d{1,7},\d{1,7},[1-9]\d{0,6},[1-9]\d{0,6}$")] = None,
) -> Response:
    """A photo or a part of it (left, top, width, height in pixels), as it is or covered as it will be written."""
    content, kind = _known(lambda: desk.picture(number, covered, _region(region)))
    return Response(content, media_type=kind, headers=_PRIVATE)


@reviewing.post("/v1/review/photos/{number}/changes")
def change(desk: _Desk, number: int, change: Change) -> JSONResponse:
    """Change faces. The answer is the photo's line in the queue, and the part of the picture that is another now."""
    for face in change.faces:
        x1, y1, x2, y2 = face.box
        if x2 <= x1 or y2 <= y1:
            raise HTTPException(422, "boxes must have x1 < x2 and y1 < y2")
    faces = [ReviewedFace(face.number, face.box, None, face.state) for face in change.faces]
    entry, region = _known(lambda: desk.change(number, change.edition, faces))
    return _json({"photo": entry, "region": region})


@reviewing.post("/v1/review/photos/{number}/accepted")
def accept(desk: _Desk, number: int, acceptance: Acceptance) -> JSONResponse:
    """Accept a photo, or take that back. The answer is its line in the queue."""
    return _json({"photo": _known(lambda: desk.accept(number, acceptance.edition, acceptance.accepted))})


@reviewing.post("/v1/review/writing")
def write(desk: _Desk) -> JSONResponse:
    """Begin to write all accepted photos; the queue tells how far that is."""
    desk.write()
    return _json(desk.queue(desk.queue(-1)["revision"]))


def create_review_app(desk: ReviewDesk) -> FastAPI:
    """An application that holds nothing but a review."""
    app = FastAPI(openapi_url=None)
    app.mount("/page", StaticFiles(directory=PAGE), name="page")
    app.add_exception_handler(RequestValidationError, lambda request, error: JSONResponse({"detail": "not understood"}, 422))
    app.add_api_route("/", lambda: RedirectResponse("review"), include_in_schema=False)
    add_review(app, desk)
    return app


def add_review(app: FastAPI, desk: ReviewDesk) -> None:
    """Let an application hold a review too."""
    app.state.review = desk
    app.include_router(reviewing)


def _json(content: Any) -> JSONResponse:
    return JSONResponse(content, headers=_PRIVATE)


def _region(text: str | None) -> Region | None:
    if text is None:
        return None
    left, top, width, height = map(int, text.split(","))
    return left, top, width, height


def _known(ask: Callable[[], _Answer]) -> _Answer:
    """What the desk answers; errors as statuses."""
    try:
        return ask()
    except KeyError:
        raise HTTPException(404, "there is no such photo in this review") from None
    except Outdated:
        raise HTTPException(409, "the photo was changed from another page") from None
    except ImageError as error:
        raise HTTPException(422, str(error)) from None
