// The figure on the front page: the same new task for every start, the same steps, one after the other, for ever.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { countParameters } from "./network.js";
import { announcer, button, clamp, format, html, legendKey, Plot, prefersStillness, stroke, svg, unpack, watchWidth } from "./shared.js";
import { anotherTask, meet, waveOf } from "./waves.js";

const HOLD = 700, MOVE = 450, LAST = 2200; // milliseconds: before the first step, for a step, with the last one

function render({ model, el }) {
  const setup = model.get("setup"), { query_x: grid, steps, y_range } = setup;
  const starts = unpack(model.get("weights"), countParameters(setup.sizes));
  const points = model.get("task").length - 2, limits = [setup.amplitude_range, setup.phase_range, ...Array(points).fill(setup.x_range)];
  const lab = openLab(model, "two-starts", { task: kept.numbers(2, ...limits), step: kept.whole(0, steps) }, { restart: () => stop() });
  const panels = setup.names.map((name, i) => {
    const plot = new Plot({
      x: setup.x_range, y: y_range, xTicks: [-4, 0, 4], yTicks: [-4, 0, 4], xTitle: "", yTitle: "", bottom: 22,
      height: (width) => clamp(0.62 * width, [190, 280]), role: "img",
    });
    const loss = html("span", {});
    const head = html("p", { class: "mlb-legend" }, html("strong", {}, `Start: ${name}`), loss);
    return { name, plot, loss, node: html("div", {}, head, plot.node), colour: `color: var(--mlb-${setup.colours[i]})` };
  });
  const words = html("p", { class: "mlb-sentence" }), live = announcer();
  const pause = button("Pause", () => (playing ? stop() : start()));
  const one = button("One step", () => (stop(), advance()));
  const other = button("Another task", () => (newTask(), playing || draw(0)));
  const legend = html("p", { class: "mlb-legend" },
    legendKey(stroke("--mlb-truth", 2.5, "7 5"), "the true wave, which neither network sees"),
    legendKey(svg("circle", { cx: 13, cy: 6, r: 5, fill: "var(--mlb-ink)" }), "the five points that both see"),
    legendKey({ "stroke-width": 3.5 }, "the network now"), legendKey({ "stroke-width": 1.5, opacity: 0.6 }, "before its first step"));
  const root = lab.frame(el, {
    kind: "Figure", label: "two starts meet a new task", live, columns: "mlb-columns mlb-even",
    goal: "Which start finds the wave when it sees only five of its points?",
    parts: [...panels.map((panel) => panel.node), html("div", { class: "mlb-wide" }, legend, words, html("div", { class: "mlb-row" }, pause, one, other))],
  });

  let playing = false, visible = true, frame = 0, began = 0, met = null, results = [];

  function newTask() {
    model.set("task", anotherTask(setup, points));
    setStep(0);
    began = performance.now();
  }

  function setStep(step) {
    model.set("step", step);
    model.save_changes();
  }

  function advance() {
    if (model.get("step") >= steps) newTask();
    else setStep(model.get("step") + 1);
    draw(model.get("step"));
  }

  /** `at` may lie between two steps; the curve is then between theirs. */
  function draw(at) {
    if (panels.some(({ plot }) => !plot.width)) return; // not on the page yet
    if (met !== model.get("task")) results = meet(setup, starts, (met = model.get("task")));
    const before = Math.floor(at), part = at - before, after = Math.min(steps, before + 1);
    const xs = model.get("task").slice(2), truth = waveOf(model.get("task"));
    panels.forEach(({ name, plot, loss, colour }, i) => {
      const { curves, losses } = results[i], from = curves[before], to = curves[after], shown = part < 1 ? before : after;
      plot.lines.replaceChildren(
        svg("path", { d: plot.path(grid, grid.map(truth)), style: "color: var(--mlb-truth)", "stroke-width": 2.5, "stroke-dasharray": "7 5" }),
        svg("path", { d: plot.path(grid, curves[0]), style: colour, "stroke-width": 1.5, opacity: 0.45 }),
        svg("path", { d: plot.path(grid, from.map((y, k) => y + part * (to[k] - y))), class: "mlb-now", style: `${colour}; stroke-width: 3.5` }),
      );
      plot.front.replaceChildren(...xs.map((x) => svg("circle", { cx: plot.X(x), cy: plot.Y(truth(x)), r: 5, style: "fill: var(--mlb-ink)" })));
      loss.textContent = `error ${format(losses[shown])}`;
      plot.node.setAttribute("aria-label",
        `Start ${name}: a dashed sine wave, five of its points, and the network's curve, which after ${shown} gradient steps has the mean squared error ${format(losses[shown])}.`);
    });
    words.textContent = before === 0 && !part
      ? "A new task: five points of an unknown curve."
      : `After ${before} gradient ${before === 1 ? "step" : "steps"} on the five points.`;
    root.dataset.state = JSON.stringify({ playing, step: model.get("step"), task: model.get("task"), losses: results.map((r) => r.losses) });
  }

  function tick(now) {
    frame = 0;
    if (!playing || !visible) return;
    const time = Math.max(0, now - began) - HOLD, at = clamp(time / (1.6 * MOVE), [0, steps]);
    const whole = Math.floor(at), eased = at < steps ? whole + Math.min(1, (at - whole) * 1.6) : steps; // move, then rest
    const step = Math.min(steps, Math.floor(eased + 1e-9));
    if (step !== model.get("step")) setStep(step);
    draw(Math.min(eased, steps));
    if (time > 1.6 * MOVE * steps + LAST) newTask();
    frame = requestAnimationFrame(tick);
  }
  function start() {
    playing = true;
    pause.textContent = "Pause";
    if (model.get("step") >= steps) newTask();
    began = performance.now() - (model.get("step") ? HOLD + 1.6 * MOVE * model.get("step") : 0);
    frame ||= requestAnimationFrame(tick);
  }
  function stop() {
    playing = false;
    pause.textContent = "Play";
    draw(model.get("step"));
  }
  const watcher = new IntersectionObserver(([entry]) => {
    const back = entry.isIntersecting && !visible;
    visible = entry.isIntersecting;
    if (playing && back) start(); // off the screen it rests
  });
  watcher.observe(root);
  for (const { node, plot } of panels) plot.fit(Math.max(60, Math.floor(node.clientWidth))); // their height from the start: nothing below moves
  const ends = panels.map((panel) => watchWidth(panel.node, (width) => (panel.plot.fit(width), draw(model.get("step")))));
  prefersStillness() || lab.asked ? stop() : start(); // who opens a link wants to see what it shows
  const end = () => {
    playing = false;
    cancelAnimationFrame(frame);
    watcher.disconnect();
  };
  return lab.follow(() => playing || draw(model.get("step")), end, ...ends);
}

export default { render };
