// The lab "What is carried over?": bus lines are tasks, a learner is a start and a rate, and it is judged on lines that it never saw.
//
// A line has a typical delay; days scatter about it. The learner answers with θ = w − α(w − x̄), one inner step from the start w on the K days of
// its support set. Losses are exact: on the training lines the mean over all splits of their days, on new lines the expectation.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { radios } from "./plane.js";
import { announcer, button, clamp, counted, drawer, format, grid, handle, html, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

const LEARNERS = {
  nothing: { name: "nothing", colour: "--mlb-muted", dash: "2 3", width: 2.5 },
  mean: { name: "the mean", colour: "--mlb-fomaml", dash: "8 4", width: 2.5 },
  both: { name: "start and rate", colour: "--mlb-maml", dash: undefined, width: 3.5 },
  hand: { name: "by hand", colour: "--mlb-other-1", dash: "10 3 2 3", width: 2.5 },
};

// -- arithmetic -------------------------------------------------------------------------------------------------------

const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;
const variance = (values) => mean(values.map((v) => (v - mean(values)) ** 2));

/** A line from standard normal numbers: the first makes its typical delay, the others its days. */
export const lineOf = ([z, ...noise], city, spread, sigma) => {
  const typical = city + spread * z;
  return { typical, days: noise.map((e) => typical + sigma * e) };
};

/** What the inner step makes of support days. */
export const answer = ({ start, rate }, support) => start - rate * (start - mean(support));

/** Two numbers are all that the loss needs of the lines: the variance of their means, and the mean of their variances. */
const spreads = (lines) => ({ middle: mean(lines.map(mean)), between: variance(lines.map(mean)), within: mean(lines.map(variance)) });

/** Mean squared error on a day outside the support set, over all ways to draw K of the n days of each line, and over all other days of it. */
export function trainingLoss({ start, rate }, lines, K) {
  const { middle, between, within } = spreads(lines), n = lines[0].length;
  return (1 - rate) ** 2 * ((start - middle) ** 2 + between) + within * (1 + (2 * rate) / (n - 1) + (rate ** 2 * (n - K)) / (K * (n - 1)));
}

/** The start and the rate (from 0 to 1) with the smallest loss on the training lines. */
export function learned(lines, K) {
  const { middle, between, within } = spreads(lines), n = lines[0].length;
  const slope = between + (within * (n - K)) / (K * (n - 1));
  return { start: middle, rate: slope > 0 ? clamp((between - within / (n - 1)) / slope, [0, 1]) : 0 };
}

/** Expected squared error on another day of a new line of a city. */
export const newLoss = ({ start, rate }, city, spread, sigma, K) =>
  (1 - rate) ** 2 * ((start - city) ** 2 + spread ** 2) + (rate ** 2 * sigma ** 2) / K + sigma ** 2;

/** All that the lab shows, for one state. */
export function judged(setup, now) {
  const { sigma, cities, most } = setup, lines = setup.lines[now.lines].slice(0, now.tasks).map((n) => lineOf(n, cities[0], now.spread, sigma));
  const days = lines.map((l) => l.days), city = cities[now.away ? 1 : 0];
  const omegas = (K) => ({ nothing: { start: 0, rate: 1 }, mean: { start: mean(days.map(mean)), rate: 0 }, both: learned(days, K), hand: { start: now.start, rate: now.rate } });
  const over = (losses) => Object.fromEntries(Object.entries(omegas(now.shots)).map(([key, omega]) => [key, losses(omega)]));
  const curves = Object.fromEntries(Object.keys(LEARNERS).map((key) =>
    [key, Array.from({ length: most }, (_, i) => newLoss(omegas(i + 1)[key], city, now.spread, sigma, i + 1))]));
  const line = lineOf(setup.fresh[now.line], city, now.spread, sigma), support = line.days.slice(0, now.shots), omega = omegas(now.shots)[now.learner];
  return {
    lines, line, support, omega, omegas: omegas(now.shots), curves, theta: answer(omega, support), inner: days.map((d) => answer(omega, d.slice(0, now.shots))),
    training: over((o) => trainingLoss(o, days, now.shots)), fresh: over((o) => newLoss(o, city, now.spread, sigma, now.shots)),
  };
}

// -- the lab ----------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const setup = model.get("setup"), drawn = (sets) => kept.whole(0, sets.length - 1);
  const lab = openLab(model, "carried-over", {
    learner: kept.choice(Object.keys(LEARNERS)), start: kept.number(3, [-99, 99]), rate: kept.number(3, [0, 1]), tasks: kept.whole(1, setup.lines[0].length),
    shots: kept.whole(1, setup.most), spread: kept.number(1, [0, 3]), away: kept.flag, lines: drawn(setup.lines), line: drawn(setup.fresh),
  });
  const { state, change } = lab;
  const keys = Object.keys(LEARNERS), look = (key) => stroke(LEARNERS[key].colour, LEARNERS[key].width, LEARNERS[key].dash);
  const byHand = (values) => change({ ...judged(setup, state()).omega, ...values, learner: "hand" });

  // -- the elements -----------------------------------------------------------------------------------------------------

  const plot = new Plot({
    x: [0, 1], y: setup.delays, xTicks: [], yTicks: [-4, 0, 4, 8, 12], xTitle: "", yTitle: "delay, minutes", bottom: 24,
    height: (width) => clamp(0.75 * width, [270, 350]), role: "group",
  });
  const start = handle(plot, { move: ([, y]) => byHand({ start: y }), along: "y" });
  plot.front.append(start.node);
  const curves = new Plot({
    x: [1, setup.most], y: [3.8, 14], log: true, xTicks: [1, 2, 4, 6, 8, 10].filter((k) => k <= setup.most), yTicks: [],
    xTitle: "days of the new line K", yTitle: "loss on new lines, min²", height: () => 215, role: "img",
  });
  const choice = radios("Carried over from the training lines", Object.fromEntries(keys.map((key) => [key, LEARNERS[key].name])), (learner) =>
    (learner === "hand" ? byHand({}) : change({ learner })));
  const body = html("tbody", {}), table = grid(["carried over", "start", "rate", "loss, training lines", "loss, new lines"], body, { "aria-label": "Learners and their losses" });
  const whole = (v) => `${v}`;
  const sliders = {
    rate: slider({ label: "rate α", min: 0, max: 1, step: 0.01, input: (rate) => byHand({ rate }) }),
    tasks: slider({ label: "training lines", min: 1, max: setup.lines[0].length, step: 1, show: whole, input: (tasks) => change({ tasks }) }),
    shots: slider({ label: "days K", min: 1, max: setup.most, step: 1, show: whole, input: (shots) => change({ shots }) }),
    spread: slider({ label: "spread s", min: 0, max: 3, step: 0.1, input: (spread) => change({ spread }) }),
  };
  const places = radios("The new lines are in", { same: "the same city", other: "another city" }, (where) => change({ away: where === "other" }));
  const sentence = html("p", { class: "mlb-sentence" }), remark = html("p", { class: "mlb-note" }), live = announcer();
  const dot = (fill) => svg("circle", { cx: 13, cy: 6, r: 3.5, style: `fill: ${fill}; stroke: var(--mlb-muted); stroke-width: 1.3` });
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" },
      legendKey(dot("var(--mlb-muted)"), "day of the support set"), legendKey(dot("var(--mlb-ground)"), "day of the query set"),
      legendKey(stroke("--mlb-ink", 3), "mean of all days"), legendKey({ d: "M7 6h12", ...stroke("--mlb-pretraining", 4) }, "answer of the learner"),
      legendKey(stroke("--mlb-truth", 2.5, "5 3"), "typical delay, never shown to it")),
    sentence, sliders.tasks.node, sliders.shots.node,
    html("div", { class: "mlb-row" },
      button("Another new line", () => change({ line: (state().line + 1) % setup.fresh.length }), { class: "mlb-main" }),
      button("Other training lines", () => change({ lines: (state().lines + 1) % setup.lines.length }))),
    drawer("The city, and a rate by hand", places.node, sliders.spread.node, sliders.rate.node));
  const right = html("div", {}, choice.node, table, html("div", { class: "mlb-apart" }, curves.node,
    html("p", { class: "mlb-legend" }, ...keys.map((key) => legendKey(look(key), LEARNERS[key].name)), legendKey(stroke("--mlb-ink", 1, "1 3"), "noise of a day"))), remark);
  const bottom = html("div", { class: "mlb-wide" }, html("p", { class: "mlb-note" },
    "Drag the start up or down (arrow keys do it, too) for a learner by hand. From the start the learner goes a share α of the way to the mean of its K days. ",
    "\"Start and rate\" are those with the smallest loss on the training lines, found separately for each K. ",
    `Every training line has ${setup.lines[0][0].length - 1} days: K of them to learn from, the others to judge, averaged over all splits. The loss on new lines is the expectation over the whole city (exact, not only the lines drawn).`));
  const root = lab.frame(el, {
    label: "what is carried over?", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Choose what a learner keeps from the lines it knows: what loses least on new lines?",
    presets: { "One training line": { learner: "both", tasks: 1 }, "Ten days": { learner: "both", shots: setup.most }, "Another city": { learner: "both", away: true } },
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  function drawLines(now, found) {
    const K = now.shots, x = (i) => 0.07 + (0.63 * (i + 0.5)) / now.tasks, at = 0.88, wide = Math.min(0.03, 0.25 / now.tasks);
    const level = (from, to, y, attributes) => svg("path", { d: plot.path([from, to], [y, y]), ...attributes });
    const spot = (cx, y, filled, r) => svg("circle", { cx: plot.X(cx), cy: plot.Y(y), r, style: `fill: var(--mlb-${filled ? "muted" : "ground"}); stroke: var(--mlb-muted); stroke-width: 1.2` });
    const begin = plot.Y(found.omega.start), end = plot.Y(found.theta), px = plot.X(at + 0.035), tip = begin > end ? 5 : -5;
    plot.lines.replaceChildren(
      svg("rect", { x: plot.X(0.76), y: 0, width: plot.X(0.24), height: plot.height, style: "fill: var(--mlb-field)" }),
      svg("text", { x: plot.X(0.38), y: plot.height - 7, "text-anchor": "middle" }, counted(now.tasks, "training line")),
      svg("text", { x: plot.X(at), y: plot.height - 7, "text-anchor": "middle" }, "a new line"),
      level(0, 1, found.omega.start, { class: "mlb-start", ...stroke("--mlb-pretraining", 1.4, "4 4") }),
      ...found.lines.flatMap(({ days }, i) => [
        ...days.map((d, j) => spot(x(i), d, j < K, 2.4)),
        level(x(i) - wide, x(i) + wide, mean(days), stroke("--mlb-ink", 3)), level(x(i) - 0.7 * wide, x(i) + 0.7 * wide, found.inner[i], stroke("--mlb-pretraining", 4)),
      ]),
      level(0.78, 0.98, found.line.typical, { class: "mlb-typical", ...stroke("--mlb-truth", 2.5, "5 3") }),
      ...found.support.map((d) => spot(at - 0.03, d, true, 4)),
      level(at - 0.055, at - 0.005, mean(found.support), stroke("--mlb-ink", 3)),
      svg("path", { d: `M${px} ${begin}V${end}${Math.abs(begin - end) > 8 ? `l-4 ${tip}M${px} ${end}l4 ${tip}` : ""}`, ...stroke("--mlb-pretraining", 2) }),
      level(at + 0.01, at + 0.06, found.theta, { class: "mlb-answer", ...stroke("--mlb-pretraining", 5) }),
    );
    start.set([0.03, clamp(found.omega.start, plot.range)], "The start of the learner");
    start.node.setAttribute("aria-valuetext", `${format(found.omega.start)} minutes`);
  }

  function drawCurves(now, found) {
    [curves.range, curves.yTicks] = now.away ? [[3.8, 60], [4, 6, 10, 20, 40]] : [[3.8, 14], [4, 6, 8, 10, 12]];
    curves.fit(curves.width + curves.margin.left + curves.margin.right);
    const ks = found.curves.nothing.map((_, i) => i + 1), floor = setup.sigma ** 2;
    curves.lines.replaceChildren(
      svg("path", { d: `M${curves.X(now.shots)} 0V${curves.height}`, ...stroke("--mlb-muted", 1) }),
      svg("path", { d: curves.path([1, setup.most], [floor, floor]), ...stroke("--mlb-ink", 1, "1 3") }),
      ...keys.filter((key) => key !== "hand" || now.learner === "hand").map((key) => svg("path", { class: "mlb-curve", d: curves.path(ks, found.curves[key]), ...look(key) })),
      svg("circle", { cx: curves.X(now.shots), cy: clamp(curves.Y(found.fresh[now.learner]), [0, curves.height]), r: 5, style: `fill: var(${LEARNERS[now.learner].colour})` }),
    );
  }

  function draw() {
    if (!plot.width || !curves.width) return; // not on the page yet
    const now = state(), found = judged(setup, now), { training, fresh } = found, key = now.learner;
    drawLines(now, found);
    drawCurves(now, found);
    body.replaceChildren(...keys.map((k) => row(LEARNERS[k].name,
      [found.omegas[k].start, found.omegas[k].rate, training[k], fresh[k]].map(format), { "aria-current": k === key && "true" })));
    choice.set(key);
    sliders.rate.set(found.omega.rate);
    for (const name of ["tasks", "shots", "spread"]) sliders[name].set(now[name]);
    places.set(now.away ? "other" : "same");
    const words = `Carried over: ${LEARNERS[key].name}. From ${counted(now.shots, "day")} with the mean ${format(mean(found.support))} the learner answers ${format(found.theta)}; typical for this line is ${format(found.line.typical)}.`;
    const best = keys.reduce((a, b) => (fresh[b] < fresh[a] - 1e-9 && b !== "hand" ? b : a), "nothing");
    const gap = fresh[key] / training[key], notes = [
      now.away && key !== "nothing" && "These lines come from another city: what was learned about lines does not hold there.",
      !now.away && gap > 1.15 && ["mean", "both"].includes(key) && `On new lines this learner loses ${format(gap)} times what it loses on the training lines, on which it was chosen. The column of the new lines is the one that counts.`,
      `Smallest loss on new lines with ${counted(now.shots, "day")}: ${LEARNERS[best].name} (${format(fresh[best])}).`,
    ].filter(Boolean).join(" ");
    sentence.textContent = words;
    remark.textContent = notes;
    live.say(`${words} ${notes}`);
    plot.node.setAttribute("aria-label", `${counted(now.tasks, "training line")} with their days, and a new line. ${words}`);
    curves.node.setAttribute("aria-label", `Loss on new lines from 1 to ${setup.most} days: ${keys.map((k) => `${LEARNERS[k].name} from ${format(found.curves[k][0])} to ${format(found.curves[k].at(-1))}`).join("; ")}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({ ...now, draw: now.lines, ...found, best });
  }

  return lab.follow(draw, watchWidth(stay, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (curves.fit(width), draw())));
}

export default { render };
