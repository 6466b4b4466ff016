// What every lab needs: elements, plots that fit their column, points to drag, sliders, numbers, announcements.
// Colours and sizes are in shared.css. Nothing here knows a lab, and nothing is loaded from anywhere.

// -- elements ---------------------------------------------------------------------------------------------------------

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

/** html("button", {type: "button", onclick: f}, "Step") */
export const html = (tag, attributes = {}, ...children) => fill(document.createElement(tag), attributes, children);

export const svg = (tag, attributes = {}, ...children) =>
  fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);

export const button = (text, onclick, attributes = {}) => html("button", { type: "button", onclick, ...attributes }, text);

/** A labelled range input with its value beside it. `set` shows a value without calling `input`. */
export function slider({ label, min, max, step, show = format, input }) {
  const value = html("output", {});
  const range = html("input", { type: "range", min, max, step, "aria-label": label, oninput: () => input(Number(range.value)) });
  return {
    node: html("label", { class: "mlb-slider" }, html("span", {}, label), range, value),
    set(number) {
      range.value = number;
      range.setAttribute("aria-valuetext", (value.textContent = show(number)));
    },
  };
}

// -- numbers ----------------------------------------------------------------------------------------------------------

/** Few digits, of large and small numbers alike, with a true minus sign. No quantity of a lab comes near a million. */
export function format(number) {
  const size = Math.abs(number);
  if (!(size < 1e6)) return "diverged";
  return number.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : 3).replace("-", "−");
}

export const clamp = (value, [low, high]) => Math.min(high, Math.max(low, value));

/** A Bytes trait with blocks of `length` little-endian float32, as one Float64Array per block. */
export function unpack(view, length) {
  const bytes = new DataView(view.buffer, view.byteOffset, view.byteLength), blocks = [];
  for (let start = 0; start + 4 * length <= bytes.byteLength; start += 4 * length)
    blocks.push(Float64Array.from({ length }, (_, i) => bytes.getFloat32(start + 4 * i, true)));
  return blocks;
}

// -- plots ------------------------------------------------------------------------------------------------------------

/** Axes and three layers. Sizes are in pixels, so that text keeps its size on a phone; `fit` sets the width. */
export class Plot {
  constructor({ x, y, xTicks, yTicks, xTitle, yTitle, log = false, height, bottom = 38, ...attributes }) {
    Object.assign(this, { domain: x, range: y, xTicks, yTicks, log, heightFor: height });
    this.margin = { left: 40, right: 12, top: 22, bottom };
    this.frame = svg("g", { class: "mlb-axes", "aria-hidden": "true" });
    this.titles = [svg("text", { "text-anchor": "end" }, xTitle), svg("text", {}, yTitle)];
    this.lines = svg("svg", { "aria-hidden": "true" }); // an inner <svg> cuts off what leaves the axes
    this.front = svg("g", {}); // on top, not cut off: points
    this.node = svg("svg", { class: "mlb-plot", ...attributes }, this.frame, this.lines, this.front);
  }

  fit(width) {
    const { left, right, top, bottom } = this.margin, height = this.heightFor(width);
    this.width = Math.max(60, width - left - right);
    this.height = height - top - bottom;
    for (const [name, value] of Object.entries({ width, height })) this.node.setAttribute(name, value);
    for (const [name, value] of Object.entries({ x: left, y: top, width: this.width, height: this.height }))
      this.lines.setAttribute(name, value);
    this.front.setAttribute("transform", `translate(${left} ${top})`);
    const line = (x1, y1, x2, y2) => svg("line", { x1, y1, x2, y2 });
    const text = (x, y, anchor, words) => svg("text", { x, y, "text-anchor": anchor }, words);
    this.titles[0].setAttribute("x", left + this.width);
    this.titles[0].setAttribute("y", height - 4);
    this.titles[1].setAttribute("x", 4);
    this.titles[1].setAttribute("y", 13);
    this.frame.replaceChildren(
      ...this.xTicks.flatMap((v) => [
        line(left + this.X(v), top, left + this.X(v), top + this.height),
        text(left + this.X(v), top + this.height + 16, "middle", `${v}`.replace("-", "−")),
      ]),
      ...this.yTicks.flatMap((v) => [
        line(left, top + this.Y(v), left + this.width, top + this.Y(v)),
        text(left - 6, top + this.Y(v) + 4, "end", `${v}`.replace("-", "−")),
      ]),
      ...this.titles,
    );
  }

  X(value) {
    return ((value - this.domain[0]) / (this.domain[1] - this.domain[0])) * this.width;
  }

  /** Far values stay near the frame: a path with coordinates of 1e20 is not drawn at all. */
  Y(value) {
    const scale = this.log ? (v) => Math.log10(Math.max(v, 1e-12)) : (v) => v, [low, high] = this.range.map(scale);
    return clamp((high - scale(value)) / (high - low), [-2, 3]) * this.height;
  }

  /** Pointer position in the units of the axes. */
  at(event) {
    const box = this.node.getBoundingClientRect(), [x0, x1] = this.domain, [y0, y1] = this.range;
    return [
      x0 + ((event.clientX - box.left - this.margin.left) / this.width) * (x1 - x0),
      y1 - ((event.clientY - box.top - this.margin.top) / this.height) * (y1 - y0),
    ];
  }

  /** The d of a line through the points; it ends where a value is not finite. */
  path(xs, ys) {
    const end = ys.findIndex((y) => !Number.isFinite(y)), known = end < 0 ? xs : xs.slice(0, end);
    return known.map((x, i) => `${i ? "L" : "M"}${this.X(x).toFixed(1)} ${this.Y(ys[i]).toFixed(1)}`).join("");
  }
}

/** Call `draw` with the width that an element has, now and whenever it changes; returns the function that ends it. */
export function watchWidth(element, draw) {
  let seen = 0, frame;
  const observer = new ResizeObserver(() => {
    cancelAnimationFrame(frame);
    frame = requestAnimationFrame(() => {
      const width = Math.floor(element.clientWidth);
      if (width && width !== seen) draw((seen = width));
    });
  });
  observer.observe(element);
  return () => (observer.disconnect(), cancelAnimationFrame(frame));
}

// -- points to drag ---------------------------------------------------------------------------------------------------

const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** A point of `plot` that follows the mouse, a finger or the arrow keys (0.1 a press, 0.5 with Shift). */
export function handle(plot, { move, remove, select }) {
  let grip = null, place = [0, 0];
  // The invisible disc is what a finger hits. Only there does a touch drag; elsewhere it scrolls the page.
  const node = svg(
    "g",
    { class: "mlb-point", tabindex: 0, role: "slider", "aria-roledescription": "point to drag" },
    svg("circle", { class: "mlb-reach", r: 20 }), svg("circle", { class: "mlb-ring", r: 11 }), svg("circle", { class: "mlb-dot", r: 6 }),
  );
  const to = (x, y) => {
    const rounded = (v, limits) => Math.round(100 * clamp(v, limits)) / 100; // so that the reader sees the whole number
    place = [rounded(x, plot.domain), rounded(y, plot.range)]; // now, not at the next frame: the next key may come before it
    move(place);
  };
  node.addEventListener("pointerdown", (event) => {
    if (event.button) return;
    event.preventDefault();
    node.setPointerCapture(event.pointerId);
    node.focus({ preventScroll: true });
    const [x, y] = plot.at(event);
    grip = [place[0] - x, place[1] - y]; // no jump when the point is not hit at its centre
  });
  // Without this the page scrolls and takes the finger away; CSS touch-action has no effect inside an <svg>.
  node.addEventListener("touchstart", (event) => event.preventDefault(), { passive: false });
  node.addEventListener("pointermove", (event) => {
    if (!grip) return;
    const [x, y] = plot.at(event);
    to(x + grip[0], y + grip[1]);
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) node.addEventListener(end, () => (grip = null));
  node.addEventListener("focus", select);
  node.addEventListener("keydown", (event) => {
    const arrow = ARROWS[event.key], far = event.shiftKey ? 0.5 : 0.1;
    if (arrow) to(place[0] + far * arrow[0], place[1] + far * arrow[1]);
    else if (event.key === "Delete" || event.key === "Backspace") remove();
    else return;
    event.preventDefault();
    event.stopPropagation(); // Jupyter would take the key for itself
  });
  return {
    node,
    set([x, y], label) {
      place = [x, y];
      node.setAttribute("transform", `translate(${plot.X(x)} ${plot.Y(y)})`);
      const values = { label, valuemin: plot.range[0], valuemax: plot.range[1], valuenow: y.toFixed(2) };
      values.valuetext = `x ${format(x)}, y ${format(y)}`;
      for (const [name, value] of Object.entries(values)) node.setAttribute(`aria-${name}`, value);
    },
  };
}

// -- the reader -------------------------------------------------------------------------------------------------------

export const prefersStillness = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** A line for screen readers. It waits until the reader stops dragging, so that it does not talk without end. */
export function announcer() {
  const node = html("p", { class: "mlb-hidden", role: "status", "aria-live": "polite" });
  let timer;
  return {
    node,
    say(text) {
      clearTimeout(timer);
      timer = setTimeout(() => node.textContent !== text && (node.textContent = text), 500);
    },
  };
}
