// MAML for 2-D navigation in double precision: the policy, its rollouts, baseline, advantages and REINFORCE gradient.
//
// θ: for each layer the weight [outputs, inputs], row by row, then the bias; at the end the logarithms of the two spreads.
// A round of M trajectories of H steps has its numbers in flat arrays; step t of trajectory m is row m·H + t.
// tests/test_lab_find_the_goal.py compares every function here with the package.
import { layersOf } from "./network.js";

/** `count` standard normal numbers from a whole-number seed (mulberry32, then Box and Muller). */
export function gaussians(seed, count) {
  let a = seed >>> 0;
  const uniform = () => {
    a = (a + 0x6d2b79f5) >>> 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return (((t ^ (t >>> 14)) >>> 0) + 0.5) / 4294967296;
  };
  const found = new Float64Array(count);
  for (let i = 0; i < count; i += 2) {
    const size = Math.sqrt(-2 * Math.log(uniform())), angle = 2 * Math.PI * uniform();
    found[i] = size * Math.cos(angle);
    if (i + 1 < count) found[i + 1] = size * Math.sin(angle);
  }
  return found;
}

const SMALLEST = Math.log(1e-6);

/** One layer for one row of inputs; `open` says whether it ends in ReLU. */
function forward({ inputs, outputs, weight, bias }, theta, below, from, here, to, relu) {
  for (let o = 0, w = weight; o < outputs; o++) {
    let sum = theta[bias + o];
    for (let i = 0; i < inputs; i++) sum += theta[w++] * below[from + i];
    here[to + o] = relu && sum < 0 ? 0 : sum;
  }
}

/** M trajectories of θ with this noise (M·H·2), as if none ended: what is seen, done, and passed on the way. No goal is needed. */
export function explore(setup, theta, noise) {
  const { sizes, trajectories: M, horizon: H, reach } = setup, layers = layersOf(sizes), rows = M * H, end = layers.at(-1).end;
  const values = sizes.map((n) => new Float64Array(rows * n)); // of every layer: values[0] are the positions before each step
  const actions = new Float64Array(rows * 2), after = new Float64Array(rows * 2);
  const spread = [0, 1].map((j) => Math.exp(Math.max(theta[end + j], SMALLEST)));
  for (let m = 0; m < M; m++) {
    let x = 0, y = 0;
    for (let t = 0; t < H; t++) {
      const row = m * H + t;
      values[0][2 * row] = x;
      values[0][2 * row + 1] = y;
      layers.forEach((layer, l) =>
        forward(layer, theta, values[l], row * sizes[l], values[l + 1], row * sizes[l + 1], l < layers.length - 1));
      for (let j = 0; j < 2; j++) actions[2 * row + j] = values.at(-1)[2 * row + j] + spread[j] * noise[2 * row + j];
      x += reach * Math.min(1, Math.max(-1, actions[2 * row]));
      y += reach * Math.min(1, Math.max(-1, actions[2 * row + 1]));
      after[2 * row] = x;
      after[2 * row + 1] = y;
    }
  }
  return { values, actions, after, spread };
}

/** Rewards −distance of an exploration for a goal, with `taken` 0 after a trajectory came close; and the M returns. */
export function judge(setup, { after }, goal) {
  const { trajectories: M, horizon: H, close } = setup, rewards = new Float64Array(M * H), taken = new Float64Array(M * H);
  const returns = [], lengths = [], ends = [];
  for (let m = 0; m < M; m++) {
    let total = 0, t = 0;
    for (let going = true; t < H && going; t++) {
      const row = m * H + t, dx = after[2 * row] - goal[0], dy = after[2 * row + 1] - goal[1];
      rewards[row] = -Math.sqrt(dx * dx + dy * dy);
      taken[row] = 1;
      total += rewards[row];
      going = Math.abs(dx) >= close || Math.abs(dy) >= close;
    }
    returns.push(total);
    lengths.push(t);
    ends.push(-rewards[m * H + t - 1]);
  }
  return { rewards, taken, returns, lengths, ends };
}

/** Solve A x = b for a symmetric positive definite A (rows of arrays), by Cholesky's factors. */
export function solve(A, b) {
  const n = b.length, L = A.map((row) => Float64Array.from(row)), x = Float64Array.from(b);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = A[i][j];
      for (let k = 0; k < j; k++) sum -= L[i][k] * L[j][k];
      L[i][j] = i === j ? Math.sqrt(sum) : sum / L[j][j];
    }
  }
  for (let i = 0; i < n; i++) {
    for (let k = 0; k < i; k++) x[i] -= L[i][k] * x[k];
    x[i] /= L[i][i];
  }
  for (let i = n - 1; i >= 0; i--) {
    for (let k = i + 1; k < n; k++) x[i] -= L[k][i] * x[k];
    x[i] /= L[i][i];
  }
  return x;
}

/** Discounted returns minus the linear baseline (o, o², time, its square and cube, 1), standardised over all steps taken. */
export function advantages(setup, { values }, { rewards, taken }) {
  const { trajectories: M, horizon: H, discount, ridge } = setup, rows = M * H, n = 8;
  const toGo = new Float64Array(rows), features = new Float64Array(rows * n);
  for (let m = 0; m < M; m++)
    for (let t = H - 1, sum = 0; t >= 0; t--) {
      const row = m * H + t, [x, y] = [values[0][2 * row], values[0][2 * row + 1]], time = t / 100;
      toGo[row] = sum = rewards[row] + discount * sum;
      if (taken[row]) features.set([x, y, x * x, y * y, time, time * time, time ** 3, 1], row * n);
    }
  const gram = Array.from({ length: n }, (_, i) => Float64Array.from({ length: n }, (_, j) => (i === j ? ridge : 0)));
  const right = new Float64Array(n);
  for (let row = 0; row < rows; row++) {
    if (!taken[row]) continue;
    for (let i = 0; i < n; i++) {
      const f = features[row * n + i];
      right[i] += f * toGo[row];
      for (let j = 0; j <= i; j++) gram[i][j] += f * features[row * n + j];
    }
  }
  for (let i = 0; i < n; i++) for (let j = i + 1; j < n; j++) gram[i][j] = gram[j][i];
  const weights = solve(gram, right), found = new Float64Array(rows);
  let count = 0, mean = 0, square = 0;
  for (let row = 0; row < rows; row++) {
    if (!taken[row]) continue;
    let value = toGo[row];
    for (let i = 0; i < n; i++) value -= weights[i] * features[row * n + i];
    found[row] = value;
    count += 1;
    mean += value;
  }
  mean /= count;
  for (let row = 0; row < rows; row++) if (taken[row]) square += (found[row] -= mean) ** 2;
  const scale = Math.sqrt(square / count) + 1e-8;
  return found.map((v) => v / scale);
}

/** ∇ of −mean(log π · advantage) over the steps taken: REINFORCE, by backpropagation. */
export function policyGradient(setup, theta, { values, actions, spread }, advantage, taken) {
  const { sizes } = setup, layers = layersOf(sizes), gradient = new Float64Array(theta.length), end = layers.at(-1).end;
  const count = taken.reduce((a, b) => a + b, 0), widest = Math.max(...sizes);
  let delta = new Float64Array(widest), next = new Float64Array(widest);
  for (let row = 0; row < taken.length; row++) {
    if (!taken[row]) continue;
    const weight = -advantage[row] / count;
    for (let j = 0; j < 2; j++) {
      const z = (actions[2 * row + j] - values.at(-1)[2 * row + j]) / spread[j];
      delta[j] = (weight * z) / spread[j];
      if (theta[end + j] > SMALLEST) gradient[end + j] += weight * (z * z - 1);
    }
    for (let l = layers.length - 1; l >= 0; l--) {
      const { inputs, outputs, weight: w0, bias } = layers[l], below = values[l], from = row * sizes[l];
      next.fill(0, 0, inputs);
      for (let o = 0; o < outputs; o++) {
        const d = delta[o], w = w0 + o * inputs;
        if (d === 0) continue; // a closed ReLU: nothing flows
        gradient[bias + o] += d;
        for (let i = 0; i < inputs; i++) {
          gradient[w + i] += d * below[from + i];
          next[i] += d * theta[w + i];
        }
      }
      if (l) for (let i = 0; i < inputs; i++) if (below[from + i] <= 0) next[i] = 0;
      [delta, next] = [next, delta];
    }
  }
  return gradient;
}

/** θ after one inner step on an exploration: θ − rate · gradient. */
export function innerStep(setup, theta, exploration, judged, rate) {
  const gradient = policyGradient(setup, theta, exploration, advantages(setup, exploration, judged), judged.taken);
  return theta.map((p, i) => p - rate * gradient[i]);
}

/** The rate of inner step n = 0, 1, …: halved after the first. */
export const rateOf = (rate, n) => (n ? rate / 2 : rate);

export const mean = (numbers) => numbers.reduce((a, b) => a + b, 0) / numbers.length;
