// The worker that does what takes time, so that the page stays usable. It takes one job at a time, and keeps the photo of the last.

import { detect } from "./detector.js";
import { framed } from "./framing.js";
import { masked } from "./masking.js";
import { generator, judge, proposalNetwork } from "./networks.js";
import { readPhoto, writePhoto } from "./photos.js";
import { Refusal } from "./refusal.js";
import { restored } from "./restoring.js";

const dropped = new Set(); // jobs that nobody waits for
let last = { key: null, photo: null };
let turn = Promise.resolve();

const jobs = {
  async detect({ job, key, file, megapixels, model, threshold }) {
    const photo = await photoOf(key, file, megapixels);
    const unlessDropped = (network) => async (...input) => {
      await new Promise((done) => setTimeout(done)); // lets messages in
      if (dropped.has(job)) throw new Refusal("dropped");
      return network(...input);
    };
    const first = { run: unlessDropped(proposalNetwork(model.file)), enlarges: model.enlarges };
    const second = model.second_stage && { judge: unlessDropped(judge(model.second_stage.judge)), rule: model.second_stage.rule };
    const { boxes, scores } = await detect(photo, threshold, first, second);
    const at = (number) => [...boxes.subarray(4 * number, 4 * number + 4)].map((side) => short(side, 1e3));
    const listed = [...scores.keys()];
    const { width, height, turned } = photo;
    return { width, height, turned, boxes: listed.map(at), scores: listed.map((number) => short(scores[number], 1e6)) };
  },

  async picture({ key, file, megapixels, boxes, output, method, strength }) {
    const photo = await photoOf(key, file, megapixels);
    return writePhoto(output === "annotated" ? framed(photo, boxes) : masked(photo, boxes, method, strength));
  },

  async restore({ file, megapixels, box, generator: network }) {
    return writePhoto(await restored(await readPhoto(file, megapixels), box, generator(network)));
  },
};

async function photoOf(key, file, megapixels) {
  if (last.key !== key) {
    last = { key: null, photo: null }; // so that two are never in memory
    last = { key, photo: await readPhoto(file, megapixels) };
  }
  return last.photo;
}

function short(value, parts) {
  return Math.round(value * parts) / parts;
}

async function work(message) {
  const { job, kind } = message;
  try {
    if (!dropped.has(job)) postMessage({ job, result: await jobs[kind](message) });
  } catch (error) {
    postMessage({ job, [error instanceof Refusal ? "refusal" : "error"]: error.message });
  }
  dropped.delete(job);
}

addEventListener("message", ({ data }) => {
  if ("drop" in data) dropped.add(data.drop);
  else turn = turn.then(() => work(data));
});
