"""Faces in videos: found and followed, or masked. Needs the extra: pip install 'tinyfaces[video]'.

import tinyfaces
for frame in tinyfaces.video.detect("clip.mp4"):
    print(frame.time, frame.faces.boxes, frame.tracks)
"""

import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.images import ImageSource
from tinyfaces.detection.runtime import usable_cpus
from tinyfaces.files import GivenFiles
from tinyfaces.jobs.cover_threshold import CoverThreshold
from tinyfaces.jobs.inputs import CONTAINERS
from tinyfaces.jobs.masked_images import Boxes, as_faces, read_cover
from tinyfaces.jobs.masking import MaskStyle
from tinyfaces.jobs.selection import ALL, Selection
from tinyfaces.jobs.spacing import EVERY_FRAME, Spacing

if TYPE_CHECKING:  # an extra
    from tinyfaces.jobs.clips import Advance, Clip
    from tinyfaces.jobs.known_faces import KnownVideo
    from tinyfaces.jobs.tracking import TrackedFaces
    from tinyfaces.jobs.video import VideoError as VideoError
    from tinyfaces.jobs.video import VideoReader

__all__ = ["MaskedVideo", "VideoError", "anonymise", "detect"]

_BEST_QUALITY, _LOWEST_QUALITY = 0, 51


@dataclass(frozen=True)
class MaskedVideo:
    """What `anonymise` did with a video.

    Args:
        width: Of the first frame, upright, in pixels.
        height: Of the first frame, upright, in pixels.
        frames: How many frames were written.
        tracks: How many faces were told apart and masked; of faces that were given, how many tracks they name.
        track_list: All faces told apart: track (its number), from and to (seconds), box (x1 y1 x2 y2 in the first frame that
            shows it) and, if it was left clear, left_clear (why).
        left_clear: How many of them were left clear, in all frames or in some, for each reason.
        removed: What else was in the file and was left out, such as "tags".
        lost: What the encoded picture lacks, such as "transparency".
        problem: What is wrong, in one line: only a part of the file could be read, or it does not have a track that the selection
            names. The rest is masked and written.
    """

    width: int
    height: int
    frames: int
    tracks: int
    track_list: list[dict[str, Any]]
    left_clear: dict[str, int]
    removed: list[str]
    lost: list[str]
    problem: str | None


def detect(
    path: str | os.PathLike[str],
    *,
    detector: Detector | None = None,
    threshold: CoverThreshold | float | None = None,
    selection: Selection = ALL,
    every: int | str = 1,
) -> Iterator["TrackedFaces"]:
    """Find the faces in a video and follow them from frame to frame, as `tinyfaces detect` does.

    Memory does not grow with the length of the video. A frame comes once some 14 further ones are read, as gaps are bridged.

    Args:
        path: The video.
        detector: Finds the faces. If None, `Detector()`. As many frames are searched at once as it has `workers`.
        threshold: The score from which a face counts; the detector's own if None. With a `CoverThreshold` it depends on the
            face's height, and a face below it only continues a track.
        selection: Which faces are given. The others are followed, and left out.
        every: One in so many frames is searched, 1 to 10, and faces are followed through the others; "auto" searches more where
            one is lost. Faster, and less safe.

    Returns:
        The frames in turn, each with its time in seconds, its `faces` with boxes in pixels of this frame, upright, their
        `tracks` (the same number for the same face in all frames) and whether they were `found` in this frame or bridged.

    Raises:
        ImportError: The extra `video` is not installed.
        VideoError: The video cannot be read. If only its end or some frames are damaged, a warning says so after the last frame;
            also if the video does not have a track that the selection names.
        ValueError: `every` makes no sense.

    Example:
        ```python
        for frame in tinyfaces.video.detect("clip.mp4"):
            print(frame.time, len(frame.faces), frame.tracks)
        ```
    """
    with _naming_the_extra():
        import tinyfaces.jobs.clips  # noqa: F401  (now, and not only at the first frame)
    cover = None if threshold is None else CoverThreshold.of(threshold)
    return _frames(Path(path), detector or _detector(), cover, selection, Spacing.of(str(every)))


def anonymise(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    faces: "Iterable[Boxes | TrackedFaces] | None" = None,
    *,
    detector: Detector | None = None,
    threshold: CoverThreshold | float | None = None,
    selection: Selection = ALL,
    every: int | str = 1,
    method: str | None = None,
    style: MaskStyle | None = None,
    cover: ImageSource | None = None,
    keep_metadata: bool = False,
    quality: int = 18,
    encoder: str | None = None,
    progress: Callable[[int], None] = lambda frames: None,
) -> MaskedVideo:
    """Write a video again with its faces masked, as `tinyfaces anonymise` does. Sound, subtitles and timing stay.

    Args:
        path: The video. It is never written over.
        out: The file to write, which replaces an earlier one. It appears once it is complete. Its name ends in .mp4, .m4v, .mov,
            .mkv, .webm, .ts, .mts or .m2ts.
        faces: What to mask in each frame, from the first to the last, in pixels of this frame, upright: `Faces`, boxes (N, 4),
            x1 y1 x2 y2, or what `detect` yields, of which `faces` counts. Nothing is detected then, and exactly these are masked:
            neither smoothed over time nor held beyond the ends of a track, as faces are that are found here.
        detector: Finds the faces. If None, `Detector()`. As many frames are searched at once as it has `workers`.
        threshold: The score from which a face begins a track, or a `CoverThreshold`. If None, a low one that depends on the
            face's height: 0.15 up to 24 pixels, 0.4 from 256 on. The detector's own has no effect.
        selection: Which of the faces are masked.
        every: One in so many frames is searched, 1 to 10, and faces are followed through the others; "auto" searches more where
            one is lost. Faster, and less safe.
        method: "blur", the default, "pixelate" or "solid".
        style: How faces are masked in every respect, in place of `method`.
        cover: A picture to put over each mask: whatever `read_image` takes, or an emoji such as "😀".
        keep_metadata: Keep tags, names of chapters and telemetry. Pictures in the file and attachments always go.
        quality: Constant rate factor of the encoder, 0-51: lower is better, and larger.
        encoder: FFmpeg's name of an encoder, such as "h264_nvenc", or with a preset, "libx264:veryfast"; "auto" for that of a
            graphics card where it works. If None, one of software, in the codec of the original.
        progress: Called with the number of frames that are done since its last call.

    Returns:
        What was masked, left clear and left out.

    Raises:
        ImportError: The extra `video` is not installed.
        VideoError: The video cannot be read or encoded.
        ImageError: The cover cannot be read.
        TypeError: `style` is no `MaskStyle`.
        ValueError: Both `method` and `style` were given;
            `out` is a file that is read here or no video's name; a number is out of its range; the encoder cannot be
            used here; `faces` do not fit the video, or options that choose among faces found were given beside them.
        OSError: The file cannot be written.

    Example:
        ```python
        done = tinyfaces.video.anonymise("clip.mp4", "masked.mp4", method="solid")
        print(done.tracks, done.removed)
        ```
    """
    with _naming_the_extra():
        from tinyfaces.jobs.clips import write_masked
        from tinyfaces.jobs.encoders import EncoderChoice
        from tinyfaces.jobs.known_clips import KnownClip
        from tinyfaces.jobs.video import VideoReader

    source, target, style = Path(path), Path(out), MaskStyle.of(method, style)
    if target.suffix.lower() not in CONTAINERS:
        raise ValueError(f"{target}: a video's name must end in {', '.join(CONTAINERS)}")
    if target in GivenFiles([source, *_files(cover), *([] if detector is None else [Path(detector.model)])]):
        raise ValueError(f"{target}: is one of the files that are read, which are never overwritten")
    if not _BEST_QUALITY <= quality <= _LOWEST_QUALITY:
        raise ValueError(f"quality must be within {_BEST_QUALITY}-{_LOWEST_QUALITY}. Received: {quality}")
    spacing = Spacing.of(str(every))
    if faces is not None and (detector is not None or threshold is not None or selection != ALL or spacing != EVERY_FRAME):
        raise ValueError("exactly the faces given are masked: detector, threshold, selection and every do not go with them")
    choice = EncoderChoice.of(encoder)
    picture = None if cover is None else read_cover(cover)
    limit = CoverThreshold.of(threshold)
    known = None if faces is None else _known(source, faces)
    with VideoReader(source) as video:
        clip: Clip | KnownClip
        if known is not None:
            clip = KnownClip(video, [known], progress)
        else:
            clip = _clip(video, detector or _detector(), limit, selection, spacing, progress)
        written = write_masked(
            clip, target, style, quality=quality, keep_metadata=keep_metadata, picture=picture, encoder=choice
        )  # fmt: skip
        numbers = clip.summary()
        return MaskedVideo(
            numbers["width"], numbers["height"], numbers["frames"], numbers["tracks"], clip.track_list(), clip.left_clear,
            written.left_out, written.losses, clip.problem,
        )  # fmt: skip


def _frames(
    path: Path, detector: Detector, cover: CoverThreshold | None, selection: Selection, spacing: Spacing
) -> Iterator["TrackedFaces"]:
    from tinyfaces.jobs.video import VideoReader

    with VideoReader(path) as video:
        clip = _clip(video, detector, cover, selection, spacing, lambda frames: None)
        yield from clip.results()
        if clip.problem is not None:
            warnings.warn(clip.problem, RuntimeWarning, stacklevel=2)


def _clip(
    video: "VideoReader",
    detector: Detector,
    cover: CoverThreshold | None,
    selection: Selection,
    spacing: Spacing,
    advance: "Advance",
) -> "Clip":
    from tinyfaces.jobs.clips import Clip

    return Clip(video, detector, detector.workers, advance, cover, selection, spacing)


def _known(source: Path, faces: "Iterable[Boxes | TrackedFaces]") -> "KnownVideo":
    """The faces given for each frame of a video. Raises ValueError."""
    from tinyfaces.jobs.known_faces import KnownVideo
    from tinyfaces.jobs.tracking import TrackedFaces

    frames = {}
    for number, one in enumerate(faces):
        if isinstance(one, TrackedFaces):
            frames[number] = replace(one, masks=one.faces.boxes)
        else:
            given = as_faces(one)
            frames[number] = TrackedFaces(0.0, given, np.zeros(0, np.int64), np.zeros(0, np.bool_), given.boxes)
    return KnownVideo(Path("faces"), str(source), frames)


def _detector() -> Detector:
    return Detector(workers=usable_cpus())


def _files(cover: ImageSource | None) -> list[Path]:
    return [Path(cover)] if isinstance(cover, str | os.PathLike) else []


@contextmanager
def _naming_the_extra() -> Iterator[None]:
    """Say in the ImportError what to install."""
    try:
        yield
    except ImportError as error:
        raise ImportError(f"{error.name} is not installed, which videos need: pip install 'tinyfaces[video]'") from None


def __getattr__(name: str) -> Any:
    if name != "VideoError":
        raise AttributeError(f"module 'tinyfaces.video' has no attribute '{name}'")
    with _naming_the_extra():
        from tinyfaces.jobs.video import VideoError

    return VideoError
