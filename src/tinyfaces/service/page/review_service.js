// The requests of the review page. What is saved is asked for again until it arrives, as nothing may get lost.

const PAUSE = 700; // ms before another attempt

export class Outdated extends Error {}
export class Refused extends Error {}

export async function queue(since) {
  return (await asked(`v1/review?since=${since}`)).json();
}

export async function photo(number) {
  return (await asked(`v1/review/photos/${number}`)).json();
}

// The photo or a part of it, [left, top, width, height] in its pixels, as a bitmap.
export async function picture(number, covered, region = null) {
  const part = region ? `&region=${region.join(",")}` : "";
  return bitmap(`v1/review/photos/${number}/picture?covered=${covered}${part}`);
}

export async function change(number, edition, faces, waiting) {
  return (await saved(`v1/review/photos/${number}/changes`, { edition, faces }, waiting)).json();
}

export async function accept(number, edition, accepted, waiting) {
  return (await saved(`v1/review/photos/${number}/accepted`, { edition, accepted }, waiting)).json();
}

// A video: its tracks and drawn faces; while it is not searched, its line in the queue.
export async function video(number) {
  return (await asked(`v1/review/videos/${number}`)).json();
}

export async function framePicture(number, frame, covered) {
  return bitmap(`v1/review/videos/${number}/frames/${frame}?covered=${covered}`);
}

// Of each frame from first to last the faces found there: [x1, y1, x2, y2, track, other track that it may be, seen].
export async function facesOf(number, first, last) {
  return (await (await asked(`v1/review/videos/${number}/faces?first=${first}&last=${last}`)).json()).frames;
}

export async function changeClip(number, edition, change, waiting) {
  return (await saved(`v1/review/videos/${number}/changes`, { edition, ...change }, waiting)).json();
}

async function bitmap(path) {
  return createImageBitmap(await (await asked(path)).blob(), { colorSpaceConversion: "none" });
}

export async function write() {
  return (await asked("v1/review/writing", { method: "POST" })).json();
}

async function saved(address, content, waiting) {
  for (;;) {
    try {
      return await asked(address, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(content) });
    } catch (error) {
      if (error instanceof Outdated || error instanceof Refused) throw error;
      waiting();
      await new Promise((done) => setTimeout(done, PAUSE));
    }
  }
}

async function asked(address, options) {
  const answer = await fetch(address, options);
  if (answer.status === 409) throw new Outdated("The photo was changed from another page.");
  if (answer.status >= 400 && answer.status < 500) throw new Refused(`Refused: ${(await answer.json()).detail}.`);
  if (!answer.ok) throw new Error(`status ${answer.status}`);
  return answer;
}
