// What every lab needs: its state, elements, plots that fit their column, points to drag, sliders, tables, numbers, announcements.
// Colours and sizes are in shared.css. Nothing here knows a lab, and nothing is loaded from anywhere.

// -- the state of a lab -----------------------------------------------------------------------------------------------

/** What the reader changes lies in these traits of the model; a lab reads them as one state, and draws again when any of them changes. */
export function connect(model, names) {
  let frame = 0, paint = () => {};
  const soon = () => (frame ||= requestAnimationFrame(() => ((frame = 0), paint()))); // several changes, or a fast pointer: one drawing per frame
  return {
    soon,
    state: () => Object.fromEntries(names.map((name) => [name, model.get(name)])),
    change(values) {
      for (const [name, value] of Object.entries(values)) model.set(name, value);
      model.save_changes();
    },
    /** Draw with `draw` from now on. Returns what `render` has to return: the function that ends this and whatever else is to end. */
    follow(draw, ...ends) {
      paint = draw;
      for (const name of names) model.on(`change:${name}`, soon);
      return () => {
        cancelAnimationFrame(frame);
        for (const end of ends) end();
        for (const name of names) model.off(`change:${name}`, soon);
      };
    },
  };
}

/** Steps that play by themselves: `next` takes one and says whether another may follow; `every`: milliseconds, or what gives them. Where the reader wants stillness, `finish` goes to the end at once. */
export function player({ every, begin = () => {}, next, finish, changed }) {
  let timer = null;
  const stop = () => {
    clearInterval(timer);
    timer = null;
    changed();
  };
  return {
    playing: () => timer !== null,
    stop: () => timer && stop(),
    end: () => clearInterval(timer),
    toggle() {
      if (timer) return stop();
      if (prefersStillness()) return finish();
      begin();
      timer = setInterval(() => next() || stop(), typeof every === "function" ? every() : every);
      changed();
    },
    /** An action of the reader that ends the playing first. */
    byHand: (action) => () => (timer && stop(), action()),
  };
}

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

/** The frame of a lab, put into `el`: two columns, what goes below them, and what only a screen reader hears. */
export function frame(el, name, label, live, parts, { columns = "mlb-columns", ...attributes } = {}) {
  // A class, not :has() in the style sheet: with that every change anywhere makes the browser style the whole page again.
  const stays = parts.some((part) => part.classList?.contains("mlb-staying"));
  const root = html("section", { class: "mlb-lab", "data-lab": name, "aria-label": `Lab: ${label}`, ...attributes },
    html("div", { class: stays ? `${columns} mlb-stays` : columns }, ...parts), live.node);
  el.append(root);
  return root;
}

/** A table with these heads of columns, words or [words, what is said of them]; rows go into `body`. */
export const grid = (heads, body, attributes = {}) =>
  html("table", attributes, html("thead", {}, html("tr", {}, ...heads.map((head) => {
    const [words, label] = [head].flat();
    return html("th", { scope: "col", "aria-label": label }, words);
  }))), body);

/** One row of a table: its head, then cells of text or elements. */
export const row = (head, cells, attributes = {}) =>
  html("tr", attributes, html("th", { scope: "row" }, ...[head].flat()), ...cells.map((cell) => html("td", {}, cell)));

/** How a line looks, as attributes of a <path>: in its style, because the style sheet has the last word on width and colour. */
export const stroke = (colour, width, dash) => ({ style: `color: var(${colour}); stroke-width: ${width}`, "stroke-dasharray": dash });

/** A line of a legend: a stroke or another drawing of 26 × 12 pixels, and what it stands for. */
export function legendKey(drawing, ...words) {
  const shape = drawing instanceof Node ? drawing : svg("path", { d: "M1 6H25", fill: "none", stroke: "currentColor", ...drawing });
  return html("span", {}, svg("svg", { width: 26, height: 12, "aria-hidden": "true" }, shape), ...words);
}

/** A name that no other element of the page has: buttons of one lab belong together, of two labs do not. */
export const unique = () => `mlb-${Math.random().toString(36).slice(2)}`;

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

/** Controls that most readers leave alone, behind one line of words. */
export const drawer = (words, ...nodes) => html("details", { class: "mlb-drawer" }, html("summary", {}, words), ...nodes);

/** Radio buttons one below another, each with a bar in its colour and a value beside it. */
export function barChoices(legend, names, colour, input) {
  const group = unique();
  const rows = names.map((name, i) => {
    const bar = html("span", { class: "mlb-bar" }), value = html("span", { class: "mlb-value" });
    const radio = html("input", { type: "radio", name: group, value: name, "aria-label": name, onchange: () => input(name) });
    const track = html("span", { style: colour(i), "aria-hidden": "true" }, bar);
    return { radio, bar, value, node: html("label", { class: "mlb-choice" }, radio, html("span", { class: "mlb-name" }, name), track, value) };
  });
  return {
    node: html("fieldset", {}, html("legend", {}, legend), ...rows.map((r) => r.node)),
    /** `of(i)`: {chosen, width in percent, words beside the bar, description for a screen reader} */
    set: (of) => rows.forEach(({ radio, bar, value }, i) => {
      const { chosen, width, words, description } = of(i);
      radio.checked = chosen;
      bar.style.cssText = `display: block; width: ${width}%`;
      value.textContent = words;
      radio.setAttribute("aria-description", description);
    }),
  };
}

// -- numbers ----------------------------------------------------------------------------------------------------------

/** Few digits, of large and small numbers alike, with a true minus sign. No quantity of a lab comes near a million. */
export function format(number) {
  const size = Math.abs(number);
  if (!(size < 1e6)) return "diverged";
  return number.toFixed(size >= 100 ? 0 : size >= 10 ? 1 : size >= 0.1 || size === 0 ? 2 : 3).replace("-", "−");
}

/** A share from 0 to 1 in whole percent. */
export const inPercent = (share) => `${Math.round(100 * share)}\u00a0%`;

export const counted = (n, words) => `${n} ${words}${n === 1 ? "" : "s"}`;

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
    // What stays in view on a phone leaves room for the controls, and so does a large view; where both axes have one scale, the plot gets narrower too.
    const stay = this.node.closest(".mlb-stay"), large = this.node.closest(".mlb-large > .mlb-lab");
    const sticky = stay && getComputedStyle(stay).position === "sticky", zoom = large && Number(getComputedStyle(large).zoom);
    const most = sticky ? 0.45 * innerHeight : large ? (0.62 * innerHeight) / (zoom || 1) : Infinity;
    if (this.heightFor.oneScale) while (this.heightFor(width) > most && width > 200) width -= 4;
    const { left, right, top, bottom } = this.margin, height = Math.min(most, this.heightFor(width));
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
    const box = this.node.getBoundingClientRect(), [x0, x1] = this.domain, [y0, y1] = this.range, { left, right, top } = this.margin;
    const zoom = box.width / (left + this.width + right); // a large view enlarges the plot
    return [
      x0 + (((event.clientX - box.left) / zoom - left) / this.width) * (x1 - x0),
      y1 - (((event.clientY - box.top) / zoom - top) / this.height) * (y1 - y0),
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

/** A dot of this radius with a halo and small arrows, which no data point has: they say that it can be moved; `along` "x" or "y": only that way. */
export function haloed(size, along = "xy") {
  const halo = size + 7, far = halo - 1.5, near = far - 3, wing = 2.5;
  const arrows = {
    x: `M${near} ${-wing}L${far} 0L${near} ${wing}M${-near} ${-wing}L${-far} 0L${-near} ${wing}`,
    y: `M${-wing} ${near}L0 ${far}L${wing} ${near}M${-wing} ${-near}L0 ${-far}L${wing} ${-near}`,
  };
  return [svg("circle", { class: "mlb-ring", r: halo }), svg("path", { class: "mlb-arrows", d: [...along].map((axis) => arrows[axis]).join("") }), svg("circle", { class: "mlb-dot", r: size })];
}

/** A point of `plot` that follows the mouse, a finger or the arrow keys (0.1 a press, 0.5 with Shift). */
export function handle(plot, { move, remove = () => {}, select = () => {}, along = "xy", size = 6 }) {
  let grip = null, place = [0, 0];
  // The invisible disc is what a finger hits. Only there does a touch drag; elsewhere it scrolls the page.
  const node = svg(
    "g",
    { class: "mlb-point", tabindex: 0, role: "slider", "aria-roledescription": "point to drag" },
    svg("circle", { class: "mlb-reach", r: 20 }), ...haloed(size, along),
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
