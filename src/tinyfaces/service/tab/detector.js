// The faces of a photo, by both stages. Models that are not shipped have the first one alone, as in Python.

import { above } from "./boxes.js";
import { propose } from "./first_stage.js";
import { minProposalScore } from "./fusion.js";
import { judged } from "./second_stage.js";

// Highest score first, in pixels of the photo. first: see first_stage.js; second: see second_stage.js, null if there is none.
export async function detect(photo, threshold, first, second) {
  if (!second) return propose(photo, threshold, first);
  const proposals = await propose(photo, minProposalScore(second.rule, threshold), first);
  return above(await judged(photo, proposals, second), threshold);
}
