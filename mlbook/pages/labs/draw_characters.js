// The lab "Draw three characters": boxes to draw in, and what MAML or Reptile make of the drawings. The arithmetic is in
// draw_worker.js, whose source comes as text from Python; strokes.js makes pixels of strokes.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { drawingBox } from "./drawing_box.js";
import { checkbox, radios } from "./plane.js";
import { announcer, button, html, player, Plot, slider, stroke, svg, watchWidth } from "./shared.js";
import { keptDrawing, PAPER, pixelsOf } from "./strokes.js";

const LINES = [["--mlb-other-1", undefined], ["--mlb-other-2", "9 4"], ["--mlb-truth", "2 3"], ["--mlb-muted", "12 3 2 3"], ["--mlb-ink", "5 2"]];

/** Something that takes tasks and posts answers: a web worker, or the same code on the page in small pieces. */
export function background(source, first, post) {
  let scope = null, worker = null, latest = null, address = null;
  function here() {
    scope = { postMessage: post };
    new Function("self", source)(scope);
    scope.onmessage({ data: first });
    if (latest) scope.onmessage({ data: latest });
  }
  try {
    address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
    worker = new Worker(address);
    worker.onmessage = ({ data }) => post(data);
    worker.onerror = (event) => {
      event.preventDefault();
      worker.terminate();
      worker = null;
      here();
    };
    worker.postMessage(first);
  } catch {
    worker = null;
    here();
  }
  return {
    where: () => (worker ? "worker" : "page"),
    ask(task) {
      latest = task;
      if (worker) worker.postMessage(task);
      else scope.onmessage({ data: task });
    },
    end() {
      worker?.terminate();
      if (address) URL.revokeObjectURL(address);
    },
  };
}

/** What there is to compute: the drawn classes, their pixels and the query's; null where a class or the query is missing. */
export function taskOf(pictures, method) {
  const last = pictures.length - 1, rows = pictures.slice(0, last).flatMap((picture, k) => (picture ? [k] : []));
  if (rows.length < 2 || !pictures[last]) return null;
  return { method, rows, support: rows.map((k) => pictures[k]), query: pictures[last] };
}

export const best = (values) => values.indexOf(Math.max(...values));

const listed = (words) => (words.length < 2 ? words.join() : `${words.slice(0, -1).join(", ")} and ${words.at(-1)}`);
const percent = (p) => (p > 0.999 && p < 1 ? ">\u00a099.9\u00a0%" : p < 0.001 && p > 0 ? "<\u00a00.1\u00a0%" : `${(100 * p).toFixed(1)}\u00a0%`);

function render({ model, el }) {
  const { letters, methods, examples } = model.get("setup"), names = [...letters.map((l) => `Class ${l}`), "Query"], last = letters.length;
  const lab = openLab(model, "draw-characters", {
    drawings: kept.list(keptDrawing, names.length, names.length, ";"), method: kept.choice(Object.keys(methods)),
    step: kept.whole(0, Math.max(...Object.values(methods).map((m) => m.steps))), centred: kept.flag, example: kept.whole(0, examples.length - 1),
  }, { restart: () => (play.stop(), remember()), agree: ({ method, step }) => step <= methods[method].steps });
  const { state, change, soon, initial } = lab;

  // -- the drawings and what comes of them --------------------------------------------------------------------------------

  const past = names.map(() => []), known = names.map(() => ({}));
  const remember = () => state().drawings.forEach((drawing, k) => past[k].push(drawing)); // so that each box can undo it
  const setDrawing = (k, strokes) => change({ drawings: state().drawings.map((d, i) => (i === k ? strokes : d)) });
  function pictureOf(k, strokes, centred) { // 28 × 28, or null for an empty box; computed once per drawing
    const key = `${centred}${JSON.stringify(strokes)}`;
    if (known[k].key !== key) known[k] = { key, ink: strokes.length ? pixelsOf(strokes, centred) : null };
    return known[k].ink;
  }
  let task = null, asked = "", id = 0, replies = [], shown = null, times = [];
  // On a built page the weights come once the lab stands, one method's after the other's (`later_…`).
  let able = {}, worker = null;
  function employ() {
    const parts = Object.keys(methods).map((name) => [name, model.get(`later_${name}`)]).filter(([, view]) => view?.byteLength);
    const bytes = new Uint8Array(parts.reduce((n, [, view]) => n + view.byteLength, 0));
    parts.reduce((at, [, view]) => (bytes.set(new Uint8Array(view.buffer, view.byteOffset, view.byteLength), at), at + view.byteLength), 0);
    able = Object.fromEntries(parts.map(([name]) => [name, methods[name]]));
    worker?.end();
    asked = "";
    worker = background(model.get("worker"), { setup: { methods: able }, bytes }, (reply) => {
      if (reply.id !== id) return;
      replies[reply.step] = reply.probabilities;
      times[reply.step] = Math.round(reply.ms);
      soon();
    });
  }
  employ();
  for (const name of Object.keys(methods)) model.on(`change:later_${name}`, () => (employ(), soon()));
  function ask(now, pictures) {
    task = able[now.method] ? taskOf(pictures, now.method) : null;
    const key = task && JSON.stringify([task.method, task.rows, [...task.support, task.query].map((ink) => ink.join(""))]);
    if (key === asked) return;
    [asked, replies, times] = [key, [], []];
    id += 1;
    if (task) worker.ask({ id, ...task, first: now.step });
    else shown = null;
  }

  // -- the elements -------------------------------------------------------------------------------------------------------

  const live = announcer();
  const boxes = names.map((name, k) => drawingBox(name, {
    get: () => state().drawings[k],
    set: (strokes) => setDrawing(k, strokes),
    begin: () => past[k].push(state().drawings[k]),
    undo: () => past[k].length && setDrawing(k, past[k].pop()),
    say: live.say,
  }));
  boxes[last].node.classList.add("mlb-query");
  const example = (n) => (remember(), change({ example: n, drawings: examples[n].drawings }));
  const blank = () => (remember(), change({ drawings: names.map(() => []) }));
  const centre = checkbox("Centre every drawing", (on) => change({ centred: on }));
  const which = radios("Adapt with", Object.fromEntries(Object.entries(methods).map(([key, { name }]) => [key, name])), (method) =>
    (play.stop(), change({ method, step: methods[method].reported })));
  const steps = slider({ label: "Inner step", min: 0, max: 1, step: 1, show: (n) => `${n}`, input: (step) => (play.stop(), change({ step })) });
  const stepInput = steps.node.querySelector("input");
  const lastStep = () => methods[state().method].steps;
  const play = player({
    every: () => Math.max(90, 5000 / lastStep()),
    begin: () => change({ step: 0 }),
    next() {
      const { step } = state(), more = step < lastStep();
      if (more && replies[step + 1]) change({ step: step + 1 });
      return more;
    },
    finish: () => change({ step: lastStep() }),
    changed() {
      playButton.textContent = play.playing() ? "Stop" : "Play the steps";
      soon();
    },
  });
  const playButton = button("Play the steps", play.toggle, { class: "mlb-main" });
  const rows = letters.map((letter, k) => {
    const bar = html("span", { class: "mlb-weight" }), value = html("td", {});
    bar.style.color = `var(${LINES[k][0]})`;
    return { bar, value, node: html("tr", {}, html("th", { scope: "row" }, letter), html("td", {}, bar), value) };
  });
  const table = html("table", { class: "mlb-chances" }, html("caption", {}), html("tbody", {}, ...rows.map(({ node }) => node)));
  const sentence = html("p", { class: "mlb-sentence" }), about = html("p", { class: "mlb-note" });
  const plot = new Plot({
    x: [0, 10], y: [0, 1], xTicks: [], yTicks: [0, 0.5, 1], xTitle: "inner steps", yTitle: "probability of each class", height: () => 190, role: "img",
  });
  plot.margin.right = 24;
  const chart = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", {},
    html("div", { class: "mlb-boxes" }, ...boxes.map(({ node }) => node)),
    sentence,
    html("div", { class: "mlb-row" },
      button("Another set", () => example((state().example + 1) % examples.length)),
      button("Clear all", blank), centre.node),
    html("p", { class: "mlb-note" },
      "\"Copy link\" takes the drawings along: who opens the link sees them, and at step 0 nothing gives the answer away. ",
      "The small squares are the 28×28 pixels that the network sees; white is 1."));
  const right = html("div", { class: "mlb-staying" }, chart, steps.node, html("div", { class: "mlb-row" }, playButton), which.node, table, about);
  const bottom = html("p", { class: "mlb-note mlb-wide" },
    "With the keyboard: arrow keys move the pen (with Shift farther), space puts it down and lifts it, Backspace undoes, Delete clears.");
  const query = initial.drawings[last], xs = query.flatMap((stroke) => stroke.filter((_, i) => i % 2 === 0)), ys = query.flatMap((stroke) => stroke.filter((_, i) => i % 2));
  /** The query of the beginning with another place for each of its points. */
  const queryAs = (f) => [...initial.drawings.slice(0, last), query.map((stroke) => stroke.map((v, i) => Math.round(10 * f(v, i % 2)) / 10))];
  const corner = [Math.min(...xs), Math.min(...ys)];
  const root = lab.frame(el, {
    label: "draw three characters", live, parts: [left, right, bottom],
    goal: "Draw characters, one of them again as the query: will the network, or a friend with your link, know it?",
    presets: query.length ? {
      "Before the first step": { step: 0 }, "Query mirrored": { drawings: queryAs((v, y) => (y ? v : PAPER - v)) },
      "Query in a corner": { drawings: queryAs((v, y) => v - corner[y] + 3), centred: false },
    } : {},
  });

  // -- drawing ------------------------------------------------------------------------------------------------------------

  function drawChart(now) {
    const { steps: end, name } = methods[now.method];
    plot.domain = [0, end];
    plot.xTicks = Array.from({ length: 6 }, (_, i) => (i * end) / 5);
    plot.fit(Math.floor(chart.clientWidth) || 300);
    plot.lines.replaceChildren();
    plot.front.replaceChildren();
    if (!task) return plot.node.setAttribute("aria-label", "No task yet");
    const until = replies.findIndex((r) => !r), count = until < 0 ? replies.length : until, xs = Array.from({ length: count }, (_, i) => i);
    plot.lines.append(svg("path", { class: "mlb-now", d: `M${plot.X(now.step)} 0V${plot.height}` }));
    const ends = task.rows.map((k, n) => ({ k, ys: xs.map((i) => replies[i][n]) }));
    for (const { k, ys } of ends)
      plot.lines.append(svg("path", { class: "mlb-chance", ...stroke(LINES[k][0], 2.5, LINES[k][1]), d: plot.path(xs, ys) }));
    if (count) { // letters behind the ends of the lines, moved apart where they would lie on each other
      const labels = ends.map(({ k, ys }) => ({ k, y: plot.Y(ys.at(-1)) })).sort((a, b) => b.y - a.y);
      labels.forEach((label, i) => i && (label.y = Math.min(label.y, labels[i - 1].y - 13)));
      const lowest = Math.max(0, 4 - labels.at(-1).y);
      for (const { k, y } of labels) plot.front.append(svg("text", { class: "mlb-letter", x: plot.X(count - 1) + 6, y: y + 4 + lowest }, letters[k]));
    }
    const final = replies[end];
    plot.node.setAttribute("aria-label", `Probability of each class after 0 to ${end} inner steps of ${name}` +
      (final ? `; at the end ${listed(task.rows.map((k, n) => `${letters[k]} ${percent(final[n])}`))}` : ""));
  }

  function draw() {
    const now = state(), { name, steps: end, inverted, reported } = methods[now.method];
    const pictures = now.drawings.map((strokes, k) => pictureOf(k, strokes, now.centred));
    ask(now, pictures);
    boxes.forEach(({ show }, k) => show(now.drawings[k], { ink: pictures[k], inverted, undoable: past[k].length > 0 }));
    centre.set(now.centred);
    which.set(now.method);
    stepInput.max = end;
    steps.set(now.step);
    // Until the answer for this step is there: the latest one for these drawings, else what was shown before.
    const given = task && (replies[now.step] ?? replies.slice(0, now.step).filter(Boolean).at(-1));
    if (given) shown = { rows: task.rows, probabilities: given };
    rows.forEach(({ bar, value, node }, k) => {
      const n = shown ? shown.rows.indexOf(k) : -1, p = n < 0 ? null : shown.probabilities[n];
      bar.style.width = `${100 * (p ?? 0)}%`;
      bar.hidden = p === null;
      value.textContent = p === null ? "empty" : percent(p);
      node.classList.toggle("mlb-most", n >= 0 && best(shown.probabilities) === n);
      node.classList.toggle("mlb-muted", p === null);
    });
    const after = `After ${now.step} inner ${now.step === 1 ? "step" : "steps"}`;
    table.caption.textContent = `Probabilities of the query ${after.toLowerCase()}`;
    const exact = task && replies[now.step];
    sentence.textContent = !able[now.method]
      ? `The weights of ${name} are on their way …`
      : !task
      ? "Draw at least two classes and the query."
      : exact ? `${after}, ${name} says: the query is ${letters[task.rows[best(exact)]]} (${percent(Math.max(...exact))}).` : `${name} adapts …`;
    const empty = letters.filter((_, k) => !pictures[k]), same = JSON.stringify(now.drawings) === JSON.stringify(examples[now.example].drawings);
    about.textContent = [
      same && `Default drawings (generated characters); the query is a second drawing of ${letters[examples[now.example].truth]}.`,
      task && `A ${task.rows.length}-way 1-shot task.`,
      task && empty.length && `${listed(empty)} ${empty.length === 1 ? "is" : "are"} empty, so the network has no output for ${empty.length === 1 ? "it" : "them"}: loss and probabilities are over ${listed(task.rows.map((k) => letters[k]))} only.`,
      `The weights of ${name} were trained on 5-way tasks of Omniglot and are scored there after ${reported} steps. Batch norm takes its statistics of support set and query together.`,
    ].filter(Boolean).join(" ");
    drawChart(now);
    const ready = !!task && replies.filter(Boolean).length === end + 1;
    if (!task || ready) live.say(sentence.textContent);
    // The same unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({
      ...now, ready, rows: task?.rows ?? [], probabilities: replies.map((r) => r ?? null), where: worker.where(), times, playing: play.playing(),
      pixels: pictures.map((ink) => ink && ink.join("")),
    });
  }

  draw();
  return lab.follow(draw, watchWidth(chart, () => drawChart(state())), play.end, () => worker.end());
}

export default { render };
