// The orientation of WebP files, which browsers pass over and Python does not. That of other kinds the browser applies itself.

const LONGEST_HEAD = 1 << 16; // bytes of metadata that are looked at
const ORIENTATION = 0x0112;

// A WebP file's orientation (1 to 8, as EXIF has it), and the file without it, so that no browser applies it as well. Others: 1.
export async function takeOrientation(file) {
  const as = async (start, length) => new DataView(await file.slice(start, start + length).arrayBuffer());
  const head = await as(0, 12);
  if (head.byteLength < 12 || word(head, 0) !== "RIFF" || word(head, 8) !== "WEBP") return { orientation: 1, file };
  for (let start = 12; start + 8 <= file.size; ) {
    const chunk = await as(start, 8);
    const size = chunk.getUint32(4, true);
    if (word(chunk, 0) === "EXIF") {
      const orientation = orientationIn(await as(start + 8, Math.min(size, LONGEST_HEAD)));
      return { orientation, file: new Blob([file.slice(0, start), "none", file.slice(start + 4)]) };
    }
    start += 8 + size + (size % 2);
  }
  return { orientation: 1, file };
}

// The picture, turned as the orientation says.
export function turned({ width, height, pixels, ...rest }, orientation) {
  if (orientation === 1) return { width, height, pixels, ...rest };
  const swapped = orientation > 4;
  const made = { ...rest, width: swapped ? height : width, height: swapped ? width : height, pixels: new Uint8Array(pixels.length) };
  const fromRight = [2, 3, 7, 8].includes(orientation), fromBottom = [3, 4, 6, 7].includes(orientation);
  for (let y = 0, place = 0; y < made.height; y++)
    for (let x = 0; x < made.width; x++, place += 3) {
      const [across, down] = swapped ? [y, x] : [x, y];
      const column = fromRight ? width - 1 - across : across, row = fromBottom ? height - 1 - down : down;
      const from = 3 * (row * width + column);
      made.pixels[place] = pixels[from];
      made.pixels[place + 1] = pixels[from + 1];
      made.pixels[place + 2] = pixels[from + 2];
    }
  return made;
}

function word(view, at) {
  return String.fromCharCode(...new Uint8Array(view.buffer, at, 4));
}

function orientationIn(exif) {
  try {
    const start = word(exif, 0) === "Exif" ? 6 : 0;
    const little = exif.getUint16(start) === 0x4949;
    const directory = start + exif.getUint32(start + 4, little);
    const entries = exif.getUint16(directory, little);
    for (let entry = directory + 2; entry < directory + 2 + 12 * entries; entry += 12)
      if (exif.getUint16(entry, little) === ORIENTATION) {
        const value = exif.getUint16(entry + 8, little);
        return value >= 1 && value <= 8 ? value : 1;
      }
  } catch (error) {
    if (!(error instanceof RangeError)) throw error; // damaged metadata says nothing about the pixels
  }
  return 1;
}
