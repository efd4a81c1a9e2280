"""The result type: the faces of one image."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from tinyfaces.detection.images import ImageSource, read_image

if TYPE_CHECKING:
    import supervision

_PIXELS_PER_LINE_WIDTH = 2000  # a line stays visible when the image is shown on a screen


@dataclass(frozen=True, eq=False)
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
            image: What the faces were found in: a path, a PIL image or an array HxWx3 uint8 in RGB order.
            scores: Also write each face's score above it.
            colour: Colour of frames and scores: a name that Pillow knows, or red, green and blue, 0-255.
            line_width: In pixels; by default 1, and 1 more for every 2000 pixels of the image's longer side.

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
        pen = ImageDraw.Draw(drawn)
        thick = line_width or 1 + max(drawn.size) // _PIXELS_PER_LINE_WIDTH
        font = ImageFont.load_default(10 + 2 * thick)
        for (x1, y1, x2, y2), score in zip(self.boxes.tolist(), self.scores.tolist(), strict=True):
            left, top = round(x1) - thick, round(y1) - thick
            right, bottom = max(left, round(x2) + thick - 1), max(top, round(y2) + thick - 1)
            pen.rectangle((left, top, right, bottom), outline=colour, width=thick)
            if scores:
                pen.text((left, top - 1), f"{score:.2f}", fill=colour, font=font, anchor="lb")
        return drawn
