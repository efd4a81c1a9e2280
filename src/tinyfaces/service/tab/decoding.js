// From the network's output maps to boxes and scores, one box per face.

import { byScore, chosen, longerSide, nmsWithVoting } from "./boxes.js";

export const STRIDES = [4, 8, 16, 32]; // pixels between neighbouring points of the four maps
export const NMS_OVERLAP = 0.45;

const POINT_LIMIT = 20_000;
const MAX_LOG_SIDE = 8;
const VOTING_FROM = 0.1; // score
const MAX_VOTED_SIDE = 32; // pixels
const MAX_SUPPORT = 6, SIDE_OF_SUPPORT = 14;

// The faces of one view, highest score first. Maps are Float32Arrays of 5 * height / stride * width / stride values for each stride,
// with the padding: face logit, offset x y of the centre, log width, log height. size: width and height without the padding.
export function findFaces(maps, padded, size, threshold) {
  const faces = decode(maps, padded, size, Math.min(threshold, VOTING_FROM));
  const voted = nmsWithVoting(faces, NMS_OVERLAP, Math.fround(VOTING_FROM));
  const found = chosen(faces, voted.kept);
  for (let place = 0; place < voted.kept.length; place++) {
    const mean = voted.boxes.subarray(4 * place, 4 * place + 4);
    if (longerSide(voted.boxes, place) <= MAX_VOTED_SIDE) found.boxes.set(mean, 4 * place);
    const usual = 1 + MAX_SUPPORT * (1 - Math.exp(-longerSide(found.boxes, place) / SIDE_OF_SUPPORT));
    found.scores[place] = multiplyOdds(found.scores[place], (1 + voted.support[place]) / Math.sqrt(usual));
  }
  const lowest = Math.fround(threshold);
  return chosen(found, byScore(found.scores).filter((number) => found.scores[number] >= lowest));
}

// The score whose odds are those of another one, times a factor.
export function multiplyOdds(score, factor) {
  return Math.fround((score * factor) / (1 - score + score * factor));
}

function decode(maps, [paddedWidth, paddedHeight], [width, height], threshold) {
  const lowest = Math.fround(Math.log(threshold / (1 - threshold)));
  let points = []; // [logit, number of the map, place in it]
  maps.forEach((map, level) => {
    const count = map.length / 5;
    for (let place = 0; place < count; place++) if (map[place] >= lowest) points.push([map[place], level, place]);
  });
  if (points.length > POINT_LIMIT) points = points.sort(([one], [other]) => other - one).slice(0, POINT_LIMIT);
  const boxes = [], scores = [];
  for (const [logit, level, place] of points) {
    const map = maps[level], stride = STRIDES[level], count = map.length / 5, columns = paddedWidth / stride;
    const x = ((place % columns) + 0.5 + map[count + place]) * stride;
    const y = (Math.floor(place / columns) + 0.5 + map[2 * count + place]) * stride;
    const halfWidth = (Math.exp(Math.min(map[3 * count + place], MAX_LOG_SIDE)) * stride) / 2;
    const halfHeight = (Math.exp(Math.min(map[4 * count + place], MAX_LOG_SIDE)) * stride) / 2;
    const within = (value, most) => Math.fround(Math.min(Math.max(value, 0), most));
    const box = [within(x - halfWidth, width), within(y - halfHeight, height), within(x + halfWidth, width), within(y + halfHeight, height)];
    if (box[2] <= box[0] || box[3] <= box[1]) continue;
    boxes.push(...box);
    scores.push(1 / (1 + Math.exp(-Math.min(Math.max(logit, -80), 80))));
  }
  return { boxes: Float32Array.from(boxes), scores: Float32Array.from(scores) };
}
