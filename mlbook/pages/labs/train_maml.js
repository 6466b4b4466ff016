// The lab "Train MAML": checkpoints of one training, and at each of them the inner step as it is beside the step that a network
// which is linear in its parameters would take.
//
// Python hands over `weights` (the checkpoints, coded as coded_path.py says) and `setup` (their meta-steps, the mean errors over many
// waves at each, the ranges). Curves and errors of the wave on the screen are computed here.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { countParameters, innerPath, layersOf, meanSquaredError, predict } from "./network.js";
import { announcer, button, clamp, counted, drawer, format, grid, handle, html, inPercent, legendKey, player, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";
import { anotherTask } from "./waves.js";

/** The checkpoints as coded_path.py wrote them: the first as float32, then differences, of each layer its weight and its bias. */
export function unpackPath(view, sizes) {
  const data = new DataView(view.buffer, view.byteOffset, view.byteLength), layers = layersOf(sizes), first = new Float64Array(layers.at(-1).end);
  for (let i = 0; i < first.length; i++) first[i] = data.getFloat32(4 * i, true);
  const path = [first];
  let at = 4 * first.length;
  const block = (next, start, rows, length) => {
    const size = data.getUint8(at), codes = at + 1 + 4 * rows;
    for (let r = 0, i = 0; r < rows; r++) {
      const scale = data.getFloat32(at + 1 + 4 * r, true);
      for (let c = 0; c < length; c++, i++) {
        const code = size === 2 ? data.getInt16(codes + 2 * i, true) : data.getInt8(codes + i);
        next[start + i] = Math.fround(next[start + i] + code * scale);
      }
    }
    at = codes + size * rows * length;
  };
  while (at < data.byteLength) {
    const next = path.at(-1).slice();
    for (const { inputs, outputs, weight, bias } of layers) {
      const large = inputs > 1 && outputs > 1;
      block(next, weight, large ? outputs : 1, large ? inputs : inputs * outputs);
      block(next, bias, 1, outputs);
    }
    path.push(next);
  }
  return path;
}

/** J(x)·Δ for each x: how fast the answers change when θ moves along Δ, by carrying both through the layers. */
export function changeAlong(sizes, theta, delta, xs) {
  const layers = layersOf(sizes);
  return xs.map((x) => {
    let values = Float64Array.of(x), slopes = Float64Array.of(0);
    layers.forEach(({ inputs, outputs, weight, bias }, l) => {
      const nextValues = new Float64Array(outputs), nextSlopes = new Float64Array(outputs);
      for (let o = 0, w = weight; o < outputs; o++) {
        let value = theta[bias + o], slope = delta[bias + o];
        for (let i = 0; i < inputs; i++, w++) {
          value += theta[w] * values[i];
          slope += theta[w] * slopes[i] + delta[w] * values[i];
        }
        if (l < layers.length - 1 && !(value > 0)) continue; // a shut ReLU: zero, and its slope is zero
        nextValues[o] = value;
        nextSlopes[o] = slope;
      }
      [values, slopes] = [nextValues, nextSlopes];
    });
    return slopes[0];
  });
}

/** Where units of the first layer open or shut: the inputs x with w·x + b = 0. */
export const kinks = (sizes, theta) => {
  const { outputs, weight, bias } = layersOf(sizes)[0];
  return Array.from({ length: outputs }, (_, o) => -theta[bias + o] / theta[weight + o]);
};

/** One inner step from θ: the curves on `xs` before it, after it and linearised, their errors against `truth` at the query inputs, and the kinks. */
export function oneStep(setup, theta, points, length, truth, xs = setup.query_x) {
  const [, adapted] = innerPath(setup.sizes, theta, points.map((p) => p[0]), points.map((p) => p[1]), length * setup.inner_lr, 1);
  const delta = adapted.map((value, i) => value - theta[i]);
  const of = (where) => {
    const before = predict(setup.sizes, theta, where), change = changeAlong(setup.sizes, theta, delta, where);
    return { before, actual: predict(setup.sizes, adapted, where), linearised: before.map((y, i) => y + change[i]) };
  };
  const wanted = setup.query_x.map(truth), answers = of(setup.query_x), errors = {};
  for (const [name, curve] of Object.entries(answers)) errors[name] = meanSquaredError(curve, wanted);
  return { curves: xs === setup.query_x ? answers : of(xs), errors, kinks: [kinks(setup.sizes, theta), kinks(setup.sizes, adapted)] };
}

const WAYS = {
  before: { words: "before the step", colour: "--mlb-random", width: 2 },
  actual: { words: "after the step", colour: "--mlb-maml", width: 3.5 },
  linearised: { words: "linearised step", colour: "--mlb-pretraining", width: 2.5, dash: "8 3" },
};

function render({ model, el }) {
  const setup = model.get("setup"), { meta_steps: at, x_range, y_range } = setup, ends = at.length - 1, most = at[ends] / 1000;
  const path = unpackPath(model.get("weights"), setup.sizes);
  const curveX = Array.from({ length: 161 }, (_, i) => x_range[0] + ((x_range[1] - x_range[0]) * i) / 160);
  const lab = openLab(model, "train-maml", {
    meta_step: kept.choice(at), points: kept.list(kept.numbers(2, x_range, y_range), setup.k_shot, setup.k_shot, ";"),
    amplitude: kept.number(2, setup.amplitude_range), phase: kept.number(2, setup.phase_range), length: kept.number(2, setup.lengths),
  }, { restart: () => play.stop() });
  const { state, change } = lab;
  const chosen = () => Math.max(0, at.indexOf(state().meta_step));
  const go = (index) => change({ meta_step: at[clamp(index, [0, ends])] });
  const sine = ({ amplitude, phase }) => (x) => amplitude * Math.sin(x - phase);
  const whole = (n) => n.toLocaleString("en");

  /** Another wave; points that lay on the old one come along. */
  function changeWave(values) {
    const old = state(), from = sine(old), to = sine({ ...old, ...values });
    change({ ...values, points: old.points.map(([x, y]) => [x, Math.abs(y - from(x)) < 0.006 ? Math.round(100 * to(x)) / 100 : y]) });
  }
  function newWave() {
    const [amplitude, phase, ...xs] = anotherTask(setup, setup.k_shot), truth = sine({ amplitude, phase });
    change({ amplitude, phase, points: xs.map((x) => [x, Math.round(100 * truth(x)) / 100]) });
  }
  const play = player({
    every: 350, begin: () => chosen() >= ends && go(0), next: () => chosen() < ends && (go(chosen() + 1), chosen() < ends),
    finish: () => go(ends), changed: () => draw(),
  });
  const { byHand } = play;

  // -- the elements -----------------------------------------------------------------------------------------------------

  const plot = new Plot({
    x: x_range, y: y_range, xTicks: [-4, -2, 0, 2, 4], yTicks: [-4, -2, 0, 2, 4], xTitle: "x", yTitle: "y",
    bottom: 22, height: (width) => clamp(0.72 * width, [230, 340]), role: "group",
  });
  const ticks = [0, 1, 2, 4, 6, 10, 20, 40, 70].filter((t) => t <= most);
  const losses = new Plot({
    x: [0, most], y: [0, 4.5], xTicks: ticks, yTicks: [0, 1, 2, 3, 4], xTitle: "meta-steps, thousands", yTitle: "mean error", height: () => 225, role: "img",
  });
  losses.X = (thousands) => (Math.log1p(thousands) / Math.log1p(most)) * losses.width; // the first thousands wide, the last ones narrow
  losses.node.addEventListener("click", (event) => {
    const box = losses.node.getBoundingClientRect(), x = event.clientX - box.left - losses.margin.left;
    const far = at.map((t) => Math.abs(losses.X(t / 1000) - x));
    byHand(() => go(far.indexOf(Math.min(...far))))();
  });
  const slide = slider({ label: "meta-steps", min: 0, max: ends, step: 1, show: (i) => whole(at[i]), input: (i) => byHand(() => go(i))() });
  const more = {
    amplitude: slider({ label: "amplitude", min: setup.amplitude_range[0], max: setup.amplitude_range[1], step: 0.1, input: (v) => changeWave({ amplitude: v }) }),
    phase: slider({ label: "phase", min: setup.phase_range[0], max: setup.phase_range[1], step: 0.01, input: (v) => changeWave({ phase: v }) }),
    length: slider({ label: "step length", min: setup.lengths[0], max: setup.lengths[1], step: 0.05, show: (v) => `${format(v)} α`, input: (v) => change({ length: v }) }),
  };
  const back = button("◀", byHand(() => go(chosen() - 1)), { "aria-label": "Checkpoint before" });
  const on = button("▶", byHand(() => go(chosen() + 1)), { "aria-label": "Next checkpoint" });
  const playing = button("", play.toggle, { class: "mlb-main" });
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" },
      legendKey(stroke("--mlb-truth", 2.5, "2 5"), "true wave"),
      ...Object.values(WAYS).map(({ words, colour, width, dash }) => legendKey(stroke(colour, width, dash), words)),
      legendKey({ d: "M6 1V11M13 1V11M20 1V11", ...stroke("--mlb-muted", 1.5) }, "where first-layer units switch: before, after")),
    slide.node, html("div", { class: "mlb-row" }, back, on, playing, button("Another wave", newWave)));
  const body = html("tbody", {}), sentence = html("p", { class: "mlb-note" }), live = announcer();
  const right = html("div", {}, losses.node,
    grid(["mean squared error", "this wave", [`${whole(setup.tasks)} waves`, `mean over ${whole(setup.tasks)} waves`]], body), html("div", { class: "mlb-apart" }, sentence));
  const bottom = html("div", { class: "mlb-wide" },
    drawer("More controls", html("div", { class: "mlb-sliders" }, ...Object.values(more).map((s) => s.node))),
    html("p", { class: "mlb-note" },
      `One training (seed ${setup.seed}); one inner step of rate α = ${setup.inner_lr} on ${setup.k_shot} points, as in meta-training. `,
      "Linearised: f(x; θ) + J(x)Δθ with the Δθ of the same step. Means: measured in PyTorch on waves that are the same at every checkpoint; the error of this wave is computed here, at ",
      `${setup.query_x.length} inputs. A click on the curves of the errors chooses a checkpoint, too.`));
  const named = (t) => ({ meta_step: t });
  const root = lab.frame(el, {
    label: "checkpoints of MAML's training, and the inner step at each", live, parts: [left, right, bottom],
    goal: "Move through the training: when does one inner step begin to fit the wave, and where does the linearised step part from it?",
    presets: Object.fromEntries(Object.entries(setup.presets).map(([words, t]) => [words, named(t)])),
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const handles = Array.from({ length: setup.k_shot }, (_, i) => {
    const move = (point) => change({ points: state().points.map((p, j) => (j === i ? point : p)) });
    const made = handle(plot, { move });
    plot.front.append(made.node);
    return made;
  });
  const line = (d, style, more) => svg("path", { d, ...style, ...more });

  function draw() {
    if (!plot.width || !losses.width) return; // not on the page yet
    const now = state(), index = chosen(), truth = sine(now);
    const { curves, errors, kinks: both } = oneStep(setup, path[index], now.points, now.length, truth, curveX);
    const y0 = y_range[0], high = (y_range[1] - y0) / 40;
    const rug = both.map((xs, i) => xs.filter((x) => x > x_range[0] && x < x_range[1]).map((x) => plot.path([x, x], [y0 + (1 - i) * 1.3 * high, y0 + (1 - i) * 1.3 * high + high])).join(""));
    plot.lines.replaceChildren(
      line(rug[0], stroke("--mlb-random", 1.5)), line(rug[1], stroke("--mlb-maml", 1.5)),
      line(plot.path(curveX, curveX.map(truth)), stroke("--mlb-truth", 2.5, "2 5")),
      ...["before", "linearised", "actual"].map((name) =>
        line(plot.path(curveX, curves[name]), stroke(WAYS[name].colour, WAYS[name].width, WAYS[name].dash), { class: name === "actual" ? "mlb-now" : "mlb-curve" })));
    now.points.forEach((p, i) => handles[i].set(p, `Support point ${i + 1} of ${setup.k_shot}`));
    plot.node.setAttribute("aria-label", `A sine wave, ${counted(setup.k_shot, "support point")}, and three curves of the network after ${whole(at[index])} meta-steps.`);

    const thousands = at.map((t) => t / 1000), x = losses.X(thousands[index]);
    losses.lines.replaceChildren(
      line(`M${x} 0V${losses.height}`, stroke("--mlb-muted", 1)),
      ...Object.entries(WAYS).map(([name, { colour, dash }]) => line(losses.path(thousands, setup.means[name]), stroke(colour, 2.5, dash), { class: "mlb-curve" })));
    losses.front.replaceChildren(...Object.entries(WAYS).map(([name, { colour }]) =>
      svg("circle", { cx: x, cy: losses.Y(setup.means[name][index]), r: 5, style: `fill: var(${colour})` })));
    losses.node.setAttribute("aria-label",
      `Mean errors over the meta-steps. After ${whole(at[index])}: ${Object.entries(WAYS).map(([name, { words }]) => `${words} ${format(setup.means[name][index])}`).join(", ")}.`);
    body.replaceChildren(...Object.entries(WAYS).map(([name, { words }]) => row(words, [format(errors[name]), format(setup.means[name][index])])));

    slide.set(index);
    for (const [name, { set }] of Object.entries(more)) set(now[name]);
    back.disabled = index === 0;
    on.disabled = index === ends;
    playing.textContent = play.playing() ? "Pause" : "Play the training";
    sentence.textContent = `After ${whole(at[index])} meta-steps a step switches ${inPercent(setup.switched[index])} of the pairs of hidden unit and input on or off.`;
    live.say(`${whole(at[index])} meta-steps: error ${format(errors.before)} before the step, ${format(errors.actual)} after it, ${format(errors.linearised)} linearised.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({ ...now, errors, playing: play.playing() });
  }

  losses.fit(260);
  return lab.follow(draw, play.end, watchWidth(stay, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (losses.fit(width), draw())));
}

export default { render };
