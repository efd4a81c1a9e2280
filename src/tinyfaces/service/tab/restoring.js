// Small faces, restored: the second stage's generator on a square around a face. What it shows is likely, not known.

import { cutCrop } from "./cropping.js";
import { rounded } from "./views.js";

const HIGH_SIDE = 64; // pixels

// A picture of 64 x 64 pixels. run: a function of a crop (3 * 16 * 16 values, RGB 0-1) that promises the restored one.
export async function restored(photo, box, run) {
  const high = HIGH_SIDE ** 2;
  const values = await run(cutCrop(photo, box));
  const shown = new Uint8Array(3 * high);
  for (let at = 0; at < shown.length; at++) {
    const value = Math.fround(Math.fround(Math.min(Math.max(values[(at % 3) * high + Math.floor(at / 3)], 0), 1)) * 255);
    shown[at] = rounded(value);
  }
  return { width: HIGH_SIDE, height: HIGH_SIDE, pixels: shown, type: "image/png" };
}
