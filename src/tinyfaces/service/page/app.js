// What the controls do. The engine is asked once for all detections down to a low score; the rest happens here.

import { Refusal, detect, offers, picture, restore } from "./engine.js";
import { Stage } from "./stage.js";

const LOWEST_SCORE = 0.15; // below it, crowds have more false detections than faces
const LOWEST_HEIGHT = 4;
const CONTEXT = 1.6; // side of a crop in longer sides of its box
const RESTORED_SIDE = 32; // pixels; larger faces show more as they are
const REST = 80; // ms for which the pointer stays on a face before it is restored
const PAUSE = 250; // ms without a change before the anonymised picture is made anew

const at = (id) => document.getElementById(id);
const stage = new Stage({ view: at("view"), stage: at("stage"), photo: at("photo"), overlay: at("overlay"), picked });
const service = offers();

let current = null; // the open picture: { file, name, url, found, shown, anonymised, restored, asking }
let chosen = -1; // place of the chosen face in found
let held = false; // it was tapped: pointing at others does not change it
let timer = 0;
let byHeight = false; // the score needed depends on the height, as the service has it; else it is that of the slider

// --- opening ---

async function open(file, name, credit = false) {
  current?.asking.abort();
  if (current?.url) URL.revokeObjectURL(current.url);
  if (current?.anonymised) URL.revokeObjectURL(current.anonymised.url);
  const opened = { file, name, url: URL.createObjectURL(file), found: null, shown: [], anonymised: null, restored: new Map(), asking: new AbortController() };
  current = opened;
  choose(-1);
  at("credit").hidden = !credit;
  document.body.classList.add("opened");
  document.body.dataset.state = "busy";
  say("Looking for faces …");
  try {
    const { limits } = await service;
    if (file.size > limits.megabytes * 1e6) throw new Refusal(`The file is larger than ${limits.megabytes} MB.`);
    const [found, visible] = await Promise.all([ask(opened), show(opened)]);
    if (current !== opened) return;
    opened.found = found;
    if (!visible || shownOtherwise(found)) await showConverted(opened);
    if (current !== opened) return;
    stage.width === found.width && stage.height === found.height ? stage.layout() : stage.open(found.width, found.height);
    opened.tallest = Math.max(LOWEST_HEIGHT * 2, ...found.boxes.map(([, top, , bottom]) => Math.ceil(bottom - top)));
    if (view() === "anonymised") lowerScore();
    filter();
    say(found.boxes.length ? "" : "No faces found.");
    document.body.dataset.state = "ready";
  } catch (error) {
    if (current !== opened || error.name === "AbortError") return;
    opened.asking.abort(); // or the browser's picture may come yet
    at("work").hidden = true;
    document.body.dataset.state = "refused";
    say(error instanceof Refusal ? error.message : `Something went wrong: ${error.message}`, true);
  }
}

async function ask(opened) {
  const { models, cover_threshold: coverThreshold } = await service;
  const model = at("model").value || models[0].name;
  const waiting = () => say("The service is busy; trying again …");
  const found = await detect(opened.file, { model, threshold: LOWEST_SCORE, waiting, signal: opened.asking.signal });
  byHeight = false;
  at("threshold").value = models.find(({ name }) => name === model).threshold;
  at("smallest").value = 0;
  at("largest").value = 100;
  at("only-region").value = at("except-region").value = "";
  return { ...found, coverThreshold };
}

// Show the picture before the answer comes; false where the browser cannot decode it.
async function show(opened) {
  const photo = at("photo");
  photo.src = opened.url;
  try {
    await photo.decode();
  } catch {
    return false;
  }
  if (!opened.asking.signal.aborted) {
    at("work").hidden = false;
    stage.open(photo.naturalWidth, photo.naturalHeight);
  }
  return true;
}

// Browsers pass over the orientation of some files, such as WebP.
function shownOtherwise({ width, height, turned = false }) {
  const photo = at("photo");
  return turned || (photo.naturalWidth > photo.naturalHeight) !== (width > height);
}

// For pictures that the service reads and the browser does not, such as TIFF, or shows otherwise.
async function showConverted(opened) {
  const converted = await picture(opened.file, [], { output: "annotated" }, { signal: opened.asking.signal });
  URL.revokeObjectURL(opened.url);
  opened.url = URL.createObjectURL(converted);
  await show(opened);
}

function say(text, alert = false) {
  at("status").textContent = text;
  at("status").classList.toggle("alert", alert);
}

// --- filtering ---

// The sliders of height go from 0 to 100, in even ratios.
function height(slider) {
  const place = Number(slider.value) / 100;
  return Math.round(LOWEST_HEIGHT * (current.tallest / LOWEST_HEIGHT) ** place);
}

// The score from which a face of this height is covered; points are [height, score], heights rising.
function coverScore(tall, points) {
  const next = points.findIndex(([height]) => tall <= height);
  if (next <= 0) return points.at(next)[1];
  const [[low, from], [high, to]] = [points[next - 1], points[next]];
  return from + ((to - from) * Math.log(tall / low)) / Math.log(high / low);
}

// The polygons in a field, as corners in pixels; null where the text is none.
function regionsIn(field) {
  const { width, height } = current.found;
  const polygons = [];
  for (const text of field.value.split(";").filter((part) => part.trim())) {
    const corners = text.trim().split(/\s+/).map((corner) => corner.split(",").map((side) => (side.trim() ? Number(side) : NaN)));
    if (corners.length < 3 || !corners.every((corner) => corner.length === 2 && corner.every(Number.isFinite))) return null;
    const shares = corners.every((corner) => corner.every((side) => side >= 0 && side <= 1));
    polygons.push(shares ? corners.map(([x, y]) => [x * width, y * height]) : corners);
  }
  return polygons;
}

// Whether a point is in a polygon: a line from it to the right crosses its sides an odd number of times.
function within(x, y, corners) {
  return corners.reduce((inside, [x1, y1], place) => {
    const [x2, y2] = corners[(place + 1) % corners.length];
    return y1 > y !== y2 > y && x < x1 + ((x2 - x1) * (y - y1)) / (y2 - y1) ? !inside : inside;
  }, false);
}

// The regions of both fields; a field that is not understood counts as empty, and says so.
function regions() {
  const [only, except] = ["only-region", "except-region"].map((id) => {
    const polygons = regionsIn(at(id));
    at(id).setAttribute("aria-invalid", polygons === null);
    return polygons ?? [];
  });
  stage.regions = [...only.map((corners) => ({ corners, only: true })), ...except.map((corners) => ({ corners, only: false }))];
  return { only, except };
}

function filter() {
  if (!current?.found) return;
  const { boxes, scores, coverThreshold } = current.found;
  const { only, except } = regions();
  const threshold = Number(at("threshold").value);
  const minHeight = at("smallest").value === "0" ? 0 : height(at("smallest"));
  const maxHeight = at("largest").value === "100" ? Infinity : height(at("largest"));
  const shown = [];
  const heights = [];
  for (let number = 0; number < boxes.length; number++) {
    const tall = boxes[number][3] - boxes[number][1];
    const needed = byHeight ? coverScore(tall, coverThreshold) : threshold;
    const [x, y] = [(boxes[number][0] + boxes[number][2]) / 2, (boxes[number][1] + boxes[number][3]) / 2];
    const placed = (!only.length || only.some((corners) => within(x, y, corners))) && !except.some((corners) => within(x, y, corners));
    if (placed && scores[number] >= needed && tall >= minHeight && tall <= maxHeight) {
      shown.push(number);
      heights.push(tall);
    }
  }
  current.shown = shown;
  at("threshold-value").textContent = byHeight ? "by height" : threshold.toFixed(2);
  at("smallest-value").textContent = minHeight ? `${minHeight} px` : "any";
  at("largest-value").textContent = Number.isFinite(maxHeight) ? `${maxHeight} px` : "any";
  at("count").textContent = shown.length === 1 ? "1 face" : `${shown.length} faces`;
  heights.sort((a, b) => a - b);
  const size = (share) => Math.round(heights[Math.floor(share * (heights.length - 1))]);
  at("sizes").textContent = heights.length ? `height: ${size(0)} px smallest, ${size(0.5)} median, ${size(1)} largest` : "";
  if (chosen >= 0 && !shown.includes(chosen)) choose(-1);
  if (chosen >= 0) describe();
  draw();
  if (view() === "anonymised") later(anonymise);
}

function draw() {
  const { found, shown } = current;
  stage.frames = view() === "boxes";
  stage.show(shown.map((number) => found.boxes[number]), shown.indexOf(chosen));
}

// --- views ---

function view() {
  return document.querySelector("input[name=shown]:checked").value;
}

// A missed face is worse than a covered hand: what covers faces needs a lower score than the models' own, until the slider is used.
function lowerScore() {
  const slider = at("threshold");
  const lowest = Math.min(...current.found.coverThreshold.map(([, score]) => score));
  byHeight = Number(slider.value) > lowest;
  if (!byHeight) return;
  current.score = slider.value;
  slider.value = lowest; // so that the first step from here uncovers next to nothing
}

function raiseScore() {
  if (byHeight) at("threshold").value = current.score;
  byHeight = false;
}

function later(task, pause = PAUSE) {
  clearTimeout(timer);
  timer = setTimeout(task, pause);
}

function changeView() {
  if (!current?.found) return;
  clearTimeout(timer);
  const anonymised = view() === "anonymised";
  at("method-choice").hidden = !anonymised;
  if (anonymised) lowerScore();
  else raiseScore();
  filter();
  if (anonymised) later(anonymise, 0);
  else if (at("photo").src !== current.url) at("photo").src = current.url;
}

// --- covers ---

// What tells one choice of a cover from another.
function coverKey() {
  const kind = at("cover").value, file = at("cover-file").files[0];
  return kind === "emoji" ? at("emoji").value : kind === "picture" && file ? `${file.name} ${file.size} ${file.lastModified}` : "";
}

// The chosen picture, or the emoji as this browser draws it; null for none.
async function cover() {
  const kind = at("cover").value;
  if (kind === "picture") return at("cover-file").files[0] ?? null;
  const text = at("emoji").value.trim();
  if (kind !== "emoji" || !text) return null;
  const drawn = drawnText(text);
  if (drawn.toDataURL() === drawnText("\u{10fffe}").toDataURL()) throw new Refusal("This browser has no font with that emoji.");
  return new Promise((done) => drawn.toBlob(done, "image/png"));
}

function drawnText(text) {
  const canvas = document.createElement("canvas");
  canvas.width = canvas.height = 256;
  const pen = canvas.getContext("2d");
  pen.font = "200px 'Apple Color Emoji', 'Segoe UI Emoji', 'Noto Color Emoji', sans-serif";
  const { actualBoundingBoxLeft: left, actualBoundingBoxRight: right, actualBoundingBoxAscent: above, actualBoundingBoxDescent: below } = pen.measureText(text);
  const scale = 256 / Math.max(1, left + right, above + below);
  pen.setTransform(scale, 0, 0, scale, 128 - (scale * (right - left)) / 2, 128 + (scale * (above - below)) / 2);
  pen.fillText(text, 0, 0);
  return canvas;
}

function changeCover() {
  at("emoji").hidden = at("cover").value !== "emoji";
  at("cover-file").hidden = at("cover").value !== "picture";
  later(anonymise, 0);
}

// What tells one anonymised picture from another.
function wanted() {
  return JSON.stringify([at("method").value, at("strength").value, coverKey(), shownBoxes()]);
}

// Which faces are hidden is told by the boxes; the picture is made once for each choice of them.
async function anonymise() {
  const opened = current;
  const boxes = shownBoxes();
  const query = { output: "anonymised", method: at("method").value, strength: at("strength").value };
  const asked = wanted();
  try {
    if (opened.anonymised?.key !== asked) {
      say("Anonymising …");
      const blob = await picture(opened.file, boxes, query, { signal: opened.asking.signal, cover: await cover() });
      if (current !== opened || wanted() !== asked) return;
      if (opened.anonymised) URL.revokeObjectURL(opened.anonymised.url);
      opened.anonymised = { key: asked, blob, url: URL.createObjectURL(blob) };
      say(`${boxes.length === 1 ? "1 face" : `${boxes.length} faces`} masked.${byHeight ? " If one is missed, move the score." : " If one is missed, lower the score."}`);
    }
    if (view() === "anonymised") at("photo").src = opened.anonymised.url;
  } catch (error) {
    if (current === opened && error.name !== "AbortError") say(error.message, true);
  }
}

function shownBoxes() {
  return current.shown.map((number) => current.found.boxes[number]);
}

// --- one face ---

function picked(place, tapped) {
  if (!current?.found) return;
  if (tapped) held = place >= 0;
  else if (held || place < 0) return;
  choose(place < 0 ? -1 : current.shown[place]);
}

function step(by) {
  const { shown } = current;
  if (!shown.length) return;
  const place = shown.indexOf(chosen);
  held = true;
  choose(shown[place < 0 ? (by > 0 ? 0 : shown.length - 1) : (place + by + shown.length) % shown.length]);
  stage.reveal(current.found.boxes[chosen]);
}

function choose(number) {
  if (number === chosen) return;
  chosen = number;
  at("crops").hidden = number < 0;
  if (number < 0) {
    held = false;
    at("face-facts").textContent = "Point at a face, tap it, or press an arrow key.";
  } else {
    describe();
    drawCrop(at("original"), current.found.boxes[number], false);
    drawCrop(at("restored"), current.found.boxes[number], true);
    at("restored-caption").textContent = "enlarged, smooth";
    drawRestored(current.found.boxes[number]);
  }
  if (current?.found) draw();
}

function describe() {
  const { found, shown } = current;
  const [x1, y1, x2, y2] = found.boxes[chosen];
  const size = `${Math.round(x2 - x1)} × ${Math.round(y2 - y1)} px`;
  at("face-facts").textContent = `Face ${shown.indexOf(chosen) + 1} of ${shown.length}: ${size}, score ${found.scores[chosen].toFixed(2)}`;
}

// The square around a face, from the picture as it was opened.
async function drawCrop(canvas, [x1, y1, x2, y2], smooth) {
  const opened = current, number = chosen;
  const photo = await source(opened);
  if (current !== opened || chosen !== number) return;
  const factor = photo.naturalWidth / opened.found.width;
  const side = Math.max(x2 - x1, y2 - y1, 1) * CONTEXT;
  const pen = canvas.getContext("2d");
  pen.clearRect(0, 0, canvas.width, canvas.height);
  pen.imageSmoothingEnabled = smooth;
  pen.imageSmoothingQuality = "high";
  const left = (x1 + x2 - side) / 2, top = (y1 + y2 - side) / 2;
  pen.drawImage(photo, left * factor, top * factor, side * factor, side * factor, 0, 0, canvas.width, canvas.height);
}

// Only the face and what surrounds it is sent. Answers are kept, and asked for once the pointer rests.
async function drawRestored(box) {
  const opened = current, number = chosen;
  const [x1, y1, x2, y2] = box;
  const longer = Math.max(x2 - x1, y2 - y1, 1);
  if (!(await service).restores || longer > RESTORED_SIDE) return;
  await new Promise((done) => setTimeout(done, opened.restored.has(number) ? 0 : REST));
  if (current !== opened || chosen !== number) return;
  try {
    if (!opened.restored.has(number)) {
      const photo = await source(opened);
      const factor = photo.naturalWidth / opened.found.width;
      const reach = longer * CONTEXT;
      const left = Math.max(0, Math.floor((x1 - reach) * factor)), top = Math.max(0, Math.floor((y1 - reach) * factor));
      const part = document.createElement("canvas");
      part.width = Math.min(photo.naturalWidth, Math.ceil((x2 + reach) * factor)) - left;
      part.height = Math.min(photo.naturalHeight, Math.ceil((y2 + reach) * factor)) - top;
      part.getContext("2d").drawImage(photo, -left, -top);
      const blob = await new Promise((done) => part.toBlob(done, "image/png"));
      const within = [x1 * factor - left, y1 * factor - top, x2 * factor - left, y2 * factor - top];
      opened.restored.set(number, await createImageBitmap(await restore(blob, within, { signal: opened.asking.signal })));
    }
    if (current !== opened || chosen !== number) return;
    const canvas = at("restored");
    const pen = canvas.getContext("2d");
    pen.imageSmoothingEnabled = true;
    pen.imageSmoothingQuality = "high";
    pen.drawImage(opened.restored.get(number), 0, 0, canvas.width, canvas.height);
    at("restored-caption").textContent = "restored: likely, not known";
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

async function source(opened) {
  if (at("photo").src === opened.url) return at("photo");
  if (!opened.source) {
    opened.source = new Image();
    opened.source.src = opened.url;
  }
  await opened.source.decode();
  return opened.source;
}

// --- saving ---

function save(blob, suffix) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${current.name.replace(/\.[^.]*$/, "") || "picture"}_${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

async function savePicture() {
  const opened = current;
  try {
    let blob, kind;
    if (view() === "anonymised") {
      await anonymise();
      [blob, kind] = [current === opened && opened.anonymised?.key === wanted() ? opened.anonymised.blob : null, "anonymised"];
    } else {
      [blob, kind] = [await picture(opened.file, shownBoxes(), { output: "annotated" }, { signal: opened.asking.signal }), "faces"];
    }
    if (blob && current === opened) save(blob, `${kind}.${blob.type === "image/png" ? "png" : "jpg"}`);
  } catch (error) {
    if (error.name !== "AbortError") say(error.message, true);
  }
}

function records() {
  return current.shown.map((number) => ({ box: current.found.boxes[number], score: current.found.scores[number] }));
}

function saveJson() {
  const { width, height, model } = current.found;
  const faces = records();
  const image = { file: current.name, width, height, boxes: faces.map((face) => face.box), scores: faces.map((face) => face.score) };
  save(new Blob([`${JSON.stringify({ model, images: [image] }, null, 1)}\n`], { type: "application/json" }), "faces.json");
}

function saveCsv() {
  const name = `"${current.name.replaceAll('"', '""')}"`;
  const rows = records().map(({ box, score }) => [name, ...box, score].join(","));
  save(new Blob([["file,x1,y1,x2,y2,score", ...rows].join("\n"), "\n"], { type: "text/csv" }), "faces.csv");
}

// --- events ---

function take(files) {
  const file = [...files].find(({ type }) => type.startsWith("image/")) ?? files[0];
  if (file) open(file, file.name || "picture");
}

at("pick").onclick = () => at("file").click();
at("file").onchange = () => {
  take(at("file").files);
  at("file").value = "";
};
at("example").onclick = async () => open(await (await fetch("page/example.jpg")).blob(), "solvay_1927.jpg", true);
addEventListener("paste", (event) => event.clipboardData.files.length && take(event.clipboardData.files));
addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dragging");
});
addEventListener("dragleave", (event) => event.relatedTarget || document.body.classList.remove("dragging"));
addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dragging");
  take(event.dataTransfer.files);
});

for (const id of ["smallest", "largest"]) at(id).oninput = filter;
at("threshold").oninput = () => {
  byHeight = false;
  filter();
};
for (const choice of document.querySelectorAll("input[name=shown]")) choice.onchange = changeView;
at("method").onchange = () => later(anonymise, 0);
at("strength").oninput = () => {
  at("strength-value").textContent = at("strength").value;
  later(anonymise);
};
at("cover").onchange = at("cover-file").onchange = changeCover;
at("emoji").oninput = () => later(anonymise);
for (const [kind, id] of [["only", "only-region"], ["except", "except-region"]]) {
  const button = at(`draw-${kind}`), field = at(id);
  field.oninput = () => {
    filter();
    const wrong = field.getAttribute("aria-invalid") === "true";
    say(wrong ? "A region needs 3 corners or more, such as 0,0 0.5,0 0.5,1." : "", wrong);
  };
  button.onclick = () => {
    const begins = button.getAttribute("aria-pressed") !== "true";
    for (const other of [at("draw-only"), at("draw-except")]) other.setAttribute("aria-pressed", begins && other === button);
    stage.askForRectangle(begins ? drawn : null);
  };
  const drawn = (box) => {
    button.setAttribute("aria-pressed", false);
    if (!box) return;
    const [x1, y1, x2, y2] = box;
    field.value = [field.value.trim(), `${x1},${y1} ${x2},${y1} ${x2},${y2} ${x1},${y2}`].filter(Boolean).join("; ");
    field.oninput();
  };
}
at("model").onchange = () => current && open(current.file, current.name, !at("credit").hidden);
at("previous").onclick = () => step(-1);
at("next").onclick = () => step(1);
at("zoom-in").onclick = () => stage.zoomTo(stage.scale * 1.6);
at("zoom-out").onclick = () => stage.zoomTo(stage.scale / 1.6);
at("zoom-fit").onclick = () => stage.zoomTo(0);
at("save-picture").onclick = savePicture;
at("save-json").onclick = saveJson;
at("save-csv").onclick = saveCsv;

const keys = {
  ArrowRight: () => step(1), ArrowDown: () => step(1), ArrowLeft: () => step(-1), ArrowUp: () => step(-1),
  "+": at("zoom-in").onclick, "=": at("zoom-in").onclick, "-": at("zoom-out").onclick, 0: at("zoom-fit").onclick,
  Escape: () => choose(-1),
};
at("stage").onkeydown = (event) => {
  const act = keys[event.key];
  if (!act || !current?.found || event.ctrlKey || event.metaKey || event.altKey) return;
  event.preventDefault();
  act();
};

service.then(({ models }) => {
  at("model").replaceChildren(...models.map(({ name }) => new Option(name, name)));
  at("model-choice").hidden = models.length < 2;
}, () => say("The service cannot be reached.", true));
