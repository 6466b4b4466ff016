// The lab "Find the goal": the reader hides a goal, a policy explores, takes gradient steps on its own rollouts, and explores again.
//
// Python hands over `weights` (the starts, 16 bits) and `setup`. Everything that follows from the traits is computed here.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { unpackHalf } from "./half.js";
import { explore, gaussians, innerStep, judge, mean, rateOf } from "./navigation.js";
import { radios, sameScale } from "./plane.js";
import { announcer, button, clamp, format, grid, handle, html, legendKey, Plot, slider, stroke, svg, watchWidth } from "./shared.js";

/** The rounds 0..step: parameters, exploration, rewards. Round n has its own noise. `known` rounds are not computed again. */
export function roundsOf(setup, thetas, state, known = []) {
  const rounds = [], size = setup.trajectories * setup.horizon * 2;
  for (let n = 0; n <= state.step; n++) {
    const key = JSON.stringify(n ? [state.start, state.seed, state.inner_lr, state.goal] : [state.start, state.seed]);
    if (known[n]?.key === key) {
      rounds.push(n ? known[n] : { ...known[n], judged: judge(setup, known[n].exploration, state.goal) });
      continue;
    }
    const last = rounds[n - 1];
    const theta = n ? innerStep(setup, last.theta, last.exploration, last.judged, rateOf(state.inner_lr, n - 1)) : thetas[state.start];
    const exploration = explore(setup, theta, gaussians(1000 * state.seed + n, size));
    rounds.push({ key, theta, exploration, judged: judge(setup, exploration, state.goal) });
  }
  return rounds;
}

function render({ model, el }) {
  const setup = model.get("setup"), last = setup.steps, names = Object.keys(setup.starts);
  const all = unpackHalf(model.get("weights")), each = all.length / names.length;
  const thetas = Object.fromEntries(names.map((name, i) => [name, all.slice(i * each, (i + 1) * each)]));
  const lab = openLab(model, "find-the-goal", {
    goal: kept.numbers(2, setup.goals, setup.goals), start: kept.choice(names), seed: kept.whole(1, 999), step: kept.whole(0, last), inner_lr: kept.number(2, [0, 1]),
  });
  const { state, change } = lab;
  const colour = () => `--mlb-${setup.starts[model.get("start")].colour}`;

  const hide = (goal) => change({ goal: goal.map((v) => clamp(v, setup.goals)), step: 0 });
  const anywhere = () => Math.round(100 * (setup.goals[0] + (setup.goals[1] - setup.goals[0]) * Math.random())) / 100;

  // -- the elements -----------------------------------------------------------------------------------------------------

  const span = [-setup.view, setup.view], ticks = [-0.5, 0, 0.5];
  const plane = new Plot({
    x: span, y: span, xTicks: ticks, yTicks: ticks, xTitle: "", yTitle: "", bottom: 22, height: sameScale(span, span, 22), role: "group",
  });
  const curve = new Plot({
    x: [0, last], y: [-80, 0], xTicks: Array.from({ length: last + 1 }, (_, n) => n), yTicks: [-80, -60, -40, -20, 0],
    xTitle: "gradient steps", yTitle: "mean return", height: () => 200, role: "img",
  });
  const step = button("Gradient step ▶", () => change({ step: Math.min(last, state().step + 1) }), { class: "mlb-main" });
  const back = button("◀ Back", () => change({ step: Math.max(0, state().step - 1) }), { "aria-label": "One gradient step back" });
  const again = button("Explore again", () => change({ seed: (state().seed % 999) + 1 }));
  const rate = slider({ label: "inner rate α", min: 0, max: 1, step: 0.05, show: (v) => v.toFixed(2), input: (v) => change({ inner_lr: v }) });
  const choice = radios("The policy starts as", Object.fromEntries(names.map((name) => [name, name])), (start) => change({ start, step: 0 }));
  const about = html("p", { class: "mlb-note mlb-about" }), sentence = html("p", { class: "mlb-sentence" }), live = announcer();
  const body = html("tbody", {});
  const table = grid(["steps", "return", "distance", "spread"], body, { class: "mlb-grid", "aria-label": "After each gradient step" });
  const stay = html("div", { class: "mlb-stay" }, plane.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" },
      legendKey({ d: "M1 9C8 1 14 11 25 4", ...stroke("--mlb-maml", 2) }, "trajectories of this round"),
      legendKey(svg("circle", { cx: 13, cy: 6, r: 4, fill: "var(--mlb-muted)" }), "start"),
      legendKey(svg("circle", { cx: 13, cy: 6, r: 5, fill: "var(--mlb-ink)" }), "goal, which the policy does not see")),
    html("div", { class: "mlb-row" }, step, back, again, button("New goal", () => hide([anywhere(), anywhere()]))));
  const right = html("div", {}, choice.node, about, rate.node, html("div", { class: "mlb-apart" }, curve.node), table, sentence);
  const bottom = html("div", { class: "mlb-wide" },
    html("p", { class: "mlb-note" },
      "Arrow keys move the goal, too (with Shift: further); the agent then starts again. ",
      `Each round is ${setup.trajectories} trajectories of at most ${setup.horizon} moves of up to ${setup.reach} along each axis; the reward of a move is minus the distance to the goal after it. `,
      "Return and distance from the goal at the end are means over the walks, the spread is that of one move. ",
      "A gradient step uses the trajectories of this round and nothing else, with rate α at first and α/2 later. Trajectories, baseline and gradient are computed in this page."));
  const root = lab.frame(el, {
    label: "find the goal", live, parts: [left, right, bottom], class: "mlb-lab mlb-plane",
    goal: "Drag the goal: how near does one gradient step bring a policy that cannot see it?",
    presets: {
      "One step": { step: 1 }, "Trained on all goals": { start: "pre-trained", step: last }, "Not trained": { start: "random", step: last },
    },
  });

  const grip = handle(plane, { move: hide });
  plane.front.append(grip.node);

  // -- drawing ----------------------------------------------------------------------------------------------------------

  function drawPlane(now, { exploration, judged }) {
    const { trajectories: M, horizon: H } = setup;
    const path = (m) => {
      const xs = [0], ys = [0];
      for (let t = 0; t < judged.lengths[m]; t++) {
        xs.push(exploration.after[2 * (m * H + t)]);
        ys.push(exploration.after[2 * (m * H + t) + 1]);
      }
      return plane.path(xs, ys);
    };
    plane.lines.replaceChildren(
      ...Array.from({ length: M }, (_, m) => svg("path", { class: "mlb-trajectory", d: path(m), ...stroke(colour(), 1.4), opacity: 0.75 })),
      svg("circle", { cx: plane.X(0), cy: plane.Y(0), r: 5, style: "fill: var(--mlb-muted); stroke: var(--mlb-ground)" }),
    );
    grip.set(now.goal, "Goal");
  }

  function drawCurve(now, rows) {
    const values = rows.map((r) => r.mean), lowest = Math.min(...values, -20), low = -20 * Math.ceil(-lowest / 20);
    curve.range = [low, 0];
    curve.yTicks = Array.from({ length: 5 }, (_, i) => (low * (4 - i)) / 4);
    curve.fit(curve.width + curve.margin.left + curve.margin.right);
    curve.lines.replaceChildren(svg("path", { class: "mlb-curve", d: curve.path(values.map((_, n) => n), values), ...stroke(colour(), 3) }));
    curve.front.replaceChildren(
      ...values.map((v, n) => svg("circle", { cx: curve.X(n), cy: clamp(curve.Y(v), [0, curve.height]), r: 5, style: `fill: var(${colour()})` })));
  }

  function words(now, rows) {
    const here = rows.at(-1), steps = `${now.step} gradient ${now.step === 1 ? "step" : "steps"}`;
    const first = `After ${steps} the ${now.start} policy has a mean return of ${format(here.mean)} over ${setup.trajectories} trajectories.`;
    if (!now.step) return `${first} It has not used any reward yet.`;
    const gain = here.mean - rows[0].mean;
    return `${first} That is ${format(Math.abs(gain))} ${gain < 0 ? "less" : "more"} than before the first step.`;
  }

  let rounds = [];
  function draw() {
    if (!plane.width) return; // not on the page yet
    const now = state();
    rounds = roundsOf(setup, thetas, now, rounds);
    const rows = rounds.map(({ judged, exploration }) => ({
      mean: mean(judged.returns), end: mean(judged.ends), spread: mean(exploration.spread) * setup.reach,
    }));
    drawPlane(now, rounds.at(-1));
    drawCurve(now, rows);
    body.replaceChildren(...rows.map((r, n) => html("tr", { "aria-current": n === now.step && "true" },
      html("th", { scope: "row" }, `${n}`), ...[r.mean, r.end, r.spread].map((v) => html("td", {}, format(v))))));
    step.disabled = now.step >= last;
    back.disabled = now.step <= 0;
    rate.set(now.inner_lr);
    choice.set(now.start);
    about.textContent = setup.starts[now.start].note;
    const said = words(now, rows);
    sentence.textContent = said;
    live.say(said);
    plane.node.setAttribute("aria-label", `The plane with the goal at x ${format(now.goal[0])}, y ${format(now.goal[1])} and ${setup.trajectories} trajectories from the origin. ${said}`);
    curve.node.setAttribute("aria-label", `Mean return after 0 to ${now.step} gradient steps: ${rows.map((r) => format(r.mean)).join(", ")}.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside.
    root.dataset.state = JSON.stringify({ ...now, rows, returns: rounds.at(-1).judged.returns, said });
  }

  curve.fit(260);
  return lab.follow(draw, watchWidth(stay, (width) => (plane.fit(width), draw())), watchWidth(right, (width) => (curve.fit(width), draw())));
}

export default { render };
