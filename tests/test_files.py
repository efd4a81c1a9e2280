"""Files are written whole or not at all."""

import os
from pathlib import Path

import pytest

from tinyfaces.files import GivenFiles, clear_partials, named_after, replacing, write_atomically, write_parts

LONG = ["\U0001f600" * 61 + ".jpg", "漢" * 83 + ".jpg", "x" * 251 + ".jpg", os.fsdecode(b"\xfc" * 251) + ".jpg"]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    target = tmp_path / "deep" / "a.json"
    write_atomically(target, b"old")
    monkeypatch.setattr(Path, "replace", lambda self, other: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(target, b"new")
    assert [(file.name, file.read_bytes()) for file in target.parent.iterdir()] == [("a.json", b"old")]


@pytest.mark.parametrize("mask", [0o022, 0o077, 0o002])
def test_others_may_read_what_is_written_as_the_umask_says(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_atomically(tmp_path / "a.json", b"{}")
        write_parts(tmp_path / "b.json", ["{", "}"])
        assert os.umask(mask) == mask, "writing leaves the umask as it was"
    finally:
        os.umask(before)
    for name in ("a.json", "b.json"):
        assert (tmp_path / name).stat().st_mode & 0o777 == 0o666 & ~mask


@pytest.mark.parametrize("name", LONG, ids=["emoji", "han", "latin", "bytes"])
def test_names_near_the_limit_of_255_bytes(tmp_path, name):
    write_atomically(tmp_path / name, b"x")
    with replacing(tmp_path / name) as partial:
        partial.write_bytes(b"y")
        left = partial.with_name(partial.name.replace(".partial", "")[:-8] + "12345678.partial")
        left.write_bytes(b"killed")
        clear_partials([tmp_path / name])
        assert not left.exists()
        partial.write_bytes(b"y")
    assert (tmp_path / name).read_bytes() == b"y"
    for ending in ("_faces.jpg", ".txt", "_density.png"):
        named = named_after(Path("folder") / name, ending)
        assert named.name.endswith(ending) and named.parent == Path("folder") and len(os.fsencode(named.name)) <= 255
        write_atomically(tmp_path / named, b"x")
    others = [Path(name.replace(".jpg", suffix)) for suffix in (".png", ".jpg")]
    assert len({named_after(other, "_some_density.png") for other in others}) == 2


def test_short_names_stay_whole():
    assert named_after(Path("a/b.c.jpg"), "_faces.png") == Path("a/b.c_faces.png")
    assert named_after(Path("x"), ".txt") == Path("x.txt")


def test_texts_with_names_that_are_no_utf8_are_written(tmp_path):
    write_parts(tmp_path / "a.csv", [os.fsdecode(b"M\xfcller.jpg")])
    assert (tmp_path / "a.csv").read_text(encoding="utf-8") == "M?ller.jpg"


def test_new_files_have_the_permissions_of_new_files_and_no_thread_touches_the_umask(tmp_path, monkeypatch):
    (tmp_path / "usual").touch()
    monkeypatch.setattr(os, "umask", lambda mask: pytest.fail("the umask is the whole process's"))
    write_atomically(tmp_path / "ours", b"x")
    assert (tmp_path / "ours").stat().st_mode == (tmp_path / "usual").stat().st_mode


def test_given_files_are_known_by_any_path(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a/x").touch()
    (tmp_path / "link").symlink_to("a/x")
    given = GivenFiles([tmp_path / "a/x", tmp_path / "gone"])
    assert tmp_path / "link" in given and tmp_path / "a/../a/x" in given
    assert tmp_path / "gone" not in given and tmp_path / "a" not in given
