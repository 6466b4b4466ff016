// What the labs of the front page share: a new sine wave, five of its points, and what several starts make of them.
import { innerPath, meanSquaredError, predict } from "./network.js";

/** The sine of a task [A, φ, x₁, …]. */
export const waveOf = ([amplitude, phase]) => (x) => amplitude * Math.sin(x - phase);

/** What every start makes of a task [A, φ, x₁, …]: curves and query losses after 0, 1, …, N steps. */
export function meet(setup, starts, task) {
  const xs = task.slice(2), truth = waveOf(task), ys = xs.map(truth), wanted = setup.query_x.map(truth);
  return starts.map((theta) => {
    const path = innerPath(setup.sizes, theta, xs, ys, setup.inner_lr, setup.steps);
    const curves = path.map((adapted) => predict(setup.sizes, adapted, setup.query_x));
    return { curves, losses: curves.map((curve) => meanSquaredError(curve, wanted)) };
  });
}

/** Another task with `count` points, one in each part of the axis: spread, not even. Not a flat one, which would show little. */
export function anotherTask({ x_range: [low, high], amplitude_range: [least, most], phase_range }, count) {
  const draw = ([from, to]) => from + (to - from) * Math.random(), width = (high - low) / count;
  const xs = Array.from({ length: count }, (_, i) => low + width * (i + 0.15 + 0.7 * Math.random()));
  return [draw([Math.max(least, 0.4 * most), most]), draw(phase_range), ...xs].map((v) => Math.round(100 * v) / 100);
}
