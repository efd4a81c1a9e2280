// From a file to the pixels that Python sees: upright, without colour management, transparent parts white; and back to a file.

import { takeOrientation, turned } from "./orientation.js";
import { Refusal } from "./refusal.js";

const STRIP_PIXELS = 4_000_000;
const JPEG_QUALITY = 0.92;
const PNG = [0x89, 0x50, 0x4e, 0x47];
const MOST_FALSE = 2; // of 255

// A picture { width, height, pixels, type, turned }; pixels: 3 * width * height values, RGB; type: of the file that it is written to;
// turned: whether it is shown otherwise than the browser shows the file.
export async function readPhoto(given, megapixels) {
  const { orientation, file } = await takeOrientation(given);
  if (!file.size) throw new Refusal("The file is empty.");
  const begin = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { premultiplyAlpha: "none", colorSpaceConversion: "none" });
  } catch {
    throw new Refusal("This browser cannot read the file as a picture. Save it as JPEG or PNG first.");
  }
  const { width, height } = bitmap;
  if (width * height > megapixels * 1e6) {
    bitmap.close();
    throw new Refusal(`${width} × ${height} pixels are more than ${megapixels} megapixels.`);
  }
  const pixels = new Uint8Array(3 * width * height);
  const rows = stripRows(width);
  const pen = penOf(width, Math.min(rows, height));
  refuseFalsePixels(pen);
  for (let top = 0, place = 0; top < height; top += rows) {
    pen.fillStyle = "#fff";
    pen.fillRect(0, 0, width, rows);
    pen.drawImage(bitmap, 0, -top);
    const { data } = pen.getImageData(0, 0, width, Math.min(rows, height - top));
    for (let at = 0; at < data.length; at += 4) {
      pixels[place++] = data[at];
      pixels[place++] = data[at + 1];
      pixels[place++] = data[at + 2];
    }
  }
  bitmap.close();
  const type = PNG.every((value, at) => begin[at] === value) ? "image/png" : "image/jpeg";
  return turned({ width, height, pixels, type, turned: orientation > 1 }, orientation);
}

// A file of the picture, which holds nothing but its pixels.
export async function writePhoto({ width, height, pixels, type }) {
  try {
    const pen = penOf(width, height);
    const rows = stripRows(width);
    for (let top = 0, from = 0; top < height; top += rows) {
      const strip = pen.createImageData(width, Math.min(rows, height - top));
      for (let at = 0; at < strip.data.length; at += 4) {
        strip.data[at] = pixels[from++];
        strip.data[at + 1] = pixels[from++];
        strip.data[at + 2] = pixels[from++];
        strip.data[at + 3] = 255;
      }
      pen.putImageData(strip, 0, top);
    }
    return await pen.canvas.convertToBlob({ type, quality: JPEG_QUALITY });
  } catch {
    throw new Refusal(`This browser cannot write a picture of ${width} × ${height} pixels.`);
  }
}

function stripRows(width) {
  return Math.max(1, Math.floor(STRIP_PIXELS / width));
}

function penOf(width, height) {
  return new OffscreenCanvas(width, height).getContext("2d", { alpha: false, willReadFrequently: true });
}

// Some browsers, set to hide what they are, give pages false pixels: faces would be missed without a word.
function refuseFalsePixels(pen) {
  pen.fillStyle = "rgb(40, 140, 220)";
  pen.fillRect(0, 0, pen.canvas.width, pen.canvas.height);
  const { data } = pen.getImageData(0, 0, Math.min(64, pen.canvas.width), Math.min(64, pen.canvas.height));
  const truth = [40, 140, 220, 255];
  if (data.some((value, at) => Math.abs(value - truth[at % 4]) > MOST_FALSE))
    throw new Refusal("This browser's protection against fingerprinting hides pixels from the page. Allow this page to read canvases.");
}
