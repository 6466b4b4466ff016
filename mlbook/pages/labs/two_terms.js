// The lab "Two terms": the expansion of a meta-gradient in AvgGrad and AvgGradInner beside the meta-gradient itself.
//
// The mini-batches of the task come from Python in `setup`; the arithmetic is in expansion.js. What the reader changes lies
// in the model's traits.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { averages, COEFFICIENTS, derivatives, exact, expansion, METHODS, remainders } from "./expansion.js";
import { contours, LogLogPlot, power } from "./contours.js";
import { arrow, checkbox, sameScale } from "./plane.js";
import { announcer, barChoices, clamp, format, grid, handle, html, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

const ALPHAS = Array.from({ length: 11 }, (_, i) => 10 ** (-3 + i / 4)); // of the curves: from 0.001 to 0.32
const ARROW = 1.9; // length of the first term's arrow in units of the plane

/** Three significant digits or so, small numbers as multiples of powers of ten. */
export function scientific(number) {
  if (!(Math.abs(number) < 0.001) || number === 0) return format(number);
  const n = Math.floor(Math.log10(Math.abs(number)));
  return `${(number / 10 ** n).toFixed(1)}·${power(n)}`;
}

function render({ model, el }) {
  const { batches, x_range, y_range, steps_range, rate_range } = model.get("setup");
  const lab = openLab(model, "two-terms", {
    phi: kept.numbers(2, x_range, y_range), inner_steps: kept.whole(...steps_range), inner_lr: kept.number(5, rate_range),
    method: kept.choice(METHODS), same_batch: kept.flag,
  });
  const { state, change } = lab;

  // -- the elements -----------------------------------------------------------------------------------------------------

  const colours = { first: "--mlb-pretraining", second: "--mlb-other-1", both: "--mlb-ink", exact: "--mlb-truth" };
  const looks = {
    first: stroke(colours.first, 3), second: stroke(colours.second, 3), sum: stroke(colours.both, 2, "5 4"),
    exact: stroke(colours.exact, 8), both: stroke(colours.both, 3), batch: stroke("--mlb-muted", 1.2), guide: stroke("--mlb-muted", 1.5, "2 4"),
  };

  const plot = new Plot({
    x: x_range, y: y_range, xTicks: [-3, -2, -1, 0, 1, 2, 3], yTicks: [-2, -1, 0, 1, 2], xTitle: "φ, first parameter", yTitle: "second parameter",
    bottom: 38, height: sameScale(x_range, y_range, 38), role: "group",
  });
  const point = handle(plot, { move: (phi) => change({ phi }) });
  plot.front.append(point.node);
  const errors = new LogLogPlot({
    x: [ALPHAS[0], ALPHAS.at(-1)], y: [1e-6, 10], xTicks: [-3, -2, -1].map(power), yTicks: [-6, -5, -4, -3, -2, -1, 0, 1].map(power),
    xTitle: "inner rate α", yTitle: "error ÷ length of the first term", height: () => 250, role: "img",
  });

  const choices = barChoices("Method, and the ratio of its second coefficient to its first", METHODS, () => `color: var(${colours.second})`, (method) => change({ method }));
  const sliders = {
    inner_steps: slider({ label: "losses k", min: steps_range[0], max: steps_range[1], step: 1, show: (v) => `${v}`, input: (v) => change({ inner_steps: v }) }),
    inner_lr: slider({
      label: "inner rate α", min: Math.log10(rate_range[0]), max: Math.log10(rate_range[1]), step: 0.02, show: (v) => (10 ** v).toPrecision(2),
      input: (v) => change({ inner_lr: clamp(Number((10 ** v).toPrecision(3)), rate_range) }),
    }),
  };
  const same = checkbox("the same mini-batch for all k losses", (same_batch) => change({ same_batch }));
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const said = { both: html("span", {}), first: html("span", {}) }, rows = html("tbody", {});
  const table = grid(["", "first coefficient", "second", "error, both terms", "error, first alone"], rows);

  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" },
      legendKey(looks.first, "AvgGrad term"), legendKey(looks.second, "AvgGradInner term"), legendKey(looks.sum, "their sum: the expansion"),
      legendKey(looks.exact, "exact"), legendKey(looks.batch, "one mini-batch alone")),
    sentence, sliders.inner_steps.node, sliders.inner_lr.node, same.node);
  const right = html("div", {},
    choices.node,
    html("div", { class: "mlb-apart" }, errors.node,
      html("p", { class: "mlb-legend" }, legendKey(looks.first, said.first), legendKey(looks.both, said.both), legendKey(looks.guide, "guides: slopes 1 and 2"))));
  const bottom = html("div", { class: "mlb-wide" },
    html("details", {}, html("summary", {}, "Coefficients and errors of all methods in numbers"), table),
    html("p", { class: "mlb-note" },
      "Arrow keys move φ, too (with Shift: further). Arrows show the step of the outer loop, minus the meta-gradient; ",
      "the AvgGrad term is always drawn equally long, and the others on its scale. ",
      "Each of the k losses is a mini-batch drawn independently; a tick in the box takes this assumption away. ",
      `The thin lines are contours of the task loss, the mean over its ${batches.length} mini-batches.`));
  const root = lab.frame(el, {
    label: "the two terms of a meta-gradient", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Double α, change the method, or drag φ: how far do the two terms end from the exact arrow?",
    presets: { "α = 0.01": { inner_lr: 0.01 }, "Too far to expand": { inner_lr: 0.2, inner_steps: 8 }, "One mini-batch for all": { same_batch: true } },
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const loss = (x, y) => batches.reduce((sum, b) => sum + derivatives(b, x, y).loss, 0) / batches.length;
  let known = "", truths = [], hills = []; // of the curves, for all methods: independent of α and of the method
  function compute({ phi, inner_steps, same_batch }) {
    const now = JSON.stringify([phi, inner_steps, same_batch]);
    if (now !== known) truths = ALPHAS.map((alpha) => exact(batches, phi, inner_steps, alpha, same_batch));
    known = now;
  }

  function drawPlane({ phi }, unit, { first, second, sum }, truth) {
    const step = (v, from = phi) => from.map((p, i) => p - unit * v[i]); // the outer loop goes against the meta-gradient
    const scale = Math.hypot(...first) / Math.hypot(...averages(batches, phi).gradient); // Reptile adds k gradients up
    plot.lines.replaceChildren(
      ...hills.map((d) => svg("path", { d, ...stroke("--mlb-edge", 1) })),
      ...batches.map((b) => derivatives(b, ...phi)).map(({ gx, gy }) => arrow(plot, phi, step([scale * gx, scale * gy]), looks.batch)),
      arrow(plot, phi, step(truth), looks.exact), arrow(plot, phi, step(first), looks.first),
      arrow(plot, step(first), step(second, step(first)), looks.second), arrow(plot, phi, step(sum), looks.sum),
    );
    point.set(phi, "φ, where the meta-gradient is taken");
  }

  function drawErrors({ inner_lr }, curve, at) {
    const from = ALPHAS[0], line = (ys, attributes) => svg("path", { d: errors.path(ALPHAS, ys), ...attributes });
    const guide = (value, slope) => line(ALPHAS.map((a) => value * (a / from) ** slope), looks.guide);
    const firsts = curve.map((c) => c.first), boths = curve.map((c) => c.both);
    errors.lines.replaceChildren(
      guide(firsts[0], 1), guide(boths[0], 2), line(firsts, looks.first), line(boths, looks.both),
      svg("path", { d: `M${errors.X(inner_lr)} 0V${errors.height}`, ...stroke("--mlb-muted", 1) }),
    );
    const dot = (value, colour) =>
      Number.isFinite(value) ? svg("circle", { cx: errors.X(inner_lr), cy: clamp(errors.Y(value), [0, errors.height]), r: 5, style: `fill: var(${colour})` }) : "";
    errors.front.replaceChildren(dot(at.first, colours.first), dot(at.both, colours.both));
  }

  function draw() {
    if (!plot.width || !errors.width) return; // not on the page yet
    const now = state(), { phi, inner_steps: k, inner_lr, method } = now;
    compute(now);
    const truth = exact(batches, phi, k, inner_lr, now.same_batch), terms = expansion(batches, phi, k, inner_lr, method);
    const curve = truths.map((t, i) => remainders(batches, phi, k, ALPHAS[i], method, t));
    const at = Object.fromEntries(METHODS.map((m) => [m, remainders(batches, phi, k, inner_lr, m, truth)]));
    const slope = (name) => Math.log(curve[1][name] / curve[0][name]) / Math.log(ALPHAS[1] / ALPHAS[0]);
    const slopes = { both: slope("both"), first: slope("first") };
    drawPlane(now, ARROW / Math.hypot(...terms.first), terms, truth[method]);
    drawErrors(now, curve, at[method]);

    const coefficients = Object.fromEntries(METHODS.map((m) => [m, COEFFICIENTS[m](k, inner_lr)])), ratio = (m) => coefficients[m][1] / coefficients[m][0];
    choices.set((i) => {
      const words = scientific(ratio(METHODS[i]));
      return { chosen: METHODS[i] === method, width: (100 * ratio(METHODS[i])) / ratio("MAML"), words, description: `ratio ${words}` };
    });
    rows.replaceChildren(...METHODS.map((m) => row(m, [...coefficients[m], at[m].both, at[m].first].map(scientific), { "aria-current": m === method && "true" })));
    sliders.inner_steps.set(k);
    sliders.inner_lr.set(Math.log10(inner_lr));
    same.set(now.same_batch);
    said.first.textContent = `first term alone, slope ${format(slopes.first)}`;
    said.both.textContent = `both terms, slope ${format(slopes.both)}`;
    const pair = (v) => v.map(format).join(", ");
    plot.node.setAttribute("aria-label", `At φ (${pair(phi)}): the terms are (${pair(terms.first)}) and (${pair(terms.second)}), their sum (${pair(terms.sum)}), the exact meta-gradient (${pair(truth[method])}).`);
    errors.node.setAttribute("aria-label", `Error of the expansion over α from ${format(ALPHAS[0])} to ${format(ALPHAS.at(-1))}, relative to the first term. Both terms: from ${scientific(curve[0].both)} to ${scientific(curve.at(-1).both)}; at the left slope ${format(slopes.both)}. First term alone: from ${scientific(curve[0].first)} to ${scientific(curve.at(-1).first)}; slope ${format(slopes.first)}.`);
    const words = `${method}, k = ${k}, α = ${inner_lr.toPrecision(2)}: the two terms miss the exact meta-gradient by ${scientific(at[method].both)} of the first term's length, the first term alone by ${scientific(at[method].first)}.`;
    sentence.textContent = words;
    live.say(words);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Overflow becomes null.
    root.dataset.state = JSON.stringify({
      ...now, ...averages(batches, phi), coefficients, terms, exact: truth, remainders: at, slopes,
      alphas: ALPHAS, curve: { both: curve.map((c) => c.both), first: curve.map((c) => c.first) },
    });
  }

  function fit(width) {
    plot.fit(width);
    hills = contours(plot, loss, [0.5, 1, 2, 4, 8, 16, 32]);
    draw();
  }
  return lab.follow(draw, watchWidth(stay, fit), watchWidth(right, (width) => (errors.fit(width), draw())));
}

export default { render };
