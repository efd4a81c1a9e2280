// The requests to the service; addresses are relative, so that the page works behind a proxy's path.

const PATIENCE = 30_000;

export class Refusal extends Error {}

export async function offers() {
  return (await fetch("v1/models")).json();
}

// The faces of a picture, down to low scores: { width, height, threshold, boxes, scores }.
export async function detect(file, { model, threshold, waiting, signal }) {
  const query = new URLSearchParams({ model, threshold });
  return (await post(`v1/detect?${query}`, { file }, { waiting, signal })).json();
}

// The picture with the given faces framed or masked, as { output, method } say, as a blob. cover: a picture over each mask, or null.
export async function picture(file, boxes, query, { cover = null, ...options } = {}) {
  const fields = { file, boxes: JSON.stringify(boxes), ...(cover && { cover }) };
  return (await post(`v1/picture?${new URLSearchParams(query)}`, fields, options)).blob();
}

// A small face in a part of the picture, restored, as a blob.
export async function restore(part, box, options) {
  return (await post("v1/restore", { file: part, boxes: JSON.stringify([box]) }, options)).blob();
}

// A busy service (429) is asked again, for as long as one would wait for it.
async function post(address, { file, ...fields }, { waiting = () => {}, signal } = {}) {
  const begun = performance.now();
  for (;;) {
    const form = new FormData();
    form.append("file", file, "picture"); // the file's own name is nobody's business
    for (const [name, value] of Object.entries(fields)) value instanceof Blob ? form.append(name, value, name) : form.append(name, value);
    let answer;
    try {
      answer = await fetch(address, { method: "POST", body: form, signal });
    } catch (error) {
      if (error.name === "AbortError") throw error;
      throw new Refusal("The service cannot be reached.");
    }
    if (answer.ok) return answer;
    if (answer.status !== 429 || performance.now() - begun > PATIENCE) throw new Refusal(await reason(answer));
    waiting();
    const seconds = Number(answer.headers.get("Retry-After")) || 1;
    await new Promise((done) => setTimeout(done, seconds * 1000));
  }
}

async function reason(answer) {
  try {
    return `Refused: ${(await answer.json()).detail}.`;
  } catch {
    return `Refused (${answer.status}).`;
  }
}
