// From the faces of several views of a photo to one list that holds each face once.

import { area, chosen, nms, shared, where } from "./boxes.js";
import { NMS_OVERLAP } from "./decoding.js";

// When a face is a fragment of another one, its host.
const MIN_SHARE = 0.7; // of its area that lies within the host
const MIN_RATIO = 1 / 16; // of its area to the host's
const MIN_HOST_SCORE = 0.5; // the host's score in its own

// The faces of several views as one list, and for each the number of its view.
export function joined(parts) {
  const boxes = new Float32Array(parts.reduce((sum, part) => sum + part.boxes.length, 0));
  const scores = new Float32Array(boxes.length / 4), views = new Int32Array(scores.length);
  let place = 0;
  parts.forEach((part, number) => {
    boxes.set(part.boxes, 4 * place);
    scores.set(part.scores, place);
    views.fill(number, place, (place += part.scores.length));
  });
  return { faces: { boxes, scores }, views };
}

// One box for each face, highest score first. Boxes of the same view do not suppress each other.
export function oneBoxPerFace(faces, views) {
  return chosen(faces, nms(faces, NMS_OVERLAP, views));
}

// The faces of several regions (x1 y1 x2 y2 each). Where a region shows only a part of a face, that part may be taken for a smaller
// face: it is left out if it lies within a face of another region that reaches beyond this one.
export function merge(parts, regions) {
  const { faces, views } = joined(parts);
  const { boxes, scores } = faces;
  const all = [...scores.keys()];
  const fragments = new Uint8Array(scores.length);
  regions.forEach(([x1, y1, x2, y2], region) => {
    const hosts = all.filter((number) => {
      const [left, top, right, bottom] = boxes.subarray(4 * number, 4 * number + 4);
      const shown = left < x2 && right > x1 && top < y2 && bottom > y1;
      return shown && (left < x1 || right > x2 || top < y1 || bottom > y2);
    });
    for (const number of all) {
      if (views[number] !== region) continue;
      const own = area(boxes, number);
      fragments[number] = hosts.some((host) => {
        const ratio = own / Math.max(area(boxes, host), 1e-9);
        const sure = scores[host] >= Math.fround(MIN_HOST_SCORE * scores[number]);
        return ratio < 1 && ratio > MIN_RATIO && sure && shared(boxes, number, host) / own > MIN_SHARE;
      });
    }
  });
  const whole = where(faces, (number) => !fragments[number]);
  return oneBoxPerFace(chosen(faces, whole), whole.map((number) => views[number]));
}
