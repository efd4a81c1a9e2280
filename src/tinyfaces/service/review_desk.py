"""What a running review shares: its photos, the search ahead in a thread, the pictures shown, and the writing at the end."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.images import Pixels, read_image
from tinyfaces.files import write_parts
from tinyfaces.jobs.bulk import as_text, described
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.known_faces import KnownFaces
from tinyfaces.jobs.review_store import ReviewedFace, ReviewedPhoto, ReviewStore
from tinyfaces.jobs.reviewed_photos import ChangedSince, Decisions, search, write_reviewed
from tinyfaces.service.review_lines import queue_line
from tinyfaces.service.review_views import Region, View, ViewCache, thumbnail

if TYPE_CHECKING:  # an extra
    from tinyfaces.service.clip_desk import ClipDesk

_THUMBNAILS = 2000  # kept in memory, about 5 KB each


@dataclass(frozen=True)
class Assignment:
    """What is to be reviewed, and what becomes of it.

    Args:
        targets: Each photo or video, and the file it is written to.
        report: The JSON file that says what was found, added and taken away.
        masking: How faces are covered, and what else of a photo stays.
        given: The faces that files give for a photo; may raise KnownFacesError.
        sources: The files that were given, as the report names them.
        quality: Of videos, see `tinyfaces.jobs.video_writer`.
    """

    targets: Mapping[InputFile, Path]
    report: Path
    masking: Masking
    given: Callable[[InputFile], Sequence[KnownFaces]] = lambda file: ()
    sources: Mapping[str, str] = field(default_factory=dict)
    quality: int = 18


class ReviewDesk:
    """A review at work. Any thread may use it. Use it in a `with`, which searches photos ahead and closes the store.

    Its videos, if it has any, are in `clips`.

    Args:
        store: Its progress.
        detector: Finds faces; None to begin with nothing but what is given.
        assignment: What is to be done.
    """

    def __init__(self, store: ReviewStore, detector: Detector | None, assignment: Assignment) -> None:
        self.store = store
        self.assignment = assignment
        self._detector = detector
        files = list(assignment.targets)
        self._numbers = store.enter([file.path for file in files])
        self._files = dict(zip(self._numbers, files, strict=True))
        self._changes = threading.Condition()
        self._revision = 0
        self._entries: dict[int, dict[str, Any]] = {}
        self._revisions: dict[int, int] = {}
        self._wanted: list[int] = []
        self._ending = False
        self._serving = 0  # requests of the page at work
        self._thumbnails: OrderedDict[int, bytes] = OrderedDict()
        self._views = ViewCache(lambda number: View(read_image(self._files[number].path), assignment.masking))
        self._writing: dict[str, Any] = {"state": "idle"}
        self._writer: threading.Thread | None = None
        self._searching = threading.Thread(target=self._search_ahead, name="review", daemon=True)
        self.clips = self._open_clips()
        for number in self._numbers:
            self._note(number)

    def __enter__(self) -> "ReviewDesk":
        self._searching.start()
        if self.clips is not None:
            self.clips.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changes:
            self._ending = True
            self._changes.notify_all()
        self._searching.join()
        if self.clips is not None:
            self.clips.stop()
        if self._writer is not None:
            self._writer.join()
        self.store.close()

    def queue(self, since: int) -> dict[str, Any]:
        """What has changed since a revision: `{"revision", "total", "photos": [...], "writing"}`; all there is since -1."""
        with self._changes:
            photos = [self._entries[number] for number in self._numbers if self._revisions[number] > since]
            return {"revision": self._revision, "total": len(self._numbers), "photos": photos, "writing": self._writing}

    def entry(self, number: int) -> dict[str, Any]:
        """A photo's line in the queue. Raises KeyError."""
        with self._changes:
            return self._entries[number]

    def photo(self, number: int) -> ReviewedPhoto:
        """A photo. One that was not searched yet is searched next. Raises KeyError where the review has none of this number."""
        if self._clips_of(number) is not None:
            raise KeyError(number)
        photo = self.store.photo(number)
        if photo.size is None and photo.problem is None:
            with self._changes:
                self._wanted.append(number)
                self._changes.notify_all()
        return photo

    def thumbnail(self, number: int) -> bytes:
        """A small JPEG of a photo. Raises KeyError, ImageError."""
        self.entry(number)
        with self._changes:
            known = self._thumbnails.get(number)
        if known is not None:
            return known
        clips = self._clips_of(number)
        with self._page_first():
            return self._keep_thumbnail(number, read_image(self._files[number].path) if clips is None else clips.still(number))

    def picture(self, number: int, covered: bool, region: Region | None = None) -> tuple[bytes, str]:
        """A photo or a part of it as it is or as it will be written, and the media type. Raises KeyError, ImageError."""
        self.entry(number)
        with self._page_first():
            view = self._views.get(number)
            with view.lock:
                if covered:
                    view.cover(self.store.photo(number).covered)
                return view.picture(covered, region)

    def change(self, number: int, edition: int, faces: Sequence[ReviewedFace]) -> tuple[dict[str, Any], Region | None]:
        """Change faces of a photo. Gives its line in the queue, and the part of the picture that this changes.

        Raises KeyError, Outdated, ImageError.
        """
        self.entry(number)
        with self._page_first():
            view = self._views.get(number)
            with view.lock:
                view.cover(self.store.photo(number).covered)
                self.store.change(number, edition, faces)
                region = view.cover(self.store.photo(number).covered)
        return self._note(number), region

    def accept(self, number: int, edition: int, accepted: bool) -> dict[str, Any]:
        """Accept a photo, or take that back. Gives its line in the queue. Raises KeyError, Outdated."""
        self.entry(number)
        self.store.accept(number, edition, accepted)
        return self._note(number)

    def write(self) -> None:
        """Begin to write all accepted photos, unless they are being written."""
        with self._changes:
            if self._writing["state"] == "running":
                return
            accepted = [number for number in self._numbers if self._entries[number]["accepted"]]
            self._writing = {"state": "running", "done": 0, "total": len(accepted), "problems": []}
            self._revision += 1
            self._writer = threading.Thread(target=self._write, args=(accepted,), name="review writing")
            self._writer.start()

    def _write(self, accepted: Sequence[int]) -> None:
        records, problems = [], []
        for place, number in enumerate(accepted):
            photo, target = self.store.photo(number), self.assignment.targets[self._files[number]]
            clips = self._clips_of(number)
            try:
                if clips is not None:
                    facts = clips.write(number, self._frame_counter(as_text(self._files[number].name), clips.frames(number)))
                    problems += [{"file": as_text(photo.path), "problem": facts["problem"]}] if "problem" in facts else []
                else:
                    facts = {**Decisions.of(photo).to_dict(), **write_reviewed(photo, target, self.assignment.masking)}
                    self.store.written(number, photo.edition)
                records.append({"file": as_text(photo.path), "output": as_text(target), **facts})
            except Exception as error:  # whatever it is, the others are written all the same
                if self._ending:
                    return
                problems.append({"file": as_text(photo.path), "problem": as_text(described(error, photo.path))})
                if isinstance(error, ChangedSince):
                    self._changed_since(number)
            self._note(number)
            with self._changes:
                rest = {name: value for name, value in self._writing.items() if name != "video"}
                self._writing = {**rest, "done": place + 1, "problems": list(problems)}
                self._revision += 1
        try:
            write_parts(self.assignment.report, self._report(records, problems))
        except OSError as error:
            problems.append(
                {"file": as_text(self.assignment.report), "problem": as_text(described(error, self.assignment.report))}
            )
        with self._changes:
            sums = {
                name: sum(self._entries[number][name] for number in accepted)
                for name in ("found", "added", "taken_away", "moved", "left_clear")
            }
            self._writing = {
                "state": "done", "done": len(accepted), "total": len(accepted), "written": len(records),
                "problems": problems, **sums, "report": as_text(self.assignment.report),
            }  # fmt: skip
            self._revision += 1

    def _report(self, records: Sequence[Any], problems: Sequence[Any]) -> Iterator[str]:
        settings = {**self.assignment.masking.settings(), **self.assignment.sources}
        if self._detector is None:
            del settings["threshold"]
        yield f'{{"settings": {json.dumps(settings)},\n"files": [\n'
        yield ",\n".join(map(json.dumps, records))
        yield '\n],\n"problems": [\n'
        yield ",\n".join(map(json.dumps, problems))
        yield "\n]}\n"

    def _frame_counter(self, name: str, frames: int) -> Callable[[int], None]:
        """What is told how many more frames of a video are written."""
        done = 0

        def advance(more: int) -> None:
            nonlocal done
            done += more
            with self._changes:
                self._writing = {**self._writing, "video": {"name": name, "done": done, "frames": frames}}
                self._revision += 1

        return advance

    def _changed_since(self, number: int) -> None:
        clips = self._clips_of(number)
        if clips is not None:
            clips.changed_since(number)
            with self._changes:
                self._thumbnails.pop(number, None)
            return
        self._views.forget(number)
        self.store.forget(number)
        with self._changes:
            self._thumbnails.pop(number, None)
            self._wanted.append(number)
            self._changes.notify_all()

    @contextmanager
    def _page_first(self) -> Iterator[None]:
        """Let the search ahead begin with no other photo while the page is being served."""
        with self._changes:
            self._serving += 1
        try:
            yield
        finally:
            with self._changes:
                self._serving -= 1
                self._changes.notify_all()

    def _search_ahead(self) -> None:
        """Search all photos that are not searched yet, those first that somebody waits for."""
        waiting = [
            number for number in self._numbers if self._entries[number]["state"] == "waiting" and self._clips_of(number) is None
        ]
        while True:
            with self._changes:
                self._changes.wait_for(lambda: self._ending or ((self._wanted or waiting) and not self._serving))
                if self._ending:
                    return
                number = self._wanted.pop(0) if self._wanted else waiting.pop(0)
            photo = self.store.photo(number)
            if photo.size is not None or photo.problem is not None:
                continue
            try:
                given = self.assignment.given(self._files[number])
                self._keep_thumbnail(number, search(self.store, number, self._detector, given))
            except Exception as error:  # whatever a photo raises, it is that photo's alone
                self.store.failed(number, as_text(described(error, photo.path)))
            self._note(number)

    def _keep_thumbnail(self, number: int, pixels: Pixels) -> bytes:
        small = thumbnail(pixels)
        with self._changes:
            self._thumbnails[number] = small
            while len(self._thumbnails) > _THUMBNAILS:
                self._thumbnails.popitem(last=False)
        return small

    def _note(self, number: int) -> dict[str, Any]:
        """Bring a photo's line in the queue up to date."""
        clips = self._clips_of(number)
        with self._changes:
            self._revision += 1
            self._revisions[number] = self._revision
            if clips is not None:
                self._entries[number] = clips.entry(number)
                return self._entries[number]
            photo = self.store.photo(number)
            state = "problem" if photo.problem is not None else "waiting" if photo.size is None else "found"
            self._entries[number] = {**queue_line(photo, self._files[number]), "state": state, **Decisions.of(photo).counts()}
            return self._entries[number]

    def _clips_of(self, number: int) -> "ClipDesk | None":
        """Where a video is kept; None for a photo. Raises KeyError."""
        return self.clips if self._files[number].is_video else None

    def _open_clips(self) -> "ClipDesk | None":
        videos = {number: file for number, file in self._files.items() if file.is_video}
        if not videos or self._detector is None:
            return None
        from tinyfaces.jobs.video_store import VideoStore
        from tinyfaces.service.clip_desk import ClipDesk, ClipTask

        tasks = {number: ClipTask(file, self.assignment.targets[file]) for number, file in videos.items()}
        store, masking, quality = VideoStore(self.store), self.assignment.masking, self.assignment.quality
        return ClipDesk(store, self._detector, tasks, masking, quality, self._note, self._searches)

    def _searches(self) -> bool:
        """Whether a photo waits to be searched."""
        with self._changes:
            return any(self._entries[number]["state"] == "waiting" and not file.is_video for number, file in self._files.items())
