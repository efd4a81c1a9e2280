"""A small record, in SQLite, of which files of a run are done, and what came of them. A kill at any instant leaves it whole."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tinyfaces.jobs.inputs import InputFile

_TABLES = """
CREATE TABLE IF NOT EXISTS run (settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL, outputs TEXT NOT NULL, record TEXT, problem TEXT
) WITHOUT ROWID;
"""


class JournalError(ValueError):
    """A journal cannot be used; the message is one line that names it."""


@dataclass(frozen=True)
class Entry:
    """What came of one file. record: anything JSON holds, or None where it failed; problem: why it failed."""

    record: dict[str, Any] | None
    problem: str | None


class Journal:
    """Which files are done.

    path: where it lies; in memory only if None. settings: what the results depend on beside the files; a journal of other
    settings is not gone on with. resume: keep what the journal holds, otherwise begin anew.

    Raises JournalError where another process uses the journal, where it belongs to other settings, or is none.
    """

    def __init__(self, path: Path | None, settings: Mapping[str, Any], *, resume: bool = False) -> None:
        self.path = path
        wanted = json.dumps(settings, sort_keys=True)
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            # Worker threads never touch it: each entry is written by the one thread that gathers what they did.
            self._database = sqlite3.connect(path if path is not None else ":memory:", timeout=0.5, isolation_level=None)
            # One writer at a time, for as long as it lives; the lock goes with the process, however that ends.
            self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            if not resume:
                self._database.executescript("DROP TABLE IF EXISTS run; DROP TABLE IF EXISTS files;")
            self._database.executescript(_TABLES)
            known = self._database.execute("SELECT settings FROM run").fetchone()
            if known is None:
                self._database.execute("INSERT INTO run VALUES (?)", (wanted,))
        except sqlite3.OperationalError as error:
            busy = "locked" in str(error)
            raise JournalError(f"{path}: {'another run is at work here' if busy else error}") from None
        except (sqlite3.DatabaseError, OSError) as error:
            raise JournalError(f"{path}: not a journal of tinyfaces ({error})") from None
        if known is not None and known[0] != wanted:
            other = _differences(json.loads(known[0]), json.loads(wanted))
            self._database.close()
            raise JournalError(f"{path}: is of a run with other settings ({other}): give those, or begin anew without --resume")

    def done(self, file: InputFile) -> bool:
        """Whether the file went well, has not changed since, and its outputs are as they were written."""
        row = self._database.execute(
            "SELECT size, changed, outputs FROM files WHERE path = ? AND problem IS NULL", (_key(file),)
        ).fetchone()
        return row is not None and _stamp(file.path) == (row[0], row[1]) and all(map(_as_written, json.loads(row[2])))

    def write(self, file: InputFile, entry: Entry, outputs: Sequence[Path] = ()) -> None:
        """Record what came of a file. outputs: the files made of it, already in place."""
        size, changed = _stamp(file.path)
        written = json.dumps([[os.fsdecode(output.absolute()), output.stat().st_size] for output in outputs])
        record = None if entry.record is None else json.dumps(entry.record)
        self._database.execute(
            "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)", (_key(file), size, changed, written, record, entry.problem)
        )

    def read(self, files: Sequence[InputFile]) -> Iterator[tuple[InputFile, Entry]]:
        """The entries of those of the files that have one, in the files' order."""
        for file in files:
            row = self._database.execute("SELECT record, problem FROM files WHERE path = ?", (_key(file),)).fetchone()
            if row is not None:
                yield file, Entry(None if row[0] is None else json.loads(row[0]), row[1])

    def close(self, keep: bool) -> None:
        """Let go of the journal, and remove it if it is not to be kept."""
        self._database.close()
        if not keep and self.path is not None:
            for suffix in ("", "-wal", "-shm"):
                self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _key(file: InputFile) -> bytes:
    return os.fsencode(file.path.absolute())


def _stamp(path: Path) -> tuple[int, int]:
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _as_written(output: tuple[str, int]) -> bool:
    return _stamp(Path(output[0]))[0] == output[1]


def _differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]
    return ", ".join(f"{name}: {known.get(name)}, now {wanted.get(name)}" for name in names)
