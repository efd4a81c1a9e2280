"""A video written again with frames around its faces."""

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw

from tinyfaces.detection.faces import draw_frames
from tinyfaces.files import replacing
from tinyfaces.jobs.clips import Clip
from tinyfaces.jobs.own_results import MARK
from tinyfaces.jobs.tracking import TrackedFaces
from tinyfaces.jobs.video_writer import VideoWriter
from tinyfaces.jobs.writing_thread import WritingThread

_INK, _OUTLINE = (255, 255), (0, 255)  # how green, and how opaque


def write_drawn(
    clip: Clip,
    target: Path,
    *,
    scores: bool,
    on_losses: Callable[[Sequence[str]], None] = lambda losses: None,
    on_frame: Callable[[av.VideoFrame, TrackedFaces], None] = lambda frame, settled: None,
) -> Iterator[TrackedFaces]:
    """`Clip.results`, while the video is written with a frame and the number of its track around each face.

    The file appears after the last frame, or not at all.

    Args:
        clip: The faces of the video.
        target: The file to write; its ending is one of `inputs.CONTAINERS`.
        scores: Also write each face's score.
        on_losses: Called with what the encoded picture lacks, such as "transparency", if it lacks anything.
        on_frame: Called with each frame before it is drawn on, and its faces, in pixels of the first frame.

    Raises:
        VideoError: The video cannot be encoded.
        OSError: The target cannot be written.
    """
    size = clip.video.shape.size
    with (
        replacing(target) as unfinished,
        VideoWriter(unfinished, target.suffix.lower(), clip.video, comment=MARK) as writer,
        WritingThread() as thread,
    ):
        if writer.losses:
            on_losses(writer.losses)

        def draw(frame: av.VideoFrame, settled: TrackedFaces) -> None:
            on_frame(frame, settled)
            thread.do(lambda: writer.write_drawn(frame, drawing(settled, *size, scores=scores)))

        yield from clip.results(lambda packet: thread.do(partial(writer.copy, packet)), draw)


def drawing(settled: TrackedFaces, width: int, height: int, *, scores: bool) -> npt.NDArray[np.uint8]:
    """Frames and words of the faces in a frame of width x height pixels, (height, width, 2): see `VideoWriter.write_drawn`."""
    canvas = Image.new("LA", (width, height))
    if len(settled.faces):
        values = zip(settled.tracks.tolist(), settled.faces.scores.tolist(), strict=True)
        words = [f"{track}: {score:.2f}" if scores else str(track) for track, score in values]
        draw_frames(ImageDraw.Draw(canvas), settled.faces, words, _INK, _OUTLINE)
    return np.asarray(canvas)
