// The lab "Stopped early": one inner problem in two parameters, and the outer gradient as four ways give it.
//
// Support loss ½(φ − m)ᵀH(φ − m), inner problem with ½λ‖φ − θ‖² added, query loss ½‖φ − q‖². H has fixed directions and two curvatures.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { lettered } from "./methods.js";
import { announcer, clamp, counted, drawer, format, grid, html, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

const EPSILON = 1e-5; // of the finite difference
const WAYS = [
  { key: "limit", name: "fixed point", look: ["--mlb-ink", 2.5, "2 4"] },
  { key: "unrolled", name: "unrolled", look: ["--mlb-maml", 5] },
  { key: "truncated", name: "truncated", look: ["--mlb-pretraining", 3.5, "9 4"] },
  { key: "implicit", name: "implicit", look: ["--mlb-truth", 3.5, "4 3"] },
];

// -- arithmetic -------------------------------------------------------------------------------------------------------

const times = ([[a, b], [c, d]], [x, y]) => [a * x + b * y, c * x + d * y];
const along = (u, s, v) => [u[0] + s * v[0], u[1] + s * v[1]];
const inner2 = (u, v) => u[0] * v[0] + u[1] * v[1];
const size2 = (u) => Math.sqrt(inner2(u, u));
const solve2 = ([[a, b], [c, d]], [x, y]) => [(d * x - b * y) / (a * d - b * c), (a * y - c * x) / (a * d - b * c)];

/** H with the given curvatures along directions turned by `angle`. */
export function hessianOf([steep, flat], angle) {
  const c = Math.cos(angle), s = Math.sin(angle);
  return [[steep * c * c + flat * s * s, (steep - flat) * c * s], [(steep - flat) * c * s, steep * s * s + flat * c * c]];
}

/** φ₀ = θ, φ₁, … of gradient descent on the inner problem. */
export function innerPath({ H, bottom, theta, strength, rate, steps }) {
  const path = [theta];
  for (let t = 0; t < steps; t++) {
    const phi = path[t], pull = along(times(H, along(phi, -1, bottom)), strength, along(phi, -1, theta));
    path.push(along(phi, -rate, pull));
  }
  return path;
}

/** dφ_T/dθ applied to v, through the last `window` steps (through all of them and the start, if there are no more). */
export function backwards({ H, strength, rate, steps }, window, v) {
  let carried = v, total = [0, 0];
  for (let j = 0; j < Math.min(window, steps); j++) {
    total = along(total, rate * strength, carried);
    carried = along(carried, -rate, along(times(H, carried), strength, carried));
  }
  return window >= steps ? along(total, 1, carried) : total;
}

/** Conjugate gradients for (I + H/λ) g = v from g = v on. `valid` is false once a direction had no positive curvature. */
export function conjugate({ H, strength }, v, steps) {
  const A = (u) => along(u, 1 / strength, times(H, u));
  let g = v, r = along(v, -1, A(v)), p = r, size = inner2(r, r), valid = true;
  for (let k = 0; k < steps; k++) {
    const image = A(p), curvature = inner2(p, image);
    if (size <= 1e-28 * inner2(v, v) || curvature === 0) break;
    if (curvature < 0) valid = false;
    g = along(g, size / curvature, p);
    r = along(r, -size / curvature, image);
    const next = inner2(r, r);
    p = along(r, next / size, p);
    size = next;
  }
  return { g, valid };
}

/** All of a state: path, the minimum, the four gradients, and the slope of what the loop gives by central differences. */
export function everything(problem) {
  const { H, bottom, theta, query, strength, solver, window } = problem, path = innerPath(problem), end = path[path.length - 1];
  const matrix = [[H[0][0] + strength, H[0][1]], [H[1][0], H[1][1] + strength]];
  const minimum = solve2(matrix, along(times(H, bottom), strength, theta));
  const v = along(end, -1, query), at = (phi) => inner2(along(phi, -1, query), along(phi, -1, query)) / 2;
  const found = conjugate(problem, v, solver);
  const value = (start) => at(innerPath({ ...problem, theta: start }).pop());
  const slope = [0, 1].map((i) => {
    const e = [i ? 0 : EPSILON, i ? EPSILON : 0];
    return (value(along(theta, 1, e)) - value(along(theta, -1, e))) / (2 * EPSILON);
  });
  return {
    path, minimum, slope, loss: at(end), valid: found.valid,
    limit: solve2(matrix, along(minimum, -1, query)).map((x) => strength * x),
    unrolled: backwards(problem, Infinity, v), truncated: backwards(problem, window, v), implicit: found.g,
  };
}

/** ‖a − b‖ / ‖b‖. */
export const apart = (a, b) => size2(along(a, -1, b)) / Math.max(size2(b), 1e-12);

// -- the lab ----------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const setup = model.get("setup"), limits = setup.range, place = kept.numbers(2, limits, limits), many = kept.whole(1, setup.most_steps);
  const lab = openLab(model, "stopped-early", {
    theta: place, query: place, strength: kept.number(1, setup.strengths), steps: many, solver: kept.whole(0, setup.most_solver), window: many, flat: kept.number(1, setup.flats),
  });
  const { state, change } = lab;
  const problemOf = (now) => ({ ...now, H: hessianOf([setup.steep, now.flat], setup.angle), bottom: setup.bottom, rate: setup.rate });

  // -- the elements -----------------------------------------------------------------------------------------------------

  const ticks = [-2, -1, 0, 1, 2];
  const plane = new Plot({ x: limits, y: limits, xTicks: ticks, yTicks: ticks, xTitle: "", yTitle: "the two parameters", bottom: 22, height: (width) => clamp(0.86 * width, [250, 430]), role: "group" });
  const errors = new Plot({ x: [1, setup.most_steps], y: [1e-4, 4], log: true, xTicks: [1, 10, 20, 30, 40], yTicks: [0.001, 0.01, 0.1, 1], xTitle: "inner steps T", yTitle: "off from the gradient of the fixed point", height: () => 210, role: "img" });
  const whole = (v) => `${v}`;
  const sliders = {
    steps: slider({ label: "inner steps T", min: 1, max: setup.most_steps, step: 1, show: whole, input: (steps) => change({ steps }) }),
    solver: slider({ label: "CG steps k", min: 0, max: setup.most_solver, step: 1, show: whole, input: (solver) => change({ solver }) }),
    window: slider({ label: "window J", min: 1, max: setup.most_steps, step: 1, show: whole, input: (window) => change({ window }) }),
    strength: slider({ label: "pull λ", min: setup.strengths[0], max: setup.strengths[1], step: 0.1, input: (strength) => change({ strength }) }),
    flat: slider({ label: "flat curvature", min: setup.flats[0], max: setup.flats[1], step: 0.1, input: (flat) => change({ flat }) }),
  };
  const body = html("tbody", {});
  const table = grid(["off by, from", ["this loop", "distance from the slope of what this loop gives"], ["fixed point", "distance from the gradient of the fixed point"]], body, { class: "mlb-grid", "aria-label": "Distances of the estimates" });
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const stay = html("div", { class: "mlb-stay" }, plane.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" }, ...WAYS.map((w) => legendKey(stroke(...w.look), w.name)),
      legendKey(svg("circle", { cx: 13, cy: 6, r: 5, fill: "none", stroke: "currentColor", "stroke-width": 2 }), "minimum of the inner problem")));
  const right = html("div", {}, sliders.steps.node, sliders.solver.node, sliders.window.node, table, sentence,
    drawer("The inner problem", sliders.strength.node, sliders.flat.node), html("div", { class: "mlb-apart" }, errors.node));
  const bottom = html("div", { class: "mlb-wide" }, html("p", { class: "mlb-note" },
    "Arrow keys move θ or the goal q, too (with Shift: further). The arrows at θ show which way each gradient would move it. ",
    `The inner rate is ${setup.rate}, the steep curvature ${setup.steep}. “This loop”: the slope, by central differences, of the query loss after exactly T steps.`));
  const root = lab.frame(el, {
    label: "stopped early", live, parts: [left, right, bottom],
    goal: "Stop the inner loop early, then let it run: which gradient is right for what?",
    presets: { "Run to the end": { steps: 40, window: 10 }, "First order": { solver: 0 }, "No minimum": { flat: -1, steps: 6, solver: 3 } },
  });
  const goal = lettered(plane, "q", (query) => change({ query }), "color: var(--mlb-other-1)");
  const start = lettered(plane, "θ", (theta) => change({ theta }), "color: var(--mlb-ink)");

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const far = (v) => clamp(v, [-30, 30]);
  const line = (points) => plane.path(points.map((p) => far(p[0])), points.map((p) => far(p[1])));

  /** Level lines of the inner problem around its minimum, where it has one. */
  function levels(now, found) {
    const bends = [setup.steep + now.strength, now.flat + now.strength], c = Math.cos(setup.angle), s = Math.sin(setup.angle);
    if (Math.min(...bends) <= 1e-9) return [];
    return [0.05, 0.4, 1.2, 2.6, 4.6].map((level) => {
      const points = Array.from({ length: 73 }, (_, i) => {
        const u = Math.cos((i * Math.PI) / 36) * Math.sqrt((2 * level) / bends[0]), w = Math.sin((i * Math.PI) / 36) * Math.sqrt((2 * level) / bends[1]);
        return [found.minimum[0] + c * u - s * w, found.minimum[1] + s * u + c * w];
      });
      return svg("path", { d: line(points), ...stroke("--mlb-edge", 1.2) });
    });
  }

  function arrow(from, way, look) {
    const length = size2(way), shown = length > 1e-9 ? Math.min(2.2, 0.5 + 1.3 * length) / length : 0, to = along(from, shown, way);
    const [x0, y0, x1, y1] = [plane.X(from[0]), plane.Y(from[1]), plane.X(to[0]), plane.Y(to[1])], turn = Math.atan2(y1 - y0, x1 - x0);
    const wing = (a) => `L${(x1 - 9 * Math.cos(turn + a)).toFixed(1)} ${(y1 - 9 * Math.sin(turn + a)).toFixed(1)}`;
    return [svg("path", { class: "mlb-way", d: `M${x0} ${y0}L${x1} ${y1}`, ...stroke(...look) }), svg("path", { d: `M${x1} ${y1}${wing(0.45)}M${x1} ${y1}${wing(-0.45)}`, ...stroke(look[0], look[1] > 4 ? 3.5 : 2.5) })];
  }

  function draw() {
    if (!plane.width || !errors.width) return; // not on the page yet
    const now = state(), problem = problemOf(now), found = everything(problem), least = now.flat + now.strength;
    plane.lines.replaceChildren(
      ...levels(now, found),
      svg("path", { d: line(found.path), class: "mlb-inner", ...stroke("--mlb-muted", 2) }),
      ...found.path.map((p, t) => svg("circle", { cx: plane.X(far(p[0])), cy: plane.Y(far(p[1])), r: t === now.steps ? 5 : 2.5, style: `fill: var(${t === now.steps ? "--mlb-ink" : "--mlb-muted"})` })),
      svg("circle", { cx: plane.X(far(found.minimum[0])), cy: plane.Y(far(found.minimum[1])), r: 7, fill: "none", style: "stroke: var(--mlb-ink); stroke-width: 2" }),
      ...WAYS.slice().sort((a, b) => b.look[1] - a.look[1]).flatMap((w) => arrow(now.theta, found[w.key].map((x) => -x), w.look)));
    goal.set(now.query, "The goal q of the query loss");
    start.set(now.theta, "The initialisation θ");

    const counts = Array.from({ length: setup.most_steps }, (_, i) => i + 1), over = counts.map((steps) => everything({ ...problem, steps }));
    errors.lines.replaceChildren(
      svg("path", { d: `M${errors.X(now.steps)} 0V${errors.height}`, ...stroke("--mlb-muted", 1, "2 3") }),
      ...WAYS.slice(1).map((w) => svg("path", { class: "mlb-error", d: errors.path(counts, over.map((o) => apart(o[w.key], found.limit))), ...stroke(...w.look) })));
    const percent = (x) => (x < 5e-7 ? "0" : x < 0.0005 ? "<0.1\u00a0%" : x > 9.995 ? "> 999\u00a0%" : `${(100 * x).toFixed(x < 0.1 ? 1 : 0)}\u00a0%`);
    const off = Object.fromEntries(WAYS.map((w) => [w.key, [apart(found[w.key], found.slope), apart(found[w.key], found.limit)]]));
    body.replaceChildren(...WAYS.map((w) => row([svg("svg", { width: 26, height: 12, "aria-hidden": "true" }, svg("path", { d: "M1 6H25", fill: "none", stroke: "currentColor", ...stroke(...w.look) })), w.name], off[w.key].map(percent))));
    for (const name of Object.keys(sliders)) sliders[name].set(now[name]);
    const words = least <= 1e-9
      ? "λ plus the smallest curvature is not positive: the inner problem has no minimum, the ring marks a saddle or nothing, and conjugate gradients solve for nothing that the loop goes to."
      : `After ${counted(now.steps, "inner step")} φ is ${format(size2(along(found.path[now.steps], -1, found.minimum)))} from the minimum. Implicit, with ${counted(now.solver, "CG step")}, is off by ${percent(off.implicit[0])} from the slope of this loop, and by ${percent(off.implicit[1])} from that of the fixed point.`;
    sentence.textContent = words;
    live.say(words);
    plane.node.setAttribute("aria-label", `A plane with θ, the goal q, the inner path of ${counted(now.steps, "step")} and four arrows at θ. ${words}`);
    errors.node.setAttribute("aria-label", "Distance of the unrolled, the truncated and the implicit gradient from that of the fixed point, over the inner steps.");
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Not finite becomes null.
    root.dataset.state = JSON.stringify({ ...now, ...found, off, minimumExists: least > 1e-9 });
  }

  return lab.follow(draw, watchWidth(stay, (width) => (plane.fit(width), draw())), watchWidth(right, (width) => (errors.fit(width), draw())));
}

export default { render };
