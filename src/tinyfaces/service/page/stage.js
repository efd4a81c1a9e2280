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
    this.zoom = null; // null: as much as fits
    this.drawing = 0;
    stage.addEventListener("scroll", () => this.redraw(), { passive: true });
    stage.addEventListener("pointermove", (event) => event.pointerType === "mouse" && this.point(event, false));
    stage.addEventListener("click", (event) => this.point(event, true));
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
    const chosen = this.boxes.slice(this.chosen, this.chosen + 1);
    if (this.chosen >= 0) {
      frame(chosen, "rgb(0 0 0 / 70%)", 6);
      frame(chosen, "#ffd23f", 3);
    }
  }
}
