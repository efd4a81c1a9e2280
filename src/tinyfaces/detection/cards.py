"""Cards: a few facts as a picture, which notebooks show."""

import io
from collections.abc import Mapping

from PIL import Image, ImageDraw, ImageFont

_PAPER, _EDGE, _TITLE, _NAME, _VALUE = "white", (20, 113, 58), (20, 113, 58), (91, 99, 94), (28, 31, 29)
_MARGIN, _LINE, _GAP = 12, 20, 16


def card(title: str, facts: Mapping[str, str]) -> bytes:
    """A PNG with a title and a line for each fact: its name and its value."""
    large, small = ImageFont.load_default(16), ImageFont.load_default(13)
    names = max(int(small.getlength(name)) for name in facts) + _GAP
    width = max(int(large.getlength(title)), *(names + int(small.getlength(value)) for value in facts.values()))
    image = Image.new("RGB", (width + 2 * _MARGIN, (len(facts) + 1) * _LINE + 2 * _MARGIN + 6), _PAPER)
    pen = ImageDraw.Draw(image)
    pen.rectangle((0, 0, image.width - 1, image.height - 1), outline=_EDGE)
    pen.text((_MARGIN, _MARGIN), title, fill=_TITLE, font=large)
    for row, (name, value) in enumerate(facts.items()):
        top = _MARGIN + 6 + (row + 1) * _LINE
        pen.text((_MARGIN, top), name, fill=_NAME, font=small)
        pen.text((_MARGIN + names, top), value, fill=_VALUE, font=small)
    content = io.BytesIO()
    image.save(content, "PNG")
    return content.getvalue()
