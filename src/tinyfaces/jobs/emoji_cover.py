"""An emoji as a picture, drawn with a colour font of the system."""

import unicodedata
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

from tinyfaces.detection.images import ImageError

FONTS = (
    "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",  # Debian, Ubuntu
    "/usr/share/fonts/noto/NotoColorEmoji.ttf",  # Arch
    "/usr/share/fonts/noto-emoji/NotoColorEmoji.ttf",  # Alpine
    "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",  # Fedora
    "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
    "/usr/local/share/fonts/NotoColorEmoji.ttf",
    "/System/Library/Fonts/Apple Color Emoji.ttc",
    "C:/Windows/Fonts/seguiemj.ttf",
)
"""Where systems have their colour emoji."""

_SIZES = (160, 136, 109, 96)  # of letters in pixels; fonts that hold pictures have few sizes, such as 160 (Apple) and 109 (Noto)
_LONGEST = 16  # characters: families and flags are made of several
_PARTS = {"So", "Sk", "Cf", "Mn"}  # categories of Unicode: symbols, skin tones, joiners and variations
_IN_NO_FONT = "\U0010fffe"


def is_emoji(text: str) -> bool:
    """Whether a text is an emoji, and not the name of a file."""
    kinds = [unicodedata.category(letter) for letter in text]
    return 0 < len(text) <= _LONGEST and kinds[0] == "So" and set(kinds) <= _PARTS


def emoji_picture(text: str) -> Image.Image:
    """An emoji as a square RGBA picture.

    Raises:
        ImageError: No font on this system has it in colour.
    """
    for path in FONTS:
        if not Path(path).is_file():
            continue
        for size in _SIZES:
            try:
                font = ImageFont.truetype(path, size)
                drawn = _drawn(text, font)
                if drawn is not None and drawn != _drawn(_IN_NO_FONT, font):
                    return drawn
            except OSError:  # no letters of this size, or no font
                continue
    raise ImageError(
        f"{text}: no colour font on this system has this emoji; install one (fonts-noto-color-emoji on Debian and Ubuntu), "
        "or give a picture of it"
    )


def _drawn(text: str, font: ImageFont.FreeTypeFont) -> Image.Image | None:
    """A text cut out and in the middle of a square; None where nothing is seen."""
    left, top, right, bottom = (round(side) for side in font.getbbox(text))
    image = Image.new("RGBA", (max(1, right - left), max(1, bottom - top)))
    ImageDraw.Draw(image).text((-left, -top), text, font=font, embedded_color=True)
    seen = image.getchannel("A").getbbox()
    if seen is None:
        return None
    cut = image.crop(seen)
    square = Image.new("RGBA", (max(cut.size),) * 2)
    square.paste(cut, ((square.width - cut.width) // 2, (square.height - cut.height) // 2))
    return square
