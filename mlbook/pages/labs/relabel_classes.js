// The lab "One task, 120 orders": the classes of a task change places, and the same head is adapted again by the same steps.
//
// The arithmetic is in heads.js. ANIL's inner loop moves the head alone, so the features of all images come from Python as they are.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { alike, allOrders, answers, rightShare } from "./heads.js";
import { announcer, button, html, Plot, slider, svg, unpack, unique, watchWidth } from "./shared.js";

const LETTERS = "ABCDE";

/** The head and the tasks, from the bytes that travel in the page. */
export function unpackTasks(setup, weights, vectors) {
  const { ways: N, features: D, queries: Q, tasks } = setup;
  const numbers = [...unpack(weights, N * D + N)[0]], each = unpack(vectors, D).map((v) => [...v]);
  const head = { rows: Array.from({ length: N }, (_, n) => numbers.slice(n * D, (n + 1) * D)), bias: numbers.slice(N * D) };
  const size = N + N * Q;
  return { head, tasks: Array.from({ length: tasks }, (_, t) => ({ support: each.slice(t * size, t * size + N), queries: each.slice(t * size + N, (t + 1) * size) })) };
}

/** The share of right answers for every order. */
export const shares = (head, task, orders, rate, steps) =>
  orders.map((order) => rightShare(answers(head, task, order, rate, steps), task.support.length));

/** Of equal shares side by side, `across` in a row: [column, row] for each. */
export function stacked(values, across) {
  const seen = new Map();
  return values.map((value) => {
    const n = seen.get(value) ?? 0;
    seen.set(value, n + 1);
    return [n % across, Math.floor(n / across)];
  });
}

function paper(bytes, size) {
  const canvas = html("canvas", { class: "mlb-paper", width: size, height: size, "aria-hidden": "true" });
  const context = canvas.getContext("2d"), pixels = context.createImageData(size, size);
  bytes.forEach((v, i) => pixels.data.set([28, 33, 40, v], 4 * i));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function render({ model, el }) {
  const setup = model.get("setup"), { ways, queries: Q, size, steps, rate, heads } = setup, B = ways * Q;
  const range = (n, f) => Array.from({ length: n }, (_, i) => f(i));
  const { state, change, follow, frame } = openLab(model, "relabel-classes", {
    task: kept.whole(0, setup.tasks - 1), order: kept.list(kept.whole(0, ways - 1), ways), step: kept.whole(0, steps), head: kept.choice(heads),
  }, { agree: ({ order }) => new Set(order).size === ways, restart: () => (picked = null) });
  const { head, tasks } = unpackTasks(setup, model.get("head_weights"), model.get("vectors")), same = alike(head);
  const view = model.get("images"), bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength), area = size * size;
  const pictures = range(setup.tasks, (t) => range(ways + B, (i) => paper(bytes.subarray((t * (ways + B) + i) * area, (t * (ways + B) + i + 1) * area), size)));
  const orders = allOrders(ways), number = new Map(orders.map((order, i) => [order.join(), i])), known = new Map();
  let picked = null;
  function judged({ task, step, head: which }) {
    const key = [task, step, which].join();
    if (!known.has(key)) known.set(key, shares(which === heads[0] ? head : same, tasks[task], orders, rate, step));
    return known.get(key);
  }

  // -- the elements -----------------------------------------------------------------------------------------------------

  const exchange = (a, b) => {
    const order = [...state().order];
    [order[a], order[b]] = [order[b], order[a]];
    change({ order });
  };
  const press = (r) => {
    if (picked === null || picked === r) picked = picked === r ? null : r;
    else {
      const other = picked;
      picked = null;
      return exchange(other, r);
    }
    paint();
  };
  const seats = range(ways, (r) => {
    const node = html("button", { type: "button", class: "mlb-seat", onclick: () => press(r) });
    node.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: r - 1, ArrowRight: r + 1 }[event.key];
      if (to === undefined) return;
      if (to >= 0 && to < ways) {
        picked = null;
        exchange(r, to);
        seats[to].node.focus();
      }
      event.preventDefault();
      event.stopPropagation(); // Jupyter would take the key for itself
    });
    return { node, letter: html("b", {}), asked: html("div", { class: "mlb-asked", "aria-hidden": "true" }) };
  });
  const board = html("div", { class: "mlb-board", style: `--mlb-ways: ${ways}` },
    html("p", {}, "Rows of the head, and the one drawing of the class that each row gets. Press two drawings to exchange them."),
    ...range(ways, (r) => html("span", {}, `row ${r + 1}`)),
    ...seats.map(({ node }) => node), ...seats.map(({ letter }) => html("span", {}, letter)),
    html("p", {}, `The ${B} queries, by class. Framed: wrong.`),
    ...seats.map(({ asked }) => asked));
  const to = (choose) => () => {
    picked = null;
    change({ order: choose(judged(state())) });
  };
  const where = (found, pick) => orders[found.indexOf(pick(...found))];
  const buttons = html("div", { class: "mlb-row" },
    button("Another order", to(() => orders[Math.floor(Math.random() * orders.length)])),
    button("Worst order", to((found) => where(found, Math.min))),
    button("Best order", to((found) => where(found, Math.max))),
    button("Another task", () => ((picked = null), change({ task: (state().task + 1) % setup.tasks }))));
  const plot = new Plot({
    x: [-2, 102], y: [0, 1], xTicks: [0, 20, 40, 60, 80, 100], yTicks: [], xTitle: "right, %", yTitle: `the ${orders.length} orders of this task`,
    height: () => 250, role: "img",
  });
  const stepping = slider({ label: "inner steps", min: 0, max: steps, step: 1, show: String, input: (step) => change({ step }) });
  const group = unique();
  const radios = heads.map((name) => html("input", { type: "radio", name: group, value: name, onchange: () => change({ head: name }) }));
  const choice = html("fieldset", {}, html("legend", {}, "the head before the first step"),
    html("div", { class: "mlb-row" }, ...heads.map((name, i) => html("label", {}, radios[i], ` ${name}`))));
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const right = html("div", {}, plot.node, sentence, buttons, stepping.node, choice);
  const root = frame(el, {
    label: "one task, 120 orders", live, parts: [html("div", {}, board), right],
    goal: "The weights, the drawings and the steps stay. Only the order of the classes changes.",
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  let shown = null;
  function paint() {
    const now = state(), { task, order, step } = now, all = judged(now), chosen = now.head === heads[0] ? head : same;
    const said = answers(chosen, tasks[task], order, rate, step), mine = rightShare(said, ways), n = number.get(order.join());
    seats.forEach(({ node, letter, asked }, r) => {
      const c = order[r];
      node.replaceChildren(pictures[task][c]);
      node.setAttribute("aria-pressed", String(picked === r));
      node.setAttribute("aria-label", `Row ${r + 1}: class ${LETTERS[c]}`);
      letter.textContent = LETTERS[c];
      asked.replaceChildren(...range(Q, (q) => html("div", { class: said[c * Q + q] === c ? "" : "mlb-wrong" }, pictures[task][ways + c * Q + q])));
    });
    const worst = Math.min(...all), best = Math.max(...all), mean = all.reduce((a, b) => a + b, 0) / all.length, right = Math.round(mine * B);
    const whole = (share) => Math.round(100 * share);
    sentence.textContent = `This order: ${right} of ${B} right, ${whole(mine)}\u00a0%. All ${orders.length} orders: worst ${whole(worst)}\u00a0%, mean ${(100 * mean).toFixed(1)}\u00a0%, best ${whole(best)}\u00a0%.`;
    live.say(sentence.textContent);
    stepping.set(step);
    radios.forEach((radio, i) => (radio.checked = now.head === heads[i]));
    if (plot.width) {
      const bin = plot.width / (1.04 * B + 1), gap = Math.min(6, bin / 3), across = Math.max(1, Math.floor(bin / gap)), r = Math.max(1.6, 0.42 * gap);
      const places = stacked(all, across);
      const at = (i) => ({ cx: plot.X(100 * all[i]) + (places[i][0] - (across - 1) / 2) * gap, cy: plot.height - gap * (places[i][1] + 0.7) });
      plot.lines.replaceChildren(...orders.map((_, i) => svg("circle", { ...at(i), r, class: "mlb-order" })));
      plot.front.replaceChildren(svg("circle", { ...at(n), r: 6, class: "mlb-order-now" }));
      plot.node.setAttribute("aria-label", `Dots: the share of right answers for each order. ${sentence.textContent}`);
    }
    shown = { ...now, right, all, mean, worst, best, said, picked };
    root.dataset.state = JSON.stringify(shown);
  }
  return follow(paint, watchWidth(plot.node.parentElement, (width) => (plot.fit(width), paint())));
}

export default { render };
