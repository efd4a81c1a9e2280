// Small faces, restored: the second stage's generator on a square around a face. What it shows is likely, not known.

import { BICUBIC, BILINEAR, resize } from "./resampling.js";
import { rounded } from "./views.js";

const CONTEXT = 1.6; // side of a crop in longer sides of its box
const LOW_SIDE = 16, HIGH_SIDE = 64; // pixels

// A picture of 64 x 64 pixels. run: a function of a crop (3 * 16 * 16 values, RGB 0-1) that promises the restored one.
export async function restored(photo, box, run) {
  const { pixels } = cutCrop(photo, box);
  const low = LOW_SIDE ** 2, high = HIGH_SIDE ** 2;
  const crop = new Float32Array(3 * low);
  for (let at = 0; at < pixels.length; at++) crop[(at % 3) * low + Math.floor(at / 3)] = pixels[at] / 255;
  const values = await run(crop);
  const shown = new Uint8Array(3 * high);
  for (let at = 0; at < shown.length; at++) {
    const value = Math.fround(Math.fround(Math.min(Math.max(values[(at % 3) * high + Math.floor(at / 3)], 0), 1)) * 255);
    shown[at] = rounded(value);
  }
  return { width: HIGH_SIDE, height: HIGH_SIDE, pixels: shown, type: "image/png" };
}

// The square around a box, scaled to 16 x 16 pixels; beyond the photo its border is repeated.
function cutCrop({ width, height, pixels }, [x1, y1, x2, y2]) {
  const half = (Math.max(x2 - x1, y2 - y1, 1) * CONTEXT) / 2;
  const x = (x1 + x2) / 2, y = (y1 + y2) / 2;
  const slack = Math.ceil(2 * Math.max(1, (2 * half) / LOW_SIDE));
  const left = Math.floor(x - half) - slack, top = Math.floor(y - half) - slack;
  const right = Math.ceil(x + half) + slack, bottom = Math.ceil(y + half) + slack;
  const piece = { width: right - left, height: bottom - top, pixels: new Uint8Array(3 * (right - left) * (bottom - top)) };
  const inside = (value, size) => Math.min(Math.max(value, 0), size - 1);
  for (let row = top, place = 0; row < bottom; row++)
    for (let column = left; column < right; column++, place += 3) {
      const from = 3 * (inside(row, height) * width + inside(column, width));
      piece.pixels.set(pixels.subarray(from, from + 3), place);
    }
  const kernel = 2 * half > LOW_SIDE ? BILINEAR : BICUBIC;
  return resize(piece, LOW_SIDE, LOW_SIDE, kernel, [x - half - left, y - half - top, x + half - left, y + half - top]);
}
