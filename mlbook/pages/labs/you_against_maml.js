// The lab "You against MAML": the reader draws a wave through five of its points; MAML and a pre-trained network get the same five.
//
// Both networks take their gradient steps here, when the reader has handed the sketch in. Nothing leaves the page.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { unpackHalf } from "./half.js";
import { countParameters, meanSquaredError } from "./network.js";
import { announcer, button, clamp, counted, format, grid, haloed, html, inPercent, legendKey, Plot, prefersStillness, row, stroke, svg, watchWidth } from "./shared.js";
import { covered, keptSketch, parts, penned, whole } from "./sketch.js";
import { wavePicture } from "./wave_picture.js";
import { anotherTask, meet, waveOf } from "./waves.js";

const ENOUGH = 0.8; // of the axis: hardly a hand begins exactly at the edge
const STEP = 380, HOLD = 900; // milliseconds: one gradient step, and the networks' curves before the truth comes
const SCORE = "mlbook-waves"; // the score of this visit, in the tab and nowhere else
const ARROW = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] };

/** The errors of a sketch and of both networks after all steps, at the inputs of the grid. */
export function errorsOf(setup, [maml, preTrained], task, sketch) {
  const [ours, theirs] = meet(setup, [maml, preTrained], task).map(({ losses }) => losses.at(-1));
  return { you: meanSquaredError(whole(sketch), setup.query_x.map(waveOf(task))), maml: ours, pre_trained: theirs };
}

/** The score after one more wave. */
export const counting = (score, { you, maml }) => ({
  waves: score.waves + 1, nearer: score.nearer + (you < maml ? 1 : 0), you: score.you + you, maml: score.maml + maml,
});

function keptScore() {
  try {
    const found = JSON.parse(sessionStorage.getItem(SCORE));
    if (["waves", "nearer", "you", "maml"].every((key) => Number.isFinite(found[key]))) return found;
  } catch {} // no storage, or something else in it: a new score
  return { waves: 0, nearer: 0, you: 0, maml: 0 };
}

function render({ model, el }) {
  const setup = model.get("setup"), { query_x: xs, steps } = setup, [xLow] = setup.x_range, count = countParameters(setup.sizes);
  const numbers = unpackHalf(model.get("weights")), starts = [numbers.slice(0, count), numbers.slice(count)];
  const limits = [setup.amplitude_range, setup.phase_range, ...model.get("task").slice(2).map(() => setup.x_range)];
  const lab = openLab(model, "you-against-maml", {
    task: kept.numbers(2, ...limits), sketch: keptSketch(xs.length, setup.y_range), done: kept.flag,
  }, { restart: () => ready(), agree: ({ sketch, done }) => !done || covered(sketch) === 1 });
  const { state, change } = lab, end = steps + 1, start = [xLow, 1]; // not on a number of the axis
  let score = keptScore(), at = model.get("done") ? end : 0, motion = 0, began = 0, pen = start, anchor = null, hand = null;

  // -- the elements -----------------------------------------------------------------------------------------------------

  const plot = new Plot({
    x: setup.x_range, y: setup.y_range, xTicks: [-4, -2, 0, 2, 4], yTicks: [-4, -2, 0, 2, 4], xTitle: "", yTitle: "", bottom: 22,
    height: (width) => (width < 400 ? 260 : 300), role: "group", "aria-label": "Five points of a wave, and room to draw the rest",
  });
  plot.node.classList.add("mlb-paper-plot");
  const ground = svg("rect", { width: "100%", height: "100%", fill: "transparent" });
  plot.node.prepend(ground);
  const dots = svg("g", {}), penNode = svg("g", { class: "mlb-point mlb-pen", tabindex: 0, role: "slider", "aria-roledescription": "pen", "aria-label": "Pen: the arrow keys draw",
    "aria-valuemin": setup.y_range[0], "aria-valuemax": setup.y_range[1] }, ...haloed(6));
  const hint = svg("text", { "text-anchor": "middle", "aria-hidden": "true" }, "draw here");
  plot.front.append(dots, hint, penNode);
  const kinds = [["you", "you", "--mlb-other-1"], ["maml", "MAML", "--mlb-maml"], ["pre_trained", "pre-trained", "--mlb-pretraining"]];
  const rows = kinds.map(([key, name, colour]) => {
    const bar = html("span", { class: "mlb-bar" }), value = html("span", {}, "–");
    return { key, bar, value, node: row([name], [html("span", { style: `color: var(${colour})`, "aria-hidden": "true" }, bar), value]) };
  });
  const table = grid(["", ["", "size of the error"], ["error", `mean squared error at ${xs.length} inputs`]], html("tbody", {}, ...rows.map((r) => r.node)), { class: "mlb-errors" });
  const done = button("Done", handIn, { class: "mlb-main" }), clear = button("Clear", wipe);
  const another = button("Another wave", anotherWave), save = button("Save as picture", savePicture);
  const words = html("p", { class: "mlb-sentence mlb-told" }), total = html("p", { class: "mlb-note mlb-score" }), live = announcer();
  const left = html("div", {}, plot.node,
    html("p", { class: "mlb-legend" },
      legendKey(stroke("--mlb-other-1", 3.5), "your sketch"), legendKey(stroke("--mlb-maml", 3.5), "MAML"),
      legendKey(stroke("--mlb-pretraining", 2), "pre-trained"), legendKey(stroke("--mlb-truth", 2.5, "7 5"), "the truth")));
  const right = html("div", {}, words, html("div", { class: "mlb-row" }, done, clear, another, save), table, total);
  const note = html("p", { class: "mlb-note mlb-wide" },
    "Arrow keys move the pen, too (with Shift: further). Every wave is a sine of the same period; its height and its shift are new. ",
    "A link that you copy before you draw gives somebody else the same five points.");
  const root = lab.frame(el, {
    label: "you against MAML", live, parts: [left, right, note],
    goal: "Sketch the wave: are you nearer to it than MAML?",
  });

  // -- what the reader does ---------------------------------------------------------------------------------------------

  const open = () => !state().done;
  function write(from, to) {
    pen = to.map((v, i) => clamp(v, [plot.domain, plot.range][i]));
    change({ sketch: penned(xs, state().sketch, from, pen) });
  }
  plot.node.addEventListener("pointerdown", (event) => {
    if (event.button || !open() || hand !== null) return;
    event.preventDefault();
    plot.node.setPointerCapture(event.pointerId);
    [hand, anchor] = [event.pointerId, null];
    const point = plot.at(event).map((v, i) => clamp(v, [plot.domain, plot.range][i]));
    write(point, point);
  });
  plot.node.addEventListener("pointermove", (event) => {
    if (event.pointerId !== hand) return;
    const all = event.getCoalescedEvents?.() ?? [];
    for (const one of all.length ? all : [event]) write(pen, plot.at(one));
  });
  for (const over of ["pointerup", "pointercancel", "lostpointercapture"])
    plot.node.addEventListener(over, (event) => event.pointerId === hand && (hand = null));
  // While there is something to draw, a finger on the paper draws; afterwards it scrolls the page again.
  plot.node.addEventListener("touchstart", (event) => open() && event.preventDefault(), { passive: false });
  penNode.addEventListener("keydown", (event) => {
    const arrow = ARROW[event.key], far = event.shiftKey ? 0.5 : 0.1;
    if (!arrow || !open()) return;
    const sideways = arrow[0] !== 0, to = [pen[0] + far * arrow[0], pen[1] + far * arrow[1]];
    // Up and down turn the line that the last way to the side has drawn, so that slopes come out straight.
    if (sideways && (!anchor || anchor.turned)) anchor = { from: pen, turned: false };
    else if (!sideways && anchor) anchor.turned = true;
    write(anchor ? anchor.from : to, to);
    event.preventDefault();
    event.stopPropagation(); // Jupyter would take the key for itself
  });

  function wipe() {
    if (!open()) return;
    [pen, anchor] = [start, null];
    change({ sketch: xs.map(() => null) });
  }
  function handIn() {
    if (!open() || covered(state().sketch) < ENOUGH) return;
    const sketch = whole(state().sketch);
    score = counting(score, errorsOf(setup, starts, state().task, sketch));
    try {
      sessionStorage.setItem(SCORE, JSON.stringify(score));
    } catch {} // then it lasts as long as the page
    [at, began] = [prefersStillness() ? end : 0, performance.now()];
    if (at < end) motion = requestAnimationFrame(move);
    change({ sketch, done: true });
  }
  function ready() {
    cancelAnimationFrame(motion);
    [pen, anchor, at, motion] = [start, null, 0, 0];
  }
  function anotherWave() {
    ready();
    change({ task: anotherTask(setup, state().task.length - 2), sketch: xs.map(() => null), done: false });
  }
  function move(now) {
    const time = Math.max(0, now - began);
    at = time < STEP * steps ? time / STEP : time < STEP * steps + HOLD ? steps : end;
    motion = at < end ? requestAnimationFrame(move) : 0;
    draw();
  }
  function savePicture() {
    const { task, sketch } = state(), truth = waveOf(task), [maml] = results, errors = errorsOf(setup, starts, task, sketch);
    const colour = (name) => getComputedStyle(root).getPropertyValue(name).trim();
    const canvas = wavePicture({
      grid: xs, y_range: setup.y_range, points: task.slice(2).map((x) => [x, truth(x)]),
      curves: [
        { ys: xs.map(truth), colour: colour("--mlb-truth"), dash: [14, 10], width: 5 },
        { ys: maml.curves[steps], colour: colour("--mlb-maml"), width: 6 },
        { ys: whole(sketch), colour: colour("--mlb-other-1"), width: 6 },
      ],
      rows: [...kinds.map(([key, , tint], i) => ({ name: ["my sketch", "MAML", "pre-trained"][i], colour: colour(tint), error: errors[key] })),
        { name: "the truth", colour: colour("--mlb-truth") }],
      title: errors.you < errors.maml ? "This wave goes to me, not to MAML" : "This wave goes to MAML, not to me",
      about: `Five points of a new wave; ${steps} gradient steps for the networks`, book: setup.book,
      look: { ground: colour("--mlb-ground"), ink: colour("--mlb-ink"), muted: colour("--mlb-muted"), edge: colour("--mlb-edge") },
    });
    canvas.toBlob((blob) => {
      const link = html("a", { href: URL.createObjectURL(blob), download: "you-against-maml.png" });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000); // the browser reads it after the click
    });
  }

  // -- drawing ----------------------------------------------------------------------------------------------------------

  let known = "", results = [];
  function draw() {
    if (!plot.width) return; // not on the page yet
    const { task, sketch, done: over } = state(), truth = waveOf(task), ys = xs.map(truth), drawn = covered(sketch);
    if (over && !motion) at = end; // also where the state came from elsewhere
    if (over && known !== `${task}`) [known, results] = [`${task}`, meet(setup, starts, task)];
    const told = over && at === end, step = clamp(at, [0, steps]), before = Math.floor(step), after = Math.min(steps, before + 1);
    const between = ({ curves }) => curves[before].map((y, i) => y + (step - before) * (curves[after][i] - y));
    const line = (heights, look, inputs = xs) => svg("path", { d: plot.path(inputs, heights), ...look });
    plot.lines.replaceChildren(
      told ? line(ys, { ...stroke("--mlb-truth", 2.5, "7 5"), class: "mlb-true" }) : "",
      ...(over ? [line(between(results[1]), stroke("--mlb-pretraining", 2)), line(between(results[0]), stroke("--mlb-maml", 3.5))] : []),
      ...parts(xs, sketch).map(([inputs, heights]) => line(heights, { ...stroke("--mlb-other-1", 3.5), class: "mlb-sketch" }, inputs)),
    );
    dots.replaceChildren(...task.slice(2).map((x) => svg("circle", { cx: plot.X(x), cy: plot.Y(truth(x)), r: 5.5, style: "fill: var(--mlb-ink)" })));
    hint.setAttribute("x", plot.X(0));
    hint.setAttribute("y", plot.height - 12);
    hint.style.display = drawn || over ? "none" : "";
    penNode.style.display = over ? "none" : "";
    penNode.setAttribute("transform", `translate(${plot.X(pen[0])} ${plot.Y(pen[1])})`);
    penNode.setAttribute("aria-valuenow", pen[1].toFixed(2));
    penNode.setAttribute("aria-valuetext", `x ${format(pen[0])}, y ${format(pen[1])}`);
    plot.node.classList.toggle("mlb-handed-in", over);

    const errors = told ? errorsOf(setup, starts, task, sketch) : null, most = errors && Math.max(...Object.values(errors));
    rows.forEach(({ key, bar, value }) => {
      value.textContent = errors ? format(errors[key]) : "–";
      bar.style.width = errors ? `${(100 * errors[key]) / most}%` : "0";
      bar.style.visibility = errors ? "" : "hidden";
    });
    const text = told ? (errors.you < errors.maml ? "You are nearer to the truth than MAML." : "MAML is nearer to the truth than you.")
      : over ? `The networks take their gradient steps on the same five points: ${before} of ${steps}.`
      : !drawn ? "Draw the rest of the wave through its five points, from edge to edge."
      : drawn < ENOUGH ? `Drawn: ${inPercent(drawn)} of the axis. Draw on, to both edges.`
      : "Press Done to see MAML's curve. Until then you can draw over yours.";
    words.textContent = text;
    const heard = told ? ` Error: you ${format(errors.you)}, MAML ${format(errors.maml)}, pre-trained ${format(errors.pre_trained)}.` : "";
    if (told || !over) live.say(text + heard);
    total.textContent = score.waves
      ? `This visit: ${counted(score.waves, "wave")}. You were nearer on ${score.nearer}, MAML on ${score.waves - score.nearer}. Mean error: you ${format(score.you / score.waves)}, MAML ${format(score.maml / score.waves)}.`
      : "The score of this visit will stand here.";
    if (over && !told) total.textContent = total.dataset.before ?? ""; // it would give the answer away
    total.dataset.before = total.textContent;
    const off = (element, value) => element.setAttribute("aria-disabled", value); // not `disabled`, which would lose the focus
    off(done, over || drawn < ENOUGH);
    off(clear, over || !drawn);
    save.disabled = !told;
    root.dataset.state = JSON.stringify({ task, done: over, shown: told, covered: drawn, sketch, errors, score, pen });
  }

  plot.fit(Math.max(60, Math.floor(left.clientWidth))); // its height from the start: what stands below does not move
  return lab.follow(draw, () => cancelAnimationFrame(motion), watchWidth(left, (width) => (plot.fit(width), draw())));
}

export default { render };
