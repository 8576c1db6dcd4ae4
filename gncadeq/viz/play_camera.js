"use strict";
// Where a surface is seen from, and how pointers change that.

class Camera {
  constructor() { this.reset(false); }

  reset(flat) {
    this.azimuth = flat ? 0 : Math.PI / 6;
    this.elevation = flat ? 0 : Math.PI / 12;
    this.distance = 4.2;
    this.pan = [0, 0];
  }

  drag(dx, dy, moving, canvas) {
    const unit = 2 * this.distance / LENS / Math.min(canvas.clientWidth, canvas.clientHeight);
    if (moving) this.pan = [this.pan[0] + dx * unit, this.pan[1] - dy * unit];
    else {
      this.azimuth -= dx * 0.008;
      this.elevation = Math.min(Math.max(this.elevation + dy * 0.008, -Math.PI / 2), Math.PI / 2);
    }
  }

  zoom(factor) { this.distance = Math.min(Math.max(this.distance * factor, 0.15), 40); }

  // Pointers on a canvas turn and zoom, and call `changed`; those that `takes` answers for do not turn.
  listen(canvas, changed, takes = () => false) {
    const pointers = new Map();
    const spread = () => {
      const [a, b] = [...pointers.values()];
      return Math.hypot(a.x - b.x, a.y - b.y);
    };
    canvas.addEventListener("pointerdown", event => {
      canvas.setPointerCapture(event.pointerId);
      pointers.set(event.pointerId, { x: event.clientX, y: event.clientY });
      canvas.classList.add("held");
    });
    canvas.addEventListener("pointermove", event => {
      const last = pointers.get(event.pointerId);
      if (!last) return;
      const before = pointers.size === 2 ? spread() : 0;
      const [dx, dy] = [event.clientX - last.x, event.clientY - last.y];
      [last.x, last.y] = [event.clientX, event.clientY];
      if (pointers.size === 2) {  // two fingers: move by their middle, zoom by their distance
        this.drag(dx / 2, dy / 2, true, canvas);
        if (spread() > 0) this.zoom(before / spread());
      } else if (!takes(event)) this.drag(dx, dy, event.shiftKey || event.buttons !== 1, canvas);
      changed();
    });
    for (const name of ["pointerup", "pointercancel"]) canvas.addEventListener(name, event => {
      pointers.delete(event.pointerId);
      if (!pointers.size) canvas.classList.remove("held");
    });
    canvas.addEventListener("contextmenu", event => event.preventDefault());
    canvas.addEventListener("wheel", event => {
      event.preventDefault();
      this.zoom(Math.exp(Math.sign(event.deltaY) * Math.min(Math.abs(event.deltaY), 100) * 0.0015));
      changed();
    }, { passive: false });
  }
}
