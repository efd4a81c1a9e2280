// Draws a thin frame just outside each face, as Python does.

import { rounded } from "./views.js";

const HEIGHTS_PER_LINE = 40; // of a face, per pixel of the line around it
const COLOUR = [0, 255, 0];

// The picture with frames around faces (boxes: a list of [x1, y1, x2, y2]).
export function framed(picture, boxes) {
  const { width, height } = picture;
  const pixels = picture.pixels.slice();
  const fill = (x1, y1, x2, y2) => {
    for (let y = Math.max(0, y1); y <= Math.min(height - 1, y2); y++)
      for (let x = Math.max(0, x1); x <= Math.min(width - 1, x2); x++) pixels.set(COLOUR, 3 * (y * width + x));
  };
  for (const [x1, y1, x2, y2] of boxes) {
    const thick = Math.max(1, rounded((y2 - y1) / HEIGHTS_PER_LINE));
    const left = rounded(x1) - thick, top = rounded(y1) - thick;
    const right = Math.max(left, rounded(x2) + thick - 1), bottom = Math.max(top, rounded(y2) + thick - 1);
    fill(left, top, right, Math.min(bottom, top + thick - 1));
    fill(left, Math.max(top, bottom - thick + 1), right, bottom);
    fill(left, top, Math.min(right, left + thick - 1), bottom);
    fill(Math.max(left, right - thick + 1), top, right, bottom);
  }
  return { ...picture, pixels };
}
