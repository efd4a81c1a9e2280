// Views: what the network sees of a photo, all of it or a part, at some scale, and the way back to the photo's pixels.

import { BICUBIC, BILINEAR, reduce, resize } from "./resampling.js";

export const MULTIPLE = 32; // the sides of what the network sees are multiples of its largest stride
export const MIN_THUMBNAIL_SIDE = 256;

const THUMBNAIL_SCALE = 1 / 4;
const SMALL_PIXELS = 300_000, LARGEST_FACTOR = 1.5; // small photos are enlarged to so many, by no more than that
const STRIP_PIXELS = 4_000_000, STRIP_ROWS = 8;
const CUT_MARGIN = 0.05; // in longer sides of a face

// The rectangle x1 y1 x2 y2 of a photo scaled to `working` (width, height). A view is a picture with its place: left and top in
// scaled pixels, and scaled pixels per pixel of the photo.
export function viewOf(photo, working, rectangle) {
  const perPixel = [working[0] / photo.width, working[1] / photo.height];
  return { ...part(photo, working, rectangle), left: rectangle[0], top: rectangle[1], working, perPixel };
}

// A view reduced to a quarter, as a photo of its own.
export function thumbnail(view) {
  const { width, height } = view;
  const size = scaledSize(width, height, Math.max(THUMBNAIL_SCALE, MIN_THUMBNAIL_SIDE / Math.max(width, height)));
  const factors = [Math.floor(width / size[0]) || 1, Math.floor(height / size[1]) || 1];
  const blocks = factors[0] > 1 || factors[1] > 1 ? reduce(view, ...factors) : view;
  const small = resize(blocks, ...size, BILINEAR, [0, 0, width / factors[0], height / factors[1]]);
  return { ...small, left: 0, top: 0, working: size, perPixel: [size[0] / width, size[1] / height] };
}

// Boxes in pixels of the view as boxes in pixels of the photo.
export function toPhoto({ left, top, perPixel }, boxes) {
  return boxes.map((value, at) => (value + (at % 2 ? top : left)) / perPixel[at % 2]);
}

// Whether a box touches a border of the view that is not the photo's own.
export function cuts({ left, top, width, height, working }, [x1, y1, x2, y2]) {
  const margin = Math.max(2, Math.max(x2 - x1, y2 - y1) * CUT_MARGIN);
  return (left > 0 && x1 < margin) || (top > 0 && y1 < margin) ||
    (left + width < working[0] && x2 > width - margin) || (top + height < working[1] && y2 > height - margin);
}

// The factor by which a photo is enlarged; models that are not shipped enlarge nothing.
export function scaleFactor({ width, height }, enlarges) {
  return enlarges ? Math.min(Math.max(1, Math.sqrt(SMALL_PIXELS / Math.max(1, width * height))), LARGEST_FACTOR) : 1;
}

// The factor, at most 1, that leaves about this many pixels, padding included.
export function factorTo(pixels, width, height) {
  return Math.min(1, Math.sqrt(pixels / (width * height)), pixels / (MULTIPLE * Math.max(width, height)));
}

export function scaledSize(width, height, factor) {
  return [Math.max(1, rounded(width * factor)), Math.max(1, rounded(height * factor))];
}

export function padded(side) {
  return Math.ceil(side / MULTIPLE) * MULTIPLE;
}

// To the nearest whole number, and from the middle between two to the even one, as Python and NumPy round.
export function rounded(value) {
  const low = Math.floor(value), over = value - low;
  return over < 0.5 || (over === 0.5 && low % 2 === 0) ? low : low + 1;
}

export function cropped({ width, pixels }, [x1, y1, x2, y2]) {
  const piece = new Uint8Array(3 * (x2 - x1) * (y2 - y1));
  for (let y = y1; y < y2; y++)
    piece.set(pixels.subarray(3 * (y * width + x1), 3 * (y * width + x2)), 3 * (y - y1) * (x2 - x1));
  return { width: x2 - x1, height: y2 - y1, pixels: piece };
}

// In strips, as Python does it.
function part(photo, working, [x1, y1, x2, y2]) {
  const { width, height } = photo;
  if (working[0] === width && working[1] === height) return cropped(photo, [x1, y1, x2, y2]);
  const stepX = width / working[0], stepY = height / working[1];
  const kernel = stepX < 1 ? BICUBIC : BILINEAR;
  const slackX = Math.ceil(3 * Math.max(1, stepX)), slackY = Math.ceil(3 * Math.max(1, stepY));
  const left = Math.max(0, Math.floor(x1 * stepX) - slackX), right = Math.min(width, Math.ceil(x2 * stepX) + slackX);
  const rows = Math.max(STRIP_ROWS, Math.floor(STRIP_PIXELS / ((right - left) * stepY)));
  const scaled = new Uint8Array(3 * (x2 - x1) * (y2 - y1));
  for (let first = y1; first < y2; first += rows) {
    const last = Math.min(first + rows, y2);
    const top = Math.max(0, Math.floor(first * stepY) - slackY), bottom = Math.min(height, Math.ceil(last * stepY) + slackY);
    const strip = cropped(photo, [left, top, right, bottom]);
    const box = [
      x1 * stepX - left, first * stepY - top, Math.min(x2 * stepX - left, right - left), Math.min(last * stepY - top, bottom - top),
    ];
    scaled.set(resize(strip, x2 - x1, last - first, kernel, box).pixels, 3 * (first - y1) * (x2 - x1));
  }
  return { width: x2 - x1, height: y2 - y1, pixels: scaled };
}
