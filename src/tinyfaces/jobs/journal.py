"""The journal: a small SQLite file that says which files of a run are done, and what came of them. It survives a kill."""

import json
import os
import sqlite3
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

from tinyfaces.jobs.inputs import InputFile

_TABLES = """
CREATE TABLE IF NOT EXISTS run (settings TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS files (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, changed INTEGER NOT NULL, outputs TEXT NOT NULL, record TEXT, problem TEXT
) WITHOUT ROWID;
"""

Stamp: TypeAlias = tuple[int, int]
"""Size of a file in bytes and the time of its last change in nanoseconds; both -1 where there is none."""


_DAMAGES = (sqlite3.DatabaseError, ValueError, TypeError, IndexError, AttributeError, RecursionError)
"""What a damaged journal leads to."""
_COLUMNS = ("path", "size", "changed", "outputs", "record", "problem")


class JournalError(ValueError):
    """A journal cannot be used; the message is one line that names it."""


@dataclass(frozen=True)
class Outcome:
    """What came of the work on one file.

    Args:
        record: Anything JSON can hold; None where the work failed or was skipped.
        problem: What was wrong with the file. There may be a record too, where a part of it could be used.
        written: The files made of it.
        skipped: It was done in an earlier run; the journal has its record.
    """

    record: dict[str, Any] | None = None
    problem: str | None = None
    written: Sequence[Path] = ()
    skipped: bool = False


class Journal:
    """Which files are done.

    Args:
        path: Where the journal lies; in memory only if None.
        settings: What the results depend on beside the files.
        resume: Keep what the journal holds; otherwise start over.

    Raises:
        JournalError: Another process uses the journal, it belongs to a run with other settings, or the file is no journal.
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
            columns = [tuple(row[1] for row in self._database.execute(f"PRAGMA table_info({name})")) for name in ("run", "files")]
            if columns not in ([(), ()], [("settings",), _COLUMNS]):
                raise sqlite3.DatabaseError("another program's database")
            self._database.execute("PRAGMA journal_mode = WAL")
            self._database.execute("PRAGMA synchronous = NORMAL")
            # All or nothing, as the disk may be full, or the process killed, after any of it.
            begun = "" if resume else "DROP TABLE IF EXISTS run; DROP TABLE IF EXISTS files;"
            self._database.executescript(f"BEGIN IMMEDIATE; {begun} {_TABLES} COMMIT;")
            known = self._database.execute("SELECT settings FROM run").fetchone()
            other = _differences(json.loads(known[0]), json.loads(wanted)) if known and known[0] != wanted else ""
            if known is None:
                self._database.execute("INSERT INTO run VALUES (?)", (wanted,))
        except OSError as error:
            raise JournalError(f"{path}: cannot be written ({(error.strerror or str(error)).lower()})") from None
        except sqlite3.OperationalError as error:
            self._database.close()
            busy = "locked" in str(error)
            raise JournalError(f"{path}: {'another run is using this journal' if busy else error}") from None
        except _DAMAGES as error:
            self._database.close()
            raise JournalError(f"{path}: not a journal of tinyfaces, or damaged ({error})") from None
        if other:
            self._database.close()
            raise JournalError(f"{path}: belongs to a run with other settings ({other}); use those or leave out --resume")

    def done(self, file: InputFile) -> bool:
        """Whether the file was done without a problem, and neither it nor what was made of it has changed since. Raises
        JournalError."""
        try:
            row = self._database.execute(
                "SELECT size, changed, outputs FROM files WHERE path = ? AND problem IS NULL", (_key(file),)
            ).fetchone()
            return row is not None and stamp_of(file.path) == (row[0], row[1]) and all(map(_as_written, json.loads(row[2])))
        except _DAMAGES as error:
            raise self._damaged(error) from None

    def write(self, file: InputFile, outcome: Outcome, stamp: Stamp) -> None:
        """Record what came of a file. The files made of it are already in place.

        Args:
            file: The file.
            outcome: What came of it.
            stamp: Its `stamp_of` from before the work: a file that changed meanwhile is not done.

        Raises:
            JournalError: The journal cannot be written.
        """
        size, changed = stamp
        written = json.dumps([[os.fsdecode(output.absolute()), stamp_of(output)[0]] for output in outcome.written])
        record = None if outcome.record is None else json.dumps(outcome.record)
        try:
            self._database.execute(
                "INSERT OR REPLACE INTO files VALUES (?, ?, ?, ?, ?, ?)",
                (_key(file), size, changed, written, record, outcome.problem),
            )
        except sqlite3.Error as error:
            raise JournalError(f"{self.path}: cannot be written ({error})") from None

    def read(self, files: Sequence[InputFile]) -> Iterator[tuple[InputFile, dict[str, Any]]]:
        """The records of those of the files that have one, in the files' order. Raises JournalError."""
        for file in files:
            try:
                row = self._database.execute("SELECT record FROM files WHERE path = ?", (_key(file),)).fetchone()
                record = None if row is None or row[0] is None else dict(json.loads(row[0]))
            except _DAMAGES as error:
                raise self._damaged(error) from None
            if record is not None:
                yield file, record

    def _damaged(self, error: Exception) -> JournalError:
        return JournalError(f"{self.path}: damaged ({error}); leave out --resume to start over")

    def close(self, keep: bool) -> None:
        """Close the journal, and remove it unless it is to be kept."""
        with suppress(sqlite3.Error):  # what is recorded is on the disk already
            self._database.close()
        if not keep and self.path is not None:
            for suffix in ("", "-wal", "-shm"):
                with suppress(OSError):
                    self.path.with_name(self.path.name + suffix).unlink(missing_ok=True)


def _key(file: InputFile) -> bytes:
    return os.fsencode(file.path.absolute())


def stamp_of(path: Path) -> Stamp:
    """What changes with a file."""
    try:
        status = path.stat()
    except OSError:
        return -1, -1
    return status.st_size, status.st_mtime_ns


def _as_written(output: tuple[str, int]) -> bool:
    return stamp_of(Path(output[0]))[0] == output[1]


def _differences(known: Mapping[str, Any], wanted: Mapping[str, Any]) -> str:
    names = [name for name in {**known, **wanted} if known.get(name) != wanted.get(name)]
    return ", ".join(f"{name}: {known.get(name)}, now {wanted.get(name)}" for name in names)
