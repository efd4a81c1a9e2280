// Boxes: areas, overlaps, non-maximum suppression, tiles. Boxes are a Float32Array of x1 y1 x2 y2 each, in pixels; faces are
// { boxes, scores }, with scores a Float32Array.

const MOST_CELLS = 1 << 20;

export function longerSide(boxes, number) {
  const at = 4 * number;
  return Math.max(0, Math.fround(boxes[at + 2] - boxes[at]), Math.fround(boxes[at + 3] - boxes[at + 1]));
}

export function area(boxes, number) {
  const at = 4 * number;
  return Math.max(0, boxes[at + 2] - boxes[at]) * Math.max(0, boxes[at + 3] - boxes[at + 1]);
}

// The faces with these numbers, in their order.
export function chosen({ boxes, scores }, numbers) {
  const some = { boxes: new Float32Array(4 * numbers.length), scores: new Float32Array(numbers.length) };
  numbers.forEach((number, place) => {
    some.boxes.set(boxes.subarray(4 * number, 4 * number + 4), 4 * place);
    some.scores[place] = scores[number];
  });
  return some;
}

// The numbers of the faces for which `wanted(number)` holds.
export function where({ scores }, wanted) {
  const numbers = [];
  for (let number = 0; number < scores.length; number++) if (wanted(number)) numbers.push(number);
  return numbers;
}

export function above(faces, threshold) {
  const lowest = Math.fround(threshold);
  return chosen(faces, where(faces, (number) => faces.scores[number] >= lowest));
}

// Numbers by score, highest first; where scores are the same, in their order.
export function byScore(scores) {
  return [...scores.keys()].sort((one, other) => scores[other] - scores[one] || one - other);
}

// How much of two boxes is in both, in square pixels.
export function shared(boxes, one, other) {
  const a = 4 * one, b = 4 * other;
  const across = Math.min(boxes[a + 2], boxes[b + 2]) - Math.max(boxes[a], boxes[b]);
  const down = Math.min(boxes[a + 3], boxes[b + 3]) - Math.max(boxes[a + 1], boxes[b + 1]);
  return across > 0 && down > 0 ? across * down : 0;
}

// Numbers of the boxes that greedy suppression keeps, highest score first. A box goes when its overlap (IoU) with a kept one is above
// `overlap`, unless both are of the same group.
export function nms({ boxes, scores }, overlap, groups = null) {
  const gone = new Uint8Array(scores.length);
  const kept = [];
  const near = neighbourhood(boxes, scores.length, overlap);
  for (const number of byScore(scores)) {
    if (gone[number]) continue;
    kept.push(number);
    near(number, (other) => {
      if (!gone[other] && (!groups || groups[other] !== groups[number]) && iou(boxes, number, other) > overlap) gone[other] = 1;
    });
  }
  return kept;
}

// Suppression with box voting: of each box that is kept, its number, the mean of it and its voters (those whose overlap with it is
// above `overlap`, and their score at least `lowest`) by the squares of their scores, and the sum of the voters' scores.
export function nmsWithVoting({ boxes, scores }, overlap, lowest) {
  const kept = nms({ boxes, scores }, overlap);
  const means = new Float32Array(4 * kept.length), support = new Float64Array(kept.length);
  const near = neighbourhood(boxes, scores.length, overlap);
  kept.forEach((number, place) => {
    const sums = [0, 0, 0, 0];
    let total = 0;
    const add = (other) => {
      const weight = Math.max(scores[other] ** 2, 1e-12);
      total += weight;
      for (let side = 0; side < 4; side++) sums[side] += weight * boxes[4 * other + side];
    };
    add(number);
    near(number, (other) => {
      if (scores[other] < lowest || iou(boxes, number, other) <= overlap) return;
      add(other);
      support[place] += scores[other];
    });
    for (let side = 0; side < 4; side++) means[4 * place + side] = sums[side] / total;
  });
  return { kept, boxes: means, support };
}

// Tiles of at most side x side pixels that cover width x height and share at least `overlap` with their neighbours, row by row.
export function tiles(width, height, side, overlap, multiple) {
  const columns = intervals(width, side, overlap, multiple);
  return intervals(height, side, overlap, multiple).flatMap(([y1, y2]) => columns.map(([x1, x2]) => [x1, y1, x2, y2]));
}

function intervals(length, side, overlap, multiple) {
  if (length <= side) return [[0, length]];
  const number = Math.ceil((length - overlap) / (side - overlap));
  const size = Math.ceil(Math.ceil((length + (number - 1) * overlap) / number) / multiple) * multiple;
  const found = [];
  for (let start = 0; start < length - overlap; start += size - overlap) found.push([start, Math.min(start + size, length)]);
  return found;
}

function iou(boxes, one, other) {
  const both = shared(boxes, one, other);
  const union = area(boxes, one) + area(boxes, other) - both;
  return union > 0 ? both / union : 0;
}

// A function that calls another one with the number of each box whose overlap with a box may be above `overlap`. Boxes are looked up
// in a grid, in whose cells they are entered by their upper left corner.
function neighbourhood(boxes, count, overlap) {
  let right = 0, bottom = 0, sum = 0;
  for (let n = 0; n < count; n++) {
    right = Math.max(right, boxes[4 * n]);
    bottom = Math.max(bottom, boxes[4 * n + 1]);
    sum += longerSide(boxes, n);
  }
  const cell = Math.max(1, sum / Math.max(1, count), Math.sqrt(((right + 1) * (bottom + 1)) / MOST_CELLS));
  const columns = Math.floor(right / cell) + 1, rows = Math.floor(bottom / cell) + 1;
  const cells = new Map();
  for (let n = 0; n < count; n++) {
    const key = Math.floor(boxes[4 * n + 1] / cell) * columns + Math.floor(boxes[4 * n] / cell);
    cells.has(key) ? cells.get(key).push(n) : cells.set(key, [n]);
  }
  return (number, visit) => {
    const [x1, y1, x2, y2] = boxes.subarray(4 * number, 4 * number + 4);
    // No side of the other box is longer than this one's over the overlap.
    const left = x1 - (x2 - x1) / overlap, top = y1 - (y2 - y1) / overlap;
    const lastRow = Math.min(rows - 1, Math.floor(y2 / cell)), lastColumn = Math.min(columns - 1, Math.floor(x2 / cell));
    for (let row = Math.max(0, Math.floor(top / cell)); row <= lastRow; row++)
      for (let column = Math.max(0, Math.floor(left / cell)); column <= lastColumn; column++)
        for (const other of cells.get(row * columns + column) ?? []) if (other !== number) visit(other);
  };
}
