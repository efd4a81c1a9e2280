// Crops for the second stage: squares around boxes, with some context, cut out piece by piece.

import { BICUBIC, BILINEAR, resize } from "./resampling.js";

export const LOW_SIDE = 16; // of a crop, in pixels

const CONTEXT = 1.6; // side of the square in longer sides of its box

// The square around a box (x1 y1 x2 y2) as networks take it: 3 * 16 * 16 values, RGB in 0-1. Beyond the photo its border is repeated.
export function cutCrop({ width, height, pixels }, [x1, y1, x2, y2]) {
  const half = (Math.max(x2 - x1, y2 - y1, 1) * CONTEXT) / 2;
  const x = (x1 + x2) / 2, y = (y1 + y2) / 2;
  const slack = Math.ceil(2 * Math.max(1, (2 * half) / LOW_SIDE)); // the kernels' reach
  const left = Math.floor(x - half) - slack, top = Math.floor(y - half) - slack;
  const right = Math.ceil(x + half) + slack, bottom = Math.ceil(y + half) + slack;
  const piece = { width: right - left, height: bottom - top, pixels: new Uint8Array(3 * (right - left) * (bottom - top)) };
  const inside = (value, size) => Math.min(Math.max(value, 0), size - 1);
  for (let row = top, place = 0; row < bottom; row++)
    for (let column = left; column < right; column++) {
      const from = 3 * (inside(row, height) * width + inside(column, width));
      for (let channel = 0; channel < 3; channel++) piece.pixels[place++] = pixels[from + channel];
    }
  const kernel = 2 * half > LOW_SIDE ? BILINEAR : BICUBIC;
  const box = [x - half - left, y - half - top, x + half - left, y + half - top];
  return asValues(resize(piece, LOW_SIDE, LOW_SIDE, kernel, box).pixels);
}

function asValues(pixels) {
  const plane = LOW_SIDE ** 2;
  const values = new Float32Array(3 * plane);
  for (let at = 0; at < pixels.length; at++) values[(at % 3) * plane + Math.floor(at / 3)] = pixels[at] / 255;
  return values;
}
