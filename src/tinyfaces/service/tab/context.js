// What the faces around a face say about it: in a photo, people near each other mostly look about as large.

import { byScore, chosen, longerSide, where } from "./boxes.js";
import { multiplyOdds } from "./decoding.js";

const SURE = 0.3;
const NEIGHBOURS = 8;
const DOUBT = 0.3;
const MAX_DIFFERENCE = 1;
const WEIGHT_OF_DIFFERENCE = 0.6;
const WEIGHT_OF_COMPANY = 0.15;

// The score from which faces are needed, to be right about all that end up at `threshold` or more.
export function minScoreNeeded(threshold) {
  return Math.min(threshold / (1 + NEIGHBOURS) ** WEIGHT_OF_COMPANY, SURE);
}

// The same faces with scores that depend on the eight nearest other faces that are sure, highest first.
export function rescoreByNeighbours(faces) {
  const { boxes, scores } = faces;
  const sure = where(faces, (number) => scores[number] >= Math.fround(SURE));
  if (!sure.length) return faces;
  const side = (number) => Math.log(Math.max(longerSide(boxes, number), 1));
  const x = (number) => Math.fround(Math.fround(boxes[4 * number] + boxes[4 * number + 2]) / 2);
  const y = (number) => Math.fround(Math.fround(boxes[4 * number + 1] + boxes[4 * number + 3]) / 2);
  const places = sure.map((number) => ({ number, x: x(number), y: y(number), side: side(number), score: scores[number] }));
  const changed = scores.map((score, number) => {
    const [ownX, ownY, own] = [x(number), y(number), side(number)];
    let company = 0, difference = 0;
    for (const one of nearest(places, number, ownX, ownY)) {
      company += one.score;
      difference += one.score * (one.side - own);
    }
    const ratio = Math.min(Math.abs(difference) / (company + DOUBT), MAX_DIFFERENCE);
    return multiplyOdds(score, (1 + company) ** WEIGHT_OF_COMPANY * Math.exp(-WEIGHT_OF_DIFFERENCE * ratio));
  });
  return chosen({ boxes, scores: changed }, byScore(changed));
}

// Up to eight of the places, those nearest to x y; not the face itself.
function nearest(places, number, x, y) {
  const found = []; // by distance
  for (const place of places) {
    if (place.number === number) continue;
    const far = (place.x - x) ** 2 + (place.y - y) ** 2;
    if (found.length === NEIGHBOURS && far >= found[NEIGHBOURS - 1].far) continue;
    if (found.length === NEIGHBOURS) found.pop();
    let at = found.length;
    while (at > 0 && found[at - 1].far > far) at--;
    found.splice(at, 0, { far, ...place });
  }
  return found;
}
