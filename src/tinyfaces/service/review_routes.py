"""The addresses of a review. They answer this machine's own browser only, and no page of another site in it."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar
from urllib.parse import urlsplit

from fastapi import APIRouter, Depends, FastAPI, HTTPException, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from pydantic import BaseModel, Field, FiniteFloat

from tinyfaces.jobs.review_store import FaceState, Outdated, ReviewedFace
from tinyfaces.service.review_desk import ReviewDesk
from tinyfaces.service.review_views import Region
from tinyfaces.service.routes import PAGE, PAGE_HEADERS

if TYPE_CHECKING:  # an extra
    from tinyfaces.service.clip_desk import ClipDesk

LOCAL_HOSTS = ("127.0.0.1", "localhost", "::1")
"""Names under which this machine reaches itself."""

_PRIVATE = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Cross-Origin-Resource-Policy": "same-origin",
}
_MOST_FACES = 20_000
_MOST_FRAMES = 500
_RegionText = Annotated[str | None, Query(pattern=r"^\d{1,7},\d{1,7},[1-9]\d{0,6},[1-9]\d{0,6}$")]
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


def _clips_of(desk: _Desk) -> "ClipDesk":
    if desk.clips is None:
        raise HTTPException(404, "there is no video in this review")
    return desk.clips


_Clips = Annotated[Any, Depends(_clips_of)]


class FaceChange(BaseModel):
    """A face as it is to be: box x1 y1 x2 y2 in pixels of the upright photo."""

    number: int = Field(ge=0, le=1_000_000)
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]
    state: FaceState


class Change(BaseModel):
    """Faces that were changed or added in an edition of a photo."""

    edition: int
    faces: list[FaceChange] = Field(max_length=_MOST_FACES)


class TrackChange(BaseModel):
    """What is to become of a track."""

    track: int = Field(ge=0)
    state: Literal["covered", "clear"]


class KeyFrame(BaseModel):
    """Where a drawn face is in a frame: box x1 y1 x2 y2 in pixels of the first frame, upright."""

    frame: int = Field(ge=0)
    box: tuple[FiniteFloat, FiniteFloat, FiniteFloat, FiniteFloat]


class DrawnChange(BaseModel):
    """A drawn face as it is to be."""

    face: int = Field(ge=0, le=1_000_000)
    state: FaceState
    keys: list[KeyFrame] = Field(min_length=1, max_length=_MOST_FACES)


class ClipChange(BaseModel):
    """Tracks and drawn faces that were changed or added in an edition of a video."""

    edition: int
    tracks: list[TrackChange] = Field(max_length=_MOST_FACES)
    drawn: list[DrawnChange] = Field(max_length=_MOST_FACES)


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
    region: _RegionText = None,
) -> Response:
    """A photo or a part of it (left, top, width, height in pixels), as it is or covered as it will be written."""
    content, kind = _known(lambda: desk.picture(number, covered, _region(region)))
    return Response(content, media_type=kind, headers=_PRIVATE)


@reviewing.post("/v1/review/photos/{number}/changes")
def change(desk: _Desk, number: int, change: Change) -> JSONResponse:
    """Change faces. The answer is the photo's line in the queue, and the part of the picture that is another now."""
    _check_boxes(face.box for face in change.faces)
    faces = [ReviewedFace(face.number, face.box, None, face.state) for face in change.faces]
    entry, region = _known(lambda: desk.change(number, change.edition, faces))
    return _json({"photo": entry, "region": region})


@reviewing.get("/v1/review/videos/{number}")
def video(desk: _Desk, clips: _Clips, number: int) -> JSONResponse:
    """A video: the seconds of its frames, its tracks and the faces drawn in it. One that is not searched yet is searched next,
    and the answer is its line in the queue."""
    entry = _known(lambda: desk.entry(number))
    if entry["state"] != "found":
        _known(lambda: clips.want(number))
        return _json(entry)
    known, seconds = _known(lambda: clips.video(number))
    tracks = [
        {"track": one.number, "spans": one.spans, "best": one.best, "score": round(one.score, 4), "box": one.box}
        for one in known.tracks
    ]
    drawn = [
        {"face": one.number, "state": one.state, "keys": [{"frame": frame, "box": box} for frame, box in one.keys]}
        for one in known.drawn
    ]
    return _json(
        {
            **entry, "edition": known.edition, "width": known.size[0], "height": known.size[1], "rate": known.rate,
            "seconds": [round(one, 3) for one in seconds], "tracks": tracks, "clear": sorted(known.clear), "drawn": drawn,
        }
    )  # fmt: skip


@reviewing.get("/v1/review/videos/{number}/faces")
def clip_faces(clips: _Clips, number: int, first: Annotated[int, Query(ge=0)], last: Annotated[int, Query(ge=0)]) -> JSONResponse:
    """The faces found in each frame from first to last: [x1, y1, x2, y2, track, other track that it may be, seen] each."""
    if last - first >= _MOST_FRAMES:
        raise HTTPException(422, f"at most {_MOST_FRAMES} frames are given at once")
    return _json({"frames": clips.faces(number, first, last)})


@reviewing.get("/v1/review/videos/{number}/frames/{frame}")
def clip_frame(clips: _Clips, number: int, frame: int, covered: bool = False, region: _RegionText = None) -> Response:
    """A frame or a part of it, as it is or covered as it will be written."""
    content, kind = _known(lambda: clips.picture(number, frame, covered, _region(region)))
    return Response(content, media_type=kind, headers=_PRIVATE)


@reviewing.get("/v1/review/videos/{number}/tracks/{track}")
def track_picture(clips: _Clips, number: int, track: int) -> Response:
    """A small picture of a track's face."""
    return Response(_known(lambda: clips.crop(number, track)), media_type="image/jpeg", headers=_PRIVATE)


@reviewing.post("/v1/review/videos/{number}/changes")
def change_clip(desk: _Desk, clips: _Clips, number: int, change: ClipChange) -> JSONResponse:
    """Change tracks and drawn faces. The answer is the video's line in the queue."""
    _check_boxes(key.box for face in change.drawn for key in face.keys)
    tracks = {one.track: one.state for one in change.tracks}
    drawn = [(one.face, one.state, [(key.frame, key.box) for key in one.keys]) for one in change.drawn]
    _known(lambda: clips.change(number, change.edition, tracks, drawn))
    return _json({"photo": desk.entry(number)})


@reviewing.post("/v1/review/photos/{number}/accepted")
def accept(desk: _Desk, number: int, acceptance: Acceptance) -> JSONResponse:
    """Accept a photo or video, or take that back. The answer is its line in the queue."""
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


def _check_boxes(boxes: Iterable[tuple[float, float, float, float]]) -> None:
    if any(x2 <= x1 or y2 <= y1 for x1, y1, x2, y2 in boxes):
        raise HTTPException(422, "boxes must have x1 < x2 and y1 < y2")


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
    except ValueError as error:  # of a photo or a video
        raise HTTPException(422, str(error)) from None
