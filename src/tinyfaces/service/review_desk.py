"""What a running review shares: its photos, the search ahead in a thread, the pictures shown, and the writing at the end."""

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tinyfaces.detection.detector import Detector
from tinyfaces.detection.images import Pixels, read_image
from tinyfaces.files import write_parts
from tinyfaces.jobs.bulk import as_text, described
from tinyfaces.jobs.covered_faces import Masking
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.known_faces import KnownFaces
from tinyfaces.jobs.review_store import ReviewedFace, ReviewedPhoto, ReviewStore
from tinyfaces.jobs.reviewed_photos import ChangedSince, Decisions, search, write_reviewed
from tinyfaces.service.review_views import Region, View, ViewCache, thumbnail

_THUMBNAILS = 2000  # kept in memory, about 5 KB each


@dataclass(frozen=True)
class Assignment:
    """What is to be reviewed, and what becomes of it.

    Args:
        targets: Each photo, and the file it is written to.
        report: The JSON file that says what was found, added and taken away.
        masking: How faces are covered, and what else of a photo stays.
        given: The faces that files give for a photo; may raise KnownFacesError.
        sources: The files that were given, as the report names them.
    """

    targets: Mapping[InputFile, Path]
    report: Path
    masking: Masking
    given: Callable[[InputFile], Sequence[KnownFaces]] = lambda file: ()
    sources: Mapping[str, str] = field(default_factory=dict)


class ReviewDesk:
    """A review at work. Any thread may use it. Use it in a `with`, which searches photos ahead and closes the store.

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
        for number in self._numbers:
            self._note(number)

    def __enter__(self) -> "ReviewDesk":
        self._searching.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changes:
            self._ending = True
            self._changes.notify_all()
        self._searching.join()
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
        self.entry(number)
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
        with self._page_first():
            return self._keep_thumbnail(number, read_image(self._files[number].path))

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
        for number in accepted:
            photo, target = self.store.photo(number), self.assignment.targets[self._files[number]]
            try:
                facts = write_reviewed(photo, target, self.assignment.masking)
                self.store.written(number, photo.edition)
                decisions = Decisions.of(photo).to_dict()
                records.append({"file": as_text(photo.path), "output": as_text(target), **decisions, **facts})
            except Exception as error:  # whatever it is, the others are written all the same
                problems.append({"file": as_text(photo.path), "problem": as_text(described(error, photo.path))})
                if isinstance(error, ChangedSince):
                    self._changed_since(number)
            self._note(number)
            with self._changes:
                self._writing = {**self._writing, "done": len(records) + len(problems), "problems": list(problems)}
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

    def _changed_since(self, number: int) -> None:
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
        waiting = [number for number in self._numbers if self._entries[number]["state"] == "waiting"]
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
        with self._changes:
            self._revision += 1
            photo = self.store.photo(number)
            state = "problem" if photo.problem is not None else "waiting" if photo.size is None else "found"
            self._entries[number] = {
                "number": number, "name": as_text(self._files[number].name), "state": state, "problem": photo.problem,
                "doubt": round(photo.doubt, 4), "accepted": photo.accepted, "edition": photo.edition,
                "written": photo.written is not None and photo.written == photo.edition and photo.accepted,
                **Decisions.of(photo).counts(),
            }  # fmt: skip
            self._revisions[number] = self._revision
            return self._entries[number]
