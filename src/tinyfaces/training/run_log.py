"""What a run says while it goes on: a progress bar, log.jsonl and TensorBoard; and the one progress bar of all of training."""

import dataclasses
import json
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.text import Text

from tinyfaces.files import write_atomically

if TYPE_CHECKING:
    from torch import Tensor

REPORT_EVERY = 50  # steps


class _Note(ProgressColumn):
    def render(self, task: Task) -> Text:
        return Text(task.fields.get("note", ""))


def progress_bar(console: Console | None = None, disable: bool = False) -> Progress:
    """A bar whose tasks have a description, a count, perhaps a field `note`, and the time that is left."""
    columns = (
        TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), _Note(), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    return Progress(*columns, console=console, disable=disable)


def drop_later_lines(log: Path, step: int) -> None:
    """Leave out of a run's log.jsonl what was written after `step`, from which the run goes on: it is written again."""
    if not log.exists():
        return
    kept = []
    for line in log.read_text().splitlines():
        with suppress(ValueError, KeyError, TypeError):  # a killed process may leave half a line
            if json.loads(line)["step"] <= step:
                kept.append(line + "\n")
    write_atomically(log, "".join(kept if step else []).encode())


class RunLog:
    """A run's progress bar, OUT/log.jsonl, OUT/config.json and TensorBoard's files; silent in processes that don't lead.

    Use it as a context manager: `with RunLog(...) as log`.
    """

    def __init__(self, config: Any, out: Path, step: int, seconds: float, leader: bool) -> None:
        """
        Args:
            config: the run's settings, a dataclass with `variant` and `steps`.
            out: the run's folder.
            step: the step that the run goes on from. seconds: what it took until there.
            leader: whether this process reports.
        """
        self.out, self.leader = out, leader
        self.began = time.monotonic() - seconds
        self._window_began, self._waited, self._paused = time.monotonic(), 0.0, 0.0
        self._progress = progress_bar(disable=not leader)
        self._bar = self._progress.add_task(config.variant, total=config.steps, completed=step, note="")
        self._writer: Any = None
        if leader:
            from torch.utils.tensorboard import SummaryWriter

            if step < config.steps:  # nothing that is asked of a finished run makes it another
                write_atomically(out / "config.json", json.dumps(dataclasses.asdict(config), indent=1).encode())
            drop_later_lines(out / "log.jsonl", step)
            self._writer = SummaryWriter(str(out), purge_step=step)

    def __enter__(self) -> "RunLog":
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()
        if self._writer:
            self._writer.close()

    @property
    def seconds(self) -> float:
        """What the run has taken so far, its earlier parts included."""
        return time.monotonic() - self.began

    def say(self, line: str) -> None:
        """Print a line above the bar."""
        if self.leader:
            self._progress.console.print(line, highlight=False, soft_wrap=True)

    def advance(self, waited: float = 0.0) -> None:
        """Count a step, `waited` seconds of which passed until its crops were there."""
        self._progress.advance(self._bar)
        self._waited += waited

    def pace(self, crops: int) -> dict[str, float]:
        """Crops a second and the share of time spent waiting for them, since the last call; `crops` were used since then."""
        passed = max(time.monotonic() - self._window_began - self._paused, 1e-9)
        numbers = {"crops_per_second": crops / passed, "waiting": self._waited / passed}
        self._window_began, self._waited, self._paused = time.monotonic(), 0.0, 0.0
        return numbers

    def write(self, step: int, numbers: Mapping[str, float], note: str = "") -> None:
        """Append numbers to log.jsonl and TensorBoard, and put a note beside the bar."""
        if not self._writer:
            return
        with (self.out / "log.jsonl").open("a") as file:
            rounded = {name: round(float(value), 5) for name, value in numbers.items()}
            file.write(json.dumps({"step": step, "seconds": round(self.seconds, 1), **rounded}) + "\n")
        for name, value in numbers.items():
            self._writer.add_scalar(name, value, step)
        if note:
            self._progress.update(self._bar, note=note)

    def show_image(self, name: str, image: "Tensor", step: int) -> None:
        """Give TensorBoard an image 3xHxW in 0-1."""
        if self._writer:
            self._writer.add_image(name, image, step)

    def pause(self, seconds: float) -> None:
        """Leave `seconds`, spent on measuring, out of the next `pace`."""
        self._paused += seconds
