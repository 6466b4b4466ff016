// The lab "A map of classifiers": three classes in a plane, the code z of each on a map, and the classifier that LEO decodes.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { bumps, countLeoWeights, encode, examine, innerLoop, leoNet, logits, said } from "./leo.js";
import { differ, ranLines } from "./lines.js";
import { lettered } from "./methods.js";
import { cornersOf, partition } from "./partition.js";
import { arrow, radios } from "./plane.js";
import { announcer, button, counted, drawer, format, grid, html, inPercent, legendKey, Plot, row, stroke, svg, unique, unpack, watchWidth } from "./shared.js";

const COLOURS = ["--mlb-other-1", "--mlb-other-2", "--mlb-third"];
const CELLS = 44, COARSE = 30; // of the square, along a side: for the classifier, for each of the samples

// -- arithmetic -------------------------------------------------------------------------------------------------------

/** The support points that count: the first `shots` of each class. */
export function supportOf({ points, shots }, { ways, most }) {
  const places = Array.from({ length: ways * shots }, (_, i) => points[Math.floor(i / shots) * most + (i % shots)]);
  return { places, labels: places.map((_, i) => Math.floor(i / shots)) };
}

/** All that follows from the state: codes and their spread, the inner steps, losses and accuracies, and the samples. */
export function followed(net, state, setup, queries) {
  const { places, labels } = supportOf(state, setup), x = bumps(places, setup.bumps), { mean, sigma } = encode(net, x, setup.ways);
  const path = innerLoop(net, x, labels, state.codes.length ? state.codes : mean, state.latent, state.finetuning);
  const judged = path.map(({ w }) => {
    const support = examine(w, x, labels), query = examine(w, queries.x, queries.y);
    return { support: support.loss, query: query.loss / queries.y.length, accuracy: query.accuracy };
  });
  const samples = (state.draw ? setup.noise[state.draw - 1] : []).map((noise) => {
    const z = mean.map((code, k) => code.map((v, j) => v + sigma[k][j] * noise[k][j]));
    const last = innerLoop(net, x, labels, z, state.latent, state.finetuning).pop();
    return { ...last, says: queries.x.map((row) => said(last.w, row)) };
  });
  const means = mean.map((_, k) => [0, 1].map((j) => places.reduce((sum, p, i) => sum + (labels[i] === k ? p[j] / state.shots : 0), 0)));
  const share = (holds) => queries.y.filter((y, i) => holds(i, y)).length / queries.y.length;
  const far = ([a, b]) => means.map(([u, v]) => (a - u) ** 2 + (b - v) ** 2);
  const control = share((i, y) => far(queries.places[i]).every((d, _, all) => d >= all[y]));
  const split = samples.length ? share((i) => samples.some(({ says }) => says[i] !== samples[0].says[i])) : null;
  return { mean, sigma, path, judged, samples, control, split };
}

// -- the lab ----------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const setup = model.get("setup"), { ways, most, letters } = setup, limits = [-setup.bumps.reach, setup.bumps.reach], side = [-setup.map, setup.map];
  const net = leoNet(unpack(model.get("weights"), countLeoWeights(setup.network))[0], setup.network);
  const total = ways * most, anywhere = [-99, 99]; // inner steps carry codes out of the picture
  const supportPoints = (task) => setup.tasks[task].support.flat();
  const lab = openLab(model, "latent-map", {
    points: kept.list(kept.numbers(2, limits, limits), total, total, ";"), codes: kept.list(kept.numbers(3, anywhere, anywhere), 0, ways, ";"),
    latent: kept.whole(0, setup.steps), finetuning: kept.whole(0, setup.steps), shots: kept.choice([1, most]),
    draw: kept.whole(0, setup.noise.length), task: kept.whole(0, setup.tasks.length - 1),
  }, {
    agree: ({ codes }) => [0, ways].includes(codes.length),
    exact(values) { // points of the task that nobody moved
      const own = supportPoints(values.task), same = (p, q) => p.every((v, j) => Math.abs(v - q[j]) < 0.006);
      return { ...values, points: values.points.map((p, i) => (same(p, own[i]) ? own[i] : p)) };
    },
  });
  const { state, change } = lab;
  const fine = cornersOf(...limits, CELLS), coarse = cornersOf(...limits, COARSE), seen = [fine, coarse].map((corners) => bumps(corners, setup.bumps));
  const queriesOf = setup.tasks.map(({ query }) => {
    const places = query.flat();
    return { places, x: bumps(places, setup.bumps), y: query.flatMap((of, k) => of.map(() => k)) };
  });
  const colour = (k) => `color: var(${COLOURS[k]})`;

  // -- what the reader does ---------------------------------------------------------------------------------------------

  const fresh = { codes: [], latent: 0, finetuning: 0 };
  const step = (count) => change({ latent: Math.min(setup.steps, state().latent + count), finetuning: 0 }); // w is decoded anew
  const tune = () => change({ finetuning: Math.min(setup.steps, state().finetuning + 1) });
  function toTask(task) {
    change({ ...fresh, task, draw: 0, points: supportPoints(task) });
  }
  function moveCode(k, place) {
    const now = state(), codes = followed(net, { ...now, draw: 0 }, setup, queriesOf[now.task]).path.pop().z.map((z, i) => (i === k ? place : z));
    change({ codes, latent: 0, finetuning: 0 });
  }

  // -- the elements -----------------------------------------------------------------------------------------------------

  const ticks = (far) => [-2 * far, -far, 0, far, 2 * far];
  const square = Object.assign((width) => Math.max(60, width - 52) + 60, { oneScale: true }); // Plot's margins
  const plane = new Plot({ x: limits, y: limits, xTicks: [-3, -2, -1, 0, 1, 2, 3], yTicks: [-2, 0, 2], xTitle: "x₁", yTitle: "x₂", height: square, role: "group" });
  const map = new Plot({ x: side, y: side, xTicks: ticks(setup.map / 3), yTicks: ticks(setup.map / 3), xTitle: "z₁", yTitle: "z₂", height: square, role: "group" });
  const hatch = unique(); // patterns are found by name, and a page may hold two labs
  plane.node.prepend(svg("defs", {}, ...letters.map((_, k) =>
    svg("pattern", { id: `${hatch}${k}`, width: 9, height: 9, patternUnits: "userSpaceOnUse", patternTransform: `rotate(${20 + 60 * k})` },
      svg("rect", { width: 9, height: 9, style: `fill: var(${COLOURS[k]}); fill-opacity: 0.16` }), svg("path", { d: "M0 1H9", style: `${colour(k)}; stroke-width: 1; stroke-opacity: 0.45` })))));

  const rows = html("tbody", {}), table = grid(["", "support loss", "query loss", "queries right"], rows, { class: "mlb-grid", "aria-label": "Losses and accuracy" });
  const shots = radios("Support points per class", { 1: "1", 3: "3" }, (value) => change({ ...fresh, shots: Number(value) }));
  const sentence = html("p", { class: "mlb-sentence" }), remark = html("p", { class: "mlb-note" }), live = announcer();
  const shape = (k, x, y, r = 3.6) => [
    `M${x - r} ${y}a${r} ${r} 0 1 0 ${2 * r} 0a${r} ${r} 0 1 0 ${-2 * r} 0`, `M${x - r} ${y - r}h${2 * r}v${2 * r}h${-2 * r}Z`, `M${x} ${y - 1.3 * r}l${1.2 * r} ${2.2 * r}h${-2.4 * r}Z`,
  ][k % 3];
  const ran = ranLines(setup.lines, (before, now) =>
    differ(before, now, "points", "task", "shots") || (before.codes.length && !now.codes.length) ? "encode"
    : differ(before, now, "codes") ? "move" : now.finetuning > before.finetuning ? "finetuning" : now.latent > before.latent ? "latent"
    : differ(before, now, "latent", "finetuning") ? "encode" : now.draw && differ(before, now, "draw") ? "draw" : null);
  const stay = html("div", { class: "mlb-stay" }, plane.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" },
      ...letters.map((letter, k) => legendKey({ d: shape(k, 13, 6, 4), style: `${colour(k)}; stroke-width: 1.8` }, `query of ${letter}`)),
      legendKey({ d: "M8 1l10 10m0 -10l-10 10", ...stroke("--mlb-ink", 2) }, "wrong"),
      legendKey(stroke("--mlb-ink", 1.6, "5 4"), "boundary at step 0"), legendKey(stroke("--mlb-muted", 1), "boundary of a sample")));
  const right = html("div", {}, map.node,
    html("p", { class: "mlb-legend" },
      legendKey({ d: "M13 1V11M8 6H18", ...stroke("--mlb-muted", 2) }, "mean μ of the encoder"), legendKey({ d: "M3 6a10 5 0 1 0 20 0a10 5 0 1 0 -20 0", ...stroke("--mlb-muted", 1.5, "4 3") }, "spread: σ and 2σ"),
      legendKey({ d: "M2 6H22M22 6l-6 -4M22 6l-6 4", ...stroke("--mlb-muted", 2) }, "latent step"), legendKey(svg("circle", { cx: 13, cy: 6, r: 2.5, fill: "currentColor" }), "sample")));
  const bottom = html("div", { class: "mlb-wide" },
    html("div", { class: "mlb-row" },
      button("Encode", () => change(fresh), { class: "mlb-main mlb-runs", "aria-label": "Encode: codes at the means" }),
      button("Latent step", () => step(1), { class: "mlb-runs", "aria-label": "One latent step" }), button("5 latent steps", () => step(5)),
      button("Fine-tuning step", tune, { class: "mlb-runs", "aria-label": "One fine-tuning step" }),
      button("New task", () => toTask((state().task + 1) % setup.tasks.length))),
    ran.place, table, sentence, remark,
    drawer("Samples, and more support points", html("div", { class: "mlb-row" },
      button("Draw 12 samples", () => change({ draw: (state().draw % setup.noise.length) + 1 })), button("No samples", () => change({ draw: 0 }))), shots.node),
    html("div", { class: "mlb-apart" }, html("p", { class: "mlb-note" },
      "Arrow keys move a point or a code, too (with Shift: further). The codes follow the support points until you move one by hand; Encode lets them follow again. ",
      `Support loss: sum over the support points, which the inner steps descend. LEO was meta-trained with ${setup.trained[0]} latent and ${setup.trained[1]} fine-tuning steps and one support point per class. `,
      "Samples: z drawn from the Gaussians of the encoder, then taken through the same inner steps.")));
  const root = lab.frame(el, {
    label: "a map of classifiers", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Drag a support point (left) or a code (right): what does the other side make of it?",
    presets: { "Five latent steps": { latent: 5 }, "Twelve samples": { draw: 1 }, "Three points per class": { shots: most, latent: 5 } },
  });

  const supports = Array.from({ length: ways * most }, (_, i) => {
    const move = (place) => change({ points: state().points.map((old, j) => (j === i ? place : old)), latent: 0, finetuning: 0 });
    return lettered(plane, letters[Math.floor(i / most)], move, colour(Math.floor(i / most)));
  });
  const marks = svg("g", {});
  map.front.append(marks);
  const codes = letters.map((letter, k) => lettered(map, letter, (place) => moveCode(k, place), colour(k)));

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const toPlane = ([x, y]) => `${plane.X(x).toFixed(1)} ${plane.Y(y).toFixed(1)}`;
  const divide = (w, detail) => partition(seen[detail].map((x) => logits(w, x)), [fine, coarse][detail], [CELLS, COARSE][detail], toPlane);

  function drawPlane(now, { path, samples }, queries) {
    const { w } = path[path.length - 1], cut = divide(w, 0), wrong = queries.x.map((x, i) => said(w, x) !== queries.y[i]);
    const line = (d, name, look) => svg("path", { class: name, d, ...look });
    plane.lines.replaceChildren(
      ...cut.regions.map((d, k) => svg("path", { class: "mlb-region", d, style: `fill: url(#${hatch}${k}); stroke: none` })),
      ...samples.map((s) => line(divide(s.w, 1).boundary, "mlb-sample", stroke("--mlb-muted", 1))),
      ...(path.length > 1 ? [line(divide(path[0].w, 0).boundary, "mlb-before", stroke("--mlb-ink", 1.6, "5 4"))] : []),
      line(cut.boundary, "mlb-boundary", stroke("--mlb-ink", 2.6)),
      ...queries.places.map(([x, y], i) => svg("path", { class: "mlb-query", d: shape(queries.y[i], plane.X(x), plane.Y(y)), style: `${colour(queries.y[i])}; stroke-width: 1.8; fill: var(--mlb-ground)` })),
      line(queries.places.filter((_, i) => wrong[i]).map(([x, y]) => `M${plane.X(x) - 6} ${plane.Y(y) - 6}l12 12m0 -12l-12 12`).join(""), "mlb-wrong-queries", stroke("--mlb-ink", 2)),
    );
    supports.forEach((grip, i) => {
      const k = Math.floor(i / most), number = i % most;
      grip.node.style.display = number < now.shots ? "" : "none";
      grip.set(now.points[i], `Support point ${letters[k]}${number + 1}`);
    });
  }

  function drawMap(now, { mean, sigma, path, samples }) {
    const last = path[path.length - 1].z, wide = map.width / (2 * setup.map);
    const ellipse = (k, times) => svg("ellipse", {
      class: "mlb-spread", cx: map.X(mean[k][0]), cy: map.Y(mean[k][1]), rx: times * sigma[k][0] * wide, ry: times * sigma[k][1] * wide,
      style: `${colour(k)}; fill: ${times === 1 ? "currentColor" : "none"}; fill-opacity: 0.14; stroke: currentColor; stroke-width: 1.5; stroke-dasharray: 4 3`,
    });
    const cross = ([x, y]) => `M${map.X(x)} ${map.Y(y) - 6}v12M${map.X(x) - 6} ${map.Y(y)}h12`;
    map.lines.replaceChildren(
      svg("path", { d: `M${map.X(-setup.map)} ${map.Y(0)}H${map.X(setup.map)}M${map.X(0)} ${map.Y(-setup.map)}V${map.Y(setup.map)}`, ...stroke("--mlb-edge", 1) }),
      ...mean.flatMap((_, k) => [ellipse(k, 2), ellipse(k, 1), svg("path", { d: cross(mean[k]), style: `${colour(k)}; stroke-width: 2.2` })]),
      ...samples.flatMap(({ z }) => z.map(([a, b], k) => svg("circle", { class: "mlb-drawn", cx: map.X(a), cy: map.Y(b), r: 2.6, style: `${colour(k)}; fill: currentColor` }))),
      ...path.slice(1, now.latent + 1).flatMap(({ z }, n) => z.map((to, k) => arrow(map, path[n].z[k], to, { class: "mlb-move", style: `${colour(k)}; stroke-width: 2` }))),
    );
    codes.forEach((grip, k) => {
      grip.set(last[k].map((v) => Math.max(-setup.map, Math.min(setup.map, v))), `Code of class ${letters[k]}`);
      grip.node.setAttribute("aria-valuetext", `z₁ ${format(last[k][0])}, z₂ ${format(last[k][1])}`);
    });
  }

  function draw() {
    if (!plane.width || !map.width) return; // not on the page yet
    const now = state(), queries = queriesOf[now.task], found = followed(net, now, setup, queries), { judged } = found, last = judged[judged.length - 1];
    drawPlane(now, found, queries);
    drawMap(now, found);
    shots.set(`${now.shots}`);
    const line = (name, j, current) => row(name,
      [[j.support, format], [j.query, format], [j.accuracy, inPercent]].map(([v, show]) => (v === undefined ? "–" : show(v))), { "aria-current": current && "true" });
    const start = now.codes.length ? "codes by hand" : "codes at the means", tuned = now.finetuning > 0;
    rows.replaceChildren(
      line(start, judged[0], judged.length === 1),
      line(counted(now.latent, "latent step"), now.latent ? judged[now.latent] : {}, !tuned && now.latent > 0),
      line(counted(now.finetuning, "fine-tuning step"), tuned ? last : {}, tuned),
      line("nearest mean, for comparison", { accuracy: found.control }));
    const did = [now.latent && counted(now.latent, "latent step"), tuned && counted(now.finetuning, "fine-tuning step")].filter(Boolean).join(" and ");
    const first = did
      ? `After ${did}: support loss ${format(judged[0].support)} → ${format(last.support)}, queries right ${inPercent(judged[0].accuracy)} → ${inPercent(last.accuracy)}.`
      : `No inner step yet, ${start}: support loss ${format(last.support)}, queries right ${inPercent(last.accuracy)}.`;
    const second = found.split === null ? "" : `The ${found.samples.length} samples of z do not agree on ${inPercent(found.split)} of the queries.`;
    sentence.textContent = first;
    remark.textContent = second;
    live.say([first, second].filter(Boolean).join(" "));
    plane.node.setAttribute("aria-label", `The plane: ${now.shots} support ${now.shots === 1 ? "point" : "points"} per class, ${queries.y.length} queries, and the regions of the decoded classifier. ${first}`);
    map.node.setAttribute("aria-label", `The latent map: codes ${found.path[found.path.length - 1].z.map((z, k) => `${letters[k]} at (${z.map(format).join(", ")})`).join("; ")}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    const { path, samples, ...rest } = found, strip = samples.map(({ z, says }) => ({ z, accuracy: says.filter((k, i) => k === queries.y[i]).length / says.length }));
    root.dataset.state = JSON.stringify({ ...now, ...rest, z: path.map((p) => p.z), w: path[path.length - 1].w, samples: strip, words: [first, second] });
    ran.tell(now);
  }

  return lab.follow(draw, watchWidth(stay, (width) => (plane.fit(width), draw())), watchWidth(right, (width) => (map.fit(width), draw())));
}

export default { render };
