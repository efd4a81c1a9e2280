// The picture, zoomed and scrolled by the browser, and above it a canvas of the visible part with the boxes.

const LARGEST_ZOOM = 24; // screen pixels per pixel of the picture
const SMALLEST_TARGET = 6; // screen pixels around a face that still count as pointing at it

export class Stage {
  constructor({ view, stage, photo, overlay, picked }) {
    Object.assign(this, { view, stage, photo, overlay, picked });
    this.pen = overlay.getContext("2d");
    this.width = this.height = 1;
    this.boxes = []; // [x1, y1, x2, y2] of the faces shown
    this.chosen = -1; // one of them
    this.frames = true;
    this.regions = []; // { corners: [[x, y], ...], only } of what is chosen by place
    this.asked = null; // who gets the rectangle that is drawn next
    this.rectangle = null; // what is being drawn
    this.zoom = null; // null: as much as fits
    this.drawing = 0;
    stage.addEventListener("scroll", () => this.redraw(), { passive: true });
    stage.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.point(event, false));
    stage.addEventListener("click", (event) => (this.justDrawn ? (this.justDrawn = false) : this.point(event, true)));
    stage.addEventListener("pointerdown", (event) => this.begin(event));
    stage.addEventListener("pointermove", (event) => this.rectangle && this.stretch(event));
    stage.addEventListener("pointerup", (event) => this.rectangle && this.end(event));
    stage.addEventListener("pointercancel", () => this.rectangle && this.finish(null));
    stage.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    new ResizeObserver(() => this.layout()).observe(view);
    addEventListener("resize", () => this.layout());
  }

  open(width, height) {
    Object.assign(this, { width, height, zoom: null, boxes: [], chosen: -1 });
    this.layout();
    this.stage.scrollTo(0, 0);
  }

  show(boxes, chosen) {
    Object.assign(this, { boxes, chosen });
    this.redraw();
  }

  get fit() {
    return Math.min(this.view.clientWidth / this.width, (0.78 * innerHeight) / this.height, 8);
  }

  get scale() {
    return this.zoom ?? this.fit;
  }

  layout() {
    const scale = this.scale;
    this.photo.style.width = `${this.width * scale}px`;
    this.photo.style.height = `${this.height * scale}px`;
    this.photo.classList.toggle("pixels", scale * devicePixelRatio > 3);
    this.stage.style.height = `${Math.ceil(this.height * this.fit) + (this.zoom ? this.stage.offsetHeight - this.stage.clientHeight : 0)}px`;
    this.redraw();
  }

  // A new zoom, with the point x, y of the view (its middle by default) staying where it is.
  zoomTo(scale, x = this.stage.clientWidth / 2, y = this.stage.clientHeight / 2) {
    const [left, top] = this.origin();
    const column = (x - left) / this.scale, row = (y - top) / this.scale;
    this.zoom = scale <= this.fit ? null : Math.min(scale, Math.max(LARGEST_ZOOM, this.fit));
    this.layout();
    this.stage.scrollTo(column * this.scale - x, row * this.scale - y);
    this.layout();
  }

  wheel(event) {
    if (!event.ctrlKey && !event.metaKey) return;
    event.preventDefault();
    const place = this.stage.getBoundingClientRect();
    this.zoomTo(this.scale * Math.exp(-event.deltaY / 200), event.clientX - place.left, event.clientY - place.top);
  }

  // Bring a box into view.
  reveal([x1, y1, x2, y2]) {
    const { stage, scale } = this;
    const x = ((x1 + x2) / 2) * scale, y = ((y1 + y2) / 2) * scale;
    const insideX = x > stage.scrollLeft + 20 && x < stage.scrollLeft + stage.clientWidth - 20;
    const insideY = y > stage.scrollTop + 20 && y < stage.scrollTop + stage.clientHeight - 20;
    if (this.zoom && !(insideX && insideY)) stage.scrollTo(x - stage.clientWidth / 2, y - stage.clientHeight / 2);
  }

  // Let the next drag draw a rectangle, of which done gets [x1, y1, x2, y2] in pixels of the picture; null: none any more.
  askForRectangle(done) {
    this.asked = done;
    this.rectangle = null;
    this.stage.classList.toggle("drawing", Boolean(done));
    this.redraw();
  }

  begin(event) {
    this.justDrawn = false;
    if (!this.asked || event.button > 0) return;
    event.preventDefault();
    this.stage.setPointerCapture(event.pointerId);
    this.from = this.inPicture(event);
    this.rectangle = [...this.from, ...this.from];
  }

  stretch(event) {
    const [a, b] = this.from, [c, d] = this.inPicture(event);
    this.rectangle = [Math.min(a, c), Math.min(b, d), Math.max(a, c), Math.max(b, d)];
    this.redraw();
  }

  end(event) {
    this.stretch(event);
    const [x1, y1, x2, y2] = this.rectangle.map(Math.round);
    this.justDrawn = true;
    this.finish(x2 > x1 && y2 > y1 ? [x1, y1, x2, y2] : null);
  }

  finish(box) {
    const done = this.asked;
    this.askForRectangle(null);
    done(box);
  }

  // Where a pointer is, in pixels of the picture, never outside of it.
  inPicture(event) {
    const place = this.stage.getBoundingClientRect(), [left, top] = this.origin();
    const x = (event.clientX - place.left - left) / this.scale, y = (event.clientY - place.top - top) / this.scale;
    return [Math.min(this.width, Math.max(0, x)), Math.min(this.height, Math.max(0, y))];
  }

  // Where the picture's corner lies in the view.
  origin() {
    const margin = Math.max(0, (this.stage.clientWidth - this.width * this.scale) / 2);
    return [margin - this.stage.scrollLeft, -this.stage.scrollTop];
  }

  point(event, tapped) {
    const place = this.stage.getBoundingClientRect();
    const [left, top] = this.origin();
    const x = (event.clientX - place.left - left) / this.scale, y = (event.clientY - place.top - top) / this.scale;
    const slack = SMALLEST_TARGET / this.scale;
    let best = -1, smallest = Infinity;
    this.boxes.forEach(([x1, y1, x2, y2], number) => {
      const area = (x2 - x1) * (y2 - y1);
      if (x > x1 - slack && x < x2 + slack && y > y1 - slack && y < y2 + slack && area < smallest) {
        best = number;
        smallest = area;
      }
    });
    this.picked(best, tapped);
  }

  redraw() {
    this.drawing ||= requestAnimationFrame(() => {
      this.drawing = 0;
      this.draw();
    });
  }

  draw() {
    const { pen, overlay, stage, scale } = this;
    const width = stage.clientWidth, height = stage.clientHeight, dense = devicePixelRatio || 1;
    if (overlay.width !== Math.round(width * dense) || overlay.height !== Math.round(height * dense)) {
      overlay.width = Math.round(width * dense);
      overlay.height = Math.round(height * dense);
      overlay.style.width = `${width}px`;
      overlay.style.height = `${height}px`;
    }
    pen.setTransform(dense, 0, 0, dense, 0, 0);
    pen.clearRect(0, 0, width, height);
    const [left, top] = this.origin();
    // One by one: as a single path, a thousand frames take several times as long to paint.
    const frame = (boxes, colour, thick) => {
      pen.strokeStyle = colour;
      pen.lineWidth = thick;
      for (const [x1, y1, x2, y2] of boxes)
        pen.strokeRect(left + x1 * scale - 1, top + y1 * scale - 1, (x2 - x1) * scale + 2, (y2 - y1) * scale + 2);
    };
    if (this.frames) {
      frame(this.boxes, "rgb(0 0 0 / 60%)", 3);
      frame(this.boxes, "#3dff8b", 1.5);
    }
    const outline = (corners, colour, dash) => {
      pen.beginPath();
      for (const [x, y] of corners) pen.lineTo(left + x * scale, top + y * scale);
      pen.closePath();
      for (const [style, thick] of [["rgb(0 0 0 / 60%)", 5], [colour, 2.5]]) {
        [pen.strokeStyle, pen.lineWidth] = [style, thick];
        pen.setLineDash(dash);
        pen.stroke();
      }
      pen.setLineDash([]);
    };
    for (const { corners, only } of this.frames || this.asked ? this.regions : []) outline(corners, only ? "#4cc3ff" : "#ff9d2e", only ? [] : [8, 6]);
    if (this.rectangle) {
      const [x1, y1, x2, y2] = this.rectangle;
      outline([[x1, y1], [x2, y1], [x2, y2], [x1, y2]], "#ffffff", []);
    }
    const chosen = this.boxes.slice(this.chosen, this.chosen + 1);
    if (this.chosen >= 0) {
      frame(chosen, "rgb(0 0 0 / 70%)", 6);
      frame(chosen, "#ffd23f", 3);
    }
  }
}
