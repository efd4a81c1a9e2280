// The review page: which photo is shown, what the controls do, and that everything is saved in order.

import { Editor } from "./editor.js";
import { Edits } from "./edits.js";
import { Film } from "./film.js";
import { Outdated, accept, change, photo as photoOf, picture, queue, video, write } from "./review_service.js";

const ASK = 600; // ms between two looks at the queue while photos are searched or written
const HURRY = 150; // the same while the next photo is waited for
const AHEAD = 2; // photos that are loaded before they are next
const LARGEST_PATCH = 16e6; // pixels of a part that is fetched in one piece

const at = (id) => document.getElementById(id);
const entries = new Map(); // each photo's line in the queue, by its number
const rows = new Map(); // its button
const ready = new Map(); // promises of photos that are loaded
const loaded = new Set(); // those of them that can be shown at once
let settled = new Set(); // photos that were searched when the one on the screen was chosen
const skipped = new Set(); // photos that were left without a decision
const deciding = new Set(); // photos whose decision is being saved
let revision = -1, total = 0;
let current = null; // { number, width, height, edition, edits, clear, covered, detail }
let wanted = 0; // the photo that is to be shown
let awaited = 0; // the video that is shown once it is searched
let chosen = -1;
let saving = Promise.resolve();
let writing = { state: "idle" };

const onPhoto = {
  chose(number, tapped) {
    choose(number);
    if (tapped && number >= 0) toggle();
  },
  changed: (number, box) => save(current.edits.set(number, { box })),
  drew(box) {
    save(current.edits.add(box));
    choose(Math.max(...current.edits.faces.keys()));
    setDrawing(false);
  },
  moved: () => sharpen(),
};
const editor = new Editor({ stage: at("stage"), picture: at("picture"), overlay: at("overlay"), acts: onPhoto });
const film = new Film(editor, {
  say, note, drawing: setDrawing,
  saved: (job, clip) => (saving = saving.then(job).catch((error) => stale(clip, error))),
});
const filmed = () => current?.kind === "video";

function say(text, alert = false) {
  at("status").textContent = text;
  at("status").classList.toggle("alert", alert);
}

// --- the queue ---

async function look() {
  try {
    const news = await queue(revision);
    revision = news.revision;
    total = news.total;
    for (const entry of news.photos) note(entry, false);
    if (news.photos.length) {
      order();
      prepare();
    }
    showWriting(news.writing);
    if (!wanted) {
      const first = best();
      if (first) show(first);
      else if (!sought() && /^(Looking|$)/.test(at("status").textContent)) finish();
    } else if (current?.number !== wanted && awaited === wanted && entries.get(wanted).state !== "waiting") show(wanted);
  } catch (error) {
    say(`The review cannot be reached: ${error.message}`, true);
  }
  const waiting = sought();
  setTimeout(look, waiting && !wanted ? HURRY : waiting || writing.state === "running" ? ASK : 4 * ASK);
}

// Whether faces are still looked for in some of the files.
const sought = () => [...entries.values()].some(({ state }) => state === "waiting");

// Say why no other photo comes.
function finish() {
  if ([...entries.values()].some(({ state }) => state === "found")) say("No photo is left to decide about. Write them now, or look again.");
  else say("None of these files can be shown; the list says why.", true);
}

function note(entry, ordered = true) {
  const before = entries.get(entry.number);
  if (before && before.edition > entry.edition) return;
  entries.set(entry.number, entry);
  const row = rows.get(entry.number) ?? newRow(entry);
  row.item.className = entry.state === "problem" ? "problem" : entry.accepted ? "accepted" : "";
  row.note.textContent = noteOf(entry);
  row.item.title = entry.problem ?? ""; // where there is room for its beginning only
  row.button.disabled = entry.state === "problem";
  if (entry.state === "found" && !row.image.src) row.image.src = `v1/review/photos/${entry.number}/thumbnail`;
  if (entry.number === wanted) describe();
  const accepted = [...entries.values()].filter((one) => one.accepted).length;
  const found = [...entries.values()].filter(({ state }) => state !== "waiting").length;
  at("progress").textContent = `${accepted} of ${total} accepted${found < total ? `; ${found} searched` : ""}`;
  at("write").disabled = !accepted || writing.state === "running";
  if (ordered) order();
}

function noteOf({ state, problem, covered, accepted, written, added, taken_away, done, frames }) {
  if (state === "waiting") return done ? `searching: ${done}${frames ? ` of ${frames}` : ""} frames` : "not searched yet";
  if (state === "problem") return problem;
  const changes = [added && `+${added}`, taken_away && `−${taken_away}`].filter(Boolean).join(" ");
  return `${accepted ? (written ? "✓ written, " : "✓ ") : ""}${covered} covered${changes ? ` (${changes})` : ""}`;
}

function newRow({ number, name }) {
  const item = document.createElement("li"), button = document.createElement("button"), image = new Image();
  const text = document.createElement("span"), label = document.createElement("span"), line = document.createElement("span");
  button.type = "button";
  button.tabIndex = -1;
  image.alt = "";
  image.loading = "lazy";
  [label.className, line.className] = ["name", "note"];
  label.textContent = name;
  text.append(label, line);
  button.append(image, text);
  item.append(button);
  button.onclick = () => show(number);
  const row = { item, button, image, note: line };
  rows.set(number, row);
  return row;
}

// The doubtful first; those not searched yet last. What is searched while a photo is looked at comes after the others until the
// next one is chosen: nothing moves in before those that are loaded already.
function ordered() {
  const rank = ({ number, state }) => (settled.has(number) ? 0 : { found: 1, waiting: 2, problem: 3 }[state]);
  return [...entries.values()].sort((a, b) => rank(a) - rank(b) || (rank(a) === 0 && b.doubt - a.doubt) || a.number - b.number);
}

function settle() {
  settled = new Set([...entries.values()].filter(({ state }) => state === "found").map(({ number }) => number));
  order();
}

function order() {
  const items = ordered().map(({ number }) => rows.get(number).item);
  const list = at("photos");
  items.forEach((item, place) => list.children[place] !== item && list.insertBefore(item, list.children[place] ?? null));
}

function open(number) {
  const entry = entries.get(number);
  return entry?.state === "found" && !entry.accepted && !deciding.has(number);
}

// The photos that wait for a decision: those that can be shown at once first, then the doubtful; those passed over come last.
function upcoming(but = 0) {
  const late = (number) => (skipped.has(number) ? 2 : 0) + (loaded.has(number) ? 0 : 1);
  const waiting = ordered().map(({ number }) => number).filter((number) => open(number) && number !== but);
  return waiting.sort((a, b) => late(a) - late(b));
}

const best = (but) => upcoming(but)[0] ?? 0;

function beside(by) {
  const numbers = ordered().filter(({ state }) => state === "found").map(({ number }) => number);
  return numbers[numbers.indexOf(wanted) + by] ?? 0;
}

// --- one photo ---

// A photo with the picture that is shown first; the other one comes by `complete`.
function load(number) {
  if (!ready.has(number)) {
    const side = editor.covers ? "covered" : "clear";
    const loading = entries.get(number)?.kind === "video" ? video(number) : Promise.all([photoOf(number), picture(number, editor.covers)]).then(([facts, image]) => ({
      ...facts, edits: new Edits(facts.faces), clear: null, covered: null, detail: null, [side]: image,
    }));
    loading.then(() => ready.get(number) === loading && loaded.add(number), () => ready.delete(number));
    ready.set(number, loading);
  }
  return ready.get(number);
}

// Fetch the picture that is still missing. The covers may be changing: they wait for what is being saved.
function complete(photo) {
  if (!photo.clear) {
    picture(photo.number, false).then((image) => {
      if (photo !== current && !ready.has(photo.number)) return image.close();
      photo.clear = image;
      if (photo === current) editor.redraw("picture");
    }, (error) => say(error.message, true));
  }
  if (!photo.covered) saving = saving.then(() => photo.covered ?? refresh(photo)).catch((error) => stale(photo, error));
}

function forget(number) {
  ready.delete(number);
  loaded.delete(number);
}

// Load what is likely to be shown next, the neighbours in the list after it, and forget everything else.
function prepare() {
  if (!wanted) return;
  const next = [wanted, ...upcoming(wanted).slice(0, AHEAD)], keep = new Set([...next, beside(1), beside(-1)].filter(Boolean));
  for (const [number, loading] of ready)
    if (!keep.has(number)) {
      forget(number);
      loading.then((photo) => photo !== current && photo !== editor.photo && [photo.clear, photo.covered].forEach((image) => image?.close?.()), () => {});
    }
  Promise.allSettled(next.map(load)).then(() => {
    if (next[0] === wanted) for (const number of keep) if (number === beside(1) || number === beside(-1)) load(number).catch(() => {});
  });
}

// Of all rows only the two that change are touched, as each touch is paid for before the photo is on the screen.
function mark(number) {
  const before = at("photos").querySelector("[aria-current]");
  if (before) {
    before.tabIndex = -1;
    before.removeAttribute("aria-current");
  }
  const { button } = rows.get(number);
  button.tabIndex = 0;
  button.setAttribute("aria-current", "true");
}

async function show(number) {
  if (current && number !== wanted && open(wanted)) skipped.add(wanted);
  wanted = number;
  settle();
  mark(number);
  try {
    const photo = await load(number);
    if (wanted !== number) return;
    if (photo.state === "waiting") {
      awaited = number;
      forget(number);
      say(`Looking for faces in ${photo.name} …`);
      return;
    }
    current = photo;
    if (at("status").textContent.startsWith("Looking")) say("");
    if (filmed()) {
      film.open(photo);
      describe();
    } else {
      film.close(onPhoto);
      editor.open(photo);
      choose(-1);
    }
    rows.get(number).button.scrollIntoView({ block: "nearest", inline: "nearest" });
    document.body.dataset.photo = number;
    afterPaint(() => {
      if (photo === current && !filmed()) complete(photo);
      prepare();
    });
  } catch (error) {
    say(error.message, true);
  }
}

// What can wait until the picture is on the screen.
function afterPaint(act) {
  requestAnimationFrame(() => setTimeout(act));
}

function describe() {
  const entry = entries.get(wanted);
  if (!current || !entry || current.number !== wanted) return;
  at("name").textContent = entry.name;
  at("accept").textContent = entry.accepted ? "Take back" : "Accept";
  if (filmed()) return film.describe();
  const covered = current.edits.shown.filter(({ state }) => state === "covered").length;
  at("counts").textContent = `${covered} covered, ${entry.found} found`;
  at("undo").disabled = !current.edits.past.length;
  at("redo").disabled = !current.edits.future.length;
  const face = current.edits.faces.get(chosen);
  for (const id of ["toggle", "delete", "near"]) at(id).disabled = !face;
  at("toggle").textContent = face && face.state !== "covered" ? "Cover" : "Keep clear";
}

function redraw() {
  editor.show(current.edits.shown, chosen);
  describe();
}

function choose(number) {
  chosen = number;
  redraw();
  tell();
}

function tell() {
  const shown = current.edits.shown;
  const place = shown.findIndex((face) => face.number === chosen);
  if (place < 0) {
    at("face").textContent = "Click a face to keep it clear, or drag to draw one.";
    return;
  }
  const { box: [x1, y1, x2, y2], score, state } = shown[place];
  const size = `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px`;
  const origin = score === null ? "drawn" : `score ${score.toFixed(2)}`;
  at("face").textContent = `Face ${place + 1} of ${shown.length}: ${state === "covered" ? "covered" : "clear"}, ${size}, ${origin}`;
}

// --- changes ---

// Save what was changed, after what was changed before, and bring the covers up to date.
function save(faces) {
  const photo = current;
  if (!faces) return;
  if (photo.edits.faces.get(chosen)?.state === "deleted") chosen = -1;
  photo.detail = null;
  redraw();
  tell();
  saving = saving.then(async () => {
    const answer = await change(photo.number, photo.edition, faces, () => say("Not saved yet; trying again …", true));
    photo.edition = answer.photo.edition;
    note(answer.photo);
    if (at("status").classList.contains("alert")) say("");
    if (answer.region) await patch(photo, answer.region);
  }).catch((error) => stale(photo, error));
}

async function patch(photo, region) {
  const [left, top, width, height] = region;
  if (photo !== current && !ready.has(photo.number)) return; // fetched anew when it is shown again
  if (!photo.covered || width * height > LARGEST_PATCH) return refresh(photo);
  const part = await picture(photo.number, true, region);
  if (photo.covered instanceof ImageBitmap) photo.covered = asCanvas(photo.covered);
  const across = photo.covered.width / photo.width, down = photo.covered.height / photo.height;
  photo.covered.getContext("2d").drawImage(part, left * across, top * down, width * across, height * down);
  part.close();
  if (photo === current) editor.redraw("picture");
}

async function refresh(photo) {
  photo.covered = await picture(photo.number, true);
  if (photo === current) editor.redraw("picture");
}

function asCanvas(bitmap) {
  const canvas = document.createElement("canvas");
  [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
  canvas.getContext("2d", { alpha: false }).drawImage(bitmap, 0, 0);
  bitmap.close();
  return canvas;
}

// Where a photo is shown reduced and one looks closer, the part that is seen is fetched as it is.
async function sharpen() {
  const photo = current, covers = editor.covers, image = photo.covered ?? photo.clear;
  if (image.width >= photo.width || editor.scale * devicePixelRatio * 1.2 < image.width / photo.width) return;
  const region = editor.visible;
  if (photo.detail?.covers === covers && String(photo.detail.region) === String(region)) return;
  await saving;
  const part = await picture(photo.number, covers, region).catch(() => null);
  if (!part || photo !== current || String(region) !== String(editor.visible) || covers !== editor.covers) return;
  photo.detail = { image: part, region, covers };
  editor.redraw("picture");
}

function stale(photo, error) {
  say(error.message, true);
  forget(photo.number);
  if (error instanceof Outdated && wanted === photo.number) show(photo.number);
}

function toggle() {
  const face = current?.edits.faces.get(chosen);
  if (face) save(current.edits.set(chosen, { state: face.state === "covered" ? "clear" : "covered" }));
}

function remove() {
  if (current?.edits.faces.has(chosen)) save(current.edits.set(chosen, { state: "deleted" }));
}

// A new face in the middle of what is seen, as large as others or as can be handled.
function insert() {
  if (!current) return;
  save(current.edits.add(editor.newBox(current.edits.shown)));
  choose(Math.max(...current.edits.faces.keys()));
}

function adjust(by) {
  const face = current?.edits.faces.get(chosen);
  if (!face) return;
  const box = editor.stepped(face.box, by);
  if (box) save(current.edits.set(chosen, { box }));
}

function step(by) {
  const shown = current?.edits.shown ?? [];
  if (!shown.length) return;
  const place = shown.findIndex((face) => face.number === chosen);
  choose(shown[place < 0 ? (by > 0 ? 0 : shown.length - 1) : (place + by + shown.length) % shown.length].number);
  editor.reveal(current.edits.faces.get(chosen).box);
}

// Accept the photo, and go on to the next one at once; or take that back.
function decide() {
  if (!current || current.number !== wanted) return;
  const photo = current, accepted = !entries.get(photo.number).accepted;
  skipped.delete(photo.number);
  deciding.add(photo.number);
  saving = saving.then(async () => {
    note((await accept(photo.number, photo.edition, accepted, () => say("Not saved yet; trying again …", true))).photo);
    if (at("status").classList.contains("alert")) say("");
  }).catch((error) => stale(photo, error)).finally(() => deciding.delete(photo.number));
  if (!accepted) return;
  const next = best(photo.number);
  if (next) show(next);
  else if (sought()) {
    wanted = 0; // the next one is shown as soon as it is searched
    say("Looking for faces in the next photo …");
  } else saving.then(finish);
}

// --- writing ---

async function begin() {
  await saving;
  try {
    showWriting((await write()).writing);
  } catch (error) {
    say(error.message, true);
  }
}

function showWriting(news) {
  const before = writing;
  writing = news;
  at("write").disabled = news.state === "running" || ![...entries.values()].some(({ accepted }) => accepted);
  const frames = news.video ? ` (${news.video.name}: ${news.video.done} of ${news.video.frames} frames)` : "";
  if (news.state === "running") say(`Writing … ${news.done} of ${news.total}${frames}`);
  if (news.state !== "done" || before.state === "done") return;
  say(`${news.written} of ${news.total} files written.`, news.problems.length > 0);
  const title = document.createElement("h2"), sums = document.createElement("p"), list = document.createElement("ul");
  title.textContent = `${news.written} files written`;
  sums.textContent = `${news.found} faces found, ${news.added} added, ${news.taken_away} taken away, ${news.moved} moved. The list is in ${news.report}`;
  for (const { problem } of news.problems) list.append(Object.assign(document.createElement("li"), { textContent: problem }));
  at("report").replaceChildren(title, sums, list);
  at("report").hidden = false;
}

// --- controls ---

function setDrawing(on) {
  editor.drawing = on;
  at("draw").setAttribute("aria-pressed", on);
}

function flip(name) {
  editor[name] = !editor[name];
  at(name).setAttribute("aria-pressed", editor[name]);
  editor.redraw("picture");
}

const undo = () => (filmed() ? film.acts.undo() : current && save(current.edits.undo()));
const redo = () => (filmed() ? film.acts.redo() : current && save(current.edits.redo()));
const near = () => current?.edits.faces.has(chosen) && editor.zoomToBox(current.edits.faces.get(chosen).box);
const zoom = (by) => current && editor.zoomTo(editor.scale * by);
const go = (by) => beside(by) && show(beside(by));

const buttons = {
  accept: decide, back: () => go(-1), forth: () => go(1), toggle, delete: remove, insert, undo, redo, near, write: begin,
  draw: () => setDrawing(!editor.drawing), covers: () => flip("covers"), frames: () => flip("frames"),
  fit: () => current && editor.fit(), closer: () => zoom(1.6), farther: () => zoom(1 / 1.6),
};
for (const [id, act] of Object.entries(buttons)) at(id).onclick = () => ((filmed() && film.acts[id]) || act)();

const keys = {
  Enter: decide, a: decide, n: () => go(1), p: () => go(-1), PageDown: () => go(1), PageUp: () => go(-1),
  ArrowRight: () => step(1), ArrowDown: () => step(1), ArrowLeft: () => step(-1), ArrowUp: () => step(-1), " ": toggle,
  Delete: remove, Backspace: remove, i: insert, d: buttons.draw, u: undo, r: redo, z: near, 0: buttons.fit, v: buttons.covers,
  f: buttons.frames, "+": buttons.closer, "=": buttons.closer, "-": buttons.farther, Escape: () => current && choose(-1),
  "]": () => adjust([-1, -1, 1, 1]), "[": () => adjust([1, 1, -1, -1]), ">": () => adjust([-1, 0, 1, 0]), "<": () => adjust([1, 0, -1, 0]),
};
const shifted = {
  ArrowRight: () => adjust([1, 0, 1, 0]), ArrowLeft: () => adjust([-1, 0, -1, 0]),
  ArrowDown: () => adjust([0, 1, 0, 1]), ArrowUp: () => adjust([0, -1, 0, -1]),
};
const controlled = { z: undo, Z: redo, y: redo };

addEventListener("keydown", (event) => {
  const onControl = event.target.closest("button");
  const plain = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (event.altKey) return;
  if (onControl && (event.key === "Enter" || event.key === " ")) return;
  const inQueue = event.target.closest("#photos") && { ArrowDown: () => neighbour(1), ArrowUp: () => neighbour(-1) }[event.key];
  const own = filmed() ? { shifted: film.shifted, keys: { ...keys, ...film.keys } } : { shifted, keys };
  const act = event.ctrlKey || event.metaKey ? controlled[event.key] : inQueue || (event.shiftKey && own.shifted[event.key]) || own.keys[plain];
  if (!act || (event.target.matches("input") && event.key.length > 1 && event.key !== "Enter")) return;
  event.preventDefault();
  act();
});

// The photo above or below in the queue, with the focus on it.
function neighbour(by) {
  const number = beside(by);
  if (!number) return;
  show(number);
  rows.get(number).button.focus();
}

look();
