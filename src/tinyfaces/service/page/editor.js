// The photo on a canvas, its faces on another above it, and what pointers do there: mouse, pen and fingers.

const LARGEST_ZOOM = 32; // screen pixels per pixel of the photo
const SLACK = 5; // screen pixels around a face that still count as pointing at it
const HANDLE = { mouse: 8, pen: 10, touch: 20 }; // the same around a handle
const STILL = { mouse: 4, pen: 6, touch: 10 }; // screen pixels within which a pointer has not moved
const SMALLEST = 2; // pixels of a face's side
const SETTLED = 160; // ms without movement before the photo is drawn in full detail

// Colours as a canvas stores them: alpha, blue, green, red.
const INK = { covered: 0xff8bff3d, drawn: 0xffffc34c, clear: 0xff2e9dff, maybe: 0xffd7d7d7, chosen: 0xff3fd2ff, edge: 0xb0000000 };

export class Editor {
  // acts: { chose(number or -1, tapped), changed(number, box), drew(box), moved() }
  constructor({ stage, picture, overlay, acts }) {
    Object.assign(this, { stage, picture, overlay, acts });
    this.pen = picture.getContext("2d", { alpha: false });
    this.marks = overlay.getContext("2d");
    this.photo = null; // { width, height, clear, covered, detail }
    this.faces = [];
    this.chosen = -1;
    this.scale = 1;
    this.left = this.top = 0; // of the photo's corner, in pixels of the stage
    this.fitted = true;
    this.covers = this.frames = true;
    this.drawing = false; // a drag draws, wherever it begins
    this.pointers = new Map();
    this.gesture = null;
    this.due = { picture: false, overlay: false };
    for (const [name, act] of [["pointerdown", this.down], ["pointermove", this.move], ["pointerup", this.up], ["pointercancel", this.cancel]])
      stage.addEventListener(name, act.bind(this));
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    stage.addEventListener("contextmenu", (event) => event.preventDefault());
    new ResizeObserver(() => this.layout()).observe(stage);
  }

  open(photo) {
    this.photo = photo;
    this.chosen = -1;
    this.gesture = null;
    this.fit();
  }

  show(faces, chosen) {
    this.faces = faces;
    this.chosen = chosen;
    this.redraw("overlay");
  }

  layout() {
    if (!this.photo) return;
    if (this.fitted) this.fit();
    else this.redraw("picture");
  }

  get fitting() {
    return Math.min(this.stage.clientWidth / this.photo.width, this.stage.clientHeight / this.photo.height, 8);
  }

  fit() {
    this.scale = this.fitting;
    this.left = (this.stage.clientWidth - this.photo.width * this.scale) / 2;
    this.top = (this.stage.clientHeight - this.photo.height * this.scale) / 2;
    this.fitted = true;
    this.redraw("picture");
  }

  // A new zoom, with the point x, y of the stage (its middle by default) staying where it is.
  zoomTo(scale, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    if (scale <= this.fitting) return this.fit();
    const bounded = Math.min(scale, Math.max(LARGEST_ZOOM, this.fitting));
    this.left = x - ((x - this.left) / this.scale) * bounded;
    this.top = y - ((y - this.top) / this.scale) * bounded;
    this.scale = bounded;
    this.fitted = false;
    this.keepInside();
    this.redraw("picture");
  }

  zoomToBox([x1, y1, x2, y2]) {
    const { clientWidth: width, clientHeight: height } = this.stage;
    this.scale = Math.max(this.fitting, Math.min(LARGEST_ZOOM, width / 5 / (x2 - x1), height / 5 / (y2 - y1)));
    this.left = width / 2 - ((x1 + x2) / 2) * this.scale;
    this.top = height / 2 - ((y1 + y2) / 2) * this.scale;
    this.fitted = false;
    this.keepInside();
    this.redraw("picture");
  }

  // Bring a box into view.
  reveal([x1, y1, x2, y2]) {
    const x = this.left + ((x1 + x2) / 2) * this.scale, y = this.top + ((y1 + y2) / 2) * this.scale;
    if (this.fitted || (x > 20 && y > 20 && x < this.stage.clientWidth - 20 && y < this.stage.clientHeight - 20)) return;
    this.left += this.stage.clientWidth / 2 - x;
    this.top += this.stage.clientHeight / 2 - y;
    this.keepInside();
    this.redraw("picture");
  }

  keepInside() {
    const within = (corner, side, room) => (side <= room ? (room - side) / 2 : Math.min(0, Math.max(room - side, corner)));
    this.left = within(this.left, this.photo.width * this.scale, this.stage.clientWidth);
    this.top = within(this.top, this.photo.height * this.scale, this.stage.clientHeight);
  }

  // What is seen of the photo: [left, top, width, height] in its pixels.
  get visible() {
    const x1 = Math.max(0, Math.floor(-this.left / this.scale)), y1 = Math.max(0, Math.floor(-this.top / this.scale));
    const x2 = Math.min(this.photo.width, Math.ceil((this.stage.clientWidth - this.left) / this.scale));
    const y2 = Math.min(this.photo.height, Math.ceil((this.stage.clientHeight - this.top) / this.scale));
    return [x1, y1, Math.max(1, x2 - x1), Math.max(1, y2 - y1)];
  }

  // A square in the middle of what is seen, as large as these faces mostly are.
  newBox(faces) {
    const [left, top, width, height] = this.visible;
    const sides = faces.map(({ box }) => box[3] - box[1]).sort((a, b) => a - b);
    const side = Math.min(width, height, Math.max(24 / this.scale, sides[sides.length >> 1] ?? 0)) / 2;
    return [left + width / 2 - side, top + height / 2 - side, left + width / 2 + side, top + height / 2 + side];
  }

  // A box whose sides are moved by so many steps each, a step being what can be seen; null where nothing is left of it.
  stepped(box, by) {
    const step = Math.max(1, Math.round(2 / this.scale));
    const moved = box.map((side, place) => side + by[place] * step);
    return moved[2] - moved[0] >= 2 && moved[3] - moved[1] >= 2 ? moved : null;
  }

  // --- pointers ---

  place(event) {
    const box = this.stage.getBoundingClientRect();
    return { x: event.clientX - box.left, y: event.clientY - box.top };
  }

  inPhoto({ x, y }) {
    return [(x - this.left) / this.scale, (y - this.top) / this.scale];
  }

  down(event) {
    if (!this.photo) return;
    this.stage.setPointerCapture(event.pointerId);
    const place = this.place(event);
    this.pointers.set(event.pointerId, place);
    if (this.pointers.size === 2) {
      this.gesture = { kind: "pinch", ...this.spread() };
      this.redraw("overlay");
      return;
    }
    if (this.pointers.size > 2) return;
    const kind = event.pointerType || "mouse";
    if (event.button > 0) {
      this.gesture = { kind: "pan", last: place };
      return;
    }
    const corner = this.drawing ? null : this.handleAt(place, HANDLE[kind]);
    const face = this.drawing || corner ? -1 : this.faceAt(place);
    this.gesture = { kind: "press", start: place, still: STILL[kind], corner, face, box: null };
  }

  move(event) {
    if (!this.pointers.has(event.pointerId)) return;
    const place = this.place(event);
    this.pointers.set(event.pointerId, place);
    const gesture = this.gesture;
    if (!gesture) return;
    if (gesture.kind === "pinch") return this.pinch(gesture);
    if (gesture.kind === "pan") {
      this.left += place.x - gesture.last.x;
      this.top += place.y - gesture.last.y;
      gesture.last = place;
      this.fitted = false;
      this.keepInside();
      return this.redraw("picture");
    }
    if (gesture.kind === "press") {
      if (Math.hypot(place.x - gesture.start.x, place.y - gesture.start.y) < gesture.still) return;
      const held = this.faces.find(({ number }) => number === gesture.face)?.fixed; // cannot be moved
      gesture.kind = gesture.corner ? "resize" : held ? "hold" : gesture.face >= 0 ? "shift" : "draw";
      if (gesture.face >= 0) this.acts.chose(gesture.face, false);
      gesture.from = this.faces.find(({ number }) => number === this.chosen)?.box;
    }
    if (gesture.kind === "hold") return;
    gesture.box = this.dragged(gesture, place);
    this.redraw("overlay");
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId)) return;
    const gesture = this.gesture;
    if (!gesture || gesture.kind === "pinch") {
      if (!this.pointers.size) this.gesture = null;
      return;
    }
    this.gesture = null;
    if (gesture.kind === "press") {
      this.acts.chose(this.drawing ? -1 : this.faceAt(gesture.start), true);
    } else if (gesture.kind === "draw") {
      const [x1, y1, x2, y2] = gesture.box;
      if (x2 - x1 >= SMALLEST && y2 - y1 >= SMALLEST) this.acts.drew(gesture.box);
    } else if (gesture.kind !== "pan" && gesture.kind !== "hold") this.acts.changed(this.chosen, gesture.box);
    this.redraw("overlay");
  }

  cancel(event) {
    this.pointers.delete(event.pointerId);
    this.gesture = null;
    this.redraw("overlay");
  }

  dragged({ kind, start, corner, from }, place) {
    const { width, height } = this.photo;
    const [x, y] = this.inPhoto(place), [startX, startY] = this.inPhoto(start);
    const bounded = (value, most) => Math.min(most, Math.max(0, value));
    if (kind === "draw") {
      const [a, b, c, d] = [bounded(startX, width), bounded(startY, height), bounded(x, width), bounded(y, height)];
      return [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
    }
    const [x1, y1, x2, y2] = from;
    if (kind === "shift") return [x1 + x - startX, y1 + y - startY, x2 + x - startX, y2 + y - startY];
    const box = [...from];
    if (corner[0] < 0) box[0] = Math.min(x1 + x - startX, x2 - SMALLEST);
    if (corner[0] > 0) box[2] = Math.max(x2 + x - startX, x1 + SMALLEST);
    if (corner[1] < 0) box[1] = Math.min(y1 + y - startY, y2 - SMALLEST);
    if (corner[1] > 0) box[3] = Math.max(y2 + y - startY, y1 + SMALLEST);
    return box;
  }

  spread() {
    const [a, b] = [...this.pointers.values()];
    return { distance: Math.max(1, Math.hypot(a.x - b.x, a.y - b.y)), middle: { x: (a.x + b.x) / 2, y: (a.y + b.y) / 2 } };
  }

  pinch(gesture) {
    const { distance, middle } = this.spread();
    this.left += middle.x - gesture.middle.x;
    this.top += middle.y - gesture.middle.y;
    this.zoomTo((this.scale * distance) / gesture.distance, middle.x, middle.y);
    Object.assign(gesture, { distance, middle });
  }

  wheel(event) {
    if (!this.photo) return;
    event.preventDefault();
    const { x, y } = this.place(event);
    this.zoomTo(this.scale * Math.exp(-event.deltaY / (event.ctrlKey ? 100 : 400)), x, y);
  }

  // Which of the corners and edges of the chosen face is at a place: [-1, 0 or 1 across, the same down].
  handleAt({ x, y }, reach) {
    const face = this.faces.find(({ number }) => number === this.chosen);
    if (!face || face.fixed) return null;
    // Within a small face there must be room to take hold of the face itself.
    const [x1, y1, x2, y2] = face.box, [column, row] = this.inPhoto({ x, y });
    const inside = column > x1 && column < x2 && row > y1 && row < y2;
    let best = null, nearest = inside ? Math.min(reach, (Math.min(x2 - x1, y2 - y1) * this.scale) / 4) : reach;
    for (const [corner, left, top] of this.handles(face.box)) {
      const distance = Math.hypot(x - left, y - top);
      if (distance <= nearest) [best, nearest] = [corner, distance];
    }
    return best;
  }

  handles([x1, y1, x2, y2]) {
    const found = [], large = Math.min(x2 - x1, y2 - y1) * this.scale > 48;
    for (const across of [-1, 0, 1])
      for (const down of [-1, 0, 1])
        if ((across && down) || (large && (across || down))) {
          const x = across < 0 ? x1 : across > 0 ? x2 : (x1 + x2) / 2, y = down < 0 ? y1 : down > 0 ? y2 : (y1 + y2) / 2;
          found.push([[across, down], this.left + x * this.scale + across * 4, this.top + y * this.scale + down * 4]);
        }
    return found;
  }

  // The number of the smallest face at a place, -1 for none.
  faceAt(place) {
    const [x, y] = this.inPhoto(place), slack = SLACK / this.scale;
    let best = -1, smallest = Infinity;
    for (const { number, box: [x1, y1, x2, y2] } of this.faces) {
      const area = (x2 - x1) * (y2 - y1);
      if (x > x1 - slack && x < x2 + slack && y > y1 - slack && y < y2 + slack && area < smallest) [best, smallest] = [number, area];
    }
    return best;
  }

  // --- drawing ---

  redraw(what) {
    if (what === "picture") this.due.picture = true;
    if (!this.due.overlay) requestAnimationFrame(() => this.draw());
    this.due.overlay = true;
  }

  draw() {
    const both = this.due.picture;
    this.due = { picture: false, overlay: false };
    if (!this.photo) return;
    const dense = devicePixelRatio || 1;
    const width = Math.max(1, Math.round(this.stage.clientWidth * dense)), height = Math.max(1, Math.round(this.stage.clientHeight * dense));
    for (const canvas of [this.picture, this.overlay])
      if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    if (both) {
      this.drawPicture(dense, "low");
      clearTimeout(this.settling);
      this.settling = setTimeout(() => {
        this.drawPicture(dense, "high");
        this.acts.moved();
      }, SETTLED);
    }
    this.drawOverlay(dense);
  }

  drawPicture(dense, quality) {
    const { pen, photo, scale } = this;
    if (!photo) return;
    pen.fillStyle = getComputedStyle(this.stage).backgroundColor;
    pen.fillRect(0, 0, this.picture.width, this.picture.height);
    pen.imageSmoothingEnabled = scale * dense < 3;
    pen.imageSmoothingQuality = quality;
    const put = (image, [left, top, width, height], source) =>
      pen.drawImage(image, ...source, (this.left + left * scale) * dense, (this.top + top * scale) * dense, width * scale * dense, height * scale * dense);
    const image = (this.covers ? photo.covered : photo.clear) ?? photo.covered ?? photo.clear; // the other one is on its way
    const [x, y, width, height] = this.visible, share = image.width / photo.width, rise = image.height / photo.height;
    put(image, [x, y, width, height], [x * share, y * rise, width * share, height * rise]);
    const detail = photo.detail;
    if (detail && detail.covers === this.covers) put(detail.image, detail.region, [0, 0, detail.image.width, detail.image.height]);
  }

  drawOverlay(dense) {
    const { marks, overlay } = this;
    const { width, height } = overlay;
    if (this.ink?.width !== width || this.ink.height !== height) {
      this.ink = marks.createImageData(width, height);
      this.dots = new Uint32Array(this.ink.data.buffer);
    }
    // Thousands of frames are written as pixels: that takes a fraction of what strokes take.
    this.dots.fill(0);
    const thick = Math.max(2, Math.round(1.5 * dense));
    const dragged = this.gesture?.box ? this.chosen : -1;
    if (this.frames)
      for (const face of this.faces) if (face.number !== dragged && face.number !== this.chosen) this.frame(face.box, look(face), thick, dense);
    const chosen = this.faces.find(({ number }) => number === this.chosen);
    const kind = this.gesture?.kind;
    const box = this.gesture?.box && kind !== "draw" ? this.gesture.box : chosen?.box;
    if (box && chosen) this.frame(box, { ...look(chosen), colour: INK.chosen }, thick + 1, dense);
    if (this.gesture?.box && kind === "draw") this.frame(this.gesture.box, { colour: INK.drawn, dash: 0 }, thick, dense);
    marks.putImageData(this.ink, 0, 0);
    if (!box || !chosen || chosen.fixed) return;
    for (const [, x, y] of this.handles(box)) {
      marks.fillStyle = "#000";
      marks.fillRect((x - 5) * dense, (y - 5) * dense, 10 * dense, 10 * dense);
      marks.fillStyle = "#ffd23f";
      marks.fillRect((x - 4) * dense, (y - 4) * dense, 8 * dense, 8 * dense);
    }
  }

  // A frame just outside a box, with a dark edge.
  frame([x1, y1, x2, y2], { colour, dash }, thick, dense) {
    const at = (value, corner) => Math.round((corner + value * this.scale) * dense);
    const left = at(x1, this.left), top = at(y1, this.top), right = at(x2, this.left), bottom = at(y2, this.top);
    const edge = Math.max(1, Math.round(dense / 2));
    this.ring(left - thick - edge, top - thick - edge, right + thick + edge, bottom + thick + edge, edge, INK.edge, 0);
    this.ring(left - thick, top - thick, right + thick, bottom + thick, thick, colour, dash * dense);
  }

  ring(left, top, right, bottom, thick, colour, dash) {
    const { width, height } = this.overlay;
    const x1 = Math.max(0, left), x2 = Math.min(width, right), y1 = Math.max(0, top), y2 = Math.min(height, bottom);
    if (x1 >= x2 || y1 >= y2) return;
    const dots = this.dots;
    const row = (y) => {
      if (y < 0 || y >= height) return;
      if (!dash) dots.fill(colour, y * width + x1, y * width + x2);
      else for (let x = x1; x < x2; x++) if ((((x - left) / dash) & 1) === 0) dots[y * width + x] = colour;
    };
    const column = (x) => {
      if (x < 0 || x >= width) return;
      for (let y = y1; y < y2; y++) if (!dash || (((y - top) / dash) & 1) === 0) dots[y * width + x] = colour;
    };
    for (let step = 0; step < thick; step++) {
      row(top + step);
      row(bottom - 1 - step);
      column(left + step);
      column(right - 1 - step);
    }
  }
}

// How a face's frame looks. Those that are not covered are dashed, so that colour is not all that tells them.
function look({ state, score, found }) {
  if (state === "covered") return { colour: score === null ? INK.drawn : INK.covered, dash: 0 };
  return found || score === null ? { colour: INK.clear, dash: 5 } : { colour: INK.maybe, dash: 2 };
}
