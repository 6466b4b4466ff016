// What the labs with two parameters share: arrows and contours in a plane, powers of ten on axes, and two more controls.
import { html, Plot, svg } from "./shared.js";

// -- a plane of two parameters ----------------------------------------------------------------------------------------

/** For a Plot's `height`: a unit is as long upwards as to the right. */
export const sameScale = (x, y, bottom) => (width) => ((width - 52) * (y[1] - y[0])) / (x[1] - x[0]) + 22 + bottom; // Plot's margins

/** How a line looks, as attributes of a <path>: in its style, because the style sheet has the last word on width and colour. */
export const stroke = (colour, width, dash) => ({ style: `color: var(${colour}); stroke-width: ${width}`, "stroke-dasharray": dash });

/** A line of a legend: a stroke or another drawing of 26 × 12 pixels, and what it stands for. */
export function legendKey(drawing, ...words) {
  const shape = drawing instanceof Node ? drawing : svg("path", { d: "M1 6H25", fill: "none", stroke: "currentColor", ...drawing });
  return html("span", {}, svg("svg", { width: 26, height: 12, "aria-hidden": "true" }, shape), ...words);
}

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
