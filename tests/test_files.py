"""Files are written whole or not at all."""

from pathlib import Path

import pytest

from tinyfaces.files import write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "a.json"
    write_atomically(target, b"old")
    monkeypatch.setattr(Path, "replace", lambda self, other: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"new")
    assert [(file.name, file.read_bytes()) for file in target.parent.iterdir()] == [("a.json", b"old")]
