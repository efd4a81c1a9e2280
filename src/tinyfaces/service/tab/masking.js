// Makes faces unrecognisable as Python does: the pixels under a mask are replaced by a few averages, or by black.

import { rounded } from "./views.js";

const ENLARGE = 1.45;
const CELLS = 5; // at the lowest strength, across the mask of a large face
const MIN_CELL = 4; // pixels
const MARGIN = 2; // pixels
const BLUR = 0.65; // standard deviation, in cells

// The picture with its faces (boxes: a list of [x1, y1, x2, y2]) masked by "blur", "pixelate" or "solid"; strength: 1 to 5.
export function masked(picture, boxes, method, strength) {
  const copy = { ...picture, pixels: picture.pixels.slice() };
  for (const box of boxes) {
    const [x1, y1, x2, y2] = box.map((side) => Math.round(side * 1000) / 1000);
    const half = [((x2 - x1) / 2) * ENLARGE + MARGIN, ((y2 - y1) / 2) * ENLARGE + MARGIN];
    const cells = half.map((side) => Math.min(Math.max(Math.floor((2 * side) / MIN_CELL), 1), CELLS + 1 - strength));
    maskOne(copy, [(x1 + x2) / 2, (y1 + y2) / 2], half.map((side) => side + 0.5), cells, method);
  }
  return copy;
}

function maskOne({ width, height, pixels }, [x, y], [halfX, halfY], cells, method) {
  const left = Math.max(0, Math.floor(x - halfX)), right = Math.min(width, Math.ceil(x + halfX));
  const top = Math.max(0, Math.floor(y - halfY)), bottom = Math.min(height, Math.ceil(y + halfY));
  if (left >= right || top >= bottom) return;
  const across = right - left, down = bottom - top;
  const columns = Math.min(cells[0], across), rows = Math.min(cells[1], down);
  const smooth = method === "blur";
  const perColumn = spread(across, columns, smooth), perRow = spread(down, rows, smooth);
  for (let channel = 0; channel < 3; channel++) {
    const at = (row, column) => 3 * ((top + row) * width + left + column) + channel;
    const means = method === "solid" ? null : averages(across, down, columns, rows, (row, column) => pixels[at(row, column)]);
    for (let row = 0; row < down; row++)
      for (let column = 0; column < across; column++) {
        if (((left + column + 0.5 - x) / halfX) ** 2 + ((top + row + 0.5 - y) / halfY) ** 2 > 1) continue;
        let value = 0;
        if (means)
          for (let r = 0; r < rows; r++)
            for (let c = 0; c < columns; c++) value += perRow[row][r] * means[r * columns + c] * perColumn[column][c];
        pixels[at(row, column)] = rounded(value);
      }
  }
}

// The means of `columns` x `rows` cells of an area.
function averages(across, down, columns, rows, value) {
  const sums = new Float64Array(columns * rows), counts = new Float64Array(columns * rows);
  for (let row = 0; row < down; row++)
    for (let column = 0; column < across; column++) {
      const cell = Math.floor((row * rows) / down) * columns + Math.floor((column * columns) / across);
      sums[cell] += value(row, column);
      counts[cell]++;
    }
  return sums.map((sum, cell) => sum / counts[cell]);
}

// How much each cell counts at each of `size` places.
function spread(size, cells, smooth) {
  return Array.from({ length: size }, (_, place) => {
    if (!smooth) return Array.from({ length: cells }, (_, cell) => (Math.floor((place * cells) / size) === cell ? 1 : 0));
    const at = ((place + 0.5) / size) * cells;
    const weights = Array.from({ length: cells }, (_, cell) => Math.exp(-0.5 * ((at - cell - 0.5) / BLUR) ** 2));
    const total = weights.reduce((sum, weight) => sum + weight);
    return weights.map((weight) => weight / total);
  });
}
