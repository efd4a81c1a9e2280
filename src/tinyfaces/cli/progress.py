"""The one progress bar of all commands."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

from tinyfaces.cli.options import errors


@contextmanager
def bar(label: str, total: int | None, unit: str = "", hidden: bool = False) -> Iterator[Callable[[int], None]]:
    """A progress bar on the standard error, where that is a terminal.

    Args:
        label: What is being done.
        total: How many steps there are, if known.
        unit: What is counted, such as "frames".
        hidden: Show nothing.

    Returns:
        A function to call with the number of further steps done.
    """
    if hidden or not errors.is_terminal:  # older versions of rich print an empty line for a bar that is disabled
        yield lambda steps: None
        return
    count = "{task.completed}" if total is None else "{task.completed}/{task.total}"
    columns = (
        TextColumn("{task.description}"), BarColumn(), TextColumn(f"{count} {unit}".rstrip()),
        TextColumn("{task.fields[rate]}"), TimeElapsedColumn(), TimeRemainingColumn(compact=True),
    )  # fmt: skip
    with Progress(*columns, console=errors, transient=True) as progress:
        task = progress.add_task(label, total=total, rate="")

        def advance(steps: int) -> None:
            progress.advance(task, steps)
            speed = progress.tasks[0].speed
            progress.update(task, rate=f"{speed:.1f}/s" if speed else "")

        yield advance
