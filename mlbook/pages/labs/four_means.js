// The lab "Four means": tasks with the losses ½·aᵢ·(θ − cᵢ)², where every method's fixed point is a weighted mean of the cᵢ.
//
// k inner steps multiply the distance from a task's bottom by rᵢᵏ with rᵢ = 1 − α·aᵢ; all weights follow from that.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { lettered, METHODS, markerPath } from "./methods.js";
import { announcer, clamp, counted, drawer, format, grid, html, Plot, slider, svg, watchWidth } from "./shared.js";

// -- arithmetic -------------------------------------------------------------------------------------------------------

/** r = 1 − α·a; where it is 0, 1 or −1 but for rounding, exactly that. */
function factor(alpha, a) {
  const r = 1 - alpha * a;
  return Math.abs(r - Math.round(r)) < 1e-12 ? Math.round(r) : r;
}

const WEIGHTS = {
  pretraining: (a) => a,
  fomaml: (a, r, k) => a * r ** k,
  maml: (a, r, k) => a * r ** (2 * k),
  reptile: (a, r, k) => 1 - r ** k,
};

/**
 * Weights, their shares wᵢ / |Σ w|, and the fixed point θ* = Σ wᵢcᵢ / Σ wᵢ of one method. The mean update is −(Σ wᵢ)(θ − θ*), so the outer loop
 * comes to θ* only where the sum is above 0: "mean" (no weight is negative), "beyond" (one is, so θ* is no mean),
 * "runs away" (the sum is below 0, an outer step leads away from θ*), "flat" (no update anywhere: θ* is NaN).
 */
export function fixedPoint(method, curvatures, bottoms, alpha, k) {
  const weights = curvatures.map((a) => WEIGHTS[method](a, factor(alpha, a), k));
  const sum = weights.reduce((s, w) => s + w, 0), size = weights.reduce((s, w) => s + Math.abs(w), 0);
  if (!(Math.abs(sum) > 1e-12 * size)) return { weights, shares: weights.map(() => NaN), point: NaN, status: size ? "runs away" : "flat" };
  const status = sum < 0 ? "runs away" : weights.some((w) => w < -1e-12 * size) ? "beyond" : "mean";
  return { weights, shares: weights.map((w) => w / Math.abs(sum)), point: weights.reduce((s, w, i) => s + w * bottoms[i], 0) / sum, status };
}

/** The fixed points of all methods, by their keys. */
export const fourMeans = (curvatures, bottoms, alpha, k) =>
  Object.fromEntries(METHODS.map(({ key }) => [key, fixedPoint(key, curvatures, bottoms, alpha, k)]));

/** Two decimals, for a column of numbers. */
const decimals = (v) => (Math.abs(v) < 10 ? (Math.round(100 * v) / 100 || 0).toFixed(2).replace("-", "−") : format(v));

const listing = (words) => words.join(", ").replace(/, ([^,]*)$/, " and $1");

/** What the reader should know about the chosen α and k, as sentences. */
export function remarks({ alpha, steps, curvatures, bottoms }, means) {
  const said = [], outside = curvatures.flatMap((a, i) => (alpha * a >= 2 ? [i] : []));
  if (outside.length) {
    const one = outside.length === 1, named = outside.map((i) => `${i + 1} (α·a = ${format(alpha * curvatures[i])})`);
    said.push(`${one ? "Task" : "Tasks"} ${listing(named)} ${one ? "leaves" : "leave"} the stable range α·a < 2: ${one ? "its" : "their"} inner steps do not come closer to the bottom. MAML's weights stay at or above 0, because their power is even, but with every step the task with the largest |1−α·a| weighs more.`);
  }
  for (const { key, name } of METHODS) {
    const { status, shares } = means[key], negative = shares.flatMap((w, i) => (w < 0 ? [i + 1] : []));
    if (status === "runs away") said.push(`${name}: the weights do not sum to more than 0, so there is no minimum and θ runs away from the resting point.`);
    else if (status === "flat") said.push(`${name}: all weights are 0, every θ is as good as any other.`);
    else if (status === "beyond") said.push(`${name}: the weight of task ${listing(negative)} is negative; the resting point is no longer a mean of the bottoms.`);
  }
  if (steps === 1) said.push("With one inner step Reptile's weights are α times those of pre-training: the same resting point.");
  else if (!outside.length) {
    const plain = bottoms.reduce((s, c) => s + c, 0) / bottoms.length;
    const factors = curvatures.map((a) => Math.abs(1 - alpha * a)), slowest = factors.filter((r) => r > Math.max(...factors) - 1e-9);
    const maml = slowest.length > 1 ? "" : ` MAML moves to the bottom of task ${factors.indexOf(slowest[0]) + 1}, the slowest to adapt.`;
    said.push(`With more and more inner steps Reptile moves to the plain mean of the bottoms, ${format(plain)}; for one step it is pre-training.${maml}`);
  }
  return said;
}

// -- the lab ----------------------------------------------------------------------------------------------------------

const DASHES = [undefined, "8 4", "2 4"]; // one per task: the colours belong to the methods

function render({ model, el }) {
  const setup = model.get("setup"), [low, high] = setup.x_range, kMax = setup.steps;
  const lab = openLab(model, "four-means", {
    alpha: kept.number(2, [0.01, 1]), steps: kept.whole(1, kMax),
    bottoms: kept.list(kept.number(2, setup.x_range), 3), curvatures: kept.list(kept.number(2, setup.a_range), 3),
  });
  const { state, change } = lab;
  const colour = (key) => `color: var(--mlb-${key})`;
  const put = (name, i, value) => change({ [name]: state()[name].map((old, j) => (j === i ? value : old)) });

  // -- the elements -----------------------------------------------------------------------------------------------------

  const ticks = [-3, -2, -1, 0, 1, 2, 3], lane = (j) => -0.62 - 0.62 * j;
  const plot = new Plot({
    x: setup.x_range, y: [-2.9, 5], xTicks: ticks, yTicks: [0, 2, 4], xTitle: "θ", yTitle: "loss of a task", bottom: 22,
    height: (width) => clamp(0.8 * width, [300, 400]), role: "group",
  });
  const curves = new Plot({
    x: [1, kMax], y: setup.x_range, xTicks: [1, 5, 10, 15, 20, 25, 30].filter((k) => k <= kMax), yTicks: ticks,
    xTitle: "inner steps k", yTitle: "resting point θ*", height: () => 230, role: "img",
  });
  const swatch = (method) =>
    svg("svg", { width: 26, height: 18, style: colour(method.key), "aria-hidden": "true" },
      svg("path", { d: "M0 9H26", fill: "none", stroke: "currentColor", "stroke-width": Math.min(3, method.width), "stroke-dasharray": method.dash }),
      svg("path", { d: markerPath(method, 13, 9), class: "mlb-marker" }));
  const tasks = setup.curvatures.map((_, i) => `task ${i + 1}`);
  const rows = METHODS.map((method) => {
    const cells = tasks.map(() => ({ bar: html("span", { class: "mlb-weight", style: colour(method.key) }), value: html("span", {}) }));
    const point = html("td", {});
    return { method, cells, point, node: html("tr", {}, html("th", { scope: "row" }, swatch(method), method.name),
      ...cells.map((c) => html("td", {}, c.value, c.bar)), point) };
  });
  const table = grid(["weights", ...tasks.map((_, i) => `w${"₁₂₃"[i]}`), "θ*"], html("tbody", {}, ...rows.map((r) => r.node)),
    { class: "mlb-grid mlb-weights", "aria-label": "Normalised weights of the tasks and resting points" });

  const sliders = {
    alpha: slider({ label: "inner rate α", min: 0.01, max: 1, step: 0.01, show: (v) => v.toFixed(2), input: (v) => change({ alpha: v }) }),
    steps: slider({ label: "inner steps k", min: 1, max: kMax, step: 1, show: (v) => `${v}`, input: (v) => change({ steps: v }) }),
  };
  const bends = tasks.map((_, i) => slider({
    label: `curvature a${"₁₂₃"[i]}`, min: setup.a_range[0], max: setup.a_range[1], step: 0.1, input: (v) => put("curvatures", i, v),
  }));
  const stable = html("span", { class: "mlb-stable" }), limit = html("span", {});
  const band = html("div", { class: "mlb-band", "aria-hidden": "true" }, html("span", {}), html("span", { class: "mlb-track" }, stable), html("span", {}));
  const sentence = html("p", { class: "mlb-sentence" }), notes = html("div", { class: "mlb-remarks" }), live = announcer();
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay, sentence, sliders.alpha.node, band, html("p", { class: "mlb-note mlb-limit" }, limit), sliders.steps.node,
    drawer("Curvatures of the tasks", ...bends.map((s) => s.node)));
  const right = html("div", {}, table, html("div", { class: "mlb-apart" }, curves.node), notes);
  const bottom = html("div", { class: "mlb-wide" },
    html("p", { class: "mlb-note" },
      "Arrow keys move the bottom of a task, too (with Shift: further). ",
      "Weights, before they are divided by their sum, with r = 1 − α·a: pre-training a, FOMAML a·rᵏ, MAML a·r²ᵏ, Reptile 1 − rᵏ. ",
      "Support and query loss of a task are the same here."));
  const root = lab.frame(el, {
    label: "four means of three tasks", live, parts: [left, right, bottom],
    goal: "Set α and k, or drag a task along the axis: which task pulls each method's start towards itself?",
    presets: { "Equal curvatures": { curvatures: tasks.map(() => 1) }, "Many inner steps": { steps: kMax }, "Past the stable range": { alpha: 0.72 } },
  });
  const grips = tasks.map((_, i) => lettered(plot, `${i + 1}`, ([c]) => put("bottoms", i, c), undefined, "x"));

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const inside = (v) => v >= low && v <= high;

  /** One method's place on the θ axis, in a lane of its own; what lies outside is marked at the edge. */
  function mark(method, { point, status }, j) {
    const y = plot.Y(lane(j)), x = plot.X(clamp(point, [low, high])), side = x < 0.55 * plot.width ? 1 : -1;
    const known = Number.isFinite(point), comes = status === "mean" || status === "beyond";
    const words = !known ? "none" : comes ? format(point) : `${format(point)}, runs away`;
    const text = `${method.name} ${known && !inside(point) ? (point < low ? "◀ " : "▶ ") : ""}${words}`;
    const at = known ? x + side * 14 : plot.width / 2;
    const tag = svg("text", { x: at, y: y + 4.5, class: "mlb-tag", "text-anchor": known ? (side > 0 ? "start" : "end") : "middle" }, text);
    return [svg("g", { style: colour(method.key) },
      svg("path", { d: `M0 ${y}H${plot.width}`, style: "stroke: var(--mlb-grid); stroke-width: 1" }),
      known && inside(point) ? svg("path", { d: `M${x} ${plot.Y(0)}V${y}`, "stroke-dasharray": "2 3" }) : "",
      known ? svg("path", { d: markerPath(method, x, y), class: "mlb-marker", opacity: comes ? 1 : 0.45 }) : ""), tag];
  }

  /** A line over k through the fixed points that the outer loop comes to; broken where it comes to none. */
  function overSteps(method, all) {
    const d = [], dots = [];
    let down = false;
    all.forEach(({ [method.key]: { point, status } }, i) => {
      const here = (status === "mean" || status === "beyond") && Math.abs(point) < 3 * high;
      if (here) d.push(`${down ? "L" : "M"}${curves.X(i + 1).toFixed(1)} ${curves.Y(point).toFixed(1)}`);
      if (here && inside(point)) dots.push(svg("circle", { cx: curves.X(i + 1), cy: curves.Y(point), r: 1.8, style: "fill: currentColor" }));
      down = here;
    });
    return svg("g", { style: colour(method.key) },
      svg("path", { d: d.join(""), style: `stroke-width: ${Math.min(3, method.width)}`, "stroke-dasharray": method.dash }), ...dots);
  }

  function draw() {
    if (!plot.width) return; // not on the page yet
    const now = state(), { alpha, steps: k, bottoms, curvatures } = now;
    const all = Array.from({ length: kMax }, (_, i) => fourMeans(curvatures, bottoms, alpha, i + 1)), means = all[k - 1];
    const xs = Array.from({ length: 121 }, (_, i) => low + ((high - low) * i) / 120);
    const marks = METHODS.map((method, j) => mark(method, means[method.key], j));
    plot.lines.replaceChildren(
      svg("path", { d: `M0 ${plot.Y(0)}H${plot.width}`, style: "color: var(--mlb-muted); stroke-width: 1.5" }),
      ...curvatures.map((a, i) => svg("path", {
        class: "mlb-parabola", style: "color: var(--mlb-ink); stroke-width: 2", "stroke-dasharray": DASHES[i],
        d: plot.path(xs, xs.map((x) => 0.5 * a * (x - bottoms[i]) ** 2)),
      })),
      ...marks.map(([lines]) => lines), ...marks.map(([, tag]) => tag), // words on top of all lines
    );
    grips.forEach((grip, i) => {
      grip.set([bottoms[i], 0], `Bottom of task ${i + 1}`);
      for (const [name, value] of Object.entries({ valuemin: low, valuemax: high, valuenow: bottoms[i].toFixed(2), valuetext: `θ ${format(bottoms[i])}` }))
        grip.node.setAttribute(`aria-${name}`, value);
    });
    for (const { method, cells, point } of rows) {
      const { shares, point: place, status } = means[method.key];
      cells.forEach(({ bar, value }, i) => {
        value.textContent = Number.isFinite(shares[i]) ? decimals(shares[i]) : "–";
        bar.style.width = `${Math.min(100, 100 * Math.abs(shares[i])) || 0}%`;
        bar.classList.toggle("mlb-negative", shares[i] < 0);
      });
      point.textContent = Number.isFinite(place) ? decimals(place) : "none";
      point.classList.toggle("mlb-lost", status === "runs away");
    }
    const plain = bottoms.reduce((s, c) => s + c, 0) / bottoms.length;
    curves.lines.replaceChildren(
      svg("path", { d: `M0 ${curves.Y(plain)}H${curves.width}`, style: "color: var(--mlb-muted); stroke-width: 1", "stroke-dasharray": "1 3" }),
      svg("text", { x: curves.width - 4, y: curves.Y(plain) - 5, "text-anchor": "end" }, "plain mean"),
      svg("path", { d: `M${curves.X(k)} 0V${curves.height}`, style: "color: var(--mlb-muted); stroke-width: 1" }),
      ...METHODS.map((method) => overSteps(method, all)));
    curves.front.replaceChildren(...METHODS.filter(({ key }) => inside(means[key].point) && means[key].status !== "runs away").map((method) =>
      svg("path", { d: markerPath(method, curves.X(k), curves.Y(means[method.key].point)), class: "mlb-marker", style: colour(method.key) })));

    sliders.alpha.set(alpha);
    sliders.steps.set(k);
    bends.forEach((s, i) => s.set(curvatures[i]));
    const edge = 2 / Math.max(...curvatures);
    stable.style.width = `${Math.min(100, (100 * (edge - 0.01)) / 0.99)}%`;
    limit.textContent = `Stable for all tasks up to α = 2 / largest a = ${format(edge)}.`;
    const place = ({ point, status }) => (!Number.isFinite(point) ? "nowhere" : `${format(point)}${status === "runs away" ? " (runs away)" : ""}`);
    const words = `With α = ${alpha.toFixed(2)} and ${counted(k, "inner step")} the resting points are ${METHODS.map(({ key, name }) => `${name} ${place(means[key])}`).join(", ")}.`;
    const said = remarks(now, means);
    sentence.textContent = words;
    notes.replaceChildren(...said.map((text, i) => html("p", { class: i < said.length - 1 || curvatures.some((a) => alpha * a >= 2) ? "mlb-note mlb-warn" : "mlb-note" }, text)));
    live.say([words, ...said].join(" "));
    plot.node.setAttribute("aria-label", `Parabolas with bottoms at ${bottoms.map(format).join(", ")} and curvatures ${curvatures.map(format).join(", ")}. ${words}`);
    curves.node.setAttribute("aria-label", `Fixed points over 1 to ${kMax} inner steps: ${METHODS.map(({ key, name }) => `${name} from ${place(all[0][key])} to ${place(all[kMax - 1][key])}`).join(", ")}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Not finite becomes null.
    root.dataset.state = JSON.stringify({
      ...now, means, remarks: said, over_steps: Object.fromEntries(METHODS.map(({ key }) => [key, all.map((m) => m[key].point)])),
    });
  }

  curves.fit(260);
  return lab.follow(draw, watchWidth(stay, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (curves.fit(width), draw())));
}

export default { render };
