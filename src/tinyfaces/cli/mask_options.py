"""How faces are masked: options that `tinyfaces anonymise` and `tinyfaces review` share."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from tinyfaces.cli.options import OUTPUT, fail
from tinyfaces.detection.images import ImageError
from tinyfaces.jobs.cover_picture import CoverPicture, read_cover_picture
from tinyfaces.jobs.masking import MaskStyle

QUALITY = 18
"""Of videos, where nothing else is asked for."""

Quality: TypeAlias = Annotated[
    int,
    typer.Option(
        min=0, max=51, rich_help_panel=OUTPUT, help="Quality of videos (constant rate factor): lower is better, and larger."
    ),
]


class Method(StrEnum):
    """What takes a face's place."""

    blur = "blur"
    pixelate = "pixelate"
    solid = "solid"


class Shape(StrEnum):
    """The shape of a mask."""

    ellipse = "ellipse"
    box = "box"


@dataclass(frozen=True)
class MaskOptions:
    """How faces are masked."""

    method: Annotated[
        Method,
        typer.Option(
            rich_help_panel=OUTPUT,
            help="blur and pixelate leave a few averages of each face; solid, the safest, leaves nothing.",
        ),
    ] = Method.blur
    shape: Annotated[Shape, typer.Option(rich_help_panel=OUTPUT, help="Shape of the mask.")] = Shape.ellipse
    enlarge: Annotated[
        float,
        typer.Option(min=1, max=4, rich_help_panel=OUTPUT, help="Size of the mask in each direction, relative to the face."),
    ] = 1.45
    strength: Annotated[
        int,
        typer.Option(
            min=1,
            max=5,
            rich_help_panel=OUTPUT,
            help="Strength of blur and pixelate: 1 leaves up to 5x5 averages of each face, 5 a single one.",
        ),
    ] = 1
    cover: Annotated[
        Path | None,
        typer.Option(
            rich_help_panel=OUTPUT,
            metavar="FILE|EMOJI",
            help="Picture, or an emoji such as 😀, to put over each mask. What shows through it is masked by --method.",
        ),
    ] = None

    def style(self) -> MaskStyle:
        """The masks themselves."""
        return MaskStyle(self.method.value, self.shape.value, self.enlarge, self.strength)

    def picture(self) -> CoverPicture | None:
        """The picture over them, if any. Ends the command where it cannot be read."""
        try:
            return None if self.cover is None else read_cover_picture(self.cover)
        except ImageError as error:
            fail(str(error))

    def files(self) -> list[Path]:
        """The files that are read for it."""
        return [self.cover] if self.cover is not None and self.cover.exists() else []
