// The tracks of a video as rows: a switch, and bars over the frames in which the face is seen.

export class Timeline {
  // acts: { chose(id), switched(id), sought(frame) }
  constructor({ list, seek, clock, acts }) {
    Object.assign(this, { list, seek, clock, acts });
    this.rows = new Map();
    this.frames = 1;
    seek.addEventListener("input", () => acts.sought(Number(seek.value)));
  }

  // seconds: of each frame.
  open(seconds) {
    this.seconds = seconds;
    this.frames = seconds.length;
    this.seek.max = this.frames - 1;
    this.list.replaceChildren();
    this.rows.clear();
  }

  // rows: [{ id, name, picture or null, state, spans: [[first, last]], keys: [frame] }] in order.
  show(rows, chosen) {
    const ids = new Set(rows.map(({ id }) => id));
    for (const [id, row] of this.rows)
      if (!ids.has(id)) {
        row.item.remove();
        this.rows.delete(id);
      }
    rows.forEach((facts, place) => {
      const row = this.rows.get(facts.id) ?? this.add(facts);
      if (this.list.children[place] !== row.item) this.list.insertBefore(row.item, this.list.children[place] ?? null);
      const shape = JSON.stringify([facts.spans, facts.keys]);
      if (row.shape !== shape) this.draw(row, facts);
      row.shape = shape;
      row.item.className = `${facts.state} ${facts.keys.length ? "drawn" : ""} ${facts.id === chosen ? "chosen" : ""}`;
      row.button.setAttribute("aria-checked", facts.state === "covered");
      row.button.setAttribute("aria-label", `Cover ${facts.name}, ${this.said(facts.spans)}`);
      row.button.tabIndex = facts.id === chosen || (chosen === null && place === 0) ? 0 : -1;
    });
    this.list.classList.toggle("empty", !rows.length);
  }

  add({ id, name, picture }) {
    const [item, button, image, label, bars] = ["li", "button", "img", "span", "div"].map((tag) => document.createElement(tag));
    button.type = "button";
    button.setAttribute("role", "switch");
    image.alt = "";
    image.loading = "lazy";
    if (picture) image.src = picture;
    else image.hidden = true;
    label.textContent = name;
    button.append(image, label);
    bars.className = "bars";
    item.append(button, bars);
    button.onclick = () => this.acts.switched(id);
    bars.onclick = (event) => {
      const { left, width } = bars.getBoundingClientRect();
      this.acts.chose(id);
      this.acts.sought(Math.max(0, Math.min(this.frames - 1, Math.floor(((event.clientX - left) / width) * this.frames))));
    };
    const row = { item, button, bars, shape: "" };
    this.rows.set(id, row);
    return row;
  }

  draw({ bars }, { spans, keys }) {
    const part = (kind, first, last) => {
      const bar = document.createElement("i");
      bar.className = kind;
      bar.style.left = `${(100 * first) / this.frames}%`;
      bar.style.width = `${(100 * (last - first + 1)) / this.frames}%`;
      return bar;
    };
    const whole = spans.length ? [part("whole", spans[0][0], spans.at(-1)[1])] : [];
    bars.replaceChildren(...whole, ...spans.map(([first, last]) => part("span", first, last)), ...keys.map((key) => part("key", key, key)));
  }

  // The playhead.
  point(frame) {
    this.seek.value = frame;
    this.clock.textContent = this.time(frame);
    this.seek.setAttribute("aria-valuetext", `frame ${frame + 1} of ${this.frames}, ${this.time(frame)}`);
    this.list.style.setProperty("--at", (frame + 0.5) / this.frames);
  }

  time(frame) {
    const seconds = this.seconds[frame] - this.seconds[0];
    return `${Math.floor(seconds / 60)}:${(seconds % 60).toFixed(2).padStart(5, "0")}`;
  }

  said(spans) {
    return spans.length ? `${this.time(spans[0][0])} to ${this.time(spans.at(-1)[1])}` : "nowhere";
  }

  reveal(id) {
    this.rows.get(id)?.item.scrollIntoView({ block: "nearest" });
  }

  focus(id) {
    this.rows.get(id)?.button.focus();
  }
}
