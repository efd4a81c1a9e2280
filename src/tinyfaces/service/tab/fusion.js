// The fusion rule: how the scores of both stages become one, and how far boxes move. The numbers of a rule come with its model.

const TYPICAL_SIDE = 12; // pixels
const MAX_LOGIT = 5;
const CONVINCING_LOGIT = 3; // a probability of 0.95
const MIN_SLOPE = 0.2;
const MAX_SHIFT = 0.5, MAX_LOG_RATIO = 1;
const TRIED_SCORES = 200, TRIED_SIDES = 12, SMALLEST_TRIED = 3;

// Whether the second stage judges a proposal with this longer side, in pixels, and this score.
export function isCandidate({ bounds }, side, score) {
  const [low, high] = bounds.undecided.map(Math.fround);
  return side <= Math.fround(bounds.largest_side) && score >= low && score <= high;
}

// The lowest score of a proposal from which a convinced second stage reaches a fused score of `threshold`.
export function minProposalScore(rule, threshold) {
  const [low, high] = rule.bounds.undecided, ratio = rule.bounds.largest_side / SMALLEST_TRIED;
  for (let n = 0; n < TRIED_SCORES; n++) {
    const score = Math.fround(low + (n * (high - low)) / (TRIED_SCORES - 1));
    for (let step = 0; step < TRIED_SIDES; step++) {
      const side = Math.fround(SMALLEST_TRIED * ratio ** (step / (TRIED_SIDES - 1)));
      if (fused(rule, score, CONVINCING_LOGIT, side) >= Math.fround(threshold)) return Math.min(threshold, score);
    }
  }
  return threshold;
}

// The fused score of a proposal's score, the judge's logit and the longer side in pixels.
export function fused({ bounds, alone, both }, score, logit, side) {
  const size = Math.log(Math.max(side, 1) / TYPICAL_SIDE);
  const sure = within(score, 1e-6, 1 - 1e-6);
  const proposal = Math.log(sure / (1 - sure));
  const features = [1, proposal, within(logit, -MAX_LOGIT, MAX_LOGIT)];
  const together = features.reduce((sum, feature, n) => sum + feature * (both[n] + both[n + 3] * size), 0);
  const [intercept, slope, interceptBySize, slopeBySize] = alone;
  const gain = Math.max(slope + slopeBySize * size, MIN_SLOPE);
  const sum = proposal + bounds.trust * ((together - intercept - interceptBySize * size) / gain - proposal);
  return Math.fround(1 / (1 + Math.exp(-within(sum, -30, 30))));
}

// A box x1 y1 x2 y2 moved by the rule's share of the judge's offsets: shift of the centre in sides, log of the sides' ratios.
export function corrected({ bounds }, box, offsets) {
  const moved = [];
  for (const axis of [0, 1]) {
    const side = box[axis + 2] - box[axis];
    const middle = (box[axis] + box[axis + 2]) / 2 + bounds.box * within(offsets[axis], -MAX_SHIFT, MAX_SHIFT) * side;
    const half = (Math.exp(bounds.box * within(offsets[axis + 2], -MAX_LOG_RATIO, MAX_LOG_RATIO)) * side) / 2;
    moved[axis] = middle - half;
    moved[axis + 2] = middle + half;
  }
  return moved;
}

function within(value, least, most) {
  return Math.min(Math.max(value, least), most);
}
