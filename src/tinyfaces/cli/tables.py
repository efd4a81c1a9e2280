"""Tables for people: what was found and counted, file by file."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from tinyfaces.cli.runs import shown
from tinyfaces.jobs.bulk import counted
from tinyfaces.jobs.formats import ImageResult
from tinyfaces.jobs.inputs import InputFile

_MAX_ROWS = 30


def print_detections(
    results: Iterable[ImageResult], videos: Sequence[tuple[InputFile, dict[str, Any]]], console: Console
) -> None:
    """The table of `detect`: a row for each image, then a line for each video and its summary."""
    table = _table("image", "size", "faces", "smallest", "median", "largest")
    images = faces = 0
    for result in results:
        images += 1
        faces += len(result.faces)
        if images > _MAX_ROWS:
            continue
        heights = sorted(result.faces.heights.tolist())
        sizes = [f"{heights[place]:.0f} px" for place in (0, len(heights) // 2, -1)] if heights else ["-"] * 3
        table.add_row(_escaped(shown(result.name)), f"{result.width}x{result.height}", str(len(heights)), *sizes)
    if images or not videos:
        console.print(table)
    if images > _MAX_ROWS:
        console.print(f"and {images - _MAX_ROWS} more")
    if images != 1 and (images or not videos):
        console.print(f"{counted(faces, 'face')} in {counted(images, 'image')}", soft_wrap=True)
    for file, record in videos:
        console.print(
            f"{shown(file.name)}: {counted(record['frames'], 'frame')} of {record['width']}x{record['height']}, "
            f"{counted(record['tracks'], 'face')} followed, at most {record['max_faces']} in one frame",
            markup=False, soft_wrap=True,
        )  # fmt: skip


def print_counts(records: Sequence[dict[str, Any]], regions: Sequence[str], console: Console) -> None:
    """The table of `count`: a row for each file, a column for each region."""
    table = _table("file", "faces", *regions)
    for record in records[:_MAX_ROWS]:
        at_once = f" (at most {record['max_faces']} at once)" if "max_faces" in record else ""
        counts = (str(record.get("regions", {}).get(name, "-")) for name in regions)
        table.add_row(_escaped(record["file"]), f"{record['faces']}{at_once}", *counts)
    console.print(table)
    if len(records) > _MAX_ROWS:
        console.print(f"and {len(records) - _MAX_ROWS} more")
    if len(records) > 1:
        console.print(f"{counted(sum(record['faces'] for record in records), 'face')} in {len(records)} files", soft_wrap=True)


def _table(first: str, *others: str) -> Table:
    table = Table(first, *others)
    for column in table.columns[1:]:
        column.justify = "right"
    return table


def _escaped(text: str | Path) -> str:
    """A text in which rich sees no markup."""
    return str(text).replace("[", "\\[")
