// The lab "Two manifolds": Reptile between the solution sets of tasks with two parameters, with the closest point of a set
// as the target, or with the end of k gradient steps.
//
// The path of φ follows from the state (the start, the curves, the settings, the number of iterations), so whatever the
// reader changes, the whole path changes. The arithmetic is in manifolds.js.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { along, back, descend, distances, KINDS, minimisers, objective, project, run, settled } from "./manifolds.js";
import { checkbox, radios, sameScale } from "./plane.js";
import { announcer, button, clamp, counted, drawer, format, grid, handle, html, legendKey, player, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

const TARGETS = { projection: "closest point of W", steps: "k gradient steps on L" };
const NEAR = 0.2; // two points closer than this make no curve
const COLUMNS = { "": "", exact: "with closest points", "k steps": "with k gradient steps", "✕": "at the best point", "○": "where k steps settle" };

function render({ model, el }) {
  const setup = model.get("setup"), { x_range, y_range, last, kinds } = setup;
  const spot = kept.numbers(6, x_range, y_range); // where φ was when the path was cleared has no round numbers
  const lab = openLab(model, "two-manifolds", {
    phi: spot, curves: kept.list(kept.list(spot, 2, 2, ";"), kinds.length, kinds.length, "/"), tasks: kept.whole(2, 3), target: kept.choice(Object.keys(TARGETS)),
    inner_steps: kept.whole(1, 30), inner_lr: kept.number(2, [0.01, 0.5]), outer_lr: kept.number(2, [0.02, 1]), steepness: kept.number(2, [0.2, 2]),
    random: kept.flag, seed: kept.whole(0, 2 ** 31 - 1), iteration: kept.whole(0, last),
  }, { restart: () => play.stop(), agree: ({ curves }) => curves.every(([[ax, ay], [bx, by]]) => Math.hypot(bx - ax, by - ay) >= NEAR - 1e-9) });
  const { state, change } = lab;
  const colours = ["--mlb-maml", "--mlb-fomaml", "--mlb-other-1"], names = ["W₁", "W₂", "W₃"], other = { projection: "steps", steps: "projection" };

  const setIteration = (iteration) => change({ iteration: clamp(iteration, [0, last]) });
  const play = player({
    every: 40,
    begin: () => setIteration(state().iteration >= last ? 0 : state().iteration + 1),
    next: () => state().iteration < last && (setIteration(state().iteration + 1), true),
    finish: () => setIteration(last),
    changed: () => draw(),
  });
  const { byHand } = play;

  // -- the elements -----------------------------------------------------------------------------------------------------

  const plot = new Plot({
    x: x_range, y: y_range, xTicks: [-4, -2, 0, 2, 4], yTicks: [-3, -2, -1, 0, 1, 2, 3], xTitle: "φ, first parameter", yTitle: "second parameter",
    bottom: 38, height: sameScale(x_range, y_range, 38), role: "group",
  });
  const start = handle(plot, { move: (phi) => change({ phi }) });
  const marks = svg("g", { "aria-hidden": "true" });
  const points = kinds.map((_, i) => [0, 1].map((j) => {
    function move(point) {
      const curves = structuredClone(state().curves), [x, y] = curves[i][1 - j];
      if (Math.hypot(point[0] - x, point[1] - y) < NEAR) return;
      curves[i][j] = point;
      change({ curves });
    }
    const grip = handle(plot, { move });
    grip.node.querySelector(".mlb-dot").style.fill = `var(${colours[i]})`;
    return grip;
  }));
  plot.front.append(marks, start.node, ...points.flat().map((p) => p.node));
  const history = new Plot({
    x: [0, last], y: [0.01, 10], log: true, xTicks: [0, last / 4, last / 2, (3 * last) / 4, last], yTicks: [0.01, 0.1, 1, 10],
    xTitle: "iteration", yTitle: "objective and distances", height: () => 205, role: "img",
  });

  const cross = (x, y, size) => `M${x - size} ${y - size}L${x + size} ${y + size}M${x - size} ${y + size}L${x + size} ${y - size}`;
  const line = (d, look) => svg("path", { d, ...look });
  const disc = (cx, cy, r) => svg("circle", { cx, cy, r, style: "fill: var(--mlb-truth); stroke: var(--mlb-ink); stroke-width: 1.5" });
  const ring = (cx, cy, r) => svg("circle", { cx, cy, r, style: "fill: none; stroke: var(--mlb-truth); stroke-width: 3" });
  const looks = {
    curves: colours.map((c) => stroke(c, 3)), far: colours.map((c) => stroke(c, 1)), path: stroke("--mlb-truth", 2),
    other: stroke("--mlb-muted", 1.5, "4 4"), best: stroke("--mlb-ink", 3), value: stroke("--mlb-ink", 3), least: stroke("--mlb-ink", 1.5, "2 3"),
  };

  const step = button("Step ▶", byHand(() => setIteration(state().iteration + 1)), { class: "mlb-main", "aria-label": "One iteration" });
  const playing = button("", play.toggle), rewind = button("Back to 0", byHand(() => setIteration(0)), { "aria-label": "Back to iteration 0" });
  let here = null; // where φ is now
  const clear = button("Clear path", byHand(() => change({ phi: here.map((v, i) => Number(clamp(v, [x_range, y_range][i]).toFixed(6))), iteration: 0 })), { "aria-label": "Clear the path and start from where φ is" });
  const target = radios("Target of an iteration", TARGETS, (target) => change({ target }));
  const order = radios("Tasks are drawn", { turn: "in turn", random: "at random" }, (value) => change({ random: value === "random" }));
  const anew = button("Draw anew", () => change({ seed: state().seed + 1 }));
  const third = checkbox("a third task, W₃", (on) => change({ tasks: on ? 3 : 2 }));
  const sliders = {
    iteration: slider({ label: "iteration", min: 0, max: last, step: 1, show: (v) => `${v}`, input: (v) => byHand(() => setIteration(v))() }),
    inner_steps: slider({ label: "inner steps k", min: 1, max: 30, step: 1, show: (v) => `${v}`, input: (v) => change({ inner_steps: v }) }),
    inner_lr: slider({ label: "inner rate α", min: 0.01, max: 0.5, step: 0.01, input: (v) => change({ inner_lr: v }), show: (v) => v.toFixed(2) }),
    outer_lr: slider({ label: "outer step ε", min: 0.02, max: 1, step: 0.02, input: (v) => change({ outer_lr: v }), show: (v) => v.toFixed(2) }),
    steepness: slider({ label: "steepness L₁", min: 0.2, max: 2, step: 0.1, input: (v) => change({ steepness: v }), show: (v) => v.toFixed(1) }),
  };
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer(), rows = html("tbody", {});
  const table = grid(Object.entries(COLUMNS), rows);
  const keys = names.map((name, i) => legendKey(looks.curves[i], name)), farKeys = names.map((name, i) => legendKey(looks.far[i], `D to ${name}`)), otherKey = html("span", {});
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" }, ...keys, legendKey(svg("circle", { cx: 13, cy: 6, r: 5, fill: "var(--mlb-ink)" }), "start of φ"),
      legendKey(looks.path, "its path"), legendKey(disc(13, 6, 5), "φ now"),
      legendKey(line(cross(13, 6, 4), { stroke: "currentColor", ...looks.best }), "smallest mean squared distance"),
      legendKey(ring(13, 6, 4.5), "where k steps settle for small ε"), legendKey(looks.other, otherKey)),
    sentence, html("div", { class: "mlb-row" }, step, playing, rewind, clear), sliders.iteration.node,
    sliders.inner_steps.node, sliders.steepness.node);
  const right = html("div", {}, target.node, table,
    html("div", { class: "mlb-apart" }, history.node,
      html("p", { class: "mlb-legend" }, legendKey(looks.value, "½ mean D²"), legendKey(looks.least, "its minimum"), legendKey(looks.other, "other target"),
        ...farKeys)));
  const bottom = html("div", { class: "mlb-wide" },
    drawer("A third task, random order, step sizes",
      html("div", { class: "mlb-row" }, third.node, order.node, anew), html("div", { class: "mlb-sliders" }, sliders.outer_lr.node, sliders.inner_lr.node)),
    html("p", { class: "mlb-note" },
      "Arrow keys move a point, too (with Shift: further). W₁ is a line, W₂ a parabola by its vertex and focus, W₃ a circle by its centre and a point on it; ",
      "k, α and the steepness act on gradient steps only."));
  const few = { target: "steps", inner_steps: 2, iteration: last };
  const root = lab.frame(el, {
    label: "Reptile between solution manifolds", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Drag the start of φ, or bend the curves by their points: where does Reptile settle?",
    presets: { "Two gradient steps": few, "Two steps, steep L₁": { ...few, steepness: 1.5 }, "A third task": { tasks: 3, iteration: last } },
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const xs = (path) => path.map((p) => p[0]), ys = (path) => path.map((p) => p[1]);
  const trail = (path, look) => line(plot.path(xs(path), ys(path)), look);
  const known = {}, marked = {}; // the points ✕ and ○, found again only when what they depend on has changed
  function mark(name, depends, find) {
    const now = JSON.stringify(depends);
    if (now !== known[name]) [known[name], marked[name]] = [now, find()];
    return marked[name];
  }

  function drawPlane({ phi, curves: held, target, tasks, iteration: n }, { curves, drawn, ...paths }, { next, best, rest }) {
    const path = paths[target].slice(0, n + 1), [x, y] = [plot.X(here[0]), plot.Y(here[1])];
    plot.lines.replaceChildren(
      ...curves.map((c, i) => {
        const place = along(c.handles, [0, 0]);
        return trail(KINDS[c.kind].trace(place).map(([s, t]) => back(c.handles, place.u, s, t)), looks.curves[i]);
      }),
      trail(paths[other[target]].slice(0, n + 1), looks.other),
      trail(next, stroke(colours[drawn[n]], 1.5)),
      line(next.filter((p) => p.every(Number.isFinite)).map((p) => `M${plot.X(p[0])} ${plot.Y(p[1])}h0`).join(""), { ...stroke(colours[drawn[n]], 5), "stroke-linecap": "round" }),
      trail(path, { class: "mlb-now", ...looks.path }),
      rest ? ring(plot.X(rest[0]), plot.Y(rest[1]), 6) : "",
      ...best.map((p) => line(cross(plot.X(p[0]), plot.Y(p[1]), 6), looks.best)),
    );
    marks.replaceChildren(Number.isFinite(x + y) ? disc(x, clamp(y, [-20, plot.height + 20]), 6) : "");
    start.set(phi, "φ at the start");
    const parts = { line: ["a point on it", "another point on it"], parabola: ["vertex", "focus"], circle: ["centre", "a point on it"] };
    points.forEach((pair, i) => pair.forEach((point, j) => {
      point.node.style.display = i < tasks ? "" : "none";
      point.set(held[i][j], `${names[i]}, ${kinds[i]}: ${parts[kinds[i]][j]}`);
    }));
  }

  function drawHistory({ target, iteration: n }, { curves, ...paths }, values, least) {
    const steps = values[target].map((_, i) => i), far = paths[target].map((p) => distances(curves, p));
    history.lines.replaceChildren(
      ...curves.map((_, i) => line(history.path(steps, far.map((d) => d[i])), looks.far[i])),
      line(history.path(steps, values[other[target]]), looks.other),
      line(history.path([0, last], [least, least]), looks.least),
      line(history.path(steps, values[target]), looks.value),
      line(`M${history.X(n)} 0V${history.height}`, stroke("--mlb-muted", 1)),
    );
    const value = values[target][n];
    history.front.replaceChildren(Number.isFinite(value) ? svg("circle", { cx: history.X(n), cy: clamp(history.Y(value), [0, history.height]), r: 5, style: "fill: var(--mlb-ink)" }) : "");
  }

  function draw() {
    if (!plot.width || !history.width) return; // not on the page yet
    const now = state(), { iteration: n, target: kind } = now, result = run(setup, now), { curves, drawn } = result;
    const best = mark("best", curves.map((c) => c.handles), () => minimisers(curves, x_range, y_range));
    const rest = mark("rest", [curves, now.phi, now.inner_lr, now.inner_steps], () => settled(curves, now.phi, now.inner_lr, now.inner_steps));
    here = result[kind][n];
    const task = curves[drawn[n]], next = kind === "projection" ? [here, project(task, here)] : descend(task, here, now.inner_lr, now.inner_steps);
    const values = { projection: result.projection.map((p) => objective(curves, p)), steps: result.steps.map((p) => objective(curves, p)) };
    const least = objective(curves, best[0]), gap = (p) => Math.min(...best.map((q) => Math.hypot(p[0] - q[0], p[1] - q[1])));
    drawPlane(now, result, { next, best, rest });
    drawHistory(now, result, values, least);

    const ends = { projection: result.projection[n], steps: result.steps[n] }, columns = [ends.projection, ends.steps, best[0], rest];
    const far = columns.map((p) => p && distances(curves, p)), mean = (d) => d && d.reduce((sum, v) => sum + v ** 2, 0) / (2 * d.length);
    const line = (name, numbers) => row(name, numbers.map((v) => (v === null ? "–" : format(v))));
    rows.replaceChildren(...curves.map((_, i) => line(`D to ${names[i]}`, far.map((d) => d && d[i]))),
      line("½ mean D²", far.map(mean)), line("D to ✕", columns.map((p) => p && gap(p))));
    for (const name of Object.keys(sliders)) sliders[name].set(now[name]);
    target.set(kind);
    order.set(now.random ? "random" : "turn");
    third.set(now.tasks === 3);
    anew.disabled = !now.random;
    for (const node of [keys[2], farKeys[2]]) node.style.display = now.tasks === 3 ? "" : "none";
    otherKey.textContent = kind === "steps" ? "path with the closest points" : "path with k gradient steps";
    rewind.disabled = n === 0;
    step.disabled = n === last;
    clear.disabled = n === 0 || !here.every(Number.isFinite);
    playing.textContent = play.playing() ? "Pause" : `Run to ${last}`;
    const pair = (p) => `${format(p[0])}, ${format(p[1])}`;
    plot.node.setAttribute("aria-label", `Reptile between ${now.tasks} solution sets: from (${pair(now.phi)}), φ is at (${pair(here)}) after ${n} iterations. The smallest mean squared distance is at (${best.map(pair).join(") and (")}).`);
    history.node.setAttribute("aria-label", `The objective over the iterations: ${format(values[kind][0])} at the start, ${format(values[kind][n])} at iteration ${n}, ${format(values[kind][last])} at iteration ${last}; its minimum is ${format(least)}.`);
    const words = `After ${counted(n, "iteration")} towards ${kind === "projection" ? "the closest points" : `the end of ${counted(now.inner_steps, "gradient step")}`}: ½ mean D² is ${format(values[kind][n])}, at best ${format(least)}; φ is ${format(gap(here))} away from the best point ✕.`;
    sentence.textContent = words;
    live.say(words);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Overflow becomes null.
    root.dataset.state = JSON.stringify({
      ...now, drawn, paths: { projection: result.projection, steps: result.steps }, inner_path: next,
      distances: distances(curves, here), objective: values, minimisers: best, minimum: least, settled: rest,
    });
  }

  return lab.follow(draw, play.end, watchWidth(stay, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (history.fit(width), draw())));
}

export default { render };
