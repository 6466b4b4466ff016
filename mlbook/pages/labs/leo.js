// LEO at meta-test (mlbook.meta_learners.leo with means, without dropout) in plain arrays.
//
// A net is {encoder [n_z·D], relation [three matrices], decoder [2D·n_z], latentRates [n_z], finetuningRates [D]}, matrices by rows.

/** The pieces of a flat array of weights. */
export function leoNet(flat, { features: D, latent: n, units }) {
  let start = 0;
  const take = (length) => flat.subarray(start, (start += length));
  const encoder = take(n * D), relation = [units * 2 * n, units * units, 2 * n * units].map(take);
  return { encoder, relation, decoder: take(2 * D * n), latentRates: take(n), finetuningRates: take(D) };
}

export const countLeoWeights = ({ features: D, latent: n, units }) => n * D + 4 * n * units + units * units + 2 * D * n + n + D;

/** Features of points: Gaussian bumps on a grid over the square, at length 1. */
export function bumps(points, { grid, width, reach }) {
  const places = Array.from({ length: grid }, (_, i) => -reach + (2 * reach * i) / (grid - 1));
  const near = (x) => places.map((p) => Math.exp(-((x - p) ** 2) / (2 * width * width)));
  return points.map(([x1, x2]) => {
    const columns = near(x1), all = near(x2).flatMap((row) => columns.map((column) => row * column)), length = Math.hypot(...all);
    return all.map((v) => v / length);
  });
}

function dot(a, b, start = 0) {
  let sum = 0;
  for (let j = 0; j < b.length; j++) sum += a[start + j] * b[j]; // everything is made of this: a plain loop
  return sum;
}
const times = (matrix, x) => Array.from({ length: matrix.length / x.length }, (_, i) => dot(matrix, x, i * x.length));
const relu = (x) => x.map((v) => Math.max(v, 0));
const average = (rows) => rows[0].map((_, j) => rows.reduce((sum, row) => sum + row[j], 0) / rows.length);

/** Mean and spread of the code of each class; x in blocks of K. [LEO 1] to [LEO 3] */
export function encode({ encoder, relation: [first, second, last] }, x, ways) {
  const h = x.map((row) => times(encoder, row)), n = h[0].length, K = x.length / ways, units = first.length / (2 * n);
  // the first layer of [a; b] is W_left a + W_right b, and the last is linear: it may come after the means
  const [left, right] = [0, n].map((side) => h.map((a) => Array.from({ length: units }, (_, i) => dot(first, a, 2 * n * i + side))));
  const related = left.map((a) => average(right.map((b) => relu(times(second, relu(a.map((v, i) => v + b[i])))))));
  const codes = Array.from({ length: ways }, (_, k) => times(last, average(related.slice(k * K, (k + 1) * K))));
  return { mean: codes.map((c) => c.slice(0, n)), sigma: codes.map((c) => c.slice(n).map((s) => Math.max(Math.exp(s) - 1, 1e-10))) };
}

/** Classifier weights [N][D] from codes: the decoder's means. [LEO 5] */
export const decode = ({ decoder }, z) => z.map((code) => times(decoder.subarray(0, decoder.length / 2), code));

export const logits = (w, x) => w.map((row) => dot(row, x)); // [LEO 7]

/** The class with the largest logit. */
export function said(w, x) {
  const scores = logits(w, x);
  return scores.indexOf(Math.max(...scores));
}

function probabilities(w, x) {
  const scores = logits(w, x), most = Math.max(...scores), parts = scores.map((s) => Math.exp(s - most)), sum = parts.reduce((a, b) => a + b);
  return parts.map((p) => p / sum);
}

/** Summed cross-entropy, share of right answers, and the gradient by w: Σ (p − onehot) xᵀ. [LEO 8] */
export function examine(w, x, y) {
  const gradient = w.map((row) => row.map(() => 0));
  let loss = 0, right = 0;
  x.forEach((row, i) => {
    const p = probabilities(w, row);
    loss -= Math.log(Math.max(p[y[i]], 1e-300));
    if (p.indexOf(Math.max(...p)) === y[i]) right += 1;
    p.forEach((value, k) => row.forEach((v, d) => (gradient[k][d] += (value - (k === y[i])) * v)));
  });
  return { loss, accuracy: right / x.length, gradient };
}

/** z and w after 0, 1, … inner steps from the codes z: latent steps [LEO 9, 10], then fine-tuning steps [LEO 11]. */
export function innerLoop(net, x, y, z, latentSteps, finetuningSteps) {
  const D = x[0].length, K = x.length / z.length, n = z[0].length;
  let w = decode(net, z);
  const path = [{ z, w }];
  for (let step = 0; step < latentSteps; step++) {
    // by w; the decoder is linear, so by z it is Wᵀ times that. LEO moves K equal copies of z (and then of w), and what classifies is
    // the mean of what they say: each feels a K-th of the gradient
    const { gradient } = examine(w, x, y), slope = (k, j) => gradient[k].reduce((sum, g, d) => sum + g * net.decoder[d * n + j], 0) / K;
    z = z.map((code, k) => code.map((v, j) => v - net.latentRates[j] * slope(k, j)));
    w = decode(net, z);
    path.push({ z, w });
  }
  for (let step = 0; step < finetuningSteps; step++) {
    const { gradient } = examine(w, x, y);
    w = w.map((row, k) => row.map((v, d) => v - (net.finetuningRates[d] * gradient[k][d]) / K));
    path.push({ z, w });
  }
  return path;
}
