// The lab "One real task": features of photographs, five classes of the reader's choice, and LEO's classifier after every inner step beside the
// nearest centroid. The arithmetic is in leo.js; weights (16 bits) and features (8 bits) come from Python.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { unpackHalf } from "./half.js";
import { encode, examine, innerLoop, leoNet, said } from "./leo.js";
import { radios } from "./plane.js";
import { announcer, button, clamp, counted, drawer, html, inPercent, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

const LETTERS = "ABCDE", PER_DRAW = 5; // pictures that one draw of the support set takes from a class

// -- arithmetic -------------------------------------------------------------------------------------------------------

/** Features [class][picture], each at length 1, from bytes. */
export function picturesOf(bytes, { classes, pictures, features: D }) {
  return Array.from({ length: classes }, (_, c) => Array.from({ length: pictures }, (_, i) => {
    const from = (c * pictures + i) * D, raw = Float64Array.from(bytes.subarray(from, from + D)), length = Math.hypot(...raw);
    return Array.from(raw, (v) => v / length);
  }));
}

/** The net of leo.js from weights that hold only the decoder's means. */
export function netOf(view, { features: D, latent: n, units }) {
  const flat = unpackHalf(view), means = n * D + 4 * n * units + units * units + D * n, whole = new Float64Array(flat.length + D * n);
  whole.set(flat.subarray(0, means));
  whole.set(flat.subarray(means), means + D * n);
  return leoNet(whole, { features: D, latent: n, units });
}

/** Support and query set of a task: K of the pictures of one draw, and all pictures that this draw does not take. */
export function episode(pictures, { classes, shots, draw }) {
  const from = draw * PER_DRAW, taken = (i) => i >= from && i < from + PER_DRAW;
  const support = classes.map((c) => pictures[c].slice(from, from + shots)), query = classes.map((c) => pictures[c].filter((_, i) => !taken(i)));
  const labels = (sets) => sets.flatMap((set, k) => set.map(() => k));
  return { x: support.flat(), y: labels(support), queryX: query.flat(), queryY: labels(query) };
}

/** Mean support vector of each class at length 1: the classifier of the nearest centroid. */
export const centroids = ({ x, y }, ways) => Array.from({ length: ways }, (_, k) => {
  const own = x.filter((_, i) => y[i] === k), sum = own[0].map((_, d) => own.reduce((s, v) => s + v[d], 0)), length = Math.hypot(...sum);
  return sum.map((v) => v / length);
});

/** counts[true class][answer] of the queries. */
export function confusion(w, { queryX, queryY }) {
  const counts = w.map(() => w.map(() => 0));
  queryX.forEach((x, i) => (counts[queryY[i]][said(w, x)] += 1));
  return counts;
}

const share = (counts) => counts.reduce((sum, r, k) => sum + r[k], 0) / counts.flat().reduce((a, b) => a + b);

/** What the lab shows: accuracies of LEO after every inner step, of the centroids, and both tables of answers. */
export function followed(net, pictures, now) {
  const task = episode(pictures, now), ways = now.classes.length;
  const path = innerLoop(net, task.x, task.y, encode(net, task.x, ways).mean, now.latent, now.finetuning);
  const tables = path.map(({ w }) => confusion(w, task)), near = confusion(centroids(task, ways), task);
  return {
    w: path[path.length - 1].w, query: tables.map(share), support: path.map(({ w }) => examine(w, task.x, task.y).accuracy),
    loss: path.map(({ w }) => examine(w, task.x, task.y).loss), centroid: share(near), tables: { leo: tables[tables.length - 1], centroid: near },
  };
}

/** The chosen classes after a press on class c: always five; a new one takes the place of the one that was chosen longest ago. */
export const pressed = (classes, c) => (classes.includes(c) ? classes : [...classes.slice(1), c]);

// -- the lab ----------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const setup = model.get("setup"), { names, most, draws, sets } = setup, ways = model.get("classes").length;
  const lab = openLab(model, "real-episode", {
    classes: kept.list(kept.whole(0, names.length - 1), ways), shots: kept.choice([1, 5]), draw: kept.whole(0, draws - 1), latent: kept.whole(0, most),
    finetuning: kept.whole(0, most), shown: kept.choice(["leo", "centroid"]),
  }, { agree: ({ classes }) => new Set(classes).size === ways });
  const { state, change } = lab;
  const view = model.get("features"), pictures = picturesOf(new Uint8Array(view.buffer, view.byteOffset, view.byteLength), setup.network);
  const net = netOf(model.get("weights"), setup.network), known = new Map();
  function compute(now) {
    const key = JSON.stringify([now.classes, now.shots, now.draw, now.latent, now.finetuning]);
    if (!known.has(key)) known.set(key, followed(net, pictures, now));
    return known.get(key);
  }

  // -- the elements -----------------------------------------------------------------------------------------------------

  const fresh = { latent: 0, finetuning: 0 };
  const chips = names.map((name, c) => button(name, () => change({ ...fresh, classes: pressed(state().classes, c) }), { class: "mlb-chip" }));
  const atRandom = () => {
    const left = names.map((_, c) => c);
    return Array.from({ length: ways }, () => left.splice(Math.floor(Math.random() * left.length), 1)[0]);
  };
  const plot = new Plot({
    x: [0, 2 * most], y: [0, 1], xTicks: [0, 5, 10, 15, 20].filter((n) => n <= 2 * most), yTicks: [0, 0.2, 0.4, 0.6, 0.8, 1],
    xTitle: "inner step", yTitle: "share of right answers", height: () => 220, role: "img",
  });
  const whole = (v) => `${v}`;
  const latent = slider({ label: "latent steps", min: 0, max: most, step: 1, show: whole, input: (v) => change({ latent: v }) });
  const tuning = slider({ label: "fine-tuning", min: 0, max: most, step: 1, show: whole, input: (v) => change({ finetuning: v }) });
  const shots = radios("Support pictures per class", { 1: "1", 5: "5" }, (v) => change({ ...fresh, shots: Number(v) }));
  const shown = radios("Answers of", { leo: "LEO", centroid: "the nearest centroid" }, (v) => change({ shown: v }));
  const head = html("tr", {}), body = html("tbody", {});
  const table = html("table", { class: "mlb-answers" }, html("caption", {}, "Rows: what is in the picture. Columns: the answers."), html("thead", {}, head), body);
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const looks = { leo: stroke("--mlb-maml", 3.5), support: stroke("--mlb-ink", 1.8, "3 3"), centroid: stroke("--mlb-fomaml", 3, "9 4"), chance: stroke("--mlb-muted", 1.2, "1 3") };
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" }, legendKey(looks.leo, "LEO, queries"), legendKey(looks.support, "LEO, support set"), legendKey(looks.centroid, "nearest centroid, queries"), legendKey(looks.chance, "chance")),
    sentence,
    html("div", { class: "mlb-row" },
      button("Latent step", () => change({ latent: Math.min(most, state().latent + 1), finetuning: 0 }), { class: "mlb-main", "aria-label": "One latent step" }),
      button("Fine-tuning step", () => change({ finetuning: Math.min(most, state().finetuning + 1) }), { "aria-label": "One fine-tuning step" })),
    latent.node, tuning.node,
    drawer("Support pictures", shots.node, html("div", { class: "mlb-row" }, button("Other support pictures", () => change({ ...fresh, draw: (state().draw + 1) % draws })))));
  const right = html("div", {},
    html("fieldset", {}, html("legend", {}, `Five of the ${names.length} new classes; a sixth takes the place of the one chosen longest ago`),
      html("div", { class: "mlb-chips" }, ...chips, button("Five at random", () => change({ ...fresh, classes: atRandom() }), { class: "mlb-chip" }))),
    shown.node, table);
  const bottom = html("div", { class: "mlb-wide" }, html("p", { class: "mlb-note" },
    `${setup.network.pictures} pictures of each class are in this page, as ${setup.network.features} features each: those of the support draw may be learned from, the ${setup.network.pictures - PER_DRAW} others are the queries. `,
    `LEO was meta-trained on other classes with ${setup.trained[0]} latent and ${setup.trained[1]} fine-tuning steps and one picture per class; its weights are rounded to 16 bits here, the features to 8.`));
  const root = lab.frame(el, {
    label: "one real task", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Choose five classes: on which does LEO beat the nearest centroid, and which does it confuse?",
    presets: { ...Object.fromEntries(Object.entries(sets).map(([name, classes]) => [name, { classes }])), "Five pictures each": { shots: 5, latent: Math.min(5, most) } },
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  function drawPlot(now, found) {
    const steps = found.query.map((_, n) => n), line = (ys, look) => svg("path", { class: "mlb-curve", d: plot.path(ys.map((_, n) => n), ys), ...look });
    const level = (v, look) => svg("path", { class: "mlb-curve", d: plot.path([0, 2 * most], [v, v]), ...look });
    plot.lines.replaceChildren(
      level(1 / ways, looks.chance), level(found.centroid, looks.centroid),
      ...(now.finetuning ? [svg("path", { d: `M${plot.X(now.latent)} 0V${plot.height}`, ...stroke("--mlb-muted", 1, "2 3") }),
        svg("text", { x: plot.X(now.latent) + 4, y: plot.height - 6 }, "fine-tuning →")] : []),
      line(found.support, looks.support), line(found.query, looks.leo));
    plot.front.replaceChildren(...steps.map((n) => svg("circle", { cx: plot.X(n), cy: plot.Y(found.query[n]), r: n === steps.length - 1 ? 5.5 : 3, style: "fill: var(--mlb-maml)" })));
  }

  function draw() {
    if (!plot.width) return; // not on the page yet
    const now = state(), found = compute(now), { query, centroid } = found, end = query[query.length - 1];
    drawPlot(now, found);
    chips.forEach((chip, c) => {
      const k = now.classes.indexOf(c);
      chip.setAttribute("aria-pressed", k >= 0);
      chip.textContent = k < 0 ? names[c] : `${LETTERS[k]} · ${names[c]}`;
    });
    latent.set(now.latent);
    tuning.set(now.finetuning);
    shots.set(`${now.shots}`);
    shown.set(now.shown);
    const counts = found.tables[now.shown], of = counts[0].reduce((a, b) => a + b);
    head.replaceChildren(html("th", {}), ...now.classes.map((c, k) => html("th", { scope: "col", "aria-label": names[c] }, LETTERS[k])), html("th", { scope: "col" }, "right"));
    body.replaceChildren(...counts.map((line, k) => row(`${LETTERS[k]} · ${names[now.classes[k]]}`, [...line.map(whole), inPercent(line[k] / of)])));
    [...body.children].forEach((tr, k) => [...tr.querySelectorAll("td")].slice(0, ways).forEach((td, j) => {
      td.style.setProperty("--mlb-share", `${Math.round((70 * counts[k][j]) / of)}%`);
      td.className = j === k ? "mlb-diagonal" : "mlb-off";
    }));
    const did = [counted(now.latent, "latent step"), now.finetuning && counted(now.finetuning, "fine-tuning step")].filter(Boolean).join(" and ");
    const worst = found.tables.leo.flatMap((line, k) => line.map((n, j) => ({ n, k, j }))).filter(({ k, j }) => k !== j).reduce((a, b) => (b.n > a.n ? b : a));
    const mixed = worst.n ? ` LEO's most frequent mistake: ${names[now.classes[worst.k]]} called ${names[now.classes[worst.j]]}, ${worst.n} of ${of}.` : "";
    const words = `LEO after ${did}: ${inPercent(end)} of the queries right (${inPercent(query[0])} before any step). Nearest centroid: ${inPercent(centroid)}.${mixed}`;
    sentence.textContent = words;
    live.say(words);
    plot.node.setAttribute("aria-label", `Share of right answers over the inner steps: ${query.map(inPercent).join(", ")}; the nearest centroid ${inPercent(centroid)}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({ ...now, ...found });
  }

  return lab.follow(draw, watchWidth(stay, (width) => (plot.fit(clamp(width, [120, 900])), draw())));
}

export default { render };
