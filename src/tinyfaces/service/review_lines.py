"""What the queue of a review says of each photo and video alike."""

from typing import Any

from tinyfaces.jobs.bulk import as_text
from tinyfaces.jobs.inputs import InputFile
from tinyfaces.jobs.review_store import ReviewedPhoto


def queue_line(entered: ReviewedPhoto, file: InputFile) -> dict[str, Any]:
    """The part of a line that does not depend on the faces, as JSON can hold it."""
    return {
        "number": entered.number, "name": as_text(file.name), "problem": entered.problem, "doubt": round(entered.doubt, 4),
        "accepted": entered.accepted, "edition": entered.edition,
        "written": entered.written is not None and entered.written == entered.edition and entered.accepted,
    }  # fmt: skip
