// The lab "The optimiser race": four hand-designed rules and a trained one run down a surface that the reader shapes.
//
// All paths follow from the state, so whatever the reader changes, the whole race changes. The arithmetic is in optimizers.js.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { contours, power } from "./contours.js";
import { countWeights, race, RULES, SURFACES } from "./optimizers.js";
import { radios, sameScale } from "./plane.js";
import { announcer, button, clamp, counted, drawer, format, grid, handle, html, legendKey, player, Plot, row, slider, stroke, svg, unpack, watchWidth } from "./shared.js";

const LOOKS = {
  SGD: stroke("--mlb-random", 2, "2 3"), momentum: stroke("--mlb-fomaml", 2, "8 3"), RMSprop: stroke("--mlb-other-1", 2, "4 3"),
  Adam: stroke("--mlb-maml", 2.5), LSTM: stroke("--mlb-truth", 4),
};
const COLOURS = { SGD: "--mlb-random", momentum: "--mlb-fomaml", RMSprop: "--mlb-other-1", Adam: "--mlb-maml", LSTM: "--mlb-truth" };
const NAMES = Object.keys(LOOKS), RATED = Object.keys(RULES);

/** Few digits, and powers of ten for what is small. */
const short = (v) => (v > 0 && v < 0.01 ? v.toExponential(1).replace("e-", "·10⁻").replace(/⁻(\d+)$/, (_, n) => "⁻" + [...n].map((d) => "⁰¹²³⁴⁵⁶⁷⁸⁹"[d]).join("")) : format(v));

function render({ model, el }) {
  const setup = model.get("setup"), { x_range, y_range, last, ranges } = setup;
  const [weights] = unpack(model.get("weights"), countWeights(setup.network));
  const keptRates = kept.list(kept.number(6, ranges.rates), RATED.length), byName = (values) => Object.fromEntries(RATED.map((name, i) => [name, values[i]]));
  const lab = openLab(model, "optimizer-race", {
    surface: kept.choice(Object.keys(SURFACES)), curvatures: kept.list(kept.number(4, ranges.curvatures), 2), angle: kept.number(1, ranges.angle),
    steepness: kept.number(4, ranges.steepness), start: kept.numbers(2, x_range, y_range), step: kept.whole(0, last),
    rates: {
      write: (rates) => keptRates.write(RATED.map((name) => rates[name])),
      read: (text) => { const values = keptRates.read(text); return values && byName(values); },
    },
  }, { restart: () => play.stop() });
  const { state, change } = lab, setStep = (step) => change({ step: clamp(step, [0, last]) });
  const play = player({
    every: 80,
    begin: () => setStep(state().step >= last ? 0 : state().step + 1),
    next: () => state().step < last && (setStep(state().step + 1), true),
    finish: () => setStep(last),
    changed: () => draw(),
  });
  const { byHand } = play;

  // -- the elements -----------------------------------------------------------------------------------------------------

  const plot = new Plot({
    x: x_range, y: y_range, xTicks: [-3, -2, -1, 0, 1, 2, 3], yTicks: [-2, -1, 0, 1, 2, 3], xTitle: "first parameter", yTitle: "second parameter",
    height: sameScale(x_range, y_range, 38), role: "group",
  });
  const grip = handle(plot, { move: (start) => change({ start }) });
  const heads = svg("g", { "aria-hidden": "true" });
  plot.front.append(heads, grip.node);
  const history = new Plot({
    x: [0, last], y: [1e-8, 100], log: true, xTicks: [0, 20, 40, 60, 80, 100], yTicks: [-8, -6, -4, -2, 0, 2].map(power),
    xTitle: "step", yTitle: "loss", height: () => 230, role: "img",
  });
  history.margin.left = 48;

  const step = button("Step ▶", byHand(() => setStep(state().step + 1)), { class: "mlb-main", "aria-label": "One step" });
  const playing = button("", play.toggle), rewind = button("Back to 0", byHand(() => setStep(0)), { "aria-label": "Back to the start" });
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
  const rates = Object.fromEntries(RATED.map((name) => [name, log("rates", `rate of ${name}`, (v) => change({ rates: { ...state().rates, [name]: v } }))]));
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer(), rows = html("tbody", {});
  const table = grid(["", "loss now", `after ${last} steps`], rows);
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" }, ...NAMES.map((name) => legendKey(LOOKS[name], name === "LSTM" ? "LSTM (learned)" : name)),
      legendKey(svg("circle", { cx: 13, cy: 6, r: 5, fill: "var(--mlb-ink)" }), "start")),
    sentence,
    html("div", { class: "mlb-row" }, step, playing, rewind), sliders.step.node);
  const bowl = [sliders.first, sliders.second, sliders.angle];
  const right = html("div", {}, surface.node, sliders.first.node, sliders.second.node, sliders.steepness.node,
    html("div", { class: "mlb-apart" }, history.node), table);
  const bottom = html("div", { class: "mlb-wide" },
    drawer("Rates of the four rules, angle of the bowl", html("div", { class: "mlb-sliders" }, ...Object.values(rates).map((s) => s.node), sliders.angle.node)),
    html("p", { class: "mlb-note" },
      "Arrow keys move the start, too (with Shift: further). ",
      "The LSTM has no rate to set. It was trained on bowls with curvatures from 0.2 to 20, at any angle, for 60 steps, but never on a bent valley."));
  const root = lab.frame(el, {
    label: "the optimiser race", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Shape the surface, drag the start: where does the learned optimiser win, where does it fail?",
    presets: {
      "Curvature 50": { curvatures: [50, lab.initial.curvatures[1]], step: last }, "Bent valley": { surface: "valley", step: last },
      "Steeper valley": { surface: "valley", steepness: 30, step: last },
    },
  });

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
    rows.replaceChildren(...NAMES.map((name) => row(name, [n, last].map((t) => short(found[name].losses[t])), { "aria-current": name === "LSTM" && "true" })));
    surface.set(now.surface);
    sliders.step.set(n);
    now.curvatures.forEach((v, i) => [sliders.first, sliders.second][i].set(Math.log10(v)));
    sliders.angle.set(now.angle);
    sliders.steepness.set(Math.log10(now.steepness));
    for (const [name, s] of Object.entries(rates)) s.set(Math.log10(now.rates[name]));
    for (const s of bowl) s.node.style.display = now.surface === "bowl" ? "" : "none";
    sliders.steepness.node.style.display = now.surface === "valley" ? "" : "none";
    rewind.disabled = n === 0;
    step.disabled = n === last;
    playing.textContent = play.playing() ? "Pause" : `Run to ${last}`;
    const order = [...NAMES].sort((a, b) => (found[a].losses[n] - found[b].losses[n]) || 0).filter((name) => Number.isFinite(found[name].losses[n]));
    const place = order.indexOf("LSTM") + 1, lowest = `${order[0] === "LSTM" ? "the LSTM" : order[0]} is lowest with ${short(found[order[0]].losses[n])}`;
    const words = n === 0 ? `All start at a loss of ${short(found.LSTM.losses[0])}.`
      : `After ${counted(n, "step")}: ${lowest}${place === 1 ? `, ${order[1]} next with ${short(found[order[1]].losses[n])}` : `; the LSTM has ${short(found.LSTM.losses[n])}${place ? `, place ${place} of ${NAMES.length}` : ""}`}.`;
    sentence.textContent = words;
    live.say(words);
    plot.node.setAttribute("aria-label", `Paths of five optimisers on a ${now.surface === "bowl" ? "bowl" : "bent valley"} from (${now.start.map(format).join(", ")}). ${words}`);
    history.node.setAttribute("aria-label", `Loss over ${last} steps, logarithmic: ${NAMES.map((name) => `${name} ends at ${short(found[name].losses[last])}`).join(", ")}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Overflow becomes null.
    root.dataset.state = JSON.stringify({ ...now, race: found });
  }

  return lab.follow(draw, play.end, watchWidth(stay, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (history.fit(width), draw())));
}

export default { render };
