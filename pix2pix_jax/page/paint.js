// The drawing: a raster with tools, undo and redo.

import { Raster } from './values.js';

const MAX_UNDO_BYTES = 64 * 2 ** 20;

export class Drawing {
  /** `onChange(isFinal)` is called after every change; false while a stroke goes on. */
  constructor(onChange) {
    this.onChange = onChange;
    this.raster = new Raster(1, 1, 1, 'uint8');
    this.past = [];
    this.future = [];
    this.touched = false; // whether the user has drawn or chosen something
  }

  /** Replaces everything, which undo takes back. */
  replace(raster, { remember = true } = {}) {
    if (remember) this.remember();
    this.raster = raster;
    this.onChange(true);
  }

  remember() {
    this.past.push(this.raster.copy());
    this.future = [];
    let bytes = 0, keep = this.past.length;
    while (keep > 0 && (bytes += this.past[keep - 1].data.byteLength) <= MAX_UNDO_BYTES) keep--;
    this.past.splice(0, Math.min(keep, this.past.length - 1));
    this.touched = true;
  }

  undo() { this.#step(this.past, this.future); }

  redo() { this.#step(this.future, this.past); }

  #step(from, to) {
    if (!from.length) return;
    to.push(this.raster);
    this.raster = from.pop();
    this.onChange(true);
  }

  clear(value) {
    const { height, width, channels, dtype } = this.raster, raster = new Raster(height, width, channels, dtype);
    for (let i = 0; i < raster.data.length; i += channels) raster.data.set(value, i);
    this.replace(raster);
  }

  /** A round brush of a diameter in pixels, along a line. */
  line(x0, y0, x1, y1, diameter, value) {
    const { height, width, channels, data } = this.raster, radius = diameter / 2;
    const dx = x1 - x0, dy = y1 - y0, length = dx * dx + dy * dy || 1;
    const first = (v) => Math.max(0, Math.floor(v - radius)), last = (v, side) => Math.min(side - 1, Math.ceil(v + radius));
    for (let y = first(Math.min(y0, y1)); y <= last(Math.max(y0, y1), height); y++) {
      for (let x = first(Math.min(x0, x1)); x <= last(Math.max(x0, x1), width); x++) {
        const px = x + .5, py = y + .5, at = Math.min(1, Math.max(0, ((px - x0) * dx + (py - y0) * dy) / length));
        const distance = Math.hypot(px - x0 - at * dx, py - y0 - at * dy);
        const inside = distance < radius || (Math.floor(x1) === x && Math.floor(y1) === y);
        if (inside) data.set(value, (y * width + x) * channels);
      }
    }
  }

  rectangle(x0, y0, x1, y1, value) {
    const { height, width, channels, data } = this.raster;
    const [left, right] = [Math.min(x0, x1), Math.max(x0, x1)], [top, bottom] = [Math.min(y0, y1), Math.max(y0, y1)];
    for (let y = Math.max(0, Math.floor(top)); y <= Math.min(height - 1, Math.floor(bottom)); y++) {
      for (let x = Math.max(0, Math.floor(left)); x <= Math.min(width - 1, Math.floor(right)); x++) {
        data.set(value, (y * width + x) * channels);
      }
    }
  }

  /** Fills the area of equal pixels around a place. */
  fill(x, y, value) {
    const { height, width, channels, data } = this.raster;
    const old = Array.from(this.raster.at(x, y));
    const same = (index) => { for (let c = 0; c < channels; c++) if (!Object.is(data[index * channels + c], old[c])) return false; return true; };
    if (old.every((each, c) => Object.is(each, data.constructor.of(value[c])[0]))) return;
    const waiting = [y * width + x];
    while (waiting.length) {
      const index = waiting.pop();
      if (!same(index)) continue;
      data.set(value, index * channels);
      const column = index % width;
      if (column > 0) waiting.push(index - 1);
      if (column < width - 1) waiting.push(index + 1);
      if (index >= width) waiting.push(index - width);
      if (index < width * (height - 1)) waiting.push(index + width);
    }
  }
}
