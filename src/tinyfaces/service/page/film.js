// A video on the review page: the frame that is shown, its faces, what the controls do, and the timeline below.

import { ClipEdits, boxAt, nearestBox } from "./clip_edits.js";
import { changeClip, facesOf, framePicture } from "./review_service.js";
import { Timeline } from "./timeline.js";

const CHUNK = 100; // frames whose faces are fetched at once
const DRAWN = 1e7; // numbers of drawn faces in the editor begin there

const at = (id) => document.getElementById(id);

export class Film {
  // page: { say(text, alert), saved(job), note(entry), describe(), outdated(clip, error), drawing(on) }
  constructor(editor, page) {
    this.editor = editor;
    this.page = page;
    this.clip = null; // what the service says of the video, and its edits
    this.timeline = new Timeline({
      list: at("tracks"), seek: at("seek"), clock: at("clock"),
      acts: {
        chose: (id) => this.choose(id),
        switched: (id) => { this.choose(id, false); this.toggle(); },
        sought: (frame) => this.goTo(frame),
      },
    });
    this.editing = {
      chose: (number, tapped) => {
        this.choose(number < 0 ? null : number);
        if (tapped && number >= 0) this.toggle();
      },
      changed: (number, box) => this.save(this.edits.setKey(number - DRAWN, this.shown, box)),
      drew: (box) => {
        this.save(this.edits.add(this.shown, box));
        this.choose(DRAWN + Math.max(...this.edits.drawn.keys()));
        this.page.drawing(false);
      },
      moved: () => {},
    };
    this.acts = {
      toggle: () => this.toggle(), delete: () => this.remove(), insert: () => this.insert(),
      undo: () => this.save(this.edits.undo()), redo: () => this.save(this.edits.redo()),
      near: () => this.boxOf(this.chosen) && editor.zoomToBox(this.boxOf(this.chosen)),
      covers: () => this.flipCovers(),
      to_start: () => this.toEnd(0), to_end: () => this.toEnd(1), frame_back: () => this.step(-1), frame_on: () => this.step(1),
      second_back: () => this.second(-1), second_on: () => this.second(1), key: () => this.key(), play: () => this.play(),
    };
    for (const id of ["to_start", "to_end", "frame_back", "frame_on", "second_back", "second_on", "key", "play"]) at(id).onclick = this.acts[id];
    this.keys = {
      ArrowRight: this.acts.frame_on, ArrowLeft: this.acts.frame_back, ArrowDown: () => this.row(1), ArrowUp: () => this.row(-1),
      Home: this.acts.to_start, End: this.acts.to_end, j: this.acts.second_back, l: this.acts.second_on, k: this.acts.key,
      g: this.acts.play, " ": this.acts.toggle, Delete: this.acts.delete, Backspace: this.acts.delete, i: this.acts.insert,
      u: this.acts.undo, r: this.acts.redo, z: this.acts.near, v: this.acts.covers, Escape: () => this.choose(null),
      "]": () => this.adjust([-1, -1, 1, 1]), "[": () => this.adjust([1, 1, -1, -1]),
      ">": () => this.adjust([-1, 0, 1, 0]), "<": () => this.adjust([1, 0, -1, 0]),
    };
    this.shifted = {
      ArrowRight: () => this.adjust([1, 0, 1, 0]), ArrowLeft: () => this.adjust([-1, 0, -1, 0]),
      ArrowDown: () => this.adjust([0, 1, 0, 1]), ArrowUp: () => this.adjust([0, -1, 0, -1]),
    };
  }

  get edits() {
    return this.clip.edits;
  }

  async open(clip) {
    this.clip = clip;
    this.clip.edits ??= new ClipEdits(clip);
    this.chunks = new Map();
    this.faces = [];
    this.chosen = null;
    this.frame = 0;
    this.asked = null;
    this.editor.acts = this.editing;
    for (const id of ["film", "film_keys"]) at(id).hidden = false;
    at("keys").hidden = true;
    document.body.classList.add("filmed");
    this.timeline.open(clip.seconds);
    if (clip.warning) this.page.say(clip.warning, true);
    this.first = true;
    this.redraw();
    await this.goTo(this.edits.tracks.values().next().value?.spans[0][0] ?? 0);
  }

  close(acts) {
    if (!this.clip) return;
    this.clip = null;
    this.playing = false;
    this.editor.acts = acts;
    for (const id of ["film", "film_keys"]) at(id).hidden = true;
    at("keys").hidden = false;
    document.body.classList.remove("filmed");
    at("toggle").textContent = "Keep clear";
  }

  // --- frames ---

  // Show a frame. While one is fetched, only the last of those asked for meanwhile is fetched next.
  async goTo(frame) {
    this.frame = Math.max(0, Math.min(this.clip.seconds.length - 1, frame));
    this.timeline.point(this.frame);
    await this.fetch();
  }

  async fetch() {
    if (this.asked) {
      this.again = true;
      return this.asked;
    }
    const clip = this.clip;
    this.asked = (async () => {
      do {
        this.again = false;
        const frame = this.frame, covers = this.editor.covers;
        const [image, chunk] = await Promise.all([framePicture(clip.number, frame, covers), this.chunkOf(frame)]);
        if (clip !== this.clip) return image.close();
        this.faces = chunk[frame % CHUNK];
        this.put(image, frame);
      } while (this.again);
    })();
    try {
      await this.asked;
    } catch (error) {
      if (clip === this.clip) this.page.say(error.message, true);
    } finally {
      if (clip === this.clip) this.asked = null;
    }
  }

  put(image, frame) {
    const { width, height } = this.clip;
    const before = this.editor.photo?.film === this.clip ? this.editor.photo.clear : null;
    const photo = { width, height, clear: image, covered: image, film: this.clip };
    if (this.first) this.editor.open(photo);
    else this.editor.photo = photo;
    this.first = false;
    this.shown = frame;
    this.editor.redraw("picture");
    this.redraw();
    before?.close();
    document.body.dataset.frame = frame;
  }

  chunkOf(frame) {
    const first = Math.floor(frame / CHUNK) * CHUNK;
    if (!this.chunks.has(first)) {
      const loading = facesOf(this.clip.number, first, first + CHUNK - 1);
      loading.catch(() => this.chunks.delete(first));
      this.chunks.set(first, loading);
    }
    return this.chunks.get(first);
  }

  step(by) {
    return this.goTo(this.frame + by);
  }

  // To the first frame a second later or earlier.
  second(by) {
    const { seconds } = this.clip, target = seconds[this.frame] + by;
    const place = seconds.findIndex((time) => time >= target - 1e-4);
    return this.goTo(place < 0 ? seconds.length - 1 : place);
  }

  // To the start (0) or the end (1) of the chosen track, or of the video if there is none.
  toEnd(end) {
    const spans = this.spansOf(this.chosen);
    if (!spans.length) return this.goTo(end ? this.clip.seconds.length - 1 : 0);
    return this.goTo(end ? spans.at(-1)[1] : spans[0][0]);
  }

  async play() {
    this.playing = !this.playing;
    at("play").setAttribute("aria-pressed", this.playing);
    while (this.playing && this.clip && this.frame < this.clip.seconds.length - 1) {
      const begun = performance.now(), last = this.frame;
      await this.step(1);
      if (!this.clip || this.frame !== last + 1) continue;
      const due = 1000 * (this.clip.seconds[this.frame] - this.clip.seconds[last]) - (performance.now() - begun);
      await new Promise((done) => setTimeout(done, Math.max(0, due)));
    }
    this.playing = false;
    at("play").setAttribute("aria-pressed", false);
  }

  async flipCovers() {
    this.editor.covers = !this.editor.covers;
    at("covers").setAttribute("aria-pressed", this.editor.covers);
    await this.fetch();
  }

  // --- faces and tracks ---

  // Those of the frame that is shown, as the editor wants them; the same track once.
  get here() {
    const found = new Map();
    for (const [x1, y1, x2, y2, track, other, seen] of this.faces) {
      const before = found.get(track);
      if (before?.seen) continue;
      const box = before ? [Math.min(before.box[0], x1), Math.min(before.box[1], y1), Math.max(before.box[2], x2), Math.max(before.box[3], y2)] : [x1, y1, x2, y2];
      const state = [track, other].some((one) => this.edits.tracks.get(one)?.state === "covered") ? "covered" : "clear";
      found.set(track, { number: track, box, state, score: 1, found: true, fixed: true, seen });
    }
    const drawn = [];
    for (const { face, state, keys } of this.edits.shownDrawn) {
      const number = DRAWN + face, box = boxAt(keys, this.shown);
      if (box) drawn.push({ number, box, state, score: null, found: false });
      else if (number === this.chosen) drawn.push({ number, box: nearestBox(keys, this.shown), state: "clear", score: 0, found: false });
    }
    return [...found.values(), ...drawn];
  }

  boxOf(id) {
    return this.here.find(({ number }) => number === id)?.box;
  }

  get rows() {
    const tracks = [...this.edits.tracks.values()].map(({ track, spans, state }) => ({
      id: track, name: `track ${track}`, picture: `v1/review/videos/${this.clip.number}/tracks/${track}`, state, spans, keys: [],
    }));
    const drawn = this.edits.shownDrawn.map(({ face, state, keys }) => ({
      id: DRAWN + face, name: `drawn ${face + 1}`, picture: null, state, spans: [[keys[0].frame, keys.at(-1).frame]],
      keys: keys.map(({ frame }) => frame),
    }));
    return [...drawn, ...tracks];
  }

  spansOf(id) {
    return this.rows.find((row) => row.id === id)?.spans ?? [];
  }

  redraw() {
    const rows = this.rows;
    if (!rows.some(({ id }) => id === this.chosen)) this.chosen = null;
    this.timeline.show(rows, this.chosen);
    this.editor.show(this.here, this.chosen ?? -1);
    this.describe();
  }

  describe() {
    const rows = this.rows, row = rows.find(({ id }) => id === this.chosen);
    const covered = rows.filter(({ state }) => state === "covered").length;
    at("counts").textContent = `${covered} covered, ${this.edits.tracks.size} found`;
    at("undo").disabled = !this.edits.past.length;
    at("redo").disabled = !this.edits.future.length;
    at("toggle").disabled = !row;
    at("near").disabled = !row || !this.boxOf(this.chosen);
    at("delete").disabled = at("key").disabled = !row?.keys.length;
    at("toggle").textContent = row && row.state !== "covered" ? "Cover" : "Keep clear";
    at("key").textContent = row?.keys.includes(this.frame) ? "Remove key frame" : "Key frame";
    const text = row
      ? `${row.name[0].toUpperCase()}${row.name.slice(1)} of ${rows.length}: ${row.state === "covered" ? "covered" : "clear"}, ${this.timeline.said(row.spans)}`
      : "Click a face to keep its track clear, or drag to draw one.";
    if (at("face").textContent !== text) at("face").textContent = text;
  }

  choose(id, reveal = true) {
    this.chosen = id;
    this.redraw();
    if (id !== null && reveal) this.timeline.reveal(id);
  }

  // The next or previous row; the frame is one that shows it.
  row(by) {
    const ids = this.rows.map(({ id }) => id);
    if (!ids.length) return;
    const place = ids.indexOf(this.chosen);
    const inList = document.activeElement?.closest("#tracks");
    this.choose(ids[place < 0 ? (by > 0 ? 0 : ids.length - 1) : (place + by + ids.length) % ids.length]);
    if (inList) this.timeline.focus(this.chosen);
    const spans = this.spansOf(this.chosen);
    if (!spans.some(([first, last]) => first <= this.frame && this.frame <= last)) this.goTo(spans[0][0]);
  }

  // --- changes ---

  toggle() {
    if (this.chosen === null) return;
    const drawn = this.chosen >= DRAWN, one = drawn ? this.edits.drawn.get(this.chosen - DRAWN) : this.edits.tracks.get(this.chosen);
    const state = one.state === "covered" ? "clear" : "covered";
    this.save(drawn ? this.edits.setDrawn(one.face, { state }) : this.edits.setTrack(one.track, state));
  }

  remove() {
    if (this.chosen >= DRAWN) this.save(this.edits.setDrawn(this.chosen - DRAWN, { state: "deleted" }));
  }

  // Make this frame a key frame of the chosen drawn face, or no longer one.
  key() {
    const face = this.chosen - DRAWN, drawn = this.edits.drawn.get(face);
    if (!drawn || this.shown !== this.frame) return;
    const there = drawn.keys.some(({ frame }) => frame === this.frame);
    this.save(there ? this.edits.dropKey(face, this.frame) : this.edits.setKey(face, this.frame, this.boxOf(this.chosen)));
  }

  insert() {
    this.editing.drew(this.editor.newBox(this.here));
  }

  adjust(by) {
    const box = this.chosen >= DRAWN && this.shown === this.frame && this.boxOf(this.chosen);
    const moved = box && this.editor.stepped(box, by);
    if (moved) this.editing.changed(this.chosen, moved);
  }

  // Save a change after those before it, and show what it does.
  save(change) {
    if (!change) return;
    const clip = this.clip;
    this.redraw();
    this.page.saved(async () => {
      const answer = await changeClip(clip.number, clip.edition, change, () => this.page.say("Not saved yet; trying again …", true));
      clip.edition = answer.photo.edition;
      this.page.note(answer.photo);
      if (clip === this.clip) await this.fetch();
    }, clip);
  }
}
