// The lab "Drifting clients": two clients with the losses ½(θ − c)ᵀH(θ − c), federated averaging between them, and where it comes to rest.
//
// The whole path follows from the state (the start, the minima, the settings), so whatever the reader changes, all of it changes.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { lettered, markerPath } from "./methods.js";
import { checkbox, sameScale } from "./plane.js";
import { announcer, counted, drawer, format, grid, html, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

// -- arithmetic -------------------------------------------------------------------------------------------------------

/** The matrix [xx, xy, yy] with the value `flat` along a bowl's valley and `steep` across it. */
export function bowlMatrix({ flat, steep, angle }) {
  const c = Math.cos(angle), s = Math.sin(angle);
  return [flat * c * c + steep * s * s, (flat - steep) * c * s, flat * s * s + steep * c * c];
}

const times = ([xx, xy, yy], [x, y]) => [xx * x + xy * y, xy * x + yy * y];
const minus = (a, b) => [a[0] - b[0], a[1] - b[1]];
const meanOf = (a, b) => [(a[0] + b[0]) / 2, (a[1] + b[1]) / 2];

/** The mean of both clients' losses at a point. */
export function jointLoss(clients, at) {
  const losses = clients.map((client) => {
    const off = minus(at, client.centre), [x, y] = times(bowlMatrix(client), off);
    return (x * off[0] + y * off[1]) / 2;
  });
  return (losses[0] + losses[1]) / 2;
}

/** Where a client is after 0, 1, …, `steps` steps from a point; `shift` is added to every gradient (SCAFFOLD's c − c_k). */
export function localSteps(client, from, steps, rate, shift = [0, 0]) {
  const H = bowlMatrix(client), path = [from];
  for (let i = 0; i < steps; i++) {
    const at = path[i], g = times(H, minus(at, client.centre));
    path.push([at[0] - rate * (g[0] + shift[0]), at[1] - rate * (g[1] + shift[1])]);
  }
  return path;
}

/** θ before the first round and after every one, and both clients' steps in the first round. */
export function averaged(clients, start, { steps, rate, outer_rate, momentum, corrected }, count) {
  const path = [start];
  let velocity = [0, 0], controls = [[0, 0], [0, 0]], first = null;
  for (let n = 0; n < count; n++) {
    const at = path[n], c = meanOf(...controls);
    const locals = clients.map((client, k) => localSteps(client, at, steps, rate, corrected ? minus(c, controls[k]) : [0, 0]));
    first ??= locals;
    const ends = locals.map((local) => local[steps]), delta = minus(at, meanOf(...ends));
    if (corrected)
      controls = controls.map((own, k) => own.map((v, i) => v - c[i] + (at[i] - ends[k][i]) / (steps * rate)));
    velocity = velocity.map((v, i) => momentum * v + delta[i]);
    path.push(at.map((v, i) => v - outer_rate * (delta[i] + momentum * velocity[i]))); // Nesterov's momentum, as PyTorch writes it
  }
  return { path, first };
}

/** The point x with Σ M_k (x − c_k) = 0. */
export function weightedCentre(matrices, centres) {
  const [xx, xy, yy] = matrices[0].map((v, i) => v + matrices[1][i]), parts = matrices.map((M, k) => times(M, centres[k]));
  const [x, y] = [parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]], det = xx * yy - xy * xy;
  return [(yy * x - xy * y) / det, (xx * y - xy * x) / det];
}

/** The minimum of the mean loss: the centres weighed by curvature. */
export const jointMinimum = (clients) => weightedCentre(clients.map(bowlMatrix), clients.map((c) => c.centre));

/** Where averaging comes to rest: the centres weighed by I − (I − ηH)ᵘ. */
export function restingPoint(clients, steps, rate) {
  const moved = (curvature) => 1 - (1 - rate * curvature) ** steps;
  return weightedCentre(clients.map((c) => bowlMatrix({ flat: moved(c.flat), steep: moved(c.steep), angle: c.angle })), clients.map((c) => c.centre));
}

/** Points of the ellipse on which a client's loss has one value. */
export function ellipse({ flat, steep, angle, centre }, level, points = 90) {
  const c = Math.cos(angle), s = Math.sin(angle), [a, b] = [Math.sqrt((2 * level) / flat), Math.sqrt((2 * level) / steep)];
  return Array.from({ length: points + 1 }, (_, i) => {
    const t = (2 * Math.PI * i) / points, u = a * Math.cos(t), v = b * Math.sin(t);
    return [centre[0] + c * u - s * v, centre[1] + s * u + c * v];
  });
}

// -- the lab ----------------------------------------------------------------------------------------------------------

const LEVELS = [1, 2, 3, 4, 5].map((n) => 0.12 * n * n);
const NEAR = 0.05;
const NAMES = [
  { name: "A", colour: "--mlb-other-1", dash: undefined },
  { name: "B", colour: "--mlb-other-2", dash: "6 4" },
];

function render({ model, el }) {
  const setup = model.get("setup"), { x_range, y_range, rounds } = setup, place = kept.numbers(2, x_range, y_range);
  const lab = openLab(model, "drifting-clients", {
    theta: place, centres: kept.list(place, 2, 2, ";"), steps: kept.whole(1, setup.most_steps), rate: kept.number(2, setup.rates),
    outer_rate: kept.number(2, setup.outer), momentum: kept.number(2, setup.momenta), corrected: kept.flag,
  });
  const { state, change } = lab;
  const plot = new Plot({
    x: x_range, y: y_range, xTicks: [-3, -2, -1, 0, 1, 2, 3], yTicks: [-2, -1, 0, 1, 2], xTitle: "θ₁", yTitle: "θ₂", bottom: 22,
    height: sameScale(x_range, y_range, 22), role: "group",
  });
  const marks = svg("g", { "aria-hidden": "true" });
  plot.front.append(marks);
  const centres = NAMES.map(({ name, colour }, i) =>
    lettered(plot, name, (point) => change({ centres: state().centres.map((c, j) => (j === i ? point : c)) }), `color: var(${colour})`));
  const start = lettered(plot, "θ", (theta) => change({ theta }), "color: var(--mlb-ink)");

  const steps = slider({ label: "local steps u", min: 1, max: setup.most_steps, step: 1, show: (v) => `${v}`, input: (v) => change({ steps: v }) });
  const rate = slider({ label: "local rate η", min: setup.rates[0], max: setup.rates[1], step: 0.01, show: (v) => v.toFixed(2), input: (v) => change({ rate: v }) });
  const momentum = slider({ label: "outer momentum μ", min: setup.momenta[0], max: setup.momenta[1], step: 0.05, show: (v) => v.toFixed(2), input: (v) => change({ momentum: v }) });
  const outer = slider({ label: "outer rate", min: setup.outer[0], max: setup.outer[1], step: 0.05, show: (v) => v.toFixed(2), input: (v) => change({ outer_rate: v }) });
  const corrected = checkbox("SCAFFOLD's correction", (on) => change({ corrected: on }));
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer(), numbers = html("tbody", {});

  const star = { key: "reptile", size: 8 };
  const ring = (x, y, r) => svg("circle", { cx: x, cy: y, r, class: "mlb-rest", style: "fill: none; stroke: var(--mlb-pretraining); stroke-width: 3" });
  const goal = (x, y) => svg("path", { d: markerPath(star, x, y), class: "mlb-best", style: "fill: var(--mlb-truth); stroke: var(--mlb-ground); stroke-width: 1.5" });
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" },
      ...NAMES.map((c) => legendKey({ ...stroke(c.colour, 2, c.dash) }, `client ${c.name}: loss, first steps`)),
      legendKey(stroke("--mlb-ink", 2.5), "the average, round by round"),
      legendKey(goal(13, 6), "minimum of the mean loss"), legendKey(ring(13, 6, 4.5), "where the average rests")));
  const right = html("div", {}, steps.node, rate.node, momentum.node, corrected.node, sentence,
    grid(["", "θ₁", "θ₂", "mean loss"], numbers),
    drawer("Outer rate", outer.node));
  const bottom = html("p", { class: "mlb-note mlb-wide" },
    `Each client takes u gradient steps from θ on its own loss; the server moves θ to the mean of the two ends (outer rate 1, no momentum), and so on for ${rounds} rounds. `,
    "Arrow keys move θ, A and B, too (with Shift: further).");
  const root = lab.frame(el, {
    label: "drifting clients", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Let the average of A and B come to rest on the green mark in as few rounds as you can.",
    presets: { "60 local steps": { steps: 60 }, "60 steps, corrected": { steps: 60, corrected: true }, "1 step, momentum": { momentum: 0.9 } },
  });

  const line = (points, look) => svg("path", { d: plot.path(points.map((p) => p[0]), points.map((p) => p[1])), ...look });
  const dots = (points, colour, r) => points.slice(1).map(([x, y]) => svg("circle", { cx: plot.X(x), cy: plot.Y(y), r, style: `fill: var(${colour})` }));

  function draw() {
    if (!plot.width) return; // not on the page yet
    const now = state(), clients = setup.clients.map((shape, i) => ({ ...shape, centre: now.centres[i] }));
    const { path, first } = averaged(clients, now.theta, now, rounds);
    const best = jointMinimum(clients), rest = now.corrected ? best : restingPoint(clients, now.steps, now.rate), end = path[rounds];
    const far = ([x, y]) => Math.hypot(x - rest[0], y - rest[1]);
    const last = path.findLastIndex((point) => !(far(point) < NEAR)), needed = last < rounds ? last + 1 : null;
    plot.lines.replaceChildren(
      ...clients.flatMap((client, i) => LEVELS.map((level) => line(ellipse(client, level), { ...stroke(NAMES[i].colour, 1.1, NAMES[i].dash), class: "mlb-contour" }))),
      ...first.flatMap((local, i) => [line(local, { ...stroke(NAMES[i].colour, 2.5, NAMES[i].dash), class: "mlb-local" }), ...dots(local, NAMES[i].colour, 2.5)]),
      line(path, { ...stroke("--mlb-ink", 2.5), class: "mlb-averaged" }), ...dots(path, "--mlb-ink", 2.5),
    );
    const there = ([x, y]) => [plot.X(x), plot.Y(y)];
    marks.replaceChildren(goal(...there(best)), ring(...there(rest), 9));
    clients.forEach(({ centre }, i) => centres[i].set(centre, `Minimum of client ${NAMES[i].name}`));
    start.set(now.theta, "The first model θ");
    steps.set(now.steps);
    rate.set(now.rate);
    outer.set(now.outer_rate);
    momentum.set(now.momentum);
    corrected.set(now.corrected);
    const table = { "joint minimum": best, "resting point": rest, [`after ${rounds} rounds`]: end };
    numbers.replaceChildren(...Object.entries(table).map(([name, point]) => row(name, [...point, jointLoss(clients, point)].map(format))));
    const off = Math.hypot(rest[0] - best[0], rest[1] - best[1]);
    const place = off < 0.005 ? "on the minimum of the mean loss" : `${format(off)} away from the minimum of the mean loss`;
    const when = needed === null ? `after ${rounds} rounds it is not there yet` : `it is there (to ${NEAR}) after ${counted(needed, "round")}`;
    const words = `With ${counted(now.steps, "local step")} the average comes to rest ${place}; ${when}, ${counted((needed ?? rounds) * now.steps, "local step")} of each client.`;
    sentence.textContent = words;
    live.say(words);
    plot.node.setAttribute("aria-label", `Contour lines of two bowls with minima at (${now.centres[0].map(format).join(", ")}) and (${now.centres[1].map(format).join(", ")}), and the path of their averaged model. ${words}`);
    root.dataset.state = JSON.stringify({ ...now, path, first, best, rest, needed, losses: Object.values(table).map((p) => jointLoss(clients, p)) });
  }

  return lab.follow(draw, watchWidth(stay, (width) => (plot.fit(width), draw())));
}

export default { render };
