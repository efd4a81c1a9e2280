// What was decided about the tracks of a video and the faces drawn in it, which can be undone.

import { History } from "./history.js";

// Where a drawn face is in a frame: between its key frames its box moves in a line, beyond them it is nowhere.
export function boxAt(keys, frame) {
  const next = keys.findIndex((key) => key.frame >= frame);
  if (next < 0) return null;
  if (keys[next].frame === frame) return keys[next].box;
  if (next === 0) return null;
  const [from, to] = [keys[next - 1], keys[next]];
  const share = (frame - from.frame) / (to.frame - from.frame);
  return from.box.map((side, place) => side + (to.box[place] - side) * share);
}

// The box of the key frame nearest to a frame.
export function nearestBox(keys, frame) {
  return keys.reduce((best, key) => (Math.abs(key.frame - frame) < Math.abs(best.frame - frame) ? key : best)).box;
}

export class ClipEdits extends History {
  // facts: { tracks: [{ track, spans, ... }], clear: [track], drawn: [{ face, state, keys: [{ frame, box }] }] }
  constructor({ tracks, clear, drawn }) {
    super();
    const open = new Set(clear);
    this.tracks = new Map(tracks.map((one) => [one.track, { ...one, state: open.has(one.track) ? "clear" : "covered" }]));
    this.drawn = new Map(drawn.map((one) => [one.face, one]));
  }

  get shownDrawn() {
    return [...this.drawn.values()].filter(({ state }) => state !== "deleted");
  }

  // Each of these gives the change that is to be saved, or null for none.
  setTrack(track, state) {
    const before = this.tracks.get(track);
    return this.act({ kind: "tracks", before, after: { ...before, state } });
  }

  setDrawn(face, change) {
    const before = this.drawn.get(face);
    return this.act({ kind: "drawn", before, after: { ...before, ...change } });
  }

  // Let a drawn face be in a box in a frame, which becomes a key frame.
  setKey(face, frame, box) {
    const others = this.drawn.get(face).keys.filter((key) => key.frame !== frame);
    return this.setDrawn(face, { keys: [...others, { frame, box }].sort((a, b) => a.frame - b.frame) });
  }

  dropKey(face, frame) {
    const keys = this.drawn.get(face).keys.filter((key) => key.frame !== frame);
    return keys.length ? this.setDrawn(face, { keys }) : this.setDrawn(face, { state: "deleted" });
  }

  add(frame, box) {
    const after = { face: Math.max(-1, ...this.drawn.keys()) + 1, state: "covered", keys: [{ frame, box }] };
    return this.act({ kind: "drawn", before: { ...after, state: "deleted" }, after });
  }

  put({ kind, ...sides }, side) {
    const one = sides[side];
    if (kind === "tracks") {
      this.tracks.set(one.track, one);
      return { tracks: [{ track: one.track, state: one.state }], drawn: [] };
    }
    this.drawn.set(one.face, one);
    return { tracks: [], drawn: [one] };
  }
}
