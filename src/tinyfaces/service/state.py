"""What all requests of one application share: models, limits, queue, threads; and how a request is answered within them."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeAlias, TypeVar
from urllib.parse import quote

import numpy as np
import numpy.typing as npt
from fastapi import HTTPException, Request, Response

from tinyfaces.detection.faces import Faces
from tinyfaces.detection.images import Pixels
from tinyfaces.detection.runtime import usable_cpus
from tinyfaces.detection.views import Scale
from tinyfaces.jobs.cover_picture import CoverPicture
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.service.limits import Limits
from tinyfaces.service.memory import Budget, HeldBytes, uses
from tinyfaces.service.metrics import Metrics
from tinyfaces.service.pictures import PictureKind, make_picture
from tinyfaces.service.queue import DetectionQueue, Engine, QueueFull
from tinyfaces.service.uploads import COVER, Upload, busy, decode, decode_cover, draw_cover, open_picture, receive

Restore: TypeAlias = Callable[[Pixels, npt.NDArray[np.float32]], Pixels]

_CLIENT_GONE = 499  # as nginx logs it
_Answer = TypeVar("_Answer")


@dataclass(frozen=True)
class Picture:
    """A decoded upload. name: of its file; format: as Pillow calls it; pixels: HxWx3 uint8 RGB, upright."""

    name: str
    format: str | None
    pixels: Pixels


@dataclass
class ServiceState:
    """What all requests share.

    Args:
        engines: The models, by the names under which requests choose them; the first is the default.
        limits: What requests may ask for.
        lanes: How many batches run at once.
        restore: A function of an image HxWx3 and boxes (N, 4) that restores them, (N, S, S, 3) uint8 RGB; None to offer none.
    """

    engines: Mapping[str, Engine]
    limits: Limits
    lanes: int
    restore: Restore | None
    queue: DetectionQueue = field(init=False)
    metrics: Metrics = field(init=False)

    def __post_init__(self) -> None:
        self.default = next(iter(self.engines))
        self._held_uploads = HeldBytes(int(self.limits.held_megabytes * 1e6))
        self._held_pixels = Budget(int(self.limits.held_megapixels * 1e6))
        self.queue = DetectionQueue(self.limits.queue, self.lanes, lambda size: self.metrics.batch_images.observe(size))
        self.metrics = Metrics(lambda: self.queue.taken, lambda: self.queue.waiting, lambda: self._held_uploads.held)
        self._threads = ThreadPoolExecutor(usable_cpus(), "pictures")

    @asynccontextmanager
    async def running(self, app: object = None) -> AsyncIterator[None]:
        """Keeps the queue's threads at work."""
        async with self.queue.running():
            yield
        self._threads.shutdown()

    async def in_thread(self, work: Callable[..., _Answer], *arguments: Any) -> _Answer:
        """What a function gives, called in another thread."""
        thread = self._threads.submit(work, *arguments)
        ended = asyncio.wrap_future(thread)
        uses().add(ended)
        try:
            return await asyncio.shield(ended)
        except asyncio.CancelledError:
            thread.cancel()  # which only helps where it has not begun
            raise

    async def answer(
        self, request: Request, work: Callable[[Upload], Awaitable[Response]], fields: Collection[str] = ()
    ) -> Response:
        """What `work` makes of the request's upload, unless there is no room or no time for it. fields: that a form may have."""
        try:
            self.queue.check_room()  # before anything is read
            with self._held_uploads.share() as share:
                upload = await receive(request, self.limits, share, fields)
                with self.queue.place():
                    async with asyncio.timeout(self.limits.answer_seconds):
                        return await _while_connected(request, work(upload))
        except QueueFull:
            raise busy("the queue is full") from None
        except TimeoutError:
            message = f"not answered within {self.limits.answer_seconds:g} s"
            raise HTTPException(503, message, {"Retry-After": "5"}) from None
        except HTTPException:
            raise
        except Exception as error:  # whatever a picture raises, it is that request's alone
            raise HTTPException(500, f"the picture could not be searched ({type(error).__name__})") from error

    @asynccontextmanager
    async def decoded(self, upload: Upload, scale: Scale = 1.0) -> AsyncIterator[Picture]:
        """The picture of an upload, which waits its turn until there is room for its pixels. scale: what it will be enlarged by,
        which the limits are for too."""
        image = await self.in_thread(open_picture, upload, self.limits, scale)
        format = image.format
        async with self._held_pixels.held(image.width * image.height):
            yield Picture(upload.name, format, await self.in_thread(decode, image))

    async def cover_of(self, upload: Upload) -> CoverPicture | None:
        """The picture to cover faces with that came with an upload, or its emoji, drawn."""
        if COVER in upload.fields:
            return await self.in_thread(draw_cover, upload.fields[COVER])
        if upload.cover is None:
            return None
        image = await self.in_thread(open_picture, replace(upload, content=upload.cover), self.limits)
        async with self._held_pixels.held(image.width * image.height):
            return await self.in_thread(decode_cover, image)

    async def drawn(
        self, kind: PictureKind, picture: Picture, faces: Faces, style: MaskStyle, cover: CoverPicture | None
    ) -> Response:
        """A picture with its faces framed or masked, with `cover` over each mask; PNG for a PNG, JPEG otherwise."""
        format, suffix = ("PNG", "png") if picture.format == "PNG" else ("JPEG", "jpg")
        content = await self.in_thread(make_picture, kind, picture.pixels, faces, style, format, cover)
        name = quote(f"{Path(picture.name).stem or 'picture'}_{kind}.{suffix}", safe="")
        headers = {"Content-Disposition": f"inline; filename*=UTF-8''{name}", "X-Faces": str(len(faces))}
        return Response(content, media_type=f"image/{format.lower()}", headers=headers)


async def _while_connected(request: Request, work: Awaitable[Response]) -> Response:
    """The answer; or, if the client leaves before, an empty one that nobody gets, and its work is given up."""

    async def left() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            pass

    working = asyncio.ensure_future(work)
    tasks = [working, asyncio.create_task(left())]
    try:
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else Response(status_code=_CLIENT_GONE)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
