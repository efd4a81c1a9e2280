// The networks in ONNX Runtime's WebAssembly build: one thread, or several where the server's headers allow them.

import * as ort from "../runtime/ort.js";
import { LOW_SIDE } from "./cropping.js";
import { STRIDES } from "./decoding.js";
import { Refusal } from "./refusal.js";

const MOST_THREADS = 8;
const opened = new Map(); // address -> promised session

ort.env.logLevel = "error";
ort.env.wasm.wasmPaths = { wasm: new URL("../runtime/ort.wasm", import.meta.url).href };
ort.env.wasm.numThreads = self.crossOriginIsolated ? Math.min(navigator.hardwareConcurrency || 1, MOST_THREADS) : 1;

// A function of an image (3 * height * width values), its width and height that promises the four maps of the proposal network.
export function proposalNetwork(file) {
  return async (image, width, height) => {
    const outputs = await run(file, "images", image, [1, 3, height, width]);
    return STRIDES.map((stride) => outputs[`stride${stride}`].data);
  };
}

// A function of crops of 16 x 16 pixels that promises the logit of each, how well its box fits a face, and its four offsets.
export function judge(file) {
  return async (crops) => {
    const { face, box } = await runOnCrops(file, crops);
    return { logits: face.data, offsets: box.data };
  };
}

// A function of a crop of 16 x 16 pixels that promises the restored one of 64 x 64.
export function generator(file) {
  return async (crop) => (await runOnCrops(file, [crop])).restored.data;
}

function runOnCrops(file, crops) {
  const size = 3 * LOW_SIDE ** 2;
  const values = new Float32Array(size * crops.length);
  crops.forEach((crop, place) => values.set(crop, size * place));
  return run(file, "crops", values, [crops.length, 3, LOW_SIDE, LOW_SIDE]);
}

async function run(file, input, values, shape) {
  const session = await open(file);
  return session.run({ [input]: new ort.Tensor("float32", values, shape) });
}

function open(file) {
  if (!opened.has(file)) {
    const session = load(new URL(`../${file}`, import.meta.url));
    session.catch(() => opened.delete(file)); // the next attempt may find the server
    opened.set(file, session);
  }
  return opened.get(file);
}

async function load(address) {
  let answer;
  try {
    answer = await fetch(address);
  } catch {
    throw new Refusal("The server of this page cannot be reached.");
  }
  if (!answer.ok) throw new Refusal(`The server of this page does not give the model (${answer.status}).`);
  return ort.InferenceSession.create(new Uint8Array(await answer.arrayBuffer()), { executionProviders: ["wasm"] });
}
