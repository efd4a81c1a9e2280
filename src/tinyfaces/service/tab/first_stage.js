// The first stage: the proposal network on photos of any size, as a whole or in tiles. Its results are those of Python.

import { above, chosen, longerSide, tiles, where } from "./boxes.js";
import { minScoreNeeded, rescoreByNeighbours } from "./context.js";
import { findFaces } from "./decoding.js";
import { joined, merge, oneBoxPerFace } from "./merging.js";
import {
  MIN_THUMBNAIL_SIDE, MULTIPLE, cuts, factorTo, padded, scaleFactor, scaledSize, thumbnail, toPhoto, viewOf,
} from "./views.js";

const TILED_ABOVE_PIXELS = 4_000_000;
const TILE_SIDE = 1280;
const TILE_OVERLAP = 128;
const FRAME_PIXELS = 2_000_000;
const MIN_THUMBNAIL_FACE = 64;

// The faces of a photo, in its pixels, highest score first. run: a function of an image (3 * height * width values, RGB 0-255, sides
// that are multiples of 32), its width and height that promises the network's four maps. enlarges: whether small photos are enlarged.
export async function propose(photo, threshold, { run, enlarges }) {
  const lowest = minScoreNeeded(threshold);
  const working = scaledSize(photo.width, photo.height, scaleFactor(photo, enlarges));
  let faces;
  if (padded(working[0]) * padded(working[1]) > TILED_ABOVE_PIXELS) faces = await findInTiles(photo, working, lowest, run);
  else {
    const view = viewOf(photo, working, [0, 0, ...working]);
    faces = inPhoto(view, await findInWhole(view, lowest, run));
  }
  return above(rescoreByNeighbours(faces), threshold);
}

// Small faces in overlapping tiles, and large ones in the photo as a whole.
async function findInTiles(photo, working, threshold, run) {
  const reduced = scaledSize(...working, factorTo(FRAME_PIXELS, ...working));
  const frame = viewOf(photo, reduced, [0, 0, ...reduced]);
  const inFrame = inPhoto(frame, await findInWhole(frame, threshold, run));
  const perPixel = working[0] / photo.width;
  const large = where(inFrame, (number) => longerSide(inFrame.boxes, number) * perPixel >= TILE_OVERLAP / 2);
  const parts = [chosen(inFrame, large)], regions = [[0, 0, photo.width, photo.height]];
  for (const rectangle of tiles(...working, TILE_SIDE, TILE_OVERLAP, MULTIPLE)) {
    const view = viewOf(photo, working, rectangle);
    const faces = await findInView(view, threshold, run);
    const whole = where(faces, (number) => !cuts(view, faces.boxes.subarray(4 * number, 4 * number + 4)));
    parts.push(inPhoto(view, chosen(faces, whole)));
    regions.push([...toPhoto(view, Float32Array.of(0, 0, view.width, view.height))]);
  }
  return merge(parts, regions);
}

// Faces of a view that shows a whole photo; those that fill much of it come from the thumbnail pass.
async function findInWhole(view, threshold, run) {
  const found = await findInView(view, threshold, run);
  if (Math.max(view.width, view.height) <= MIN_THUMBNAIL_SIDE) return found;
  const small = thumbnail(view);
  const inSmall = await findInView(small, threshold, run);
  const large = chosen(inSmall, where(inSmall, (number) => longerSide(inSmall.boxes, number) >= MIN_THUMBNAIL_FACE));
  const { faces, views } = joined([found, inPhoto(small, large)]);
  return oneBoxPerFace(faces, views);
}

async function findInView({ width, height, pixels }, threshold, run) {
  const size = [padded(width), padded(height)];
  const plane = size[0] * size[1];
  const image = new Float32Array(3 * plane);
  for (let y = 0, from = 0; y < height; y++)
    for (let x = 0, to = y * size[0]; x < width; x++, to++) {
      image[to] = pixels[from++];
      image[to + plane] = pixels[from++];
      image[to + 2 * plane] = pixels[from++];
    }
  return findFaces(await run(image, ...size), size, [width, height], threshold);
}

function inPhoto(view, { boxes, scores }) {
  return { boxes: toPhoto(view, boxes), scores };
}
