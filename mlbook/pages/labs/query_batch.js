// The lab "Who is in the batch?": query images go into a batch and out of it, and one adapted network classifies them with three
// kinds of batch-norm statistics. The arithmetic is in conv4.js; weights and images come from Python.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { conv4, softmax } from "./conv4.js";
import { unpackHalf } from "./half.js";
import { announcer, button, html } from "./shared.js";

const LETTERS = "ABCDE";
const MODES = ["the batch", "the support set", "support + it"];

/** What the three kinds of statistics make of the images; everything is computed once per batch and kept. */
export function judgements(network, parameters, support, queries) {
  const supportStatistics = conv4(network, parameters, support).statistics;
  const bySupport = queries.map((image) => softmax(conv4(network, parameters, [image], supportStatistics).logits[0]));
  const known = new Map(), withSupport = queries.map(() => null);
  return {
    bySupport, withSupport,
    /** The images of a batch with its own statistics: probabilities, one row for each index in `batch`. */
    byBatch(batch) {
      const key = batch.join();
      if (!known.has(key)) known.set(key, batch.length ? conv4(network, parameters, batch.map((i) => queries[i])).logits.map(softmax) : []);
      return known.get(key);
    },
    /** The next query not yet judged together with the support set; false when all are. */
    next() {
      const i = withSupport.indexOf(null);
      if (i < 0) return false;
      withSupport[i] = softmax(conv4(network, parameters, [...support, queries[i]]).logits.at(-1));
      return true;
    },
  };
}

export const best = (probabilities) => probabilities.indexOf(Math.max(...probabilities));

/** `count` different whole numbers below `end`, in order. */
export function drawn(count, end, random = Math.random) {
  const left = Array.from({ length: end }, (_, i) => i);
  return Array.from({ length: count }, () => left.splice(Math.floor(random() * left.length), 1)[0]).sort((a, b) => a - b);
}

function paper(image, size) {
  const canvas = html("canvas", { class: "mlb-paper", width: size, height: size, "aria-hidden": "true" });
  const context = canvas.getContext("2d"), pixels = context.createImageData(size, size);
  image.forEach((v, i) => pixels.data.set([28, 33, 40, Math.round(255 * v)], 4 * i));
  context.putImageData(pixels, 0, 0);
  return canvas;
}

function render({ model, el }) {
  const { network, queries: Q, support_y } = model.get("setup"), { ways, size } = network, area = size * size;
  const view = model.get("images"), bytes = new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
  const all = Array.from({ length: bytes.length / area }, (_, n) => Float64Array.from(bytes.subarray(n * area, (n + 1) * area), (v) => v / 255));
  const support = all.slice(0, support_y.length), queries = all.slice(support_y.length), B = queries.length;
  const classOf = (i) => Math.floor(i / Q), name = (i) => `drawing ${(i % Q) + 1} of ${LETTERS[classOf(i)]}`;
  const judged = judgements(network, unpackHalf(model.get("weights")), support, queries);
  const ordered = (batch) => batch.every((n, i) => !i || batch[i - 1] < n);
  const lab = openLab(model, "query-batch", { batch: kept.list(kept.whole(0, B - 1), 0, B), watched: kept.whole(0, B - 1) }, { agree: ({ batch }) => ordered(batch) });
  const { state, change, soon } = lab;

  // -- the elements -----------------------------------------------------------------------------------------------------

  const toggle = (i) => {
    const { batch } = state();
    change({ watched: i, batch: batch.includes(i) ? batch.filter((j) => j !== i) : [...batch, i].sort((a, b) => a - b) });
  };
  const tiles = queries.map((image, i) => {
    const said = MODES.map(() => html("span", {}));
    const node = html("button", { type: "button", class: "mlb-tile", onclick: () => toggle(i) }, paper(image, size), html("span", { class: "mlb-said", "aria-hidden": "true" }, ...said));
    node.addEventListener("keydown", (event) => {
      const step = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key];
      if (!step) return;
      const row = (i % Q) + step[0], column = classOf(i) + step[1];
      if (row >= 0 && row < Q && column >= 0 && column < ways) {
        change({ watched: column * Q + row });
        tiles[column * Q + row].node.focus();
      }
      event.preventDefault();
      event.stopPropagation(); // Jupyter would take the key for itself
    });
    return { node, said };
  });
  const shots = support_y.length / ways;
  const cells = [
    html("p", {}, `Support set, always the same${shots === 1 ? "" : ` (the first of ${shots} per class)`}`),
    ...Array.from({ length: ways }, (_, k) => {
      const mine = support.filter((_, n) => support_y[n] === k).slice(0, 1).map((image) => paper(image, size));
      return html("div", { role: "img", "aria-label": `The support set's ${shots === 1 ? "one drawing" : `first of ${shots} drawings`} of class ${LETTERS[k]}` }, ...mine,
        html("div", { class: "mlb-said", "aria-hidden": "true" }, html("span", {}), html("span", {}, html("b", {}, LETTERS[k]))));
    }),
    html("p", {}, "Queries: press one to put it into the batch or to take it out"),
    ...Array.from({ length: Q * ways }, (_, n) => tiles[(n % ways) * Q + Math.floor(n / ways)].node),
  ];
  const board = html("div", { class: "mlb-board", role: "group", "aria-label": "Support set and queries", style: `--mlb-ways: ${ways}` }, ...cells);

  const range = (n, f) => Array.from({ length: n }, (_, i) => f(i));
  const compose = (words, batch) => button(words, () => change({ batch: batch() }), { class: "mlb-small" });
  const buttons = html("div", { class: "mlb-row" },
    compose("One of each class", () => range(ways, (k) => k * Q + (state().watched % Q))),
    compose("One class only", () => range(Q, (i) => classOf(state().watched) * Q + i)),
    compose("This one alone", () => [state().watched]),
    compose(`${ways} at random`, () => drawn(ways, B)),
    compose(`All ${B}`, () => range(B, (i) => i)),
    compose("Empty", () => []));
  const heads = () => html("thead", {}, html("tr", {}, html("th", {}), ...range(ways, (k) => html("th", { scope: "col" }, LETTERS[k])), html("th", { scope: "col" }, "right")));
  const countRows = html("tbody", {}), chanceRows = html("tbody", {}), chanceTitle = html("caption", {});
  const chanceHeads = heads();
  chanceHeads.querySelector("th:last-child").remove();
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const left = html("div", {}, board,
    html("p", { class: "mlb-note mlb-apart" }, `Under each query: its class as the network sees it with batch-norm statistics of ${MODES.slice(0, 2).join(" · ")} · ${MODES[2]} alone. Struck out: wrong.`));
  const right = html("div", {}, buttons, sentence,
    html("div", { class: "mlb-apart" }, html("table", {}, html("caption", {}, "How many drawings of the batch are called what"), heads(), countRows),
      html("table", {}, chanceTitle, chanceHeads, chanceRows)),
    html("p", { class: "mlb-note" }, "With the keyboard: arrow keys go from query to query, space puts one in or takes it out. The weights never change."));
  const root = lab.frame(el, {
    label: "who is in the batch?", live, parts: [left, right],
    goal: "Put drawings into the batch and take them out: can you make the network call the same drawing something else?",
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const row = (title, values, attributes = {}) => html("tr", attributes, html("th", { scope: "row" }, title), ...values);
  function drawTables({ batch, watched }, ofBatch) {
    const kinds = [(i) => ofBatch[batch.indexOf(i)], (i) => judged.bySupport[i], (i) => judged.withSupport[i]];
    const counts = kinds.map((of) => range(ways, (k) => batch.filter((i) => of(i) && best(of(i)) === k).length));
    const right = kinds.map((of) => batch.filter((i) => of(i) && best(of(i)) === classOf(i)).length);
    const truth = range(ways, (k) => batch.filter((i) => classOf(i) === k).length);
    countRows.replaceChildren(
      row("in truth", [...truth, ""].map((v) => html("td", {}, `${v}`)), { class: "mlb-truth" }),
      ...MODES.map((mode, m) => row(mode, [...counts[m].map((v) => html("td", {}, `${v}`)), html("td", {}, `${right[m]} of ${batch.length}`)])));
    chanceTitle.textContent = `Probabilities of ${name(watched)}, in %`;
    chanceRows.replaceChildren(...MODES.map((mode, m) => {
      const chances = kinds[m](watched);
      return row(mode, range(ways, (k) => html("td", { class: chances && best(chances) === k && "mlb-most" }, chances ? (100 * chances[k]).toFixed(1) : m ? "…" : "–")));
    }));
    return { counts, right };
  }

  function draw() {
    const now = state(), { batch, watched } = now, ofBatch = judged.byBatch(batch);
    tiles.forEach(({ node, said }, i) => {
      const inside = batch.indexOf(i), rows = [inside < 0 ? null : ofBatch[inside], judged.bySupport[i], judged.withSupport[i]];
      rows.forEach((chances, m) => {
        said[m].textContent = chances ? LETTERS[best(chances)] : m ? "…" : "–";
        said[m].className = chances && best(chances) !== classOf(i) ? "mlb-wrong" : "";
      });
      const words = rows.map((chances, m) => chances && `${MODES[m]}: ${LETTERS[best(chances)]}`).filter(Boolean).join(", ");
      node.setAttribute("aria-pressed", inside >= 0);
      node.setAttribute("aria-label", `${name(i)} in the batch`);
      node.setAttribute("aria-description", `with statistics of ${words}`);
      node.tabIndex = i === watched ? 0 : -1;
      node.classList.toggle("mlb-watched", i === watched);
    });
    const { counts, right } = drawTables(now, ofBatch), ready = !judged.withSupport.includes(null);
    const words = batch.length
      ? `${batch.length === 1 ? "One drawing is" : `${batch.length} drawings are`} in the batch. Right with statistics of the batch: ${right[0]}; of the support set: ${right[1]}; of support + it: ${ready ? `${right[2]}.` : "…"}`
      : "The batch is empty: put a drawing in.";
    sentence.textContent = words;
    if (ready) live.say(words);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({
      ...now, ready, counts, right, by_batch: ofBatch, by_support: judged.bySupport, with_support: judged.withSupport,
    });
  }

  let timer = 0; // support + one query takes a while for all queries: one per frame
  const work = () => {
    const more = judged.next();
    soon();
    if (more) timer = setTimeout(work, 1);
  };
  draw();
  timer = setTimeout(work, 50);
  return lab.follow(draw, () => clearTimeout(timer));
}

export default { render };
