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

// -- a plane of two parameters ----------------------------------------------------------------------------------------

/** For a Plot's `height`: a unit is as long upwards as to the right. */
export const sameScale = (x, y, bottom) => (width) => ((width - 52) * (y[1] - y[0])) / (x[1] - x[0]) + 22 + bottom; // Plot's margins

/** An arrow from one point of `plot` to another; nothing where a number is not finite. */
export function arrow(plot, from, to, attributes = {}) {
  if (![...from, ...to].every(Number.isFinite)) return "";
  const x = plot.X(from[0]), y = plot.Y(from[1]), wide = plot.X(to[0]) - x;
  const high = ((from[1] - to[1]) * plot.height) / (plot.range[1] - plot.range[0]); // not by Y, which bends what is far off
  const shorter = Math.min(1, 3000 / Math.hypot(wide, high)), dx = wide * shorter, dy = high * shorter;
  const length = Math.hypot(dx, dy), size = Math.min(9, length / 2), [ux, uy] = length ? [dx / length, dy / length] : [0, 0];
  const wing = (side) => `L${x + dx - size * (ux - side * 0.5 * uy)} ${y + dy - size * (uy + side * 0.5 * ux)}`;
  const tip = `${x + dx} ${y + dy}`;
  return svg("path", { d: `M${x} ${y}L${tip}M${tip}${wing(1)}M${tip}${wing(-1)}`, ...attributes });
}

/** The d of the contour lines of f over `plot`, one for each level, from a grid of n × n cells. */
export function contours(plot, f, levels, n = 40) {
  const [x0, x1] = plot.domain, [y0, y1] = plot.range, at = (i, j) => [x0 + ((x1 - x0) * i) / n, y0 + ((y1 - y0) * j) / n];
  const corners = Array.from({ length: n + 1 }, (_, i) => Array.from({ length: n + 1 }, (_, j) => ({ p: at(i, j), f: f(...at(i, j)) })));
  const cross = (a, b, level) => {
    const t = (level - a.f) / (b.f - a.f);
    return `${plot.X(a.p[0] + t * (b.p[0] - a.p[0])).toFixed(1)} ${plot.Y(a.p[1] + t * (b.p[1] - a.p[1])).toFixed(1)}`;
  };
  return levels.map((level) => {
    let d = "";
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++)
        for (const middle of [corners[i + 1][j], corners[i][j + 1]]) { // two triangles: a line crosses two of three sides
          const triangle = [corners[i][j], middle, corners[i + 1][j + 1]];
          const sides = [[0, 1], [1, 2], [2, 0]].filter(([a, b]) => triangle[a].f > level !== triangle[b].f > level);
          if (sides.length) d += `M${sides.map(([a, b]) => cross(triangle[a], triangle[b], level)).join("L")}`;
        }
    return d;
  });
}

// -- powers of ten ----------------------------------------------------------------------------------------------------

/** A plot with powers of ten on both axes. */
export class LogLogPlot extends Plot {
  constructor(settings) {
    super({ ...settings, log: true });
  }

  X(value) {
    const [low, high] = this.domain.map(Math.log10);
    return ((Math.log10(value) - low) / (high - low)) * this.width;
  }
}

class Power extends Number {
  toString() {
    return "10" + [...`${Math.round(Math.log10(this))}`].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
  }
}

/** 10ⁿ as a tick of an axis: a number that writes itself as a power. */
export const power = (n) => new Power(10 ** n);

// -- one of a few -----------------------------------------------------------------------------------------------------

/** Radio buttons in a row. `options`: {value: label}; `set` shows a choice without calling `input`. */
export function radios(legend, options, input) {
  const name = `mlb-${Math.random().toString(36).slice(2)}`; // the buttons of one lab belong together, of two labs do not
  const buttons = Object.keys(options).map((value) => html("input", { type: "radio", name, value, onchange: () => input(value) }));
  const labels = buttons.map((b) => html("label", {}, b, options[b.value]));
  return {
    node: html("fieldset", { class: "mlb-radios" }, html("legend", {}, legend), ...labels),
    set: (value) => buttons.forEach((b) => (b.checked = b.value === value)),
  };
}

/** A box to tick. */
export function checkbox(label, input) {
  const box = html("input", { type: "checkbox", onchange: () => input(box.checked) });
  return { node: html("label", { class: "mlb-check" }, box, label), set: (on) => (box.checked = on) };
}
