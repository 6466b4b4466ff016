// The lab "Layers and steps": a line through context points by linear attention, beside gradient descent on the same points.
//
// A token is (1, x, y) for a context point and (1, x, 0) for a query. A layer adds to each token P · mean over the context of v (k · q), with
// q, k, v and P linear; after the last layer, minus the last number of the query's token is the answer. All of it is linear in the query's
// token, so the answers lie on a line.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { radios } from "./plane.js";
import { announcer, clamp, counted, format, grid, handle, html, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

// -- arithmetic -------------------------------------------------------------------------------------------------------

const times = (matrix, vector) => matrix.map((r) => r.reduce((sum, m, i) => sum + m * vector[i], 0));
const dot = (a, b) => a.reduce((sum, v, i) => sum + v * b[i], 0);

/** One layer for one token; `context`: the tokens that are attended to. */
export function attended({ query, key, value, projection }, context, token) {
  const q = times(query, token), read = token.map(() => 0);
  for (const other of context) {
    const weight = dot(times(key, other), q) / context.length;
    times(value, other).forEach((v, i) => (read[i] += weight * v));
  }
  return times(projection, read).map((moved, i) => token[i] + moved);
}

/** The line [level, slope] of layers of attention on points [[x, y], …]. */
export function attentionLine(layers, points) {
  const at = (x) => {
    let context = points.map(([px, py]) => [1, px, py]), token = [1, x, 0];
    for (const layer of layers) {
      token = attended(layer, context, token);
      context = context.map((c) => attended(layer, context, c));
    }
    return -token[2];
  };
  return [at(0), at(1) - at(0)];
}

/** Layers that take one gradient step each: keys and queries read (1, x), values read −y, the projection multiplies by the rate. */
export function stepLayers(rate, count) {
  const diagonal = (...d) => d.map((v, i) => d.map((_, j) => (i === j ? v : 0)));
  const x = diagonal(1, 1, 0);
  return Array.from({ length: count }, () => ({ query: x, key: x, value: diagonal(0, 0, -1), projection: diagonal(rate, rate, rate) }));
}

/** The lines after 0, 1, …, `steps` steps of gradient descent from the zero line, on half the mean squared error. */
export function descent(points, rate, steps) {
  const path = [[0, 0]];
  for (let n = 0; n < steps; n++) {
    const [a, b] = path[n], errors = points.map(([x, y]) => a + b * x - y), mean = (f) => points.reduce((sum, p, i) => sum + errors[i] * f(p), 0) / points.length;
    path.push([a - rate * mean(() => 1), b - rate * mean(([x]) => x)]);
  }
  return path;
}

/** The line with the smallest expected error where level and slope are N(0, 1) and the noise has the variance `penalty`: ridge regression. */
export function ridgeLine(points, penalty) {
  const sum = (f) => points.reduce((total, p) => total + f(p), 0);
  const n = points.length + penalty, sx = sum(([x]) => x), sxx = sum(([x]) => x * x) + penalty, sy = sum(([, y]) => y), sxy = sum(([x, y]) => x * y);
  const det = n * sxx - sx * sx;
  return [(sxx * sy - sx * sxy) / det, (n * sxy - sx * sy) / det];
}

/** Root mean square of the distance of two lines over −1 … 1. */
export const apart = ([a, b], [c, d]) => Math.sqrt((a - c) ** 2 + (b - d) ** 2 / 3);

/** All that the lab shows, for one state. */
export function beside(setup, now) {
  const points = now.points.slice(0, now.shots), { most, penalty } = setup;
  const layers = now.kind === "built" ? stepLayers(now.rate, now.layers) : setup.learned[now.layers - 1][now.seed];
  const attention = attentionLine(layers, points), path = descent(points, now.rate, most);
  const distances = path.map((line) => apart(attention, line)), nearest = distances.indexOf(Math.min(...distances));
  const ridge = ridgeLine(points, penalty);
  return { points, attention, path, ridge, distances, nearest, fromRidge: { attention: apart(attention, ridge), steps: apart(path[now.steps], ridge) } };
}

// -- the lab ----------------------------------------------------------------------------------------------------------

const KINDS = { built: "by hand", learned: "learned" };

function render({ model, el }) {
  const setup = model.get("setup"), { x_range: X, y_range: Y, most, rates, shots: K } = setup;
  const lab = openLab(model, "layers-and-steps", {
    points: kept.list(kept.numbers(2, X, Y), K, K, ";"), shots: kept.whole(1, K), kind: kept.choice(Object.keys(KINDS)),
    layers: kept.whole(1, setup.learned.length), seed: kept.whole(0, setup.learned[0].length - 1), steps: kept.whole(0, most), rate: kept.number(2, rates),
  });
  const { state, change } = lab;
  const plot = new Plot({
    x: X, y: Y, xTicks: [-1, -0.5, 0, 0.5, 1], yTicks: [-2, 0, 2], xTitle: "x", yTitle: "y", height: (width) => clamp(0.7 * width, [230, 330]), role: "group",
  });
  const handles = Array.from({ length: K }, (_, i) =>
    handle(plot, { move: (place) => change({ points: state().points.map((p, j) => (j === i ? place : p)) }) }));
  plot.front.append(...handles.map((h) => h.node));
  const gaps = new Plot({
    x: [0, most], y: [0, 2], xTicks: [0, 5, 10, 15, 20].filter((n) => n <= most), yTicks: [0, 1, 2], xTitle: "gradient steps",
    yTitle: "distance between the two lines", height: () => 170, role: "img",
  });
  const whole = (v) => `${v}`;
  const kind = radios("Attention", KINDS, (value) => change({ kind: value }));
  const sliders = {
    layers: slider({ label: "layers", min: 1, max: setup.learned.length, step: 1, show: whole, input: (layers) => change({ layers }) }),
    steps: slider({ label: "gradient steps", min: 0, max: most, step: 1, show: whole, input: (steps) => change({ steps }) }),
    shots: slider({ label: "context points", min: 1, max: K, step: 1, show: whole, input: (shots) => change({ shots }) }),
    rate: slider({ label: "rate η", min: rates[0], max: rates[1], step: 0.05, input: (rate) => change({ rate }) }),
    seed: slider({ label: "training seed", min: 0, max: setup.learned[0].length - 1, step: 1, show: whole, input: (seed) => change({ seed }) }),
  };
  const body = html("tbody", {}), table = grid(["line", "level", "slope", ["from ridge", "distance from the ridge line"]], body, { "aria-label": "Three lines" });
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const looks = { attention: stroke("--mlb-other-1", 4), steps: stroke("--mlb-maml", 2.5, "8 4"), ridge: stroke("--mlb-truth", 2.5, "2 3") };
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" }, legendKey(looks.attention, "attention"), legendKey(looks.steps, "gradient steps"), legendKey(looks.ridge, "ridge regression, the best rule for such tasks")),
    sliders.shots.node, sliders.rate.node);
  const right = html("div", {}, kind.node, sliders.layers.node, sliders.seed.node, sliders.steps.node, sentence, gaps.node, table);
  const root = lab.frame(el, {
    label: "layers and steps", live, parts: [left, right], class: "mlb-lab mlb-plane",
    goal: "Find the number of gradient steps whose line is nearest to that of the attention layers.",
    presets: {
      "Built, three layers": { kind: "built", layers: 3, steps: 3 },
      "Learned, three layers": { kind: "learned", layers: 3, steps: 3 },
      "Seed 0, one layer": { kind: "learned", layers: 1, seed: 0, steps: 1 },
    },
  });

  function draw() {
    if (!plot.width || !gaps.width) return; // not on the page yet
    const now = state(), found = beside(setup, now), line = ([a, b]) => plot.path(X, X.map((x) => a + b * x)), steps = found.path[now.steps];
    plot.lines.replaceChildren(
      svg("path", { d: line(found.ridge), class: "mlb-line", ...looks.ridge }), svg("path", { d: line(found.attention), class: "mlb-line", ...looks.attention }),
      svg("path", { d: line(steps), class: "mlb-line", ...looks.steps }),
    );
    handles.forEach(({ node, set }, i) => {
      node.style.display = i < now.shots ? "" : "none";
      set(now.points[i], `Context point ${i + 1}`);
    });
    gaps.range = [0, Math.max(0.5, ...found.distances.slice(0, 2)) * 1.1];
    gaps.yTicks = gaps.range[1] > 2.5 ? [0, 2, 4] : gaps.range[1] > 1.2 ? [0, 1, 2] : [0, 0.5, 1];
    gaps.yTicks = gaps.yTicks.filter((v) => v <= gaps.range[1]);
    gaps.fit(gaps.width + gaps.margin.left + gaps.margin.right);
    const at = (n, r, colour) => svg("circle", { cx: gaps.X(n), cy: gaps.Y(found.distances[n]), r, style: `fill: var(${colour})` });
    gaps.lines.replaceChildren(
      svg("path", { d: gaps.path(found.distances.map((_, n) => n), found.distances), class: "mlb-line", ...stroke("--mlb-muted", 2) }),
      ...found.distances.map((_, n) => at(n, 2.5, "--mlb-muted")), at(now.steps, 6, "--mlb-maml"),
    );
    kind.set(now.kind);
    for (const [name, { set }] of Object.entries(sliders)) set(now[name]);
    sliders.seed.node.style.visibility = now.kind === "learned" ? "" : "hidden"; // its place stays
    const numbers = (l, from) => [...l, from].map(format);
    body.replaceChildren(
      row("attention", numbers(found.attention, found.fromRidge.attention)), row(counted(now.steps, "step"), numbers(steps, found.fromRidge.steps)),
      row("ridge", numbers(found.ridge, 0)));
    const name = `${counted(now.layers, "layer")} ${now.kind === "built" ? "built by hand" : `learned with seed ${now.seed}`}`;
    const words = `${name[0].toUpperCase()}${name.slice(1)}: the line is ${format(found.distances[now.steps])} away from that of ${counted(now.steps, "gradient step")}.`;
    sentence.textContent = words;
    live.say(words);
    plot.node.setAttribute("aria-label", `${counted(now.shots, "context point")} and three lines: ${name}, ${counted(now.steps, "gradient step")}, ridge regression. ${words}`);
    gaps.node.setAttribute("aria-label", `Distance of the attention's line from that of 0 to ${most} gradient steps: at first ${format(found.distances[0])}, smallest after ${counted(found.nearest, "step")}: ${format(found.distances[found.nearest])}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({ ...now, ...found, all: now.points });
  }

  return lab.follow(draw, watchWidth(stay, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (gaps.fit(width), draw())));
}

export default { render };
