// A linear head on fixed features, adapted by gradient descent on the mean cross-entropy, under every numbering of the classes.

/** All orders of 0 … n − 1, the first is 0, 1, … */
export function allOrders(n) {
  if (n === 1) return [[0]];
  const found = [];
  const go = (rest, made) => (rest.length ? rest.forEach((v, i) => go(rest.filter((_, j) => j !== i), [...made, v])) : found.push(made));
  go(Array.from({ length: n }, (_, i) => i), []);
  return found;
}

/** head: {rows: N vectors, bias: N numbers} -> logits of one feature vector, row by row. */
export const logitsOf = ({ rows, bias }, f) => rows.map((w, n) => w.reduce((sum, v, d) => sum + v * f[d], bias[n]));

/** The same head with the mean of its rows in every row. */
export function alike({ rows, bias }) {
  const mean = rows[0].map((_, d) => rows.reduce((sum, w) => sum + w[d], 0) / rows.length);
  return { rows: rows.map(() => mean), bias: bias.map(() => bias.reduce((a, b) => a + b, 0) / bias.length) };
}

/** The head after `steps` steps of gradient descent on support features, whose rows `labels` names. */
export function adaptHead(head, support, labels, rate, steps) {
  let { rows, bias } = head;
  for (let step = 0; step < steps; step++) {
    const off = support.map((f, i) => {
      const z = logitsOf({ rows, bias }, f), top = Math.max(...z), e = z.map((v) => Math.exp(v - top)), sum = e.reduce((a, b) => a + b, 0);
      return e.map((v, n) => (v / sum - Number(labels[i] === n)) / support.length);
    });
    rows = rows.map((w, n) => w.map((v, d) => v - rate * off.reduce((sum, o, i) => sum + o[n] * support[i][d], 0)));
    bias = bias.map((v, n) => v - rate * off.reduce((sum, o) => sum + o[n], 0));
  }
  return { rows, bias };
}

/** Which class each query is said to be, when class `order[r]` stands in row r of the head. Classes are sorted: one support image each. */
export function answers(head, { support, queries }, order, rate, steps) {
  const adapted = adaptHead(head, support, support.map((_, c) => order.indexOf(c)), rate, steps);
  return queries.map((f) => {
    const z = logitsOf(adapted, f);
    return order[z.indexOf(Math.max(...z))];
  });
}

/** The share of right answers; queries are sorted by class. */
export const rightShare = (said, ways) => said.filter((c, i) => c === Math.floor((i * ways) / said.length)).length / said.length;
