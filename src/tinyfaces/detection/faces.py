"""The result type: the faces of one image."""

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tinyfaces.detection.images import ImageSource, read_image

if TYPE_CHECKING:
    import supervision

_HEIGHTS_PER_LINE = 40  # of a face, per pixel of the line around it
_LETTERS_PER_HEIGHT = 5
_SMALLEST_LETTERS = 10  # pixels
_LETTERS_PER_OUTLINE = 12  # their height, relative to the line around them
_DARK = 64  # brightness of colours, 0-255, below which letters get a white outline
_SKETCH_SIDE = 640  # pixels
_SKETCH_MARGIN = 8
_SKETCH_COLOURS = ("#f4f4f4", "#207a3c", "#333333")  # of the canvas, of boxes, of words


@dataclass(frozen=True, eq=False, repr=False)
class Faces:
    """The faces found in one image: a plain value, which can be compared, copied and pickled.

    Args:
        boxes: (N, 4) float32, x1 y1 x2 y2 in pixels of the upright image.
        scores: (N,) float32, 0-1. Detectors sort them, highest first.

    Raises:
        ValueError: The shapes do not fit.

    Example:
        ```python
        faces = tinyfaces.Detector().detect("crowd.jpg")
        faces.above(0.5).smaller_than(16).boxes
        ```
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]

    def __post_init__(self) -> None:
        boxes = np.asarray(self.boxes, np.float32)
        scores = np.asarray(self.scores, np.float32)
        if boxes.size == 0:
            boxes = boxes.reshape(0, 4)
        if boxes.ndim != 2 or boxes.shape[1] != 4 or scores.shape != boxes.shape[:1]:
            raise ValueError(f"boxes must be (N, 4) and scores (N,). Received: {boxes.shape} and {scores.shape}")
        object.__setattr__(self, "boxes", boxes)
        object.__setattr__(self, "scores", scores)

    @classmethod
    def empty(cls) -> "Faces":
        """No faces."""
        return cls(np.zeros((0, 4), np.float32), np.zeros(0, np.float32))

    def __eq__(self, other: object) -> bool:
        """Whether all boxes and scores are the same, in the same order."""
        if not isinstance(other, Faces):
            return NotImplemented
        return np.array_equal(self.boxes, other.boxes) and np.array_equal(self.scores, other.scores)

    def __repr__(self) -> str:
        """How many faces, their heights and scores, such as `Faces(29 faces, 9 to 31 px high, score 0.21 to 0.93)`."""
        if not len(self):
            return "Faces(no faces)"
        count = f"{len(self)} face{'s' if len(self) > 1 else ''}"
        heights = " to ".join(dict.fromkeys(f"{side:.0f}" for side in (self.heights.min(), self.heights.max())))
        scores = " to ".join(dict.fromkeys(f"{score:.2f}" for score in (self.scores.min(), self.scores.max())))
        return f"Faces({count}, {heights} px high, score {scores})"

    def _repr_png_(self) -> bytes:
        """A sketch for notebooks: the boxes on an empty canvas that reaches from the image's corner to the last of them. `draw`
        shows them on the image itself."""
        reach = self.boxes[:, 2:].max(axis=0).clip(1) if len(self) else np.ones(2, np.float32)
        factor = min(1.0, _SKETCH_SIDE / float(reach.max()))
        width, height = (int(np.ceil(side * factor)) + _SKETCH_MARGIN for side in reach)
        words = repr(self)
        font = ImageFont.load_default(12)
        canvas, line, ink = _SKETCH_COLOURS
        sketch = Image.new("RGB", (max(width, int(font.getlength(words)) + 2 * _SKETCH_MARGIN), height + 24), "white")
        pen = ImageDraw.Draw(sketch)
        pen.rectangle((0, 0, width - 1, height - 1), fill=canvas)
        for x1, y1, x2, y2 in (self.boxes * factor).round().tolist():
            pen.rectangle((x1, y1, max(x1, x2), max(y1, y2)), outline=line)
        pen.text((_SKETCH_MARGIN, height + 4), words, fill=ink, font=font)
        content = io.BytesIO()
        sketch.save(content, "PNG")
        return content.getvalue()

    __hash__ = None  # type: ignore[assignment]  # arrays can change

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index: "int | slice | npt.ArrayLike") -> "Faces":
        """Select faces by a slice, a mask (N,) bool, indices (M,) or one index, which gives `Faces` of length one."""
        if isinstance(index, int | np.integer):
            index = [int(index)]
        chosen = index if isinstance(index, slice) else np.asarray(index)
        if not isinstance(chosen, slice) and chosen.size == 0 and chosen.dtype != np.bool_:
            chosen = chosen.astype(np.intp)
        return Faces(self.boxes[chosen], self.scores[chosen])

    def __iter__(self) -> "Iterator[Faces]":
        return (self[i] for i in range(len(self)))

    @property
    def widths(self) -> npt.NDArray[np.float32]:
        """(N,) float32, in pixels."""
        return self.boxes[:, 2] - self.boxes[:, 0]

    @property
    def heights(self) -> npt.NDArray[np.float32]:
        """(N,) float32, in pixels."""
        return self.boxes[:, 3] - self.boxes[:, 1]

    def above(self, threshold: float) -> "Faces":
        """The faces that score at least `threshold`."""
        return self[self.scores >= threshold]

    def larger_than(self, height: float) -> "Faces":
        """The faces more than `height` pixels high."""
        return self[self.heights > height]

    def smaller_than(self, height: float) -> "Faces":
        """The faces less than `height` pixels high."""
        return self[self.heights < height]

    def to_dict(self) -> dict[str, list[Any]]:
        """Convert to plain numbers: `{"boxes": [[x1, y1, x2, y2], ...], "scores": [...]}`, boxes rounded to 0.001 pixels and
        scores to 0.000001."""
        return {
            "boxes": [[round(side, 3) for side in box] for box in self.boxes.tolist()],
            "scores": [round(score, 6) for score in self.scores.tolist()],
        }

    def to_supervision(self) -> "supervision.Detections":
        """Convert to `supervision.Detections`, all of class 0.

        Raises:
            ImportError: The extra `supervision` is not installed.
        """
        try:
            import supervision
        except ImportError:
            raise ImportError("to_supervision() needs supervision: pip install 'tinyfaces[supervision]'") from None
        return supervision.Detections(
            xyxy=self.boxes.copy(), confidence=self.scores.copy(), class_id=np.zeros(len(self), np.int64)
        )

    @classmethod
    def from_supervision(cls, detections: "supervision.Detections") -> "Faces":
        """Convert from `supervision.Detections`, in their order. Without confidence, all score 1."""
        scores = np.ones(len(detections)) if detections.confidence is None else detections.confidence
        return cls(detections.xyxy.astype(np.float32), scores.astype(np.float32))

    def draw(
        self,
        image: ImageSource,
        *,
        scores: bool = False,
        colour: str | tuple[int, int, int] = (0, 255, 0),
        line_width: int | None = None,
    ) -> Image.Image:
        """Draw a thin frame just outside each face.

        Args:
            image: What the faces were found in: whatever `read_image` takes.
            scores: Also write each face's score above it, in letters with a black outline, or a white one where they are dark.
            colour: Colour of frames and scores: a name that Pillow knows, or red, green and blue, 0-255.
            line_width: In pixels; by default a fortieth of each face's height, but at least 1.

        Returns:
            A new RGB image.

        Raises:
            ImageError: The image cannot be read.

        Example:
            ```python
            faces.draw("crowd.jpg", scores=True).save("framed.png")
            ```
        """
        drawn = Image.fromarray(read_image(image))
        words = [f"{score:.2f}" for score in self.scores.tolist()] if scores else None
        dark = np.asarray(Image.new("RGB", (1, 1), colour).convert("L")).item() < _DARK
        draw_frames(ImageDraw.Draw(drawn), self, words, colour, "white" if dark else "black", line_width)
        return drawn


def draw_frames(
    pen: ImageDraw.ImageDraw,
    faces: Faces,
    words: Sequence[str] | None,
    colour: str | tuple[int, ...],
    outline: str | tuple[int, ...],
    line_width: int | None = None,
) -> None:
    """Draw a frame just outside each face, and above it one of `words`, in letters with an outline. The other arguments are those
    of `Faces.draw`."""
    fonts: dict[int, Any] = {}
    for place, (x1, y1, x2, y2) in enumerate(faces.boxes.tolist()):
        thick = line_width or max(1, round((y2 - y1) / _HEIGHTS_PER_LINE))
        left, top = round(x1) - thick, round(y1) - thick
        right, bottom = max(left, round(x2) + thick - 1), max(top, round(y2) + thick - 1)
        pen.rectangle((left, top, right, bottom), outline=colour, width=thick)
        if words is not None:
            size = max(_SMALLEST_LETTERS, round((y2 - y1) / _LETTERS_PER_HEIGHT))
            if size not in fonts:
                fonts[size] = ImageFont.load_default(size)
            stroke = max(1, round(size / _LETTERS_PER_OUTLINE))
            pen.text((left, top - 1), words[place], colour, fonts[size], "lb", stroke_width=stroke, stroke_fill=outline)
