// The lab "The estimator playground": three estimates of the gradient of a mean loss over a discrete choice, whose truth is known.
//
// Option k gives v_k, a choice b (hard or soft) costs (b·v − t)², and p = softmax(π). The numbers of equal draws serve all temperatures.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { announcer, button, clamp, drawer, format, grid, handle, html, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

export const METHODS = ["Gumbel-softmax", "REINFORCE", "RELAX"];
const LOOKS = [stroke("--mlb-fomaml", 3, "9 4"), stroke("--mlb-random", 3, "2 4"), stroke("--mlb-truth", 3.5)];
const TINY = 1e-12;

// -- arithmetic -------------------------------------------------------------------------------------------------------

/** n numbers strictly between 0 and 1, the same for the same seed (mulberry32). */
export function uniforms(seed, n) {
  let a = seed >>> 0;
  return Float64Array.from({ length: n }, () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  });
}

export function softmax(x) {
  const top = Math.max(...x), e = x.map((v) => Math.exp(v - top)), sum = e.reduce((s, v) => s + v, 0);
  return e.map((v) => v / sum);
}

const dot = (a, b) => a.reduce((sum, v, k) => sum + v * b[k], 0);

/** f of the soft choice softmax(z / temperature), and its derivative in z. */
export function softLoss({ outputs, target }, z, temperature) {
  const s = softmax(z.map((v) => v / temperature)), mean = dot(s, outputs), off = mean - target;
  return { value: off * off, slope: s.map((share, k) => (2 * off * share * (outputs[k] - mean)) / temperature) };
}

/** dJ/dπ exactly: p_k (f_k − J). */
export function truth({ outputs, target, logits }) {
  const p = softmax(logits), f = outputs.map((v) => (v - target) ** 2), J = dot(p, f);
  return p.map((share, k) => share * (f[k] - J));
}

/** From z's derivative to that in the logits, where only log p depends on them and z_k has the derivative `by[k]` in log p_k. */
const toLogits = (slope, p, by) => {
  const parts = slope.map((v, k) => v * by[k]), sum = parts.reduce((s, v) => s + v, 0);
  return parts.map((v, k) => v - p[k] * sum);
};

/** One estimate of each method from uniform numbers u and v: {Gumbel-softmax, REINFORCE, RELAX}, each a gradient in the logits. */
export function estimates(problem, u, v, temperature, scale) {
  const p = softmax(problem.logits), ones = p.map(() => 1);
  const z = p.map((share, k) => Math.log(Math.max(share, TINY)) - Math.log(-Math.log(u[k])));
  const b = z.indexOf(Math.max(...z)), f = (problem.outputs[b] - problem.target) ** 2;
  const score = p.map((share, k) => Number(k === b) - share);
  const soft = softLoss(problem, z, temperature), gumbel = toLogits(soft.slope, p, ones);
  // z̃: another draw of z in which b is the largest
  const top = -Math.log(v[b]), hidden = p.map((share, k) => -Math.log(v[k]) / Math.max(share, TINY));
  const again = p.map((_, k) => (k === b ? -Math.log(top) : -Math.log(hidden[k] + top)));
  const other = softLoss(problem, again, temperature);
  const back = toLogits(other.slope, p, p.map((_, k) => (k === b ? 0 : hidden[k] / (hidden[k] + top))));
  return [gumbel, score.map((s) => f * s), score.map((s, k) => (f - scale * other.value) * s + scale * (gumbel[k] - back[k]))];
}

/** Over all draws: the mean of each method, how far it is from the truth, the 95 % noise of that, and the spread of one draw. */
export function measure(problem, numbers, draws, temperature, scale) {
  const K = problem.outputs.length, wanted = truth(problem);
  const sums = METHODS.map(() => new Float64Array(K)), squares = METHODS.map(() => new Float64Array(K));
  for (let i = 0; i < draws; i++) {
    const u = numbers.subarray(2 * K * i, 2 * K * i + K), v = numbers.subarray(2 * K * i + K, 2 * K * (i + 1));
    estimates(problem, u, v, temperature, scale).forEach((g, m) => {
      for (let k = 0; k < K; k++) (sums[m][k] += g[k]), (squares[m][k] += g[k] * g[k]);
    });
  }
  return METHODS.map((_, m) => {
    const mean = [...sums[m]].map((s) => s / draws);
    const variance = mean.reduce((sum, v, k) => sum + ((squares[m][k] / draws - v * v) * draws) / (draws - 1), 0);
    const spread = Math.sqrt(Math.max(0, variance));
    return { mean, spread, off: Math.hypot(...mean.map((v, k) => v - wanted[k])), noise: (1.96 * spread) / Math.sqrt(draws) };
  });
}

// -- the lab ----------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const setup = model.get("setup"), K = model.get("outputs").length;
  const lab = openLab(model, "choice-gradients", {
    outputs: kept.list(kept.number(2, setup.outputs), K), target: kept.number(2, setup.outputs), logits: kept.list(kept.number(2, setup.logits), K),
    temperature: kept.number(2, setup.temperature), scale: kept.number(2, setup.scale), seed: kept.whole(1, 2 ** 31 - 1),
  });
  const { state, change, initial } = lab;
  const [low, high] = setup.temperature, heats = Array.from({ length: 20 }, (_, i) => low + ((high - low) * i) / 19);
  const put = (name, k, value) => change({ [name]: state()[name].map((old, j) => (j === k ? value : old)) });

  // -- the elements -----------------------------------------------------------------------------------------------------

  const bars = new Plot({
    x: [0.4, K + 0.6], y: setup.outputs, xTicks: Array.from({ length: K }, (_, k) => k + 1), yTicks: [-2, -1, 0, 1, 2],
    xTitle: "option", yTitle: "what an option gives", height: () => 260, role: "group",
  });
  const heat = { x: [0, high], xTicks: [0.5, 1, 1.5, 2], xTitle: "temperature", height: () => 185, role: "img" };
  const bias = new Plot({ ...heat, y: [0, 0.6], yTicks: [0, 0.2, 0.4, 0.6], yTitle: "mean's distance from the truth" });
  const spread = new Plot({ ...heat, y: [0.03, 10], log: true, yTicks: [0.1, 1, 10], yTitle: "standard deviation of one draw" });
  const two = (v) => v.toFixed(2).replace("-", "−");
  const sliders = {
    target: slider({ label: "wanted t", min: setup.outputs[0], max: setup.outputs[1], step: 0.05, show: two, input: (target) => change({ target }) }),
    temperature: slider({ label: "temperature", min: low, max: high, step: 0.05, show: two, input: (temperature) => change({ temperature }) }),
    scale: slider({ label: "control scale", min: setup.scale[0], max: setup.scale[1], step: 0.05, show: two, input: (scale) => change({ scale }) }),
  };
  const logits = initial.logits.map((_, k) => slider({ label: `logit of ${k + 1}`, min: setup.logits[0], max: setup.logits[1], step: 0.1, input: (v) => put("logits", k, v) }));
  const body = html("tbody", {});
  const table = grid(["", ["off by", "distance of the mean from the truth"], ["noise", "what 95 percent of means are off by chance"], ["one draw", "standard deviation of one draw"]], body, { "aria-label": "The three estimates" });
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const stay = html("div", { class: "mlb-stay" }, bars.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" }, legendKey(stroke("--mlb-maml", 8), "output; width: its probability"), legendKey(stroke("--mlb-pretraining", 2, "6 4"), "wanted t")),
    sentence, sliders.temperature.node, sliders.scale.node, html("div", { class: "mlb-row" }, button("New draws", () => change({ seed: (state().seed % 1000) + 1 }))),
    drawer("Wanted value, probabilities of the options", sliders.target.node, ...logits.map((s) => s.node)));
  const right = html("div", {}, table, html("div", { class: "mlb-apart" }, bias.node), spread.node,
    html("p", { class: "mlb-legend" }, ...METHODS.map((name, m) => legendKey(LOOKS[m], name))));
  const bottom = html("div", { class: "mlb-wide" }, html("p", { class: "mlb-note" },
    "Arrow keys move the end of a bar, too (with Shift: further). ",
    `Every point of a curve is made of ${setup.draws} draws. The control variate of RELAX is the scale times the loss of the soft choice; at a scale of 0 RELAX is REINFORCE.`));
  const root = lab.frame(el, {
    label: "the estimator playground", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Drag the bars, change the temperature: which estimate is off, and which varies most?",
    presets: { "Low temperature": { temperature: setup.temperature[0] }, "No control variate": { scale: 0 }, "Too much of it": { scale: setup.scale[1] } },
  });
  const grips = initial.outputs.map((_, k) => handle(bars, { move: ([, y]) => put("outputs", k, y), along: "y" }));
  bars.front.append(...grips.map((g) => g.node));

  // -- drawing ----------------------------------------------------------------------------------------------------------

  let known = "", curves = null, drawn = 0, numbers = null;
  function compute(now) {
    if (drawn !== now.seed) [drawn, numbers] = [now.seed, uniforms(now.seed, 2 * K * setup.draws)];
    const { temperature, ...rest } = now, key = JSON.stringify(rest);
    if (key !== known) [known, curves] = [key, heats.map((t) => measure(now, numbers, setup.draws, t, now.scale))];
    return measure(now, numbers, setup.draws, temperature, now.scale);
  }

  function draw() {
    if (!bars.width || !bias.width) return; // not on the page yet
    const now = state(), found = compute(now), p = softmax(now.logits), zero = bars.Y(0), Yt = bars.Y(now.target);
    const widest = bars.width / (K + 0.2);
    bars.lines.replaceChildren(
      svg("path", { d: `M0 ${zero}H${bars.width}`, ...stroke("--mlb-muted", 1.5) }),
      ...now.outputs.map((v, k) => svg("rect", { x: bars.X(k + 1) - (widest * p[k]) / 2, width: widest * p[k], y: Math.min(zero, bars.Y(v)), height: Math.abs(bars.Y(v) - zero), style: "fill: var(--mlb-maml); opacity: 0.75" })),
      svg("path", { d: `M0 ${Yt}H${bars.width}`, ...stroke("--mlb-pretraining", 2, "6 4") }));
    now.outputs.forEach((v, k) => {
      grips[k].set([k + 1, v], `Output of option ${k + 1}`);
      grips[k].node.setAttribute("aria-valuetext", `${format(v)}, chosen with probability ${p[k].toFixed(2)}`);
    });
    const mark = (plot) => svg("path", { d: `M${plot.X(now.temperature)} 0V${plot.height}`, ...stroke("--mlb-muted", 1) });
    for (const [plot, of] of [[bias, "off"], [spread, "spread"]])
      plot.lines.replaceChildren(mark(plot),
        ...METHODS.map((name, m) => svg("path", { d: plot.path(heats, curves.map((c) => c[m][of])), ...LOOKS[m] })),
        ...METHODS.map((name, m) => svg("circle", { cx: plot.X(now.temperature), cy: clamp(plot.Y(found[m][of]), [0, plot.height]), r: 4.5, style: `fill: ${/color: ([^;]+)/.exec(LOOKS[m].style)[1]}` })));
    const biased = found.map(({ off, noise }) => off > 2 * noise);
    body.replaceChildren(...METHODS.map((name, m) => row(name, [format(found[m].off), `±${format(found[m].noise)}`, format(found[m].spread)], biased[m] ? { "aria-current": "true" } : {})));
    for (const name of Object.keys(sliders)) sliders[name].set(now[name]);
    logits.forEach((s, k) => s.set(now.logits[k]));
    const of = METHODS.filter((_, m) => biased[m]), ratio = (found[2].spread / found[1].spread) ** 2;
    const words = `${of.length ? `${of.join(" and ")} ${of.length > 1 ? "are" : "is"} off by more than chance explains` : "No estimate is off by more than chance explains"}. ` +
      (Number.isFinite(ratio) ? `One draw of RELAX has ${format(ratio)} times the variance of REINFORCE, one of Gumbel-softmax ${format((found[0].spread / found[1].spread) ** 2)} times.` : "");
    sentence.textContent = words;
    live.say(words);
    bars.node.setAttribute("aria-label", `Four options give ${now.outputs.map(format).join(", ")}; wanted is ${format(now.target)}.`);
    for (const [plot, of, what] of [[bias, "off", "Distance of the mean from the truth"], [spread, "spread", "Standard deviation of one draw"]])
      plot.node.setAttribute("aria-label", `${what} over the temperature; at ${two(now.temperature)}: ${METHODS.map((name, m) => `${name} ${format(found[m][of])}`).join(", ")}.`);
    root.dataset.state = JSON.stringify({ ...now, truth: truth(now), found });
  }

  return lab.follow(draw, watchWidth(stay, (width) => (bars.fit(width), draw())), watchWidth(right, (width) => (bias.fit(width), spread.fit(width), draw())));
}

export default { render };
