// The lab "Adapt a sinusoid": the reader sets the task and the initialisation; every number on the screen is computed here.
//
// Python hands over `weights` (the initialisations, float32) and `setup` (their names, the ranges, the query inputs). What the
// reader changes lies in the model's traits, so a notebook with a kernel can read it and other widgets can be linked to it.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { countParameters, innerPath, meanSquaredError, predict } from "./network.js";
import { differ, ranLines } from "./lines.js";
import { announcer, barChoices, button, clamp, counted, drawer, format, grid, handle, html, legendKey, player, Plot, row, slider, svg, unpack, watchWidth } from "./shared.js";

export const sine = (amplitude, phase, x) => amplitude * Math.sin(x - phase);

export const onCurve = (x, { amplitude, phase }) => [x, sine(amplitude, phase, x)];

/** Everything that follows from one initialisation θ: parameters and losses after 0, 1, …, N inner steps. */
export function adaptation(setup, theta, { points, inner_lr, amplitude, phase }) {
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const truth = setup.query_x.map((x) => sine(amplitude, phase, x));
  const path = innerPath(setup.sizes, theta, xs, ys, inner_lr, setup.steps);
  return {
    path,
    support: path.map((theta) => meanSquaredError(predict(setup.sizes, theta, xs), ys)),
    query: path.map((theta) => meanSquaredError(predict(setup.sizes, theta, setup.query_x), truth)),
  };
}

/** The middle of the widest gap between the points: where one more tells most. */
export function widestGap(points, [low, high]) {
  const xs = [low, ...points.map((p) => p[0]), high].sort((a, b) => a - b);
  let best = 1;
  for (let i = 1; i < xs.length; i++) if (xs[i] - xs[i - 1] > xs[best] - xs[best - 1]) best = i;
  return Math.round(50 * (xs[best] + xs[best - 1])) / 100;
}

function render({ model, el }) {
  const setup = model.get("setup"), [xLow, xHigh] = setup.x_range, last = setup.steps;
  const initialisations = unpack(model.get("weights"), countParameters(setup.sizes));
  const curveX = Array.from({ length: 141 }, (_, i) => xLow + ((xHigh - xLow) * i) / 140);
  const lab = openLab(model, "adapt-sinusoid", {
    initialisation: kept.choice(setup.names), step: kept.whole(0, last), inner_lr: kept.number(4, [0.0005, 0.02]), amplitude: kept.number(2, setup.amplitude_range),
    phase: kept.number(2, setup.phase_range), points: kept.list(kept.numbers(2, setup.x_range, setup.y_range), 1, setup.max_points, ";"),
  }, {
    restart: () => play.stop(),
    exact: (task) => ({ ...task, points: task.points.map(([x, y]) => (Math.abs(y - onCurve(x, task)[1]) < 0.0051 ? onCurve(x, task) : [x, y])) }), // on the sine
  });
  const { state, change } = lab;
  const chosen = () => Math.max(0, setup.names.indexOf(model.get("initialisation")));
  const colour = (i) => `color: var(--mlb-${setup.colours[i]})`;

  // -- what the reader does: change traits; drawing follows from that ---------------------------------------------------

  const inTask = (x) => onCurve(x, state());
  const allOnCurve = () => change({ points: state().points.map(([x]) => inTask(x)) });
  const setStep = (step) => change({ step: clamp(step, [0, last]) });

  /** Another true sine. Support points that lie on the old one come along; the reader's own stay where they were put. */
  function changeTask(values) {
    const old = state(), task = { ...old, ...values };
    const follows = ([x, y]) => Math.abs(y - sine(old.amplitude, old.phase, x)) < 1e-6;
    change({ ...values, points: old.points.map((p) => (follows(p) ? onCurve(p[0], task) : p)) });
  }
  function randomTask() {
    const draw = ([low, high]) => Math.round(100 * (low + (high - low) * Math.random())) / 100;
    const task = { amplitude: draw(setup.amplitude_range), phase: clamp(draw(setup.phase_range), setup.phase_range) };
    change({ ...task, points: state().points.map(() => onCurve(draw(setup.x_range), task)) });
  }
  let selected = 0;
  function addPoint(point) {
    const { points } = state();
    if (points.length >= setup.max_points) return;
    selected = points.length;
    change({ points: [...points, point] });
  }
  function removePoint(index) {
    const { points } = state();
    if (points.length <= 1) return;
    selected = Math.min(index, points.length - 2);
    change({ points: points.filter((_, i) => i !== index) });
  }

  const play = player({
    every: 450,
    begin: () => setStep(state().step >= last ? 0 : state().step + 1),
    next: () => state().step < last && (setStep(state().step + 1), true),
    finish: () => setStep(last),
    changed: () => draw(),
  });
  const { byHand } = play;

  // -- the elements -----------------------------------------------------------------------------------------------------

  const plot = new Plot({
    x: setup.x_range, y: setup.y_range, xTicks: [-4, -2, 0, 2, 4], yTicks: [-4, -2, 0, 2, 4], xTitle: "x", yTitle: "y",
    bottom: 22, height: (width) => clamp(0.8 * width, [250, 370]), role: "group",
  });
  plot.node.addEventListener("dblclick", (event) => {
    const [x, y] = plot.at(event).map((v, i) => Math.round(100 * clamp(v, [setup.x_range, setup.y_range][i])) / 100);
    if (!event.target.closest(".mlb-point")) addPoint([x, y]);
  });
  const lossPlot = new Plot({
    x: [0, last], y: [0.001, 100], log: true, xTicks: [0, 2, 4, 6, 8, 10].filter((n) => n <= last), yTicks: [0.001, 0.01, 0.1, 1, 10, 100],
    xTitle: "inner step", yTitle: "mean squared error", height: () => 205, role: "img",
  });
  const thick = { "stroke-width": 3 }, thin = { "stroke-width": 1.5, opacity: 0.6 };
  const legendNow = html("span", {}), legendCurve = legendKey(thick, legendNow);
  const queryNow = html("span", {}), queryKey = legendKey(thick, queryNow), supportNow = html("span", {});
  const choices = barChoices(`Start from … and its query loss after ${last} steps`, setup.names, colour, (name) => change({ initialisation: name }));
  const note = html("p", { class: "mlb-note mlb-about" });

  const back = button("◀ Back", byHand(() => setStep(state().step - 1)), { "aria-label": "One inner step back" });
  const step = button("Step ▶", byHand(() => setStep(state().step + 1)), { class: "mlb-main mlb-runs", "aria-label": "One inner step" });
  const playing = button("", play.toggle);
  const whole = (v) => `${v} of ${last}`;
  const sliders = {
    step: slider({ label: "inner step", min: 0, max: last, step: 1, show: whole, input: (v) => byHand(() => setStep(v))() }),
    inner_lr: slider({ label: "inner rate α", min: 0.0005, max: 0.02, step: 0.0005, show: (v) => v.toFixed(4), input: (v) => change({ inner_lr: v }) }),
    amplitude: slider({ label: "amplitude", min: setup.amplitude_range[0], max: setup.amplitude_range[1], step: 0.1, input: (v) => changeTask({ amplitude: v }) }),
    phase: slider({ label: "phase", min: 0, max: setup.phase_range[1], step: 0.01, input: (v) => changeTask({ phase: v }) }),
  };
  const add = button("Add point", () => addPoint(inTask(widestGap(state().points, setup.x_range))));
  const take = button("Remove point", () => removePoint(selected));
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const rows = html("tbody", {}), table = grid(["step", "support", "query"], rows);
  const ran = ranLines(setup.lines, (before, now) =>
    differ(before, now, "points", "amplitude", "phase") ? "task"
    : differ(before, now, "initialisation") || (now.step === 0 && before.step !== 0) ? "start"
    : differ(before, now, "step") ? "step" : differ(before, now, "inner_lr") && now.step ? "rate" : null);
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" },
    stay,
    html("p", { class: "mlb-legend" },
      legendCurve, legendKey(thin, "earlier steps"),
      legendKey({ ...thick, "stroke-dasharray": "6 4", style: "color: var(--mlb-truth)" }, "true sine (query set)"),
      legendKey(svg("circle", { cx: 13, cy: 6, r: 5, fill: "var(--mlb-ink)" }), "support point")),
    sentence, html("div", { class: "mlb-row" }, step, back, playing, button("New task", randomTask, { "aria-label": "New random task" })),
    sliders.step.node, sliders.inner_lr.node, ran.place);
  const lossBox = html("div", { class: "mlb-apart" }, lossPlot.node,
    html("p", { class: "mlb-legend" }, queryKey, legendKey({ "stroke-width": 2, "stroke-dasharray": "3 3", stroke: "var(--mlb-ink)" }, supportNow),
      legendKey(thin, "query, other starts")));
  const right = html("div", {},
    choices.node, note, lossBox);
  const bottom = html("div", { class: "mlb-wide" },
    drawer("The task: amplitude, phase, number of points", html("div", { class: "mlb-sliders" }, sliders.amplitude.node, sliders.phase.node),
      html("div", { class: "mlb-row" }, add, take, button("Points onto the sine", allOnCurve))),
    html("details", {}, html("summary", {}, "Losses of every step in numbers"), table),
    html("p", { class: "mlb-note" },
      "Arrow keys move a point, too (with Shift: further; Delete removes it). A double click in the plot adds one. ",
      "Points on the sine follow it; the query loss is the mean squared error ",
      `at ${setup.query_x.length} inputs evenly spaced over the axis.`));
  const left5 = [0.02, 0.12, 0.22, 0.32, 0.42].map((part) => onCurve(xLow + part * (xHigh - xLow), lab.initial));
  const root = lab.frame(el, {
    label: "adapt a sinusoid", live, parts: [left, right, bottom],
    goal: "Drag the points and press Step: which start finds the whole wave?",
    presets: { "Points on the left only": { points: left5, step: 1 }, "One point": { points: left5.slice(2, 3), step: 1 }, [`${last} steps`]: { step: last } },
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  let known = "", results = [], curves = [];
  function compute(now) {
    const task = JSON.stringify([now.points, now.inner_lr, now.amplitude, now.phase]);
    if (task !== known) {
      results = initialisations.map((theta) => adaptation(setup, theta, now));
      [known, curves] = [task, []];
    }
    curves[chosen()] ??= results[chosen()].path.map((theta) => predict(setup.sizes, theta, curveX));
  }

  const handles = [];
  function drawPoints(points) {
    while (handles.length > points.length) {
      const { node } = handles.pop();
      const had = node === document.activeElement;
      node.remove();
      if (had) handles[selected].node.focus();
    }
    while (handles.length < points.length) {
      const i = handles.length;
      const move = (point) => change({ points: state().points.map((p, j) => (j === i ? point : p)) });
      handles.push(handle(plot, { move, remove: () => removePoint(i), select: () => (selected = i) }));
      plot.front.append(handles[i].node);
    }
    points.forEach((p, i) => handles[i].set(p, `Support point ${i + 1} of ${points.length}`));
  }

  function draw() {
    if (!plot.width) return; // not on the page yet
    const now = state(), index = chosen(), n = now.step;
    compute(now);
    const { support, query, path } = results[index], line = (d, more) => svg("path", { d, ...more });
    const fitted = curves[index], truth = curveX.map((x) => sine(now.amplitude, now.phase, x));

    const errors = now.points.map(([x, y]) => plot.path([x, x], [y, predict(setup.sizes, path[n], [x])[0]])).join("");
    plot.lines.replaceChildren(
      line(plot.path(curveX, truth), { style: "color: var(--mlb-truth)", "stroke-width": 2.5, "stroke-dasharray": "7 5" }),
      ...fitted.slice(0, n).map((ys, i) => line(plot.path(curveX, ys), { style: colour(index), opacity: 0.2 + (0.35 * (i + 1)) / n })),
      line(errors, { style: "stroke-width: 1; color: var(--mlb-muted)" }),
      line(plot.path(curveX, fitted[n]), { class: "mlb-now", style: `${colour(index)}; stroke-width: 3.5` }),
    );
    drawPoints(now.points);
    const five = [xLow, xLow / 2, 0, xHigh / 2, xHigh], said = predict(setup.sizes, path[n], five);
    const values = five.map((x, i) => `${format(said[i])} at x ${format(x)} (true ${format(sine(now.amplitude, now.phase, x))})`);
    plot.node.setAttribute("aria-label", `The network after inner step ${n} from ${now.initialisation} predicts ${values.join(", ")}.`);

    const steps = query.map((_, i) => i);
    lossPlot.lines.replaceChildren(
      ...results.map((r, i) => (i === index ? "" : line(lossPlot.path(steps, r.query), { style: colour(i), opacity: 0.6 }))),
      line(lossPlot.path(steps, support), { style: "color: var(--mlb-ink); stroke-width: 2", "stroke-dasharray": "3 3" }),
      line(lossPlot.path(steps, query), { style: `${colour(index)}; stroke-width: 3` }),
      line(`M${lossPlot.X(n)} 0V${lossPlot.height}`, { style: "color: var(--mlb-muted); stroke-width: 1" }),
    );
    const dot = (value, fill) =>
      Number.isFinite(value) ? svg("circle", { cx: lossPlot.X(n), cy: clamp(lossPlot.Y(value), [0, lossPlot.height]), r: 5, style: `fill: ${fill}` }) : "";
    lossPlot.front.replaceChildren(dot(support[n], "var(--mlb-ink)"), dot(query[n], `var(--mlb-${setup.colours[index]})`));
    lossPlot.node.setAttribute("aria-label", `Losses over the inner steps. Query loss: ${query.map(format).join(", ")}. Support loss: ${support.map(format).join(", ")}.`);
    rows.replaceChildren(...steps.map((i) => row(`${i}`, [support[i], query[i]].map(format), { "aria-current": i === n && "true" })));

    const finals = results.map((r) => r.query[last]), most = Math.max(...finals.filter((v) => v < 30), 1e-9); // 30: far off the sine
    choices.set((i) => ({
      chosen: i === index, width: finals[i] < most ? (100 * finals[i]) / most : 100,
      words: format(finals[i]), description: `query loss after ${last} steps ${format(finals[i])}`,
    }));
    note.textContent = setup.notes[index];
    legendCurve.setAttribute("style", colour(index));
    queryKey.setAttribute("style", colour(index));
    legendNow.textContent = n === 0 ? `${now.initialisation}, step 0` : `after step ${n}`;
    queryNow.textContent = `query ${format(query[n])}`;
    supportNow.textContent = `support ${format(support[n])}`;
    for (const name of ["step", "inner_lr", "amplitude", "phase"]) sliders[name].set(now[name]);
    back.disabled = n === 0;
    step.disabled = n === last;
    playing.textContent = play.playing() ? "Pause" : `Play to ${last}`;
    add.disabled = now.points.length >= setup.max_points;
    take.disabled = now.points.length <= 1;
    const words = `After ${counted(n, "inner step")} from ${now.initialisation}: support loss ${format(support[n])}, query loss ${format(query[n])}.`;
    sentence.textContent = words;
    live.say(words);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Overflow becomes null.
    root.dataset.state = JSON.stringify({
      ...now, support_loss: support, query_loss: query, prediction: predict(setup.sizes, path[n], setup.query_x),
      comparison: Object.fromEntries(setup.names.map((name, i) => [name, finals[i]])),
    });
    ran.tell(now);
  }

  lossPlot.fit(260);
  return lab.follow(draw, play.end, watchWidth(stay, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (lossPlot.fit(width), draw())));
}

export default { render };
