// Finds and covers faces in this tab, with the same functions as page/service.js has for a service. Photos go to a worker, and no
// further: the page's policy, which the worker is under too, allows requests for the site's own files only.

import { Refusal } from "./refusal.js";

export { Refusal };

const site = new URL("../", import.meta.url);
const waiting = new Map(); // number of a job -> how it ends
const keys = new WeakMap(); // of files
let worker = null, jobs = 0, files = 0;

const known = fetch(new URL("site.json", site)).then((answer) => answer.json());

// What the page offers, as the service says it at v1/models.
export function offers() {
  return known;
}

// The faces of a picture, down to low scores: { width, height, model, threshold, boxes, scores, turned }; turned: whether the
// browser shows the file otherwise.
export async function detect(file, { model, threshold, signal }) {
  const { models, limits } = await known;
  const record = models.find(({ name }) => name === model);
  const found = await ask({ kind: "detect", file, key: keyOf(file), ...limits, model: record, threshold }, signal);
  return { ...found, model, threshold };
}

// The picture with the given faces framed or masked, as { output, method, strength } say, as a blob.
export async function picture(file, boxes, { output, method, strength }, { signal } = {}) {
  const { limits } = await known;
  return ask({ kind: "picture", file, key: keyOf(file), ...limits, boxes, output, method, strength: Number(strength) }, signal);
}

// A small face in a part of the picture, restored, as a blob.
export async function restore(part, box, { signal } = {}) {
  const { limits, generator } = await known;
  return ask({ kind: "restore", file: part, ...limits, box, generator }, signal);
}

function keyOf(file) {
  if (!keys.has(file)) keys.set(file, ++files);
  return keys.get(file);
}

function ask(message, signal) {
  return new Promise((resolve, reject) => {
    const job = ++jobs;
    const end = () => {
      if (!waiting.delete(job)) return; // it has ended
      worker?.postMessage({ drop: job });
      reject(new DOMException("dropped", "AbortError"));
    };
    waiting.set(job, { resolve, reject });
    if (signal?.aborted) return end();
    signal?.addEventListener("abort", end, { once: true });
    worker ??= started();
    worker.postMessage({ ...message, job });
  });
}

// A worker from the site's address would be under the policy of that answer's headers, which static servers do not send. One from
// a blob is under the page's own.
function started() {
  const script = new Blob([`import ${JSON.stringify(new URL("worker.js", import.meta.url).href)};`], { type: "text/javascript" });
  const address = URL.createObjectURL(script);
  const created = new Worker(address, { type: "module" });
  created.onmessage = ({ data: { job, result, refusal, error } }) => {
    const ended = waiting.get(job);
    waiting.delete(job);
    if (refusal !== undefined) ended?.reject(new Refusal(refusal));
    else if (error !== undefined) ended?.reject(new Error(error));
    else ended?.resolve(result);
  };
  created.onerror = (event) => {
    event.preventDefault?.();
    created.terminate();
    worker = null;
    for (const { reject } of waiting.values()) reject(new Refusal("The search could not be run in this browser, perhaps for lack of memory."));
    waiting.clear();
  };
  return created;
}
