// The faces of one photo and what was done to them, which can be undone.

import { History } from "./history.js";

export class Edits extends History {
  // rows: [number, x1, y1, x2, y2, score or null, state, found] each
  constructor(rows) {
    super();
    this.faces = new Map(rows.map(([number, x1, y1, x2, y2, score, state, found]) => [number, { number, box: [x1, y1, x2, y2], score, state, found }]));
  }

  // Those that are shown.
  get shown() {
    return [...this.faces.values()].filter(({ state }) => state !== "deleted");
  }

  get next() {
    return Math.max(-1, ...this.faces.keys()) + 1;
  }

  // Each of these gives the faces as they are to be saved.
  set(number, change) {
    const before = this.faces.get(number);
    return this.act([{ before, after: { ...before, ...change } }]);
  }

  add(box) {
    const after = { number: this.next, box, score: null, state: "covered", found: false };
    return this.act([{ before: { ...after, state: "deleted" }, after }]);
  }

  put(step, side) {
    const faces = step.map((one) => one[side]);
    for (const face of faces) this.faces.set(face.number, face);
    return faces.map(({ number, box, state }) => ({ number, box, state }));
  }
}
