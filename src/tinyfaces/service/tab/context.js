// What the faces around a face say about it: where there are people, there are mostly more.

import { byScore, chosen, where } from "./boxes.js";
import { multiplyOdds } from "./decoding.js";

const SURE = 0.3;
const NEIGHBOURS = 8;
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
  const x = (number) => Math.fround(Math.fround(boxes[4 * number] + boxes[4 * number + 2]) / 2);
  const y = (number) => Math.fround(Math.fround(boxes[4 * number + 1] + boxes[4 * number + 3]) / 2);
  const places = sure.map((number) => ({ number, x: x(number), y: y(number), score: scores[number] }));
  const changed = scores.map((score, number) => {
    const company = nearest(places, number, x(number), y(number)).reduce((sum, one) => sum + one.score, 0);
    return multiplyOdds(score, (1 + company) ** WEIGHT_OF_COMPANY);
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
