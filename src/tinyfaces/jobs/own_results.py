"""How results of tinyfaces are known again, so that no command takes them for photos to search."""

import io
import re
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from PIL.PngImagePlugin import PngInfo

from tinyfaces.files import write_atomically

MARK_FILE = ".tinyfaces"
"""A file that says: all photos and videos in this folder are results."""

NOTE = b"Results of tinyfaces. This folder is passed over when a folder above it is searched.\n"
"""What that file says."""
STATE_ENDING = ".state"
"""Of the name of the folder beside published results."""
STATE_NAMES = ("journal", "problems.csv", "review")
"""The files in that folder."""
MARK = "tinyfaces"
"""What a picture says in its `Software` tag or comment, and a video in its comment."""
_NAMES = re.compile(r".+_(faces|density|restored)\.(png|jpg)|(.+_face_)?\d{3,}\.png", re.IGNORECASE)
_VIDEO_NAMES = re.compile(r".+_faces\.(mp4|m4v|mov|mkv|webm)", re.IGNORECASE)
_QUALITY = 92


def mark_folder(folder: Path) -> None:
    """Say that a folder holds nothing but results, if it is new or empty. Raises OSError."""
    if not folder.is_dir() or not any(folder.iterdir()):
        write_atomically(folder / MARK_FILE, NOTE)


def is_marked_folder(folder: str) -> bool:
    """Whether a folder holds nothing but results, or what belongs to them."""
    names = (MARK_FILE, *(STATE_NAMES if folder.endswith(STATE_ENDING) else ()))
    return any((Path(folder) / name).is_file() for name in names)


def as_marked_picture(picture: Image.Image, kind: str) -> bytes:
    """A picture as a PNG or JPEG file that says where it comes from."""
    content = io.BytesIO()
    if kind == "PNG":
        mark = PngInfo()
        mark.add_text("Software", MARK)
        picture.save(content, kind, pnginfo=mark)
    else:
        picture.save(content, kind, quality=_QUALITY, comment=MARK.encode())
    return content.getvalue()


def is_marked_picture(path: Path) -> bool:
    """Whether `as_marked_picture` made this file. Only files with the name of a result are opened."""
    return may_be_marked(path.name) and is_marked_content(path)


def is_marked_video(path: Path) -> bool:
    """Whether a video is one in which faces were framed. Only files with the name of a result are opened."""
    if _VIDEO_NAMES.fullmatch(path.name) is None:
        return False
    try:
        import av

        with av.open(str(path.absolute())) as video:
            return MARK in (value for name, value in video.metadata.items() if name.lower() == "comment")
    except Exception:  # the extra is missing, or the file is damaged, which is told when it is searched
        return False


def may_be_marked(name: str) -> bool:
    """Whether this is the name of a picture that `as_marked_picture` made."""
    return _NAMES.fullmatch(name) is not None


def is_marked_content(file: Path | BinaryIO) -> bool:
    """`is_marked_picture` for an open file or one of any name."""
    try:
        with Image.open(file, formats=("PNG", "JPEG")) as picture:
            return picture.info.get("Software") == MARK or picture.info.get("comment") == MARK.encode()
    except Exception:  # whatever is wrong with it, it is told when it is searched
        return False
