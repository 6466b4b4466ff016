// The lab "A controller sharpens": the probabilities of five decisions while REINFORCE learns from the rewards of the table.
//
// All follows from the state: whatever the reader changes, the whole search is done again. The arithmetic is in policy.js.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { checkbox } from "./plane.js";
import { blind, joint, picks, search } from "./policy.js";
import { announcer, button, clamp, drawer, format, html, inPercent, legendKey, player, Plot, slider, stroke, svg, watchWidth } from "./shared.js";

const LOOKS = { controller: stroke("--mlb-maml", 3), random: stroke("--mlb-random", 2.5, "5 3"), average: stroke("--mlb-pretraining", 2) };

function render({ model, el }) {
  const setup = model.get("setup"), { decisions, rewards, worth, best, last, ranges } = setup;
  const place = worth.map((v) => 1 + worth.reduce((above, w) => above + (w > v), 0));
  const lab = openLab(model, "architecture-search", {
    rate: kept.number(4, ranges.rate), baseline: kept.flag, entropy: kept.number(3, ranges.entropy), seed: kept.whole(...ranges.seed), step: kept.whole(0, last),
  }, { restart: () => film.stop() });
  const { state, change, soon } = lab;
  const setStep = (step) => change({ step: clamp(step, [0, last]) });
  const film = player({
    every: 60, begin: () => state().step >= last && setStep(0), next: () => (setStep(state().step + 2), state().step < last),
    finish: () => setStep(last), changed: () => soon(),
  });

  // -- the elements -----------------------------------------------------------------------------------------------------

  const groups = decisions.map(([name, options]) => {
    const cells = options.map((option) => {
      const bar = html("span", { class: "mlb-fill" }), value = html("span", {});
      return { bar, value, node: html("div", { class: "mlb-option" }, html("span", {}, option), value, bar) };
    });
    return { cells, node: html("div", { class: "mlb-decision", role: "group", "aria-label": name }, html("p", {}, name), ...cells.map((c) => c.node)) };
  });
  const low = Math.floor(10 * Math.min(...rewards)) / 10, high = Math.ceil(10 * Math.max(...rewards)) / 10;
  const between = (a, b) => Array.from({ length: Math.round((b - a) / 0.1) + 1 }, (_, i) => Number((a + 0.1 * i).toFixed(1)));
  const xTicks = [0, 100, 200, 300].filter((v) => v <= last);
  const history = new Plot({ x: [0, last], y: [low, high], xTicks, yTicks: between(low, high), xTitle: "children trained", yTitle: "reward", height: () => 220, role: "img" });
  const mass = new Plot({ x: [0, last], y: [0, 1], xTicks, yTicks: [0, 0.5, 1], xTitle: "children trained", yTitle: "probability of the best 5 %", height: () => 150, role: "img" });
  const step = button("Train one child", film.byHand(() => setStep(state().step + 1)), { class: "mlb-main" });
  const playing = button("", film.toggle), rewind = button("Back to 0", film.byHand(() => setStep(0)), { "aria-label": "Back to no child" });
  const again = button("New draws", film.byHand(() => change({ seed: (state().seed % ranges.seed[1]) + 1 })), { "aria-label": "Another seed of the draws" });
  const sliders = {
    step: slider({ label: "children", min: 0, max: last, step: 1, show: (v) => `${v}`, input: (v) => film.byHand(() => setStep(v))() }),
    rate: slider({
      label: "rate", min: Math.log10(ranges.rate[0]), max: Math.log10(ranges.rate[1]), step: 0.02, show: (v) => `${Number((10 ** v).toPrecision(2))}`,
      input: (v) => change({ rate: clamp(Number((10 ** v).toPrecision(3)), ranges.rate) }),
    }),
    entropy: slider({ label: "entropy bonus", min: ranges.entropy[0], max: ranges.entropy[1], step: 0.001, show: (v) => v.toFixed(3), input: (entropy) => change({ entropy }) }),
  };
  const base = checkbox("baseline: subtract the moving average of rewards", (baseline) => change({ baseline }));
  const sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const stay = html("div", { class: "mlb-stay" }, history.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" }, legendKey(LOOKS.controller, "controller, best so far"), legendKey(LOOKS.random, "random search, best so far"),
      legendKey(LOOKS.average, "baseline b"), legendKey(svg("circle", { cx: 13, cy: 6, r: 3, fill: "var(--mlb-other-2)" }), "one child")),
    sentence, html("div", { class: "mlb-row" }, step, playing, rewind, again), sliders.step.node, base.node,
    drawer("Rate of the controller, entropy bonus", sliders.rate.node, sliders.entropy.node));
  const right = html("div", {}, ...groups.map((g) => g.node), html("div", { class: "mlb-apart" }, mass.node));
  const bottom = html("div", { class: "mlb-wide" },
    html("p", { class: "mlb-note" },
      `Every reward is the validation accuracy of a child that was trained once (seed ${setup.reward_seed}) and is looked up. The rank of a pick among all ${rewards.length} is by the mean test accuracy of other trainings, which no search sees. `,
      "This controller has one softmax per decision; that of the chapter is an LSTM, whose later decisions depend on the earlier ones."));
  const root = lab.frame(el, {
    label: "a controller of architectures sharpens", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane", columns: "mlb-columns mlb-even",
    goal: "Train children one after another: does the controller find better ones than random search?",
    presets: { "No baseline": { baseline: false, step: last }, "High rate": { rate: 15, step: last }, "High rate, entropy bonus": { rate: 15, entropy: 0.02, step: last } },
  });

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const sizes = decisions.map(([, options]) => options.length), top = best.flatMap((is, row) => (is ? [row] : []));
  let known = "", found = null;
  function compute({ rate, baseline, entropy, seed }) {
    const key = JSON.stringify([rate, baseline, entropy, seed]);
    if (key === known) return;
    known = key;
    found = search({ sizes, rewards }, { rate, baseline, entropy, seed }, last);
    found.picks = picks(found.rows, rewards);
    found.blind = picks(blind(rewards, seed, last), rewards);
    found.mass = found.probabilities.map((p) => { const all = joint(p); return top.reduce((sum, row) => sum + all[row], 0); });
  }

  function draw() {
    if (!history.width || !mass.width) return; // not on the page yet
    const now = state(), n = now.step;
    compute(now);
    const p = found.probabilities[n];
    groups.forEach(({ cells }, t) => cells.forEach(({ bar, value }, i) => {
      bar.style.width = `${100 * p[t][i]}%`;
      value.textContent = inPercent(p[t][i]);
    }));
    const xs = Array.from({ length: n }, (_, i) => i + 1), upTo = (list) => list.slice(0, n);
    const line = (plot, x, y, look) => svg("path", { d: y.length ? plot.path(x, y) : "", ...look });
    history.lines.replaceChildren(
      ...upTo(found.rewards).map((r, i) => svg("circle", { cx: history.X(i + 1), cy: history.Y(r), r: 2, style: "fill: var(--mlb-other-2)" })),
      line(history, xs, upTo(found.blind).map((row) => rewards[row]), LOOKS.random), line(history, xs, upTo(found.baselines), LOOKS.average),
      line(history, xs, upTo(found.picks).map((row) => rewards[row]), LOOKS.controller));
    mass.lines.replaceChildren(line(mass, [0, ...xs], found.mass.slice(0, n + 1), LOOKS.controller),
      svg("path", { d: `M0 ${mass.Y(top.length / rewards.length)}H${mass.width}`, ...LOOKS.random }));
    sliders.step.set(n);
    sliders.rate.set(Math.log10(now.rate));
    sliders.entropy.set(now.entropy);
    base.set(now.baseline);
    rewind.disabled = n === 0;
    step.disabled = n === last;
    playing.textContent = film.playing() ? "Pause" : `Run to ${last}`;
    const likely = decisions.map(([, options], t) => options[p[t].indexOf(Math.max(...p[t]))]).join(" · ");
    const rank = (row) => `rank ${place[row]} of ${rewards.length}`;
    const words = n === 0 ? `No child yet: all ${rewards.length} architectures are equally likely.`
      : `After ${n} ${n === 1 ? "child" : "children"}: the controller's pick is ${rank(found.picks[n - 1])}, random search's ${rank(found.blind[n - 1])}. The next child is one of the best 5 % with probability ${inPercent(found.mass[n])}. Likeliest: ${likely}.`;
    sentence.textContent = words;
    live.say(words);
    history.node.setAttribute("aria-label", n === 0 ? "Rewards over children: none yet." : `Rewards over ${n} children: best of the controller ${format(rewards[found.picks[n - 1]])}, of random search ${format(rewards[found.blind[n - 1]])}; baseline ${format(found.baselines[n - 1])}.`);
    mass.node.setAttribute("aria-label", `Probability of the best 5 %: ${inPercent(found.mass[0])} at the start, ${inPercent(found.mass[n])} now. Random search stays at ${inPercent(top.length / rewards.length)}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({
      ...now, probabilities: p, mass: found.mass[n], rows: upTo(found.rows), baselines: upTo(found.baselines),
      pick: found.picks[n - 1] ?? null, random: found.blind[n - 1] ?? null, place: place[found.picks[n - 1]] ?? null, playing: film.playing(),
    });
  }

  return lab.follow(draw, film.end, watchWidth(stay, (width) => (history.fit(width), draw())), watchWidth(right, (width) => (mass.fit(width), draw())));
}

export default { render };
