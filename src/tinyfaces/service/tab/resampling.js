// Scales pictures exactly as Pillow does for Python: the same kernels, in the same whole numbers, so that the network sees the same.
// A picture is { width, height, pixels }, with pixels a Uint8Array of 3 * width * height values, RGB.

const PRECISION = 1 << 22; // of the kernels' weights
const HALF = 1 << 21;

export const BILINEAR = { reach: 1, weight: (x) => Math.max(0, 1 - Math.abs(x)) };
export const BICUBIC = {
  reach: 2,
  weight: (x) => {
    const far = Math.abs(x);
    if (far < 1) return (1.5 * far - 2.5) * far * far + 1;
    return far < 2 ? (((far - 5) * far + 8) * far - 4) * -0.5 : 0;
  },
};

// The part `box` (x1 y1 x2 y2, not rounded) of a picture, scaled to width x height. Values are rounded after each of the two
// passes, so their order matters: Pillow scales down first where that takes away more than twice as many rows as columns go.
export function resize(picture, width, height, kernel, box = [0, 0, picture.width, picture.height]) {
  const [x1, y1, x2, y2] = box.map(Math.fround);
  const passes = [];
  if (width !== picture.width || x1 !== 0 || x2 !== width)
    passes.push((given) => scaledAcross(given, width, weights(picture.width, x1, x2, width, kernel)));
  if (height !== picture.height || y1 !== 0 || y2 !== height) {
    const pass = (given) => scaledDown(given, height, weights(picture.height, y1, y2, height, kernel));
    const fewerRows = picture.height - height;
    fewerRows > 0 && fewerRows > 2 * (picture.width - width) ? passes.unshift(pass) : passes.push(pass);
  }
  return passes.reduce((given, pass) => pass(given), picture);
}

// Averages whole blocks of factorX x factorY pixels; at the right and the bottom, of what is left of them.
export function reduce({ width, height, pixels }, factorX, factorY) {
  const columns = Math.ceil(width / factorX), rows = Math.ceil(height / factorY);
  const reduced = new Uint8Array(3 * columns * rows);
  for (let row = 0, place = 0; row < rows; row++) {
    const top = row * factorY, bottom = Math.min(top + factorY, height);
    for (let column = 0; column < columns; column++) {
      const left = column * factorX, right = Math.min(left + factorX, width);
      const count = (right - left) * (bottom - top);
      const share = Math.floor(2 ** 24 / count);
      let red = count >> 1, green = red, blue = red;
      for (let y = top; y < bottom; y++)
        for (let at = 3 * (y * width + left), end = at + 3 * (right - left); at < end; at += 3) {
          red += pixels[at];
          green += pixels[at + 1];
          blue += pixels[at + 2];
        }
      reduced[place++] = Math.floor((red * share) / 2 ** 24);
      reduced[place++] = Math.floor((green * share) / 2 ** 24);
      reduced[place++] = Math.floor((blue * share) / 2 ** 24);
    }
  }
  return { width: columns, height: rows, pixels: reduced };
}

// For each of `size` places, which of `given` values count, from start to end, and how much.
function weights(given, start, end, size, { reach, weight }) {
  const scale = Math.fround(end - start) / size;
  const stretch = Math.max(1, scale);
  const support = reach * stretch;
  const most = Math.ceil(support) * 2 + 1;
  const first = new Int32Array(size), count = new Int32Array(size), values = new Int32Array(size * most);
  const exact = new Float64Array(most);
  for (let place = 0; place < size; place++) {
    const centre = start + (place + 0.5) * scale;
    const from = Math.max(0, Math.trunc(centre - support + 0.5));
    const number = Math.min(given, Math.trunc(centre + support + 0.5)) - from;
    let total = 0;
    for (let n = 0; n < number; n++) total += exact[n] = weight((n + from - centre + 0.5) * (1 / stretch));
    for (let n = 0; n < number; n++) {
      const share = (total === 0 ? exact[n] : exact[n] / total) * PRECISION;
      values[place * most + n] = Math.trunc(share < 0 ? share - 0.5 : share + 0.5);
    }
    first[place] = from;
    count[place] = number;
  }
  return { first, count, values, most };
}

function scaledAcross({ width: pitch, height, pixels }, width, { first, count, values, most }) {
  const scaled = new Uint8ClampedArray(3 * width * height);
  for (let y = 0, place = 0; y < height; y++)
    for (let x = 0; x < width; x++) {
      let red = HALF, green = HALF, blue = HALF;
      let at = 3 * (y * pitch + first[x]);
      for (let n = x * most, end = n + count[x]; n < end; n++, at += 3) {
        const share = values[n];
        red += pixels[at] * share;
        green += pixels[at + 1] * share;
        blue += pixels[at + 2] * share;
      }
      scaled[place++] = red >> 22;
      scaled[place++] = green >> 22;
      scaled[place++] = blue >> 22;
    }
  return { width, height, pixels: new Uint8Array(scaled.buffer) };
}

function scaledDown({ width, pixels }, height, { first, count, values, most }) {
  const pitch = 3 * width;
  const scaled = new Uint8ClampedArray(pitch * height);
  const sums = new Int32Array(pitch);
  for (let y = 0; y < height; y++) {
    sums.fill(HALF);
    for (let n = 0; n < count[y]; n++) {
      const share = values[y * most + n];
      const row = (first[y] + n) * pitch;
      for (let x = 0; x < pitch; x++) sums[x] += pixels[row + x] * share;
    }
    for (let x = 0, place = y * pitch; x < pitch; x++) scaled[place + x] = sums[x] >> 22;
  }
  return { width, height, pixels: new Uint8Array(scaled.buffer) };
}
