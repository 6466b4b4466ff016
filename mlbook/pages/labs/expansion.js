// The meta-gradients of MAML, FOMAML and Reptile in two parameters: exactly, and by the first two terms of their expansion.
//
// A task has a few mini-batches, and each of the k losses of an inner loop is one of them, drawn independently and with
// equal probability. So every expectation is a finite sum: over all sequences of k mini-batches.
// tests/test_lab_two_terms.py compares every function here with PyTorch.

/** L = ½p(x − a + cy²)² + ½q(y − b + dx²)² of a mini-batch, its gradient and its Hessian, at φ = (x, y). */
export function derivatives([a, b, c, d, p, q], x, y) {
  const r = x - a + c * y * y, s = y - b + d * x * x;
  return {
    loss: 0.5 * (p * r * r + q * s * s),
    gx: p * r + 2 * d * x * q * s,
    gy: 2 * c * y * p * r + q * s,
    hxx: p + 2 * d * q * s + 4 * d * d * x * x * q,
    hxy: 2 * c * y * p + 2 * d * x * q,
    hyy: 4 * c * c * y * y * p + 2 * c * p * r + q,
  };
}

/** AvgGrad = E[ḡ₁] and AvgGradInner = E[H̄₂ ḡ₁] = E[H̄] E[ḡ], because the two mini-batches are independent. */
export function averages(batches, [x, y]) {
  const all = batches.map((b) => derivatives(b, x, y)), mean = (key) => all.reduce((sum, d) => sum + d[key], 0) / all.length;
  const gx = mean("gx"), gy = mean("gy"), hxy = mean("hxy");
  return { gradient: [gx, gy], inner: [mean("hxx") * gx + hxy * gy, hxy * gx + mean("hyy") * gy] };
}

/** What stands before AvgGrad and before −AvgGradInner. */
export const COEFFICIENTS = {
  MAML: (k, alpha) => [1, 2 * (k - 1) * alpha],
  FOMAML: (k, alpha) => [1, (k - 1) * alpha],
  Reptile: (k, alpha) => [k, 0.5 * k * (k - 1) * alpha],
};
export const METHODS = Object.keys(COEFFICIENTS);

/** The two terms and their sum for one method, as vectors. */
export function expansion(batches, phi, k, alpha, method) {
  const { gradient, inner } = averages(batches, phi), [c1, c2] = COEFFICIENTS[method](k, alpha);
  const first = gradient.map((v) => c1 * v), second = inner.map((v) => -c2 * v);
  return { first, second, sum: first.map((v, i) => v + second[i]) };
}

/**
 * The expected meta-gradients of the three methods, exactly. All sequences of mini-batches grow together, a level per inner
 * step; a sequence is the six numbers φᵢ and dφᵢ/dφ₁. `same`: one mini-batch serves for all k losses of a sequence.
 */
export function exact(batches, phi, k, alpha, same = false) {
  if (same) {
    const each = batches.map((batch) => exact([batch], phi, k, alpha));
    return Object.fromEntries(METHODS.map((m) => [m, [0, 1].map((i) => each.reduce((sum, e) => sum + e[m][i], 0) / each.length)]));
  }
  const reptile = [0, 0];
  let level = Float64Array.of(...phi, 1, 0, 0, 1);
  for (let i = 1; ; i++) {
    const sequences = (level.length / 6) * batches.length, next = new Float64Array(i < k ? 6 * sequences : 0);
    let gx = 0, gy = 0, mx = 0, my = 0;
    for (let n = 0, to = 0; n < level.length; n += 6) {
      const x = level[n], y = level[n + 1], jxx = level[n + 2], jxy = level[n + 3], jyx = level[n + 4], jyy = level[n + 5];
      for (const batch of batches) {
        const g = derivatives(batch, x, y);
        gx += g.gx;
        gy += g.gy;
        if (i === k) {
          mx += jxx * g.gx + jyx * g.gy; // (dφ_k/dφ₁)ᵀ L′_k(φ_k)
          my += jxy * g.gx + jyy * g.gy;
          continue;
        }
        next[to++] = x - alpha * g.gx;
        next[to++] = y - alpha * g.gy;
        next[to++] = jxx - alpha * (g.hxx * jxx + g.hxy * jyx);
        next[to++] = jxy - alpha * (g.hxx * jxy + g.hxy * jyy);
        next[to++] = jyx - alpha * (g.hxy * jxx + g.hyy * jyx);
        next[to++] = jyy - alpha * (g.hxy * jxy + g.hyy * jyy);
      }
    }
    reptile[0] += gx / sequences;
    reptile[1] += gy / sequences;
    if (i === k) return { MAML: [mx / sequences, my / sequences], FOMAML: [gx / sequences, gy / sequences], Reptile: reptile };
    level = next;
  }
}

/** What an expansion leaves out, with both terms and with the first alone, as shares of the first term's length. */
export function remainders(batches, phi, k, alpha, method, truth) {
  const { first, sum } = expansion(batches, phi, k, alpha, method), length = Math.hypot(...first);
  const miss = (v) => Math.hypot(truth[method][0] - v[0], truth[method][1] - v[1]) / length;
  return { both: miss(sum), first: miss(first) };
}
