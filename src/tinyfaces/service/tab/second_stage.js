// The second stage: the judge looks at each candidate again, says how well its box fits a face, and corrects the box.

import { chosen, longerSide, nms, where } from "./boxes.js";
import { cutCrop } from "./cropping.js";
import { corrected, fused, isCandidate } from "./fusion.js";

const CROPS_AT_ONCE = 32;

// The faces of a photo, one box each, with fused scores, highest first. proposals: what the first stage found; judge: a function of
// crops (3 * 16 * 16 values each, RGB 0-1) that promises { logits, offsets }, one and four values for each; rule: see fusion.js.
export async function judged(photo, proposals, { judge, rule }) {
  const boxes = proposals.boxes.slice(), scores = proposals.scores.slice();
  const boxOf = (number) => proposals.boxes.subarray(4 * number, 4 * number + 4);
  const sideOf = (number) => longerSide(proposals.boxes, number);
  const candidates = where(proposals, (number) => isCandidate(rule, sideOf(number), scores[number]));
  for (let start = 0; start < candidates.length; start += CROPS_AT_ONCE) {
    const some = candidates.slice(start, start + CROPS_AT_ONCE);
    const { logits, offsets } = await judge(some.map((number) => cutCrop(photo, boxOf(number))));
    some.forEach((number, place) => {
      scores[number] = fused(rule, scores[number], logits[place], sideOf(number));
      const moved = corrected(rule, boxOf(number), offsets.subarray(4 * place, 4 * place + 4));
      boxes.set(moved.map((side, at) => Math.min(Math.max(side, 0), at % 2 ? photo.height : photo.width)), 4 * number);
    });
  }
  return chosen({ boxes, scores }, nms({ boxes, scores }, rule.bounds.overlap));
}
