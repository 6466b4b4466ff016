// The lab "The missing factor": two tasks in one parameter, the meta-gradient with and without the factors 1 − αH, and the slope of the meta-loss.
//
// A task is L(θ) = ½au² + q/24·u⁴ with u = θ − c; its curvature H = a + ½qu² grows away from the bottom where q > 0.
import { kept } from "./address.js";
import { openLab } from "./around.js";
import { lettered } from "./methods.js";
import { announcer, button, clamp, counted, drawer, format, grid, html, legendKey, Plot, row, slider, stroke, svg, watchWidth } from "./shared.js";

const EPSILON = 1e-4; // of the finite difference
const TASKS = [{ colour: "--mlb-other-1", dash: undefined }, { colour: "--mlb-other-2", dash: "8 4" }];

// -- arithmetic -------------------------------------------------------------------------------------------------------

export const lossOf = ({ a, c, q }, theta) => (a * (theta - c) ** 2) / 2 + (q * (theta - c) ** 4) / 24;
export const slopeOf = ({ a, c, q }, theta) => a * (theta - c) + (q * (theta - c) ** 3) / 6;
export const curvatureOf = ({ a, c, q }, theta) => a + (q * (theta - c) ** 2) / 2;

/** One task from θ: its inner path, the factors 1 − αH along it, their product, and the query gradient at the end. */
export function inner(task, theta, alpha, steps) {
  const path = [theta], factors = [];
  for (let n = 0; n < steps; n++) {
    factors.push(1 - alpha * curvatureOf(task, path[n]));
    path.push(path[n] - alpha * slopeOf(task, path[n]));
  }
  const product = factors.reduce((p, f) => p * f, 1), query = slopeOf(task, path[steps]);
  return { path, factors, product, query, maml: product * query, fomaml: query };
}

const mean = (values) => values.reduce((sum, v) => sum + v, 0) / values.length;

/** The meta-loss: the mean over tasks of the loss after the inner steps. Support and query loss of a task are the same. */
export const metaLoss = (tasks, theta, alpha, steps) => mean(tasks.map((task) => lossOf(task, inner(task, theta, alpha, steps).path[steps])));

/** Both gradients at θ, exactly, and the slope of the meta-loss by a central difference. */
export function gradients(tasks, theta, alpha, steps) {
  const each = tasks.map((task) => inner(task, theta, alpha, steps));
  const [ahead, behind] = [EPSILON, -EPSILON].map((e) => metaLoss(tasks, theta + e, alpha, steps));
  return { each, loss: metaLoss(tasks, theta, alpha, steps), maml: mean(each.map((t) => t.maml)), fomaml: mean(each.map((t) => t.fomaml)), difference: (ahead - behind) / (2 * EPSILON) };
}

/** How FOMAML's gradient lies to the true one: "same" (as a number), "along", "against", or "flat" where the true one is 0. */
export function verdict({ maml, fomaml }) {
  if (Math.abs(maml) < 1e-9) return Math.abs(fomaml) < 1e-9 ? "same" : "flat";
  return Math.abs(fomaml / maml - 1) < 0.005 ? "same" : fomaml * maml > 0 ? "along" : "against";
}

// -- the lab ----------------------------------------------------------------------------------------------------------

function render({ model, el }) {
  const setup = model.get("setup"), limits = setup.range, forget = () => ((trail = []), (lost = false));
  const lab = openLab(model, "missing-factor", {
    theta: kept.number(3, limits), alpha: kept.number(2, [0, setup.most_alpha]), steps: kept.whole(1, setup.most_steps),
    curvatures: kept.numbers(1, setup.bends, setup.bends), bottoms: kept.numbers(2, limits, limits), quartic: kept.number(1, [0, setup.most_quartic]),
  }, { restart: forget });
  const { state, change } = lab;
  const tasksOf = ({ curvatures, bottoms, quartic }) => curvatures.map((a, i) => ({ a, c: bottoms[i], q: quartic }));
  let trail = [], lost = false; // of the outer steps, and whether the last one led out of the picture
  const anew = (values) => (forget(), change(values));
  const put = (name, i, value) => anew({ [name]: state()[name].map((old, j) => (j === i ? value : old)) });
  function walk(kind) {
    const now = state(), next = now.theta - setup.outer * gradients(tasksOf(now), now.theta, now.alpha, now.steps)[kind], kept = clamp(next, limits);
    trail.push(now.theta);
    lost = !(Math.abs(next - kept) < 1e-9); // also where it is not a number
    change({ theta: Number.isFinite(kept) ? kept : now.theta });
  }

  // -- the elements -----------------------------------------------------------------------------------------------------

  const ticks = [-2, -1, 0, 1, 2], lane = (i) => -1.2 - 1.3 * i;
  const plot = new Plot({
    x: limits, y: [-3.4, 8], xTicks: ticks, yTicks: [0, 2, 4, 6, 8], xTitle: "θ", yTitle: "loss of a task", bottom: 22,
    height: (width) => clamp(0.8 * width, [280, 360]), role: "group",
  });
  const meta = new Plot({ x: limits, y: [0, 5], xTicks: ticks, yTicks: [0, 1, 2, 3, 4, 5], xTitle: "θ", yTitle: "meta-loss J, and two slopes at θ", bottom: 22, height: () => 190, role: "img" });
  const slopes = new Plot({ x: limits, y: [-4, 4], xTicks: ticks, yTicks: [-4, -2, 0, 2, 4], xTitle: "θ", yTitle: "the two gradients over θ", bottom: 22, height: () => 190, role: "img" });
  const whole = (v) => `${v}`, two = (v) => v.toFixed(2);
  const sliders = {
    alpha: slider({ label: "inner rate α", min: 0, max: setup.most_alpha, step: 0.01, show: two, input: (alpha) => anew({ alpha }) }),
    steps: slider({ label: "inner steps N", min: 1, max: setup.most_steps, step: 1, show: whole, input: (steps) => anew({ steps }) }),
    quartic: slider({ label: "quartic q", min: 0, max: setup.most_quartic, step: 0.1, input: (quartic) => anew({ quartic }) }),
  };
  const bends = TASKS.map((_, i) => slider({ label: `curvature a${"₁₂"[i]}`, min: setup.bends[0], max: setup.bends[1], step: 0.1, input: (v) => put("curvatures", i, v) }));
  const body = html("tbody", {});
  const table = grid(["", ["∏(1−αH)", "product of the factors"], ["∇L(θ′)", "query gradient"], "MAML", "FOMAML"], body, { class: "mlb-grid", "aria-label": "Factors and gradients" });
  const sentence = html("p", { class: "mlb-sentence" }), remark = html("p", { class: "mlb-note" }), live = announcer();
  const stay = html("div", { class: "mlb-stay" }, plot.node);
  const left = html("div", { class: "mlb-staying" }, stay,
    html("p", { class: "mlb-legend" }, ...TASKS.map((t, i) => legendKey(stroke(t.colour, 3, t.dash), `task ${i + 1}, its inner steps below`))),
    sentence,
    html("div", { class: "mlb-row" }, button("MAML step", () => walk("maml"), { class: "mlb-main", "aria-label": "One outer step with MAML" }),
      button("FOMAML step", () => walk("fomaml"), { "aria-label": "One outer step with FOMAML" })),
    sliders.alpha.node, sliders.steps.node, drawer("Curvatures of the tasks", ...bends.map((s) => s.node), sliders.quartic.node));
  const right = html("div", {}, table, html("div", { class: "mlb-apart" }, meta.node), slopes.node,
    html("p", { class: "mlb-legend" }, legendKey(stroke("--mlb-ink", 2.5), "J"), legendKey(stroke("--mlb-maml", 3.5), "MAML: the slope of J"), legendKey(stroke("--mlb-fomaml", 3, "9 4"), "FOMAML"),
      legendKey(svg("rect", { x: 1, y: 1, width: 24, height: 10, class: "mlb-wrong-way" }), "they point opposite ways")), remark);
  const bottom = html("div", { class: "mlb-wide" }, html("p", { class: "mlb-note" },
    "Arrow keys move θ or a bottom, too (with Shift: further). ",
    `A task is ½a·u² + q/24·u⁴ with u = θ − c, so H = a + ½q·u². An outer step is ${setup.outer} times the gradient. The check is a central difference of J with ε = ${EPSILON}.`));
  const root = lab.frame(el, {
    label: "the missing factor", live, parts: [left, right, bottom],
    goal: "Raise the inner rate α, or drag θ: where does FOMAML point the wrong way?",
    presets: { "α = 0.4": { alpha: 0.4 }, "α = 0.4, two inner steps": { alpha: 0.4, steps: 2 }, "Bent losses": { alpha: 0.3, curvatures: [1, 0.5], quartic: 2 } },
  });

  const grips = TASKS.map((t, i) => lettered(plot, `${i + 1}`, ([c]) => put("bottoms", i, c), `color: var(${t.colour})`, "x"));
  const point = lettered(plot, "θ", ([theta]) => anew({ theta }), "color: var(--mlb-ink)", "x"); // last: on top of the others

  // -- drawing ----------------------------------------------------------------------------------------------------------

  const xs = Array.from({ length: 141 }, (_, i) => limits[0] + ((limits[1] - limits[0]) * i) / 140);
  const curve = (on, f, look) => svg("path", { d: on.path(xs, xs.map(f)), ...look });

  function drawTasks(now, tasks, { each }) {
    const steps = ({ path }, i) => {
      const y = plot.Y(lane(i)), x = path.map((p) => plot.X(clamp(p, [limits[0] - 1, limits[1] + 1]))), d = [];
      for (let n = 1; n < x.length; n++) {
        const head = Math.sign(x[n - 1] - x[n]) * Math.min(6, Math.abs(x[n - 1] - x[n]) / 2);
        d.push(`M${x[n - 1]} ${y}H${x[n]}m${head} -4L${x[n]} ${y}l${head} 4`);
      }
      return [svg("path", { d: `M0 ${y}H${plot.width}`, ...stroke("--mlb-grid", 1) }), svg("path", { d: d.join(""), class: "mlb-inner", ...stroke(TASKS[i].colour, 2.5) }),
        ...x.map((at, n) => svg("circle", { cx: at, cy: y, r: n ? 4 : 3, style: `fill: var(${n ? TASKS[i].colour : "--mlb-ink"})` }))];
    };
    plot.lines.replaceChildren(
      svg("path", { d: `M0 ${plot.Y(0)}H${plot.width}`, ...stroke("--mlb-muted", 1.5) }),
      svg("path", { d: `M${plot.X(now.theta)} 0V${plot.height}`, ...stroke("--mlb-muted", 1, "2 3") }),
      ...tasks.flatMap((task, i) => [
        svg("path", { d: `M${plot.X(task.c)} ${plot.Y(0)}V${plot.Y(lane(i)) + 8}`, ...stroke(TASKS[i].colour, 1.2, "2 3") }),
        curve(plot, (t) => lossOf(task, t), { class: "mlb-loss", ...stroke(TASKS[i].colour, 3, TASKS[i].dash) })]),
      ...each.flatMap(steps));
    tasks.forEach(({ c }, i) => grips[i].set([c, 0], `Bottom of task ${i + 1}`));
    point.set([now.theta, 0], "The initialisation θ");
    [[point, now.theta], ...grips.map((g, i) => [g, tasks[i].c])].forEach(([{ node }, v]) => {
      const values = { valuemin: limits[0], valuemax: limits[1], valuenow: v.toFixed(2), valuetext: `θ ${format(v)}` };
      for (const [name, value] of Object.entries(values)) node.setAttribute(`aria-${name}`, value);
    });
  }

  function drawMeta(now, tasks, found) {
    const at = (t) => gradients(tasks, t, now.alpha, now.steps), all = xs.map(at), X = meta.X(now.theta);
    const line = (g, look) => svg("path", { d: meta.path([now.theta - 0.8, now.theta + 0.8], [found.loss - 0.8 * g, found.loss + 0.8 * g]), ...look });
    const looks = { maml: stroke("--mlb-maml", 3.5), fomaml: stroke("--mlb-fomaml", 3, "9 4") };
    meta.lines.replaceChildren(
      svg("path", { d: `M${X} 0V${meta.height}`, ...stroke("--mlb-muted", 1, "2 3") }),
      svg("path", { d: meta.path(xs, all.map((g) => g.loss)), class: "mlb-meta-loss", ...stroke("--mlb-ink", 2.5) }),
      line(found.maml, looks.maml), line(found.fomaml, looks.fomaml),
      ...trail.map((t) => svg("circle", { cx: meta.X(t), cy: meta.Y(metaLoss(tasks, t, now.alpha, now.steps)), r: 3, style: "fill: var(--mlb-muted)" })),
      svg("circle", { cx: X, cy: meta.Y(found.loss), r: 5, style: "fill: var(--mlb-ink)" }));
    const wide = slopes.width / (xs.length - 1);
    slopes.lines.replaceChildren(
      ...xs.flatMap((t, i) => (all[i].maml * all[i].fomaml < 0 ? [svg("rect", { class: "mlb-wrong-way", x: slopes.X(t) - wide / 2, y: 0, width: wide + 0.5, height: slopes.height })] : [])),
      svg("path", { d: `M0 ${slopes.Y(0)}H${slopes.width}`, ...stroke("--mlb-muted", 1.5) }),
      svg("path", { d: `M${X} 0V${slopes.height}`, ...stroke("--mlb-muted", 1, "2 3") }),
      svg("path", { d: slopes.path(xs, all.map((g) => g.maml)), class: "mlb-gradient", ...looks.maml }),
      svg("path", { d: slopes.path(xs, all.map((g) => g.fomaml)), class: "mlb-gradient", ...looks.fomaml }),
      ...["maml", "fomaml"].map((key) => svg("circle", { cx: X, cy: clamp(slopes.Y(found[key]), [0, slopes.height]), r: 4.5, style: `fill: var(--mlb-${key})` })));
  }

  function draw() {
    if (!plot.width || !meta.width) return; // not on the page yet
    const now = state(), tasks = tasksOf(now), found = gradients(tasks, now.theta, now.alpha, now.steps), { maml, fomaml } = found, how = verdict(found);
    drawTasks(now, tasks, found);
    drawMeta(now, tasks, found);
    body.replaceChildren(
      ...found.each.map((t, i) => row(`task ${i + 1}`, [t.product, t.query, t.maml, t.fomaml].map(format))),
      row("mean", ["", "", format(maml), format(fomaml)], { "aria-current": "true" }), row("slope of J", ["", "", format(found.difference), ""]));
    for (const name of Object.keys(sliders)) sliders[name].set(now[name]);
    bends.forEach((s, i) => s.set(now.curvatures[i]));
    const said = { same: "the two are the same here", along: `the same way, ${format(fomaml / maml)} times as long`, against: "FOMAML points the opposite way", flat: "MAML is at rest, FOMAML is not" }[how];
    const words = `At θ = ${format(now.theta)} after ${counted(now.steps, "inner step")}: MAML's gradient is ${format(maml)} (finite difference ${format(found.difference)}), FOMAML's ${format(fomaml)}: ${said}.`;
    const turned = found.each.flatMap((t, i) => (t.product < 0 ? [`task ${i + 1} (${format(t.product)})`] : []));
    const notes = [
      lost && "The last outer step led out of the picture.",
      turned.length && `The product of the factors is negative for ${turned.join(" and ")}: its inner steps end on the other side of the bottom. The factor turns the query gradient there back towards the bottom; FOMAML leaves it out.`,
      !turned.length && found.each.some((t) => t.factors.some((f) => f < 0)) && "Single factors are negative, their product is not: an even number of inner steps overshoots.",
      found.each.some((t) => t.factors.some((f) => f <= -1)) && "Where 1 − αH is −1 or less, an inner step leads no closer to the bottom.",
    ].filter(Boolean).join(" ");
    sentence.textContent = words;
    remark.textContent = notes;
    live.say([words, notes].filter(Boolean).join(" "));
    plot.node.setAttribute("aria-label", `Losses of two tasks with bottoms at ${now.bottoms.map(format).join(" and ")}, and their inner steps from θ. ${words}`);
    meta.node.setAttribute("aria-label", `The meta-loss over θ: ${format(found.loss)} at θ, where it has the slope ${format(maml)}.`);
    slopes.node.setAttribute("aria-label", `The gradients of MAML and FOMAML over θ, ${format(maml)} and ${format(fomaml)} at θ.`);
    // The same numbers unrounded, for tests and for whoever looks at the page from outside. Not finite becomes null.
    root.dataset.state = JSON.stringify({ ...now, ...found, verdict: how, lost, trail });
  }

  return lab.follow(draw, watchWidth(stay, (width) => (plot.fit(width), draw())), watchWidth(right, (width) => (meta.fit(width), slopes.fit(width), draw())));
}

export default { render };
