// The lab "How far back?": four estimates of one outer gradient, on influence balancing.
//
// 23 numbers s follow s ← As + vθ and have come to rest at θ; the loss is ½(s₀ − 1)². With K steps of memory s₀ moves g_K times as far as θ.
// A pair of truncated ES has one ε, so its estimate is (s₀ − 1) g_K ε². A pair of PES has had one ε in each of W windows: with A = Σ ε and
// B = Σ c ε, where c is what a window still does to s₀, its estimate is (s₀ − 1) A B. A and B are normal; two numbers are drawn in their place.
import { openLab } from "./around.js";
import { kept } from "./address.js";
import { announcer, button, clamp, format, grid, handle, html, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

const WAYS = ["the whole run", "truncated backpropagation", "truncated ES", "PES"];
const INKS = ["--mlb-ink", "--mlb-fomaml", "--mlb-truth", "--mlb-maml"];
const LOOKS = [stroke(INKS[0], 3), stroke(INKS[1], 3, "9 4"), stroke(INKS[2], 3, "2 4"), stroke(INKS[3], 3)];

// -- arithmetic -------------------------------------------------------------------------------------------------------

/** g_0 … g_most: how fast s₀ moves with θ if the last K steps depend on it. */
export function influences({ size, positive }, most) {
  let reach = Float64Array.from({ length: size }, (_, i) => Number(i === 0)), sum = 0; // row 0 of A^j
  const found = [0];
  for (let j = 0; j < most; j++) {
    sum += reach.reduce((total, r, i) => total + (i < positive ? r : -r), 0);
    found.push(sum);
    reach = reach.map((r, i) => 0.5 * (r + (i ? reach[i - 1] : 0)));
  }
  return found;
}

/** n numbers, standard normal, the same for the same seed (mulberry32, Box and Muller). */
export function normals(seed, n) {
  let a = seed >>> 0;
  const uniform = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  return Float64Array.from({ length: n }, () => Math.sqrt(-2 * Math.log(uniform())) * Math.cos(2 * Math.PI * uniform()));
}

/** The error of s₀ at rest and the true outer gradient. */
export const atRest = (theta) => ({ error: -6 * theta - 1, truth: -6 * (-6 * theta - 1) });

/** What windows of K steps still do to s₀ at the end of a run of at least `run` steps: how many there are, the sum, the sum of squares. */
export function shares(g, K, run) {
  const windows = Math.ceil(run / K), each = Array.from({ length: windows }, (_, w) => g[(w + 1) * K] - g[w * K]);
  return { windows, sum: g[windows * K], squares: each.reduce((total, c) => total + c * c, 0) };
}

/** `draws` estimates by truncated ES and as many by PES, each the mean over `pairs`; `numbers` has two for every pair. */
export function estimates(setup, g, { theta, memory, pairs }, numbers) {
  const { error } = atRest(theta), { windows, sum, squares } = shares(g, memory, setup.run);
  const apart = Math.sqrt(Math.max(0, squares - (sum * sum) / windows)), es = [], pes = [];
  for (let d = 0; d < setup.draws; d++) {
    let one = 0, other = 0;
    for (let p = 0; p < pairs; p++) {
      const at = 2 * (d * pairs + p), z = numbers[at];
      one += z * z;
      other += z * (sum * z + Math.sqrt(windows) * apart * numbers[at + 1]);
    }
    es.push((error * g[memory] * one) / pairs);
    pes.push((error * other) / pairs);
  }
  return { es, pes };
}

/** Mean, standard deviation and the share with the wrong sign. */
export function summary(values, truth) {
  const n = values.length, mean = values.reduce((s, v) => s + v, 0) / n;
  const spread = n > 1 ? Math.sqrt(values.reduce((s, v) => s + (v - mean) ** 2, 0) / (n - 1)) : 0;
  return { mean, spread, wrong: values.filter((v) => v * truth < 0).length / n };
}

// -- the lab ----------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const setup = model.get("setup"), g = influences(setup, 2 * setup.run);
  const lab = openLab(model, "how-far-back", {
    theta: kept.number(2, setup.range), memory: kept.whole(1, setup.run), pairs: kept.choice(setup.pairs), seed: kept.whole(1, 1000),
  });
  const { state, change } = lab;
  const plot = new Plot({
    x: setup.range, y: [-14, 25], xTicks: [-1, -0.5, 0, 0.5, 1], yTicks: [0, 10, 20], xTitle: "θ", yTitle: "outer loss; below it, the step of each estimate",
    height: () => 270, role: "group",
  });
  const reach = new Plot({ x: [0, setup.run], y: [-8, 18], xTicks: [1, 20, 41, 60, 80, 100], yTicks: [-6, 0, 10], xTitle: "steps of memory", yTitle: "how far s₀ moves with θ", height: () => 170, role: "img" });
  const strip = new Plot({ x: [-120, 120], y: [0, 4], xTicks: [-100, -50, 0, 50, 100], yTicks: [], xTitle: "estimate of the outer gradient", yTitle: `${setup.draws} estimates of each kind`, height: () => 175, role: "img" });
  const sliders = {
    memory: slider({ label: "window", min: 1, max: setup.run, step: 1, show: String, input: (memory) => change({ memory }) }),
    pairs: slider({ label: "pairs", min: 0, max: setup.pairs.length - 1, step: 1, show: (i) => `${setup.pairs[i]}`, input: (i) => change({ pairs: setup.pairs[i] }) }),
  };
  const body = html("tbody", {}), table = grid(["", "mean", ["spread", "standard deviation of one estimate"], ["wrong way", "share of the estimates with the wrong sign"]], body, { "aria-label": "The four estimates" });
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const left = html("div", {}, plot.node, ...Object.values(sliders).map((s) => s.node),
    html("div", { class: "mlb-row" }, button("New draws", () => change({ seed: (state().seed % 1000) + 1 }))), table);
  const right = html("div", {}, reach.node, strip.node,
    html("p", { class: "mlb-legend" }, ...WAYS.map((name, i) => legendKey(LOOKS[i], name))), sentence);
  const root = lab.frame(el, {
    label: "how far back?", live, parts: [left, right],
    goal: "Drag θ, set the window: which estimates lead to the bottom, and how many pairs does PES need for it?",
    presets: { "Window 1": { memory: 1 }, "Window 60": { memory: 60 }, "A thousand pairs": { memory: 1, pairs: 1000 } },
  });
  const grip = handle(plot, { move: ([theta]) => change({ theta }) });
  plot.front.append(grip.node);
  const thetas = Array.from({ length: 121 }, (_, i) => setup.range[0] + ((setup.range[1] - setup.range[0]) * i) / 120);
  const J = (theta) => 0.5 * atRest(theta).error ** 2, lane = (i) => -2.5 - 3 * i;

  let drawn = "", numbers = null;
  function draw() {
    if (!plot.width || !reach.width) return; // not on the page yet
    const now = state(), { error, truth } = atRest(now.theta), key = `${now.seed}/${now.pairs}`;
    if (key !== drawn) [drawn, numbers] = [key, normals(now.seed, 2 * setup.draws * now.pairs)];
    const { es, pes } = estimates(setup, g, now, numbers), cut = error * g[now.memory];
    const found = [[truth], [cut], es, pes].map((values) => summary(values, truth));
    const arrow = ({ mean }, i) => {
      const from = plot.X(now.theta), to = plot.X(clamp(now.theta - mean / 60, setup.range)), y = plot.Y(lane(i)), head = Math.sign(from - to) * Math.min(7, Math.abs(from - to) / 2);
      return svg("path", { d: `M${from} ${y}H${to}m${head} -5L${to} ${y}l${head} 5`, ...LOOKS[i], "stroke-dasharray": undefined, class: "mlb-arrow" });
    };
    plot.lines.replaceChildren(
      svg("path", { d: `M0 ${plot.Y(0)}H${plot.width}`, ...stroke("--mlb-muted", 1.5) }),
      svg("path", { d: `M${plot.X(now.theta)} ${plot.Y(J(now.theta))}V${plot.height}`, ...stroke("--mlb-muted", 1, "2 3") }),
      svg("path", { d: plot.path(thetas, thetas.map(J)), ...stroke("--mlb-ink", 2.5) }), ...found.map(arrow));
    grip.set([now.theta, clamp(J(now.theta), plot.range)], "The outer variable θ");
    const ks = Array.from({ length: setup.run }, (_, i) => i + 1), K = reach.X(now.memory);
    reach.lines.replaceChildren(
      svg("path", { d: `M0 ${reach.Y(0)}H${reach.width}`, ...stroke("--mlb-muted", 1.5) }),
      svg("path", { d: `M0 ${reach.Y(-6)}H${reach.width}`, ...stroke(INKS[0], 1.2, "5 3") }),
      svg("path", { d: reach.path(ks, ks.map((k) => g[k])), ...stroke(INKS[1], 2.5) }),
      svg("path", { d: `M${K} 0V${reach.height}`, ...stroke("--mlb-muted", 1, "2 3") }),
      svg("circle", { cx: K, cy: reach.Y(g[now.memory]), r: 5, style: `fill: var(${INKS[1]})` }));
    const inside = (v) => strip.X(clamp(v, [-119, 119])), middle = (i) => strip.Y(3.5 - i), [a, b] = truth > 0 ? [-120, 0] : [0, 120];
    const tick = (v, i) => svg("path", { d: `M${inside(v)} ${middle(i) - 12}v24`, ...LOOKS[i], "stroke-dasharray": undefined });
    const dots = (values, i) => values.map((v, d) => svg("circle", { cx: inside(v), cy: middle(i) + 14 * (((d * 7) % 13) / 13 - 0.5), r: 3, style: `fill: var(${INKS[i]}); opacity: 0.6` }));
    strip.lines.replaceChildren(
      ...(truth === 0 ? [] : [svg("rect", { x: strip.X(a), y: 0, width: strip.X(b) - strip.X(a), height: strip.height, style: "fill: var(--mlb-muted); opacity: 0.14" })]),
      svg("path", { d: `M${strip.X(0)} 0V${strip.height}`, ...stroke("--mlb-muted", 1.5) }),
      tick(truth, 0), tick(cut, 1), ...dots(es, 2), ...dots(pes, 3));
    body.replaceChildren(...WAYS.map((name, i) => row(name, [format(found[i].mean), i < 2 ? "" : format(found[i].spread), i < 2 ? (found[i].wrong ? "yes" : "no") : `${Math.round(100 * found[i].wrong)}\u00a0%`], found[i].wrong > 0.5 ? { "aria-current": "true" } : {})));
    sliders.memory.set(now.memory);
    sliders.pairs.set(setup.pairs.indexOf(now.pairs));
    const way = cut * truth < 0 ? "points away from the bottom" : "points to the bottom";
    const words = `At θ = ${format(now.theta)} the outer gradient is ${format(truth)}. With windows of ${now.memory}, truncated backpropagation finds ${format(cut)} and ${way}; the mean of truncated ES is ${format(found[2].mean)}, that of PES ${format(found[3].mean)}. One estimate by PES spreads by ${format(found[3].spread)}.`;
    sentence.textContent = words;
    live.say(words);
    plot.node.setAttribute("aria-label", `The outer loss over θ, lowest at −1/6; θ is ${format(now.theta)}.`);
    reach.node.setAttribute("aria-label", `How far s₀ moves with θ over the steps of memory: ${format(g[now.memory])} at ${now.memory}; negative from 41 on.`);
    strip.node.setAttribute("aria-label", WAYS.map((name, i) => `${name}: mean ${format(found[i].mean)}, spread ${format(found[i].spread)}`).join("; "));
    root.dataset.state = JSON.stringify({ ...now, truth, cut, found });
  }

  return lab.follow(draw, watchWidth(left, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (reach.fit(width), strip.fit(width), draw())));
}

export default { render };
