// The lab "Which way does φ move?": two tasks over two parameters, and the update directions of four methods at φ.
//
// A task's loss is ½·flat·u² + ½·steep·w² with w = v − bend·(1 − cos u), where (u, v) are the coordinates along and across
// its valley: a bowl for bend 0, a bent valley otherwise. Gradients and Hessians are analytic; support and query loss are equal.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { METHODS, markerPath, lettered } from "./methods.js";
import { announcer, button, counted, drawer, format, grid, html, legendKey, player, Plot, row, slider, svg, unique, watchWidth } from "./shared.js";

export const OUTER_RATE = 0.2, OUTER_STEPS = 400;

// -- arithmetic -------------------------------------------------------------------------------------------------------

/** Loss, gradient and Hessian [xx, xy, yy] of one task at (x, y). */
export function lossAt({ flat, steep, angle, bend, centre }, [x, y]) {
  const p = Math.cos(angle), q = Math.sin(angle), dx = x - centre[0], dy = y - centre[1];
  const u = p * dx + q * dy, v = p * dy - q * dx, slope = bend * Math.sin(u), w = v - bend * (1 - Math.cos(u));
  const gu = flat * u - steep * w * slope, gv = steep * w;
  const huu = flat + steep * (slope * slope - w * bend * Math.cos(u)), huv = -steep * slope, hvv = steep;
  return {
    loss: 0.5 * (flat * u * u + steep * w * w),
    gradient: [p * gu - q * gv, q * gu + p * gv],
    hessian: [
      p * p * huu - 2 * p * q * huv + q * q * hvv,
      p * q * (huu - hvv) + (p * p - q * q) * huv,
      q * q * huu + 2 * p * q * huv + p * p * hvv,
    ],
  };
}

/** What one task contributes at φ: its inner path φ⁰ … φᴺ and the four updates (downhill, so with a minus). */
export function updatesOfTask(task, phi, alpha, steps) {
  const path = [phi], seen = [];
  for (let n = 0; n < steps; n++) {
    seen.push(lossAt(task, path[n]));
    const [x, y] = path[n], [gx, gy] = seen[n].gradient;
    path.push([x - alpha * gx, y - alpha * gy]);
  }
  const end = lossAt(task, path[steps]).gradient;
  // v ← (I − αH(φⁿ)) v from the last step to the first: the transposed chain rule of the inner loop.
  const meta = seen.reduceRight(([a, b], { hessian: [xx, xy, yy] }) => [a - alpha * (xx * a + xy * b), b - alpha * (xy * a + yy * b)], end);
  const down = (v) => v.map((value) => -value);
  const sum = [0, 1].map((i) => seen.reduce((total, { gradient }) => total + gradient[i], 0));
  return { path, pretraining: down(seen[0].gradient), fomaml: down(end), maml: down(meta), reptile: down(sum) };
}

/** The four updates averaged over the tasks, in units of a gradient: Reptile's (end − φ) is divided by α. */
export function directions(tasks, phi, alpha, steps) {
  const parts = tasks.map((task) => updatesOfTask(task, phi, alpha, steps));
  const mean = (key) => [0, 1].map((i) => parts.reduce((total, part) => total + part[key][i], 0) / parts.length);
  return { paths: parts.map((part) => part.path), ...Object.fromEntries(METHODS.map(({ key }) => [key, mean(key)])) };
}

/** One outer step. Reptile's sum of N inner gradients is divided by N, so that one rate suits all methods. */
export function outerStep(tasks, phi, alpha, steps, method) {
  const rate = (method === "reptile" ? OUTER_RATE / steps : OUTER_RATE) / tasks.length, inner = method === "pretraining" ? 1 : steps;
  const parts = tasks.map((task) => updatesOfTask(task, phi, alpha, inner)[method]);
  return parts.reduce(([x, y], [dx, dy]) => [x + rate * dx, y + rate * dy], phi);
}

/** Outer steps from φ until nothing moves any more, φ leaves the limits, or the number of steps is reached. */
export function outerPath(tasks, phi, alpha, steps, method, limits, most = OUTER_STEPS) {
  const path = [phi];
  while (path.length <= most) {
    const last = path[path.length - 1], next = outerStep(tasks, last, alpha, steps, method);
    if (!next.every((value, i) => value > limits[i][0] && value < limits[i][1])) break;
    path.push(next);
    if (Math.hypot(next[0] - last[0], next[1] - last[1]) < 1e-6) break;
  }
  return path;
}

/** Degrees from one vector to another, anticlockwise positive; NaN where one of them has no direction. */
export function turn(from, to) {
  const cross = from[0] * to[1] - from[1] * to[0], dot = from[0] * to[0] + from[1] * to[1];
  return Math.hypot(...from) > 1e-9 && Math.hypot(...to) > 1e-9 ? (Math.atan2(cross, dot) * 180) / Math.PI : NaN;
}

/** Points of the line on which a task's loss has one value: an ellipse in (u, w). */
export function contour({ flat, steep, angle, bend, centre }, level, points = 180) {
  const p = Math.cos(angle), q = Math.sin(angle);
  return Array.from({ length: points }, (_, i) => {
    const t = (2 * Math.PI * i) / points, u = Math.sqrt((2 * level) / flat) * Math.cos(t);
    const v = Math.sqrt((2 * level) / steep) * Math.sin(t) + bend * (1 - Math.cos(u));
    return [centre[0] + p * u - q * v, centre[1] + q * u + p * v];
  });
}

// -- the lab ----------------------------------------------------------------------------------------------------------

const LEVELS = [1, 2, 3, 4, 5, 6, 7].map((n) => 0.16 * n * n);
const FAR = 1000; // inner steps beyond that are not drawn
const TASKS = [
  { name: "A", style: "color: var(--mlb-other-1)", dash: undefined },
  { name: "B", style: "color: var(--mlb-other-2)", dash: "6 4" },
];

function render({ model, el }) {
  const setup = model.get("setup"), limits = [setup.x_range, setup.y_range];
  const place = kept.numbers(3, ...limits), keys = METHODS.map(({ key }) => key);
  const lab = openLab(model, "which-way", {
    phi: place, alpha: kept.number(2, setup.rates), steps: kept.whole(1, 10), centres: kept.list(place, 2, 2, ";"), surface: kept.choice(Object.keys(setup.surfaces)),
    method: kept.choice(keys), hidden: kept.list(kept.choice(keys), 0, keys.length), same_length: kept.flag, follow: kept.flag,
  }, { restart: () => (play.stop(), ([walked, start] = [{}, null])) });
  const { state, change, soon } = lab;
  const tasksOf = ({ surface, centres }) => setup.surfaces[surface].map((shape, i) => ({ ...shape, centre: centres[i] }));
  const colour = (key) => `color: var(--mlb-${key})`;

  // -- what the reader does: change traits; drawing follows from that ---------------------------------------------------

  let walked = {}, start = null; // trails by method, and where they begin
  /** A change that makes the trails wrong: they belonged to another start or another setting. */
  function anew(values) {
    play.stop();
    [walked, start] = [{}, null];
    change(values);
  }
  function walk(count) {
    const now = state(), trail = (start ??= now.phi, walked[now.method] ??= [start]);
    // Coming from another method's trail: this one begins where that one began.
    if (trail[trail.length - 1].some((value, i) => value !== now.phi[i])) trail.splice(0, trail.length, now.phi);
    const path = outerPath(tasksOf(now), now.phi, now.alpha, now.steps, now.method, limits, count);
    trail.push(...path.slice(1));
    change({ phi: path[path.length - 1] });
    return path.length > count && trail.length <= OUTER_STEPS;
  }
  const play = player({ every: 30, next: () => walk(4), finish: () => walk(OUTER_STEPS), changed: soon });
  const backToStart = play.byHand(() => start && change({ phi: start }));

  // -- the elements -----------------------------------------------------------------------------------------------------

  const ratio = (limits[1][1] - limits[1][0]) / (limits[0][1] - limits[0][0]);
  const plot = new Plot({
    x: limits[0], y: limits[1], xTicks: [-3, -2, -1, 0, 1, 2, 3], yTicks: [-2, -1, 0, 1, 2], xTitle: "φ₁", yTitle: "φ₂", bottom: 22,
    height: (width) => Math.max(60, width - 52) * ratio + 44, role: "group",
  });
  const swatch = (method) =>
    svg("svg", { width: 36, height: 20, style: colour(method.key), "aria-hidden": "true" },
      svg("path", { d: "M0 10H22", fill: "none", stroke: "currentColor", "stroke-width": method.width, "stroke-dasharray": method.dash }),
      svg("path", { d: markerPath(method, 26, 10), class: "mlb-marker" }));

  const group = unique();
  const rows = METHODS.map((method) => {
    const shown = html("input", {
      type: "checkbox", "aria-label": `Show ${method.name}`,
      onchange: () => change({ hidden: METHODS.map((m) => m.key).filter((k) => (k === method.key ? !shown.checked : state().hidden.includes(k))) }),
    });
    const radio = html("input", { type: "radio", name: group, "aria-label": `Walk with ${method.name}`, onchange: play.byHand(() => change({ method: method.key })) });
    const angle = html("td", {});
    return { method, shown, radio, angle, node: html("tr", {}, html("th", { scope: "row" }, swatch(method), method.name),
      html("td", {}, html("label", {}, shown)), angle, html("td", {}, html("label", {}, radio))) };
  });
  const check = (label, name) => {
    const input = html("input", { type: "checkbox", onchange: () => change({ [name]: input.checked }) });
    return { input, node: html("label", { class: "mlb-tick" }, input, label) };
  };
  const same = check("all arrows the same length", "same_length"), trace = check("trace all four walks from here", "follow");
  const choices = Object.keys(setup.surfaces).map((name) => {
    const radio = html("input", { type: "radio", name: `${group}s`, onchange: () => anew({ surface: name }) });
    return { name, radio, node: html("label", { class: "mlb-tick" }, radio, name) };
  });
  const alpha = slider({ label: "inner rate α", min: setup.rates[0], max: setup.rates[1], step: 0.01, show: (v) => v.toFixed(2), input: (v) => anew({ alpha: v }) });
  const steps = slider({ label: "inner steps N", min: 1, max: 10, step: 1, show: (v) => `${v}`, input: (v) => anew({ steps: v }) });
  const once = button("Outer step", play.byHand(() => walk(1)), { class: "mlb-main", "aria-label": "One outer step" }), running = button("", play.toggle);
  const back = button("To start", backToStart, { "aria-label": "Back to start" });
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const numbers = html("tbody", {});
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" },
      ...TASKS.map((t) => legendKey({ "stroke-width": 2, "stroke-dasharray": t.dash, style: t.style }, `loss of task ${t.name}`)),
      legendKey(svg("circle", { cx: 13, cy: 6, r: 3.5, fill: "currentColor" }), "inner steps"),
      legendKey(svg("path", { d: markerPath({ ...METHODS[2], size: 4.8 }, 13, 6), class: "mlb-end" }), "end of a walk")),
    sentence, html("div", { class: "mlb-row" }, once, running, back));
  const right = html("div", {},
    grid(["update", "show", "turned", "walk"], html("tbody", {}, ...rows.map((r) => r.node)), { class: "mlb-grid", "aria-label": "Update directions at φ" }),
    alpha.node, steps.node, trace.node,
    drawer("Loss surfaces, length of the arrows", same.node, html("fieldset", {}, html("legend", {}, "Loss surfaces"), html("div", { class: "mlb-pair" }, ...choices.map((c) => c.node)))));
  const bottom = html("div", { class: "mlb-wide" },
    html("details", {}, html("summary", {}, "The four vectors in numbers"),
      grid(["mean over tasks", "φ₁", "φ₂", "length"], numbers)),
    html("p", { class: "mlb-note" },
      "Arrow keys move φ or a bottom, too (with Shift: further). Support and query loss of a task are the same here. ",
      "Turned: the angle from the pre-training arrow, anticlockwise positive. Reptile's mean of (end − φ) is divided by α: the sum of the inner gradients. ",
      `An outer step is ${OUTER_RATE} times the vector (Reptile: divided by N as well); a walk ends after ${OUTER_STEPS} of them.`));
  const root = lab.frame(el, {
    label: "which way does φ move?", live, parts: [left, right, bottom],
    goal: "Drag φ or the bottoms A and B: which methods point the same way, and when do they part?",
    presets: { "Five inner steps": { steps: 5 }, "Bent valleys": { surface: "bent valleys", steps: 5, follow: true }, "α too large": { alpha: 0.75, steps: 3 } },
  });
  const bottoms = TASKS.map(({ name, style }, i) =>
    lettered(plot, name, (point) => anew({ centres: state().centres.map((c, j) => (j === i ? point : c)) }), style));
  const phiHandle = lettered(plot, "φ", (point) => anew({ phi: point }), "color: var(--mlb-ink)"); // last: on top of the others

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const line = (points, more) => svg("path", { d: plot.path(points.map((p) => p[0]), points.map((p) => p[1])), ...more });

  /** An arrow of `length` pixels from φ, its head, and the method's marker beyond it. */
  function arrow(method, [x, y], vector, length) {
    const size = Math.hypot(...vector), [c, s] = [vector[0] / size, -vector[1] / size]; // pixels count downwards
    if (!(size > 1e-9 && size < Infinity)) return "";
    const at = (along, across) => `${(x + along * c - across * s).toFixed(1)} ${(y + along * s + across * c).toFixed(1)}`;
    const wide = 4 + method.width, tip = length, neck = Math.max(0, tip - 12), far = tip + 11;
    return svg("g", { class: "mlb-arrow", "data-method": method.key, style: colour(method.key) },
      svg("path", { d: `M${at(0, 0)}L${at(neck, 0)}`, style: `stroke-width: ${method.width}`, "stroke-dasharray": method.dash }),
      svg("path", { d: `M${at(tip, 0)}L${at(neck, wide)}L${at(neck, -wide)}Z`, class: "mlb-filled", style: "stroke: none" }),
      svg("path", { d: markerPath(method, x + far * c, y + far * s), class: "mlb-marker" }));
  }

  let [trailsOf, trails] = ["", {}]; // while φ walks, where it began does not change, nor do the four trails from there
  function allTrails(tasks, from, { alpha, steps }) {
    const about = JSON.stringify([tasks, from, alpha, steps]);
    if (about !== trailsOf)
      [trailsOf, trails] = [about, Object.fromEntries(METHODS.map(({ key }) => [key, outerPath(tasks, from, alpha, steps, key, limits)]))];
    return trails;
  }

  function draw() {
    if (!plot.width) return; // not on the page yet
    const now = state(), tasks = tasksOf(now), found = directions(tasks, now.phi, now.alpha, now.steps);
    const shown = METHODS.filter(({ key }) => !now.hidden.includes(key)), from = [plot.X(now.phi[0]), plot.Y(now.phi[1])];
    const trails = now.follow ? allTrails(tasks, start ?? now.phi, now) : {};
    const ends = Object.fromEntries(Object.entries(trails).map(([name, path]) => [name, path[path.length - 1]]));
    const trail = (method, path, more) => {
      const [x, y] = path[path.length - 1];
      return [line(path, { style: `${colour(method.key)}; stroke-width: 2`, "stroke-dasharray": method.dash, ...more }),
        svg("path", { d: markerPath(method, plot.X(x), plot.Y(y)), class: "mlb-end", style: colour(method.key) })];
    };
    const lengths = METHODS.map(({ key }) => Math.hypot(...found[key])), longest = Math.max(...lengths.filter((v) => v < Infinity), 1e-9);
    const pixels = 0.27 * plot.height;
    plot.lines.replaceChildren(
      ...tasks.flatMap((task, i) => LEVELS.map((level) =>
        svg("path", { d: `${line(contour(task, level)).getAttribute("d")}Z`, style: `${TASKS[i].style}; stroke-width: 1.1`, "stroke-dasharray": TASKS[i].dash, class: "mlb-contour" }))),
      ...shown.flatMap((method) => (trails[method.key] ? trail(method, trails[method.key], { opacity: 0.75 }) : [])),
      ...shown.flatMap((method) => (walked[method.key]?.length > 1 ? trail(method, walked[method.key], { class: "mlb-trail" }) : [])),
      ...found.paths.flatMap((path, i) => {
        const far = path.findIndex((p) => !(Math.hypot(...p) < FAR)), near = far < 0 ? path : path.slice(0, far);
        const dots = near.slice(1).map(([x, y]) => svg("circle", { cx: plot.X(x), cy: plot.Y(y), r: 4, class: "mlb-marker", style: TASKS[i].style }));
        return [line(near, { style: `${TASKS[i].style}; stroke-width: 2` }), ...dots];
      }),
      ...shown.map((method) => arrow(method, from, found[method.key],
        now.same_length ? pixels : (1.4 * pixels * Math.hypot(...found[method.key])) / longest)),
    );
    tasks.forEach(({ centre }, i) => bottoms[i].set(centre, `Bottom of task ${TASKS[i].name}`));
    phiHandle.set(now.phi, "The initialisation φ");

    const base = found.pretraining, angles = Object.fromEntries(METHODS.map(({ key }) => [key, turn(base, found[key])]));
    const degrees = (v) => (Number.isFinite(v) ? `${v > 0.5 ? "+" : ""}${Math.round(v) || 0}°`.replace("-", "−") : "–");
    rows.forEach(({ method: { key }, shown: box, radio, angle }) => {
      box.checked = !now.hidden.includes(key);
      radio.checked = key === now.method;
      angle.textContent = key === "pretraining" ? "0°" : degrees(angles[key]);
    });
    numbers.replaceChildren(...METHODS.map(({ key, name }, i) => row(name, [...found[key], lengths[i]].map(format))));
    choices.forEach(({ name, radio }) => (radio.checked = name === now.surface));
    [same.input.checked, trace.input.checked] = [now.same_length, now.follow];
    alpha.set(now.alpha);
    steps.set(now.steps);
    running.textContent = play.playing() ? "Pause" : "Run";
    back.disabled = !start;
    const place = `φ = (${now.phi.map(format).join(", ")})`, inner = counted(now.steps, "inner step");
    const raised = TASKS.filter((_, i) => !(lossAt(tasks[i], found.paths[i][now.steps]).loss <= lossAt(tasks[i], now.phi).loss)).map((t) => t.name);
    const warning = raised.length ? ` The inner steps raise the loss of task ${raised.join(" and of task ")}: α is too large there.` : "";
    const words = `At ${place} with ${inner}, the update of Reptile is turned ${degrees(angles.reptile)}, of FOMAML ${degrees(angles.fomaml)} and of MAML ${degrees(angles.maml)} from that of pre-training.${warning}`;
    sentence.textContent = words;
    const lead = METHODS.filter(({ key }) => ends[key]).map(({ key, name }) => `${name} to (${ends[key].map(format).join(", ")})`);
    live.say(lead.length ? `${words} From here ${lead.join(", ")}.` : words);
    plot.node.setAttribute("aria-label", `Contour lines of two losses with bottoms at (${now.centres[0].map(format).join(", ")}) and (${now.centres[1].map(format).join(", ")}), and the update directions at φ. ${words}`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Overflow becomes null.
    const { paths, ...vectors } = found, lengthsWalked = Object.fromEntries(Object.entries(walked).map(([name, path]) => [name, path.length - 1]));
    root.dataset.state = JSON.stringify({ ...now, paths, directions: vectors, angles, ends, walked: lengthsWalked, running: play.playing() });
  }

  return lab.follow(draw, play.end, watchWidth(stay, (width) => (plot.fit(width), draw())));
}

export default { render };
