"""What the extras install, all together."""

from importlib.metadata import PackageNotFoundError, requires

from packaging.requirements import Requirement


def _installed_with(name: str, extras: set[str], seen: set[tuple[str, str]]) -> None:
    """Add a distribution, with each of its extras or "" for none, and all that it needs."""
    try:
        needed = [Requirement(line) for line in requires(name) or ()]
    except PackageNotFoundError:  # an extra that is not installed here
        needed = []
    for extra in {*extras, ""} - {extra for known, extra in seen if known == name}:
        seen.add((name, extra))
        for one in needed:
            if one.marker is None or one.marker.evaluate({"extra": extra}):
                _installed_with(one.name.lower().replace("_", "-"), one.extras, seen)


def test_one_distribution_owns_cv2():
    seen: set[tuple[str, str]] = set()
    extras = {
        extra.split("==")[1].strip(" '\"")
        for line in requires("tinyfaces") or ()
        for extra in line.split(";")[1:]
        if "==" in extra
    }
    assert {"train", "video", "supervision"} <= extras
    _installed_with("tinyfaces", extras, seen)
    assert {name for name, _ in seen if name.startswith("opencv")} == {"opencv-python-headless"}


def test_videos_need_pyav_alone():
    alone: set[tuple[str, str]] = set()
    _installed_with("tinyfaces", set(), alone)
    seen: set[tuple[str, str]] = set()
    _installed_with("tinyfaces", {"video"}, seen)
    assert {name for name, _ in seen} - {name for name, _ in alone} == {"av"}
