// What the labs with two parameters share: arrows in a plane, and two more controls.
import { html, svg, unique } from "./shared.js";

// -- a plane of two parameters ----------------------------------------------------------------------------------------

/** For a Plot's `height`: a unit is as long upwards as to the right. */
export const sameScale = (x, y, bottom) =>
  Object.assign((width) => ((width - 52) * (y[1] - y[0])) / (x[1] - x[0]) + 22 + bottom, { oneScale: true }); // Plot's margins

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

// -- one of a few -----------------------------------------------------------------------------------------------------

/** Radio buttons in a row. `options`: {value: label}; `set` shows a choice without calling `input`. */
export function radios(legend, options, input) {
  const name = unique();
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
