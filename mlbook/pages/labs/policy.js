// A controller with one softmax per decision, trained by REINFORCE on rewards that are looked up. No page, no drawing.

/** `count` numbers from [0, 1) by Mulberry32; the same seed gives the same numbers everywhere. */
export function uniforms(seed, count) {
  let a = seed >>> 0;
  return Array.from({ length: count }, () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  });
}

export function softmax(logits) {
  const top = Math.max(...logits), raised = logits.map((v) => Math.exp(v - top)), sum = raised.reduce((a, b) => a + b);
  return raised.map((v) => v / sum);
}

/** The first option whose summed probability exceeds u. */
export function take(p, u) {
  let sum = 0;
  for (let i = 0; i < p.length - 1; i++) if (u < (sum += p[i])) return i;
  return p.length - 1;
}

export const rowOf = (choice, sizes) => choice.reduce((row, option, t) => row * sizes[t] + option, 0);

/** dJ/dθ of one decision by one child: (R − b)(1[a] − p), and the slope of the entropy times its bonus. */
export function slope(p, option, advantage, bonus) {
  const entropy = -p.reduce((sum, v) => sum + (v > 0 ? v * Math.log(v) : 0), 0);
  return p.map((v, i) => advantage * ((i === option) - v) - bonus * (v > 0 ? v * (Math.log(v) + entropy) : 0));
}

/** A whole search: the probabilities before every child and after the last, the children (rows of the table), b before each. */
export function search({ sizes, rewards }, { rate, baseline, entropy, seed }, steps) {
  const draws = uniforms(seed, steps * sizes.length), logits = sizes.map((n) => Array(n).fill(0));
  const found = { probabilities: [logits.map(softmax)], rows: [], rewards: [], baselines: [] };
  let b = null;
  for (let n = 0; n < steps; n++) {
    const p = found.probabilities[n], choice = p.map((v, t) => take(v, draws[n * sizes.length + t]));
    const row = rowOf(choice, sizes), reward = rewards[row];
    if (baseline && b === null) b = reward; // the first reward only starts the average
    const advantage = reward - (baseline ? b : 0);
    choice.forEach((option, t) => slope(p[t], option, advantage, entropy).forEach((g, i) => (logits[t][i] += rate * g)));
    found.rows.push(row);
    found.rewards.push(reward);
    found.baselines.push(baseline ? b : 0);
    if (baseline) b = 0.9 * b + 0.1 * reward;
    found.probabilities.push(logits.map(softmax));
  }
  return found;
}

/** Random search: uniform rows from numbers of its own. */
export const blind = (rewards, seed, steps) => uniforms(seed + 7919, steps).map((u) => Math.floor(u * rewards.length));

/** Of every prefix the row with the highest reward, of equals the first. */
export function picks(rows, rewards) {
  let best = rows[0];
  return rows.map((row) => (rewards[row] > rewards[best] ? (best = row) : best));
}

/** P(a) of all rows, in the order of the table. */
export const joint = (probabilities) => probabilities.reduce((all, p) => all.flatMap((q) => p.map((v) => q * v)), [1]);
