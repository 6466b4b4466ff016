// The lab "The optimiser race": four hand-designed rules and a trained one run down a surface that the reader shapes.
//
// All paths follow from the state, so whatever the reader changes, the whole race changes. The arithmetic is in optimizers.js.
import { contours, power } from "./contours.js";
import { countWeights, race, RULES, SURFACES } from "./optimizers.js";
import { radios, sameScale } from "./plane.js";
import { announcer, button, clamp, format, handle, html, legendKey, Plot, prefersStillness, slider, stroke, svg, unpack, watchWidth } from "./shared.js";

const STATE = ["surface", "curvatures", "angle", "steepness", "start", "rates", "step"];
const LOOKS = {
  SGD: stroke("--mlb-random", 2, "2 3"), momentum: stroke("--mlb-fomaml", 2, "8 3"), RMSprop: stroke("--mlb-other-1", 2, "4 3"),
  Adam: stroke("--mlb-maml", 2.5), LSTM: stroke("--mlb-truth", 4),
};
const COLOURS = { SGD: "--mlb-random", momentum: "--mlb-fomaml", RMSprop: "--mlb-other-1", Adam: "--mlb-maml", LSTM: "--mlb-truth" };
const NAMES = Object.keys(LOOKS);

/** Few digits, and powers of ten for what is small. */
const short = (v) => (v > 0 && v < 0.01 ? v.toExponential(1).replace("e-", "·10⁻").replace(/⁻(\d+)$/, (_, n) => "⁻" + [...n].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")) : format(v));

function render({ model, el }) {
  const setup = model.get("setup"), { x_range, y_range, last, ranges } = setup;
  const [weights] = unpack(model.get("weights"), countWeights(setup.network));
  const state = () => Object.fromEntries(STATE.map((name) => [name, model.get(name)]));
  function change(values) {
    for (const [name, value] of Object.entries(values)) model.set(name, value);
    model.save_changes();
  }

  let timer = null;
  function stop() {
    clearInterval(timer);
    timer = null;
    draw();
  }
  const setStep = (step) => change({ step: clamp(step, [0, last]) });
  function play() {
    if (timer) return stop();
    if (prefersStillness()) return setStep(last);
    setStep(state().step >= last ? 0 : state().step + 1);
    timer = setInterval(() => (state().step >= last ? stop() : setStep(state().step + 1)), 80);
    draw();
  }
  const byHand = (action) => () => (timer && stop(), action());

  // -- the elements -----------------------------------------------------------------------------------------------------

  const plot = new Plot({
    x: x_range, y: y_range, xTicks: [-3, -2, -1, 0, 1, 2, 3], yTicks: [-2, -1, 0, 1, 2, 3], xTitle: "first parameter", yTitle: "second parameter",
    height: sameScale(x_range, y_range, 38), role: "group",
  });
  const grip = handle(plot, { move: (start) => change({ start }), remove() {}, select() {} });
  const heads = svg("g", { "aria-hidden": "true" });
  plot.front.append(heads, grip.node);
  const history = new Plot({
    x: [0, last], y: [1e-8, 100], log: true, xTicks: [0, 20, 40, 60, 80, 100], yTicks: [-8, -6, -4, -2, 0, 2].map(power),
    xTitle: "step", yTitle: "loss", height: () => 230, role: "img",
  });
  history.margin.left = 48;

  const step = button("Step ▶", byHand(() => setStep(state().step + 1)), { class: "mlb-main", "aria-label": "One step" });
  const playing = button("", play), reset = button("Reset", byHand(() => setStep(0)), { "aria-label": "Back to the start" });
  const surface = radios("Surface", { bowl: "bowl", valley: "bent valley" }, (surface) => change({ surface }));
  const log = (name, label, set) => slider({
    label, min: Math.log10(ranges[name][0]), max: Math.log10(ranges[name][1]), step: 0.02, show: (v) => `${Number((10 ** v).toPrecision(2))}`,
    input: (v) => set(clamp(Number((10 ** v).toPrecision(3)), ranges[name])),
  });
  const curvature = (i) => log("curvatures", `curvature ${i + 1}`, (v) => change({ curvatures: state().curvatures.map((old, j) => (i === j ? v : old)) }));
  const sliders = {
    step: slider({ label: "step", min: 0, max: last, step: 1, show: (v) => `${v}`, input: (v) => byHand(() => setStep(v))() }),
    first: curvature(0), second: curvature(1),
    angle: slider({ label: "turned by", min: ranges.angle[0], max: ranges.angle[1], step: 1, show: (v) => `${v}°`, input: (angle) => change({ angle }) }),
    steepness: log("steepness", "steepness", (steepness) => change({ steepness })),
  };
  const rates = Object.fromEntries(Object.keys(RULES).map((name) => [name, log("rates", `rate of ${name}`, (v) => change({ rates: { ...state().rates, [name]: v } }))]));
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer(), rows = html("tbody", {});
  const table = html("table", {}, html("thead", {}, html("tr", {}, ...["", "loss now", `after ${last} steps`].map((t) => html("th", { scope: "col" }, t)))), rows);
  const left = html("div", {}, surface.node, plot.node,
    html("p", { class: "mlb-legend" }, ...NAMES.map((name) => legendKey(LOOKS[name], name === "LSTM" ? "LSTM (learned)" : name)),
      legendKey(svg("circle", { cx: 13, cy: 6, r: 5, fill: "var(--mlb-ink)" }), "start")),
    html("div", { class: "mlb-row" }, step, playing, reset), sliders.step.node);
  const shape = [sliders.first, sliders.second, sliders.angle];
  const right = html("div", {}, history.node, table, html("div", { class: "mlb-apart" }, ...Object.values(rates).map((s) => s.node)));
  const bottom = html("div", { class: "mlb-wide" }, sentence,
    html("div", { class: "mlb-sliders" }, ...shape.map((s) => s.node), sliders.steepness.node),
    html("p", { class: "mlb-note" },
      "Drag the start, or focus it and use the arrow keys (with Shift: further). The curves follow at once. ",
      "The LSTM has no rate to set. It was trained on bowls with curvatures from 0.2 to 20, at any angle, for 60 steps, but never on a bent valley."));
  const root = html("section", { class: "mlb-lab mlb-plane", "data-lab": "optimizer-race", "aria-label": "Lab: the optimiser race" },
    html("div", { class: "mlb-columns" }, left, right, bottom), live.node);
  el.append(root);

  // -- drawing ----------------------------------------------------------------------------------------------------------

  let known = "", found = null, shown = "", hills = [];
  function compute(now) {
    const { step, ...rest } = now, key = JSON.stringify(rest);
    if (key !== known) [known, found] = [key, race(setup, weights, now, last)];
  }
  function ground(now) {
    const key = JSON.stringify([now.surface, now.curvatures, now.angle, now.steepness, plot.width]);
    if (key === shown) return;
    shown = key;
    hills = contours(plot, (x, y) => SURFACES[now.surface](now, [x, y]).f, [0.01, 0.1, 0.5, 1.5, 4, 9, 18, 32, 60, 110], 60);
  }

  function draw() {
    if (!plot.width || !history.width) return; // not on the page yet
    const now = state(), n = now.step;
    compute(now);
    ground(now);
    const trail = ({ points }, name) => {
      const part = points.slice(0, n + 1), inside = part.findIndex((p) => !p.every((v) => Math.abs(v) < 1e3)); // a path that flies off ends there
      const seen = inside < 0 ? part : part.slice(0, inside);
      return svg("path", { d: plot.path(seen.map((p) => p[0]), seen.map((p) => p[1])), ...LOOKS[name] });
    };
    plot.lines.replaceChildren(...hills.map((d) => svg("path", { d, ...stroke("--mlb-edge", 1) })), ...NAMES.map((name) => trail(found[name], name)));
    const on = ([x, y]) => x >= x_range[0] && x <= x_range[1] && y >= y_range[0] && y <= y_range[1];
    heads.replaceChildren(...NAMES.filter((name) => on(found[name].points[n])).map((name) =>
      svg("circle", { cx: plot.X(found[name].points[n][0]), cy: plot.Y(found[name].points[n][1]), r: name === "LSTM" ? 6 : 4.5, style: `fill: var(${COLOURS[name]}); stroke: var(--mlb-ground); stroke-width: 1.5` })));
    grip.set(now.start, "the start");
    const xs = Array.from({ length: last + 1 }, (_, t) => t);
    history.lines.replaceChildren(...NAMES.map((name) => svg("path", { d: history.path(xs, found[name].losses), ...LOOKS[name] })),
      svg("path", { d: `M${history.X(n)} 0V${history.height}`, ...stroke("--mlb-muted", 1) }));
    rows.replaceChildren(...NAMES.map((name) => html("tr", { "aria-current": name === "LSTM" && "true" }, html("th", { scope: "row" }, name),
      ...[n, last].map((t) => html("td", {}, short(found[name].losses[t]))))));
    surface.set(now.surface);
    sliders.step.set(n);
    now.curvatures.forEach((v, i) => [sliders.first, sliders.second][i].set(Math.log10(v)));
    sliders.angle.set(now.angle);
    sliders.steepness.set(Math.log10(now.steepness));
    for (const [name, s] of Object.entries(rates)) s.set(Math.log10(now.rates[name]));
    for (const s of shape) s.node.style.display = now.surface === "bowl" ? "" : "none";
    sliders.steepness.node.style.display = now.surface === "valley" ? "" : "none";
    reset.disabled = n === 0;
    step.disabled = n === last;
    playing.textContent = timer ? "Pause" : `Run to ${last}`;
    const order = [...NAMES].sort((a, b) => (found[a].losses[n] - found[b].losses[n]) || 0).filter((name) => Number.isFinite(found[name].losses[n]));
    const place = order.indexOf("LSTM") + 1, lowest = `${order[0] === "LSTM" ? "the LSTM" : order[0]} is lowest with ${short(found[order[0]].losses[n])}`;
    const words = n === 0 ? `All start at a loss of ${short(found.LSTM.losses[0])}.`
      : `After ${n} ${n === 1 ? "step" : "steps"}: ${lowest}${place === 1 ? `, ${order[1]} next with ${short(found[order[1]].losses[n])}` : `; the LSTM has ${short(found.LSTM.losses[n])}${place ? `, place ${place} of ${NAMES.length}` : ""}`}.`;
    sentence.textContent = words;
    live.say(words);
    plot.node.setAttribute("aria-label", `Paths of five optimisers on a ${now.surface === "bowl" ? "bowl" : "bent valley"} from (${now.start.map(format).join(", ")}). ${words}`);
    history.node.setAttribute("aria-label", `Loss over ${last} steps, logarithmic: ${NAMES.map((name) => `${name} ends at ${short(found[name].losses[last])}`).join(", ")}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Overflow becomes null.
    root.dataset.state = JSON.stringify({ ...now, race: found });
  }

  // Several changes at once, or a fast pointer, are drawn once per frame.
  let frame = 0;
  const soon = () => (frame ||= requestAnimationFrame(() => ((frame = 0), draw())));
  for (const name of STATE) model.on(`change:${name}`, soon);
  const endLeft = watchWidth(left, (width) => (plot.fit(width), draw()));
  const endRight = watchWidth(right, (width) => (history.fit(width), draw()));
  return () => {
    clearInterval(timer);
    cancelAnimationFrame(frame);
    endLeft();
    endRight();
    for (const name of STATE) model.off(`change:${name}`, soon);
  };
}

export default { render };
