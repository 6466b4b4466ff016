// Reptile in two parameters: the solution sets of tasks, their closest points, gradient steps on their losses, and the path.
//
// A task is a curve W, where r(p) = 0, and the loss L = ½ r². tests/test_lab_two_manifolds.py compares every function here
// with PyTorch.

// -- the tasks --------------------------------------------------------------------------------------------------------

/** Where p lies: from the first handle, along the direction to the second and along the left-hand normal of it. */
export function along([[ax, ay], [bx, by]], [x, y]) {
  const length = Math.hypot(bx - ax, by - ay), u = [(bx - ax) / length, (by - ay) / length];
  return { length, u, s: (x - ax) * u[0] + (y - ay) * u[1], t: (y - ay) * u[0] - (x - ax) * u[1] };
}
export const back = ([[ax, ay]], u, s, t) => [ax + s * u[0] - t * u[1], ay + s * u[1] + t * u[0]];

/** The kinds of curves by their two handles. `residual`: r/steepness and its derivatives along s and t; `closest`: [s, t]. */
export const KINDS = {
  line: { // through both points; r is the distance with a sign
    residual: ({ t }) => [t, 0, 1],
    closest: ({ s }) => [s, 0],
    trace: () => Array.from({ length: 81 }, (_, i) => [(i - 40) / 2, 0]),
  },
  parabola: { // vertex and focus: s = t²/4f
    residual: ({ s, t, length: f }) => [s - t ** 2 / (4 * f), 1, -t / (2 * f)],
    closest: ({ s, t, length: f }) => {
      // The derivative of the squared distance is a cubic in the place on the curve, z³ + az − b, with one root that has t's
      // sign, the closest point. Newton from above it: there the cubic is convex.
      const a = 4 * f * (2 * f - s), b = 8 * f ** 2 * Math.abs(t);
      let z = Math.max(Math.sqrt(Math.max(0, -2 * a)), Math.cbrt(2 * b));
      for (let i = 0, step = 1; i < 60 && z && step > 1e-15 * z; i++) z -= step = (z * z * z + a * z - b) / (3 * z * z + a);
      return [z ** 2 / (4 * f), t < 0 ? -z : z];
    },
    trace: ({ length: f }) => Array.from({ length: 161 }, (_, i) => ((i - 80) / 80) * Math.max(6, 6 * Math.sqrt(f))).map((t) => [t ** 2 / (4 * f), t]),
  },
  circle: { // centre and a point on it: r = (d² − R²)/2R
    residual: ({ s, t, length: R }) => [(s ** 2 + t ** 2 - R ** 2) / (2 * R), s / R, t / R],
    closest: ({ s, t, length: R }) => {
      const d = Math.hypot(s, t);
      return d ? [(s * R) / d, (t * R) / d] : [R, 0];
    },
    trace: ({ length: R }) => Array.from({ length: 121 }, (_, i) => [R * Math.cos((i * Math.PI) / 60), R * Math.sin((i * Math.PI) / 60)]),
  },
};

/** P_W(p), the point of the curve closest to p. */
export function project({ kind, handles }, p) {
  const place = along(handles, p);
  return back(handles, place.u, ...KINDS[kind].closest(place));
}

/** [p, …]: k steps of gradient descent on L = ½ r². */
export function descend({ kind, handles, steepness }, p, rate, steps) {
  const path = [p];
  for (let i = 0; i < steps; i++) {
    const place = along(handles, path[i]), [r, rs, rt] = KINDS[kind].residual(place), by = -rate * steepness ** 2 * r;
    const [dx, dy] = [rs * place.u[0] - rt * place.u[1], rs * place.u[1] + rt * place.u[0]];
    path.push([path[i][0] + by * dx, path[i][1] + by * dy]);
  }
  return path;
}

// -- the outer loop ---------------------------------------------------------------------------------------------------

/** A small generator of numbers in [0, 1) (mulberry32): the same sequence on every machine. */
export function randoms(seed) {
  return () => {
    seed = (seed + 0x6d2b79f5) | 0;
    let z = Math.imul(seed ^ (seed >>> 15), seed | 1);
    z ^= z + Math.imul(z ^ (z >>> 7), z | 61);
    return ((z ^ (z >>> 14)) >>> 0) / 4294967296;
  };
}

/** Which task each iteration draws. */
export function drawTasks(count, random, seed, length) {
  const next = randoms(seed);
  return Array.from({ length }, (_, i) => (random ? Math.floor(count * next()) : i % count));
}

/** [φ₀, …] of serial Reptile: φ ← (1 − ε)φ + ε·target, the target from φ by `find(curve, φ)`. */
export function reptile(curves, start, drawn, rate, find) {
  const path = [start];
  for (const [i, task] of drawn.entries()) {
    const end = find(curves[task], path[i]);
    path.push(path[i].map((v, j) => (1 - rate) * v + rate * end[j]));
  }
  return path;
}

export const distances = (curves, p) => curves.map((c) => Math.hypot(...project(c, p).map((v, i) => v - p[i])));

/** ½ mean D(p, W)². */
export const objective = (curves, p) => distances(curves, p).reduce((sum, d) => sum + d ** 2, 0) / (2 * curves.length);

/**
 * The points of smallest objective: from each point of a grid that is no higher than its neighbours, p ← mean P_W(p), which
 * never raises the objective, until p stays. Sets that cross have several.
 */
export function minimisers(curves, [x0, x1], [y0, y1], n = 32) {
  const at = (i, j) => [x0 + ((x1 - x0) * i) / n, y0 + ((y1 - y0) * j) / n], around = [-1, 0, 1];
  const values = Array.from({ length: n + 1 }, (_, i) => Array.from({ length: n + 1 }, (_, j) => objective(curves, at(i, j))));
  const found = [];
  for (let i = 0; i <= n; i++)
    for (let j = 0; j <= n; j++) {
      if (around.some((di) => around.some((dj) => (values[i + di]?.[j + dj] ?? Infinity) < values[i][j]))) continue;
      let p = at(i, j);
      for (let step = 0, moved = 1; step < 3000 && moved > 1e-12; step++) {
        const ends = curves.map((c) => project(c, p)), next = [0, 1].map((k) => ends.reduce((sum, e) => sum + e[k], 0) / ends.length);
        moved = Math.hypot(next[0] - p[0], next[1] - p[1]);
        p = next;
      }
      if (!found.some((q) => Math.hypot(q[0] - p[0], q[1] - p[1]) < 1e-3)) found.push(p);
    }
  const best = Math.min(...found.map((p) => objective(curves, p)));
  return found.filter((p) => objective(curves, p) <= best + 1e-6).slice(0, 6);
}

/**
 * Where k gradient steps would settle with a small ε: mean (end − p) = 0, by p ← mean end from `start`. Null where it diverges
 * or takes too long.
 */
export function settled(curves, start, rate, steps) {
  for (let p = start, i = 0; i < 3000; i++) {
    const ends = curves.map((c) => descend(c, p, rate, steps).at(-1)), next = [0, 1].map((k) => ends.reduce((sum, e) => sum + e[k], 0) / ends.length);
    const moved = Math.hypot(next[0] - p[0], next[1] - p[1]);
    if (!Number.isFinite(moved)) return null;
    if (moved < 1e-10) return next;
    p = next;
  }
  return null;
}

/** The curves with their handles and steepness, as the state has them. */
export const active = (setup, state) => state.curves.slice(0, state.tasks).map((handles, i) => ({ kind: setup.kinds[i], handles, steepness: i ? 1 : state.steepness }));

/** Everything that follows from the state: which tasks are drawn, and the path of φ with either target. */
export function run(setup, state) {
  const curves = active(setup, state), drawn = drawTasks(state.tasks, state.random, state.seed, setup.last + 1);
  const go = (find) => reptile(curves, state.phi, drawn.slice(0, setup.last), state.outer_lr, find);
  return {
    curves, drawn,
    projection: go(project), steps: go((c, p) => descend(c, p, state.inner_lr, state.inner_steps).at(-1)),
  };
}
