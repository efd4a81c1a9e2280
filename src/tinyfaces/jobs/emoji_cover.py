"""An emoji as a picture, drawn with a colour font of the system."""

import unicodedata
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from tinyfaces.detection.images import ImageError

FONTS = (
    "~/.local/share/fonts/NotoColorEmoji.ttf",
    "/usr/local/share/fonts/NotoColorEmoji.ttf",
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",  # Debian, Ubuntu
    "/usr/share/fonts/truetype/NotoColorEmoji.ttf",  # openSUSE
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",  # Arch, Alpine
    "/usr/share/fonts/noto-emoji/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",  # Fedora
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
    "/usr/share/fonts/google-noto-color-emoji-fonts/Noto-COLRv1.ttf",
    "/System/Library/Fonts/Apple Color Emoji.ttc",
    "C:/Windows/Fonts/seguiemj.ttf",
)
"""Where systems and their users have colour emoji."""

_SIZES = (160, 136, 109, 96)  # of letters in pixels; fonts that hold pictures have few sizes, such as 160 (Apple) and 109 (Noto)
_LONGEST = 16  # characters: families and flags are made of several
_PARTS = {"So", "Sk", "Cf", "Mn", "Me"}  # categories of Unicode: symbols, skin tones, joiners, variations and keycaps
_SHOWN_AS_EMOJI = "\ufe0f"  # after a character that can also be text, such as 1 or ‼
_IN_NO_FONT = "\U0010fffe"
_INK = (255, 0, 254)  # of letters that have no colours of their own


def is_emoji(text: str) -> bool:
    """Whether a text is an emoji, and not the name of a file."""
    begins = _is_symbol(text[:1]) or text[1:2] == _SHOWN_AS_EMOJI
    return len(text) <= _LONGEST and begins and all(_is_symbol(part) or unicodedata.category(part) in _PARTS for part in text[1:])


def _is_symbol(letter: str) -> bool:
    # Emoji that are newer than this Python have no category yet.
    return "\U0001f000" <= letter <= "\U0001faff" or (letter != "" and unicodedata.category(letter) == "So")


def emoji_picture(text: str) -> Image.Image:
    """An emoji as a square RGBA picture.

    Raises:
        ImageError: No font on this system has it in colour, or in a form that can be drawn.
    """
    problem = "no colour font on this system has this emoji; install one (fonts-noto-color-emoji on Debian and Ubuntu)"
    for path in (Path(name).expanduser() for name in FONTS):
        if not path.is_file():
            continue
        if _has_paint_only(path):
            problem = f"{path} cannot be drawn (COLR version 1); put a NotoColorEmoji.ttf with bitmaps into ~/.local/share/fonts"
            continue
        for size in _SIZES:
            try:
                font = ImageFont.truetype(path, size)
            except OSError:  # no letters of this size, or no font
                continue
            drawn = _drawn(text, font)
            if drawn is None or drawn == _drawn(_IN_NO_FONT, font):
                continue
            if _is_one(text, font):
                return drawn
            if not features.check("raqm"):
                problem = "this emoji has several parts, which FriBiDi joins; install it (libfribidi0 on Debian and Ubuntu)"
    raise ImageError(f"{text}: {problem}, or give a picture of it")


def _has_paint_only(path: Path) -> bool:
    """Whether all colours of a font are in version 1 of its table COLR, which Pillow does not draw."""
    with path.open("rb") as file:
        tables = int.from_bytes(file.read(12)[4:6])
        entries = [file.read(16) for _ in range(tables)]
        place = {entry[:4]: int.from_bytes(entry[8:12]) for entry in entries}
        if b"COLR" not in place or b"CBDT" in place:
            return False
        file.seek(place[b"COLR"])
        return file.read(4) == b"\0\1\0\0"  # the version, and how many letters version 0 has


def _is_one(text: str, font: ImageFont.FreeTypeFont) -> bool:
    """Whether the parts of an emoji are joined: one is at most 1.4 times as wide as its font is high, and two at least twice."""
    return font.getlength(text) < 1.8 * font.size


def _drawn(text: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """A text cut out and in the middle of a square; None where nothing is seen, or no colour."""
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    image = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), text, font=font, fill=_INK, embedded_color=True)
    image = Image.frombytes("RGBa", image.size, image.tobytes()).convert("RGBA")  # drawn over nothing, colours fade with opacity
    seen = image.getchannel("A").getbbox()
    values = np.asarray(image, np.int16)
    if seen is None or not (abs(values[values[..., 3] > 99, :3] - _INK) > 4).any():
        return None
    cut = image.crop(seen)
    square = Image.new("RGBA", (max(cut.size),) * 2)
    square.paste(cut, ((square.width - cut.width) // 2, (square.height - cut.height) // 2))
    return square
