// Steps that were taken, which can be undone and taken again. What they change is the affair of `put(step, side)`: it brings about
// what a step had "before" or "after" it, and gives what is to be saved.

export class History {
  past = [];
  future = [];

  act(step) {
    this.past.push(step);
    this.future = [];
    return this.put(step, "after");
  }

  // These give null where there is nothing to be done.
  undo() {
    return this.move(this.past, this.future, "before");
  }

  redo() {
    return this.move(this.future, this.past, "after");
  }

  move(from, to, side) {
    const step = from.pop();
    if (!step) return null;
    to.push(step);
    return this.put(step, side);
  }
}
