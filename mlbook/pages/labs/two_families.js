// The lab "One start or two": lines of two families, each a point (level, slope); one start between them or one in each.
//
// With K support points at x = ±1 the mean squared error of a line θ is ‖θ − ĉ‖² plus a constant, so an inner step takes
// 1 − 2α of the way to the least-squares line ĉ away, and the expected errors are closed forms (mlbook.pages.checks.two_families).
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { lettered } from "./methods.js";
import { radios, sameScale } from "./plane.js";
import { announcer, button, clamp, counted, drawer, format, grid, html, legendKey, Plot, slider, stroke, svg, watchWidth } from "./shared.js";

const WAYS = {
  one: { name: "one start", colour: "--mlb-maml", dash: undefined, width: 3.4 },
  known: { name: "two, known", colour: "--mlb-truth", dash: "8 4", width: 2.6 },
  chosen: { name: "two, chosen", colour: "--mlb-other-1", dash: "2 4", width: 2.6 },
};

// -- arithmetic -------------------------------------------------------------------------------------------------------

/** Φ(−x), the share of a standard normal beyond x ≥ 0: a series near the middle, a continued fraction in the tail. */
export function normalTail(x) {
  const density = Math.exp((-x * x) / 2) / Math.sqrt(2 * Math.PI);
  if (x > 4) {
    let fraction = x;
    for (let n = 60; n > 0; n--) fraction = x + n / fraction;
    return density / fraction;
  }
  let term = x, sum = x;
  for (let n = 3; Math.abs(term) > 1e-18 * Math.abs(sum) && n < 400; n += 2) sum += term *= (x * x) / n;
  return 0.5 - density * sum;
}

/** Expected squared error after the inner steps from each of the three kinds of starts, and how often the wrong start is chosen. */
export function expectedErrors({ centres: [a, b], spread, shots }, { alpha, sigma }, steps) {
  const m = Math.hypot(a[0] - b[0], a[1] - b[1]) / 2, s2 = spread * spread, t2 = (sigma * sigma) / shots, v = Math.sqrt(s2 + t2);
  const r = (1 - 2 * alpha) ** steps, known = 2 * (r * r * s2 + (1 - r) ** 2 * t2), wrong = normalTail(m / v);
  const density = Math.exp(-0.5 * (m / v) ** 2) / Math.sqrt(2 * Math.PI);
  return {
    one: known + (r * m) ** 2, known, wrong,
    chosen: known + 4 * (r * m) ** 2 * wrong - ((4 * m * r * density) / v) * (r * s2 - (1 - r) * t2),
  };
}

/** The drawn tasks: family, true line, least-squares line of the support points, start, and the line after the inner steps. */
export function adaptTasks({ centres, spread, shots, steps, starts }, { alpha, sigma, tasks, noise }) {
  const mean = [0, 1].map((i) => (centres[0][i] + centres[1][i]) / 2), r = (1 - 2 * alpha) ** steps;
  const far = (p, q) => (p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2;
  return tasks.map((z, t) => {
    const family = t < tasks.length / 2 ? 0 : 1, truth = z.map((u, i) => centres[family][i] + spread * u);
    const estimate = truth.map((c, i) => c + (sigma / Math.sqrt(shots)) * noise[t][i]);
    const nearer = far(centres[0], estimate) <= far(centres[1], estimate) ? 0 : 1;
    const pick = starts === "known" ? family : nearer, start = starts === "one" ? mean : centres[pick];
    return { family, truth, estimate, start, wrong: starts === "chosen" && pick !== family, end: estimate.map((c, i) => c + r * (start[i] - c)) };
  });
}

/** Errors over 0..most steps, and for each kind of starts the number of steps at which it is smallest. */
export function overSteps(state, setup) {
  const all = Array.from({ length: setup.steps + 1 }, (_, n) => expectedErrors(state, setup, n));
  const best = Object.fromEntries(Object.keys(WAYS).map((key) => [key, all.reduce((b, e, n) => (e[key] < all[b][key] ? n : b), 0)]));
  return { all, best };
}

/** The two centres at a given distance, about their middle and along the line through them, kept inside the plane. */
export function apart([a, b], distance, { levels, slopes }) {
  const middle = [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2], d = [b[0] - a[0], b[1] - a[1]], length = Math.hypot(...d);
  const unit = length > 1e-9 ? d.map((v) => v / length) : [1, 0];
  const place = (side) => [clamp(middle[0] + (side * distance * unit[0]) / 2, levels), clamp(middle[1] + (side * distance * unit[1]) / 2, slopes)];
  return [place(-1), place(1)];
}

// -- the lab ----------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const setup = model.get("setup"), keys = Object.keys(WAYS);
  const lab = openLab(model, "two-families", {
    centres: kept.list(kept.numbers(3, setup.levels, setup.slopes), 2, 2, ";"), spread: kept.number(2, setup.spreads),
    shots: kept.whole(...setup.shots), steps: kept.whole(0, setup.steps), starts: kept.choice(keys),
  }, { agree: ({ shots }) => shots % 2 === 0, restart: () => (direction = lab.initial.centres) });
  const { state, change } = lab;
  let direction = lab.initial.centres; // where a distance of zero leaves no direction, the last one counts

  // -- the elements -----------------------------------------------------------------------------------------------------

  const plane = new Plot({
    x: setup.levels, y: setup.slopes, xTicks: [-4, -2, 0, 2, 4], yTicks: [-2, 0, 2], xTitle: "level", yTitle: "slope",
    height: sameScale(setup.levels, setup.slopes, 38), role: "group",
  });
  const curves = new Plot({
    x: [0, setup.steps], y: [0.1, 10], log: true, xTicks: [0, 5, 10, 15, 20, 25, 30], yTicks: [], xTitle: "inner steps N", yTitle: "expected error",
    height: () => 220, role: "img",
  });
  const cells = Object.fromEntries(keys.map((key) => [key, { now: html("td", {}), best: html("td", {}) }]));
  const table = grid(["error after", "N steps", "best N"], html("tbody", {}, ...keys.map((key) =>
    html("tr", {}, html("th", { scope: "row" }, legendKey(stroke(WAYS[key].colour, WAYS[key].width, WAYS[key].dash), WAYS[key].name)), cells[key].now, cells[key].best))),
  { class: "mlb-grid", "aria-label": "Expected errors" });
  const view = radios("The plane shows", Object.fromEntries(keys.map((key) => [key, WAYS[key].name])), (value) => change({ starts: value }));
  const sliders = {
    distance: slider({
      label: "distance", min: 0, max: 6, step: 0.1, show: (v) => v.toFixed(1),
      input: (v) => change({ centres: apart(direction, v, setup) }),
    }),
    spread: slider({ label: "spread", min: setup.spreads[0], max: setup.spreads[1], step: 0.05, input: (v) => change({ spread: v }) }),
    shots: slider({ label: "support points", min: setup.shots[0], max: setup.shots[1], step: 2, show: (v) => `${v}`, input: (v) => change({ shots: v }) }),
    steps: slider({ label: "inner steps", min: 0, max: setup.steps, step: 1, show: (v) => `${v}`, input: (v) => change({ steps: v }) }),
  };
  const sentence = html("p", { class: "mlb-sentence" }), remark = html("p", { class: "mlb-note" }), live = announcer();
  const stay = html("div", { class: "mlb-stay" }, plane.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" },
      legendKey({ d: "M13 2a4 4 0 1 0 .1 0", ...stroke("--mlb-muted", 1.8) }, "task of family A"),
      legendKey({ d: "M9 2H17V10H9Z", ...stroke("--mlb-muted", 1.8) }, "task of family B"),
      legendKey({ d: "M2 6H20M20 6m-3 -3l6 6m0 -6l-6 6", ...stroke("--mlb-pretraining", 1.8) }, "adapted line, and what it misses")),
    ...Object.values(sliders).map((s) => s.node));
  const right = html("div", {}, view.node, table, html("div", { class: "mlb-apart" }, curves.node), sentence, remark);
  const bottom = html("div", { class: "mlb-wide" },
    html("p", { class: "mlb-note" },
      "A line is a point: its level and its slope. \"Known\": a task is told its family; \"chosen\": the start with the smaller support loss. Arrow keys move a centre, too (with Shift: further). ",
      `Half of the K support points of a task stand at x = −1, half at x = 1, each with noise of standard deviation ${setup.sigma}; α = ${setup.alpha}. `,
      "Error: squared distance of the adapted line from the true one, averaged over x = ±1 and over all tasks of both families (closed form, not only the tasks drawn)."));
  const near = apart(lab.initial.centres, 1, setup), same = apart(lab.initial.centres, 0, setup);
  const root = lab.frame(el, {
    label: "one start or two for two families of lines", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Drag the two families apart: from which distance on is one start between them worse than two?",
    presets: { "One family": { centres: same, starts: "one" }, "Near each other": { centres: near, starts: "chosen" }, "Two points only": { shots: 2, starts: "chosen" } },
  });
  const grips = ["A", "B"].map((name, i) =>
    lettered(plane, name, (place) => change({ centres: state().centres.map((old, j) => (j === i ? place : old)) })));

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const star = ([x, y], size = 9) => {
    const corner = (i) => [plane.X(x) + (i % 2 ? 0.42 : 1) * size * Math.sin((i * Math.PI) / 5), plane.Y(y) - (i % 2 ? 0.42 : 1) * size * Math.cos((i * Math.PI) / 5)];
    return `M${Array.from({ length: 10 }, (_, i) => corner(i).map((v) => v.toFixed(1)).join(" ")).join("L")}Z`;
  };

  function drawPlane(now, tasks) {
    const way = WAYS[now.starts];
    const shape = ({ family, truth: [x, y] }) =>
      family ? `M${plane.X(x) - 4} ${plane.Y(y) - 4}h8v8h-8Z` : `M${plane.X(x) - 4.5} ${plane.Y(y)}a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0`;
    const cross = ([x, y]) => `M${plane.X(x) - 3.5} ${plane.Y(y) - 3.5}l7 7m0 -7l-7 7`;
    const mean = [0, 1].map((i) => (now.centres[0][i] + now.centres[1][i]) / 2);
    plane.lines.replaceChildren(
      ...tasks.map((t) => svg("path", { class: "mlb-miss", ...stroke("--mlb-pretraining", 1.4), d: plane.path([t.end[0], t.truth[0]], [t.end[1], t.truth[1]]) })),
      ...tasks.map((t) => svg("path", { class: "mlb-task", ...stroke("--mlb-muted", 1.8), d: shape(t) })),
      ...tasks.map((t) => svg("path", { class: "mlb-adapted", ...stroke("--mlb-pretraining", t.wrong ? 3.4 : 1.8), d: cross(t.end) })),
      ...(now.starts === "one" ? [svg("path", { class: "mlb-start", d: star(mean, 11), style: `color: var(${way.colour}); fill: currentColor` })] : []),
    );
    grips.forEach((grip, i) => {
      const name = "AB"[i], used = now.starts === "one" ? "" : ", a start";
      grip.set(now.centres[i], `Centre of family ${name}`);
      grip.node.setAttribute("aria-valuetext", `level ${format(now.centres[i][0])}, slope ${format(now.centres[i][1])}${used}`);
      grip.node.style.color = now.starts === "one" ? "var(--mlb-muted)" : `var(${way.colour})`;
    });
  }

  function drawCurves(now, { all, best }) {
    const values = all.flatMap((e) => keys.map((key) => Math.max(e[key], 1e-4)));
    const [low, high] = [Math.floor(Math.log10(Math.min(...values))), Math.ceil(Math.log10(Math.max(...values)))];
    curves.range = [10 ** low, 10 ** Math.max(high, low + 1)];
    curves.yTicks = Array.from({ length: Math.max(high, low + 1) - low + 1 }, (_, i) => Number((10 ** (low + i)).toPrecision(1)));
    curves.fit(curves.width + curves.margin.left + curves.margin.right);
    const ns = all.map((_, n) => n);
    curves.lines.replaceChildren(
      svg("path", { d: `M${curves.X(now.steps)} 0V${curves.height}`, ...stroke("--mlb-muted", 1) }),
      ...keys.map((key) => svg("path", { class: "mlb-curve", d: curves.path(ns, all.map((e) => e[key])), ...stroke(WAYS[key].colour, WAYS[key].width, WAYS[key].dash) })),
      ...keys.map((key) => svg("circle", { cx: curves.X(best[key]), cy: curves.Y(all[best[key]][key]), r: 4.5, style: `color: var(${WAYS[key].colour}); fill: currentColor` })),
    );
  }

  function words(now, { all, best }) {
    const e = all[now.steps], share = Math.round(100 * e.wrong), b = Object.fromEntries(keys.map((key) => [key, all[best[key]][key]]));
    const first = `After ${counted(now.steps, "inner step")}: one start ${format(e.one)}, two with the family known ${format(e.known)}, two chosen by the support loss ${format(e.chosen)}; the support set picks the other family's start for ${share}\u00a0% of the tasks.`;
    const gain = b.one / b.chosen;
    const second = gain > 1.1
      ? `Even with the best number of steps for each, one start has ${format(gain)} times the error of two chosen ones: the steps that carry it to the families also fit the noise of the support points.`
      : gain < 0.98
        ? "The families cannot be told apart by these support points: two starts, chosen by them, are worse than one at the best number of steps."
        : "With the best number of steps for each, it hardly matters whether there are one or two starts.";
    return [first, second];
  }

  function draw() {
    if (!plane.width) return; // not on the page yet
    const now = state(), tasks = adaptTasks(now, setup), over = overSteps(now, setup), errors = over.all[now.steps];
    const distance = Math.hypot(now.centres[0][0] - now.centres[1][0], now.centres[0][1] - now.centres[1][1]);
    if (distance > 1e-3) direction = now.centres;
    drawPlane(now, tasks);
    drawCurves(now, over);
    sliders.distance.set(distance);
    sliders.spread.set(now.spread);
    sliders.shots.set(now.shots);
    sliders.steps.set(now.steps);
    view.set(now.starts);
    for (const key of keys) {
      cells[key].now.textContent = format(errors[key]);
      cells[key].best.textContent = `${format(over.all[over.best[key]][key])} (${over.best[key]})`;
    }
    const said = words(now, over);
    sentence.textContent = said[0];
    remark.textContent = said[1];
    live.say(said.join(" "));
    plane.node.setAttribute("aria-label", `Tasks of two families in the plane of level and slope, centres ${format(distance)} apart. ${said[0]}`);
    curves.node.setAttribute("aria-label", `Expected error over 0 to ${setup.steps} inner steps: ${keys.map((key) => `${WAYS[key].name} from ${format(over.all[0][key])}, smallest ${format(over.all[over.best[key]][key])} at ${over.best[key]} steps`).join("; ")}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({ ...now, distance, errors, best: over.best, tasks, said });
  }

  curves.fit(260);
  return lab.follow(draw, watchWidth(stay, (width) => (plane.fit(width), draw())), watchWidth(right, (width) => (curves.fit(width), draw())));
}

export default { render };
