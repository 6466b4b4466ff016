// Rules of updating in the plane: gradient descent, momentum, RMSprop, Adam, and a trained LSTM that serves every coordinate.

// -- surfaces -----------------------------------------------------------------------------------------------------------

/** f and its gradient at (x, y). A bowl ½(k₁u² + k₂v²) with axes u, v turned by an angle in degrees, or a bent valley. */
export const SURFACES = {
  bowl: ({ curvatures: [k1, k2], angle }, [x, y]) => {
    const c = Math.cos((angle * Math.PI) / 180), s = Math.sin((angle * Math.PI) / 180), u = c * x + s * y, v = c * y - s * x;
    return { f: 0.5 * (k1 * u * u + k2 * v * v), g: [k1 * u * c - k2 * v * s, k1 * u * s + k2 * v * c] };
  },
  valley: ({ steepness }, [x, y]) => {
    const away = 1 - x, off = y - x * x;
    return { f: 0.1 * (away * away + steepness * off * off), g: [-0.2 * away - 0.4 * steepness * off * x, 0.2 * steepness * off] };
  },
};

// -- the hand-designed rules: (rate) -> gradient [2] -> step [2], with a memory inside ----------------------------------

const each = (rule) => (rate) => {
  const memories = [{}, {}];
  return (gradient) => gradient.map((g, i) => rule(g, memories[i], rate));
};

export const RULES = {
  SGD: each((g, memory, rate) => -rate * g),
  momentum: each((g, memory, rate) => -rate * (memory.m = 0.9 * (memory.m ?? 0) + g)),
  RMSprop: each((g, memory, rate) => (-rate * g) / (Math.sqrt((memory.v = 0.9 * (memory.v ?? 0) + 0.1 * g * g)) + 1e-8)),
  Adam: each((g, memory, rate) => {
    const t = (memory.t = (memory.t ?? 0) + 1);
    memory.m = 0.9 * (memory.m ?? 0) + 0.1 * g;
    memory.v = 0.999 * (memory.v ?? 0) + 0.001 * g * g;
    return (-rate * (memory.m / (1 - 0.9 ** t))) / (Math.sqrt(memory.v / (1 - 0.999 ** t)) + 1e-8);
  }),
};

// -- the learned rule ---------------------------------------------------------------------------------------------------

const sigmoid = (z) => 1 / (1 + Math.exp(-z));

/** (log|g| / p, sign) where |g| ≥ e^−p, else (−1, e^p g); the gradient itself where p is null. */
export function preprocess(g, p) {
  if (p === null) return [g];
  const small = Math.exp(-p);
  return [Math.log(Math.max(Math.abs(g), small)) / p, Math.min(1, Math.max(-1, g / small))];
}

/** How many numbers a network has: `layers` of `units`, then one output. */
export const countWeights = ({ units, layers, p }) =>
  Array.from({ length: layers }, (_, k) => 4 * units * ((k ? units : p === null ? 1 : 2) + units + 1)).reduce((a, b) => a + b, units + 1);

/** One LSTM for both coordinates, each with a memory of its own. `weights`: per layer its matrix by rows and its bias, gates i, f, o and candidate; then the output's. */
export function learned({ units, layers, scale, p }, weights) {
  const states = [0, 1].map(() => Array.from({ length: layers }, () => ({ h: new Float64Array(units), c: new Float64Array(units) })));
  function coordinate(g, state) {
    let x = preprocess(g, p), at = 0;
    for (const { h, c } of state) {
      const inputs = [...x, ...h], wide = inputs.length, bias = at + 4 * units * wide;
      const z = Array.from({ length: 4 * units }, (_, row) => {
        let sum = weights[bias + row];
        for (let i = 0; i < wide; i++) sum += weights[at + row * wide + i] * inputs[i];
        return sum;
      });
      for (let j = 0; j < units; j++) {
        c[j] = sigmoid(z[units + j]) * c[j] + sigmoid(z[j]) * Math.tanh(z[3 * units + j]);
        h[j] = sigmoid(z[2 * units + j]) * Math.tanh(c[j]);
      }
      at = bias + 4 * units;
      x = h;
    }
    let out = weights[at + units];
    for (let j = 0; j < units; j++) out += weights[at + j] * x[j];
    return scale * out;
  }
  return (gradient) => gradient.map((g, i) => coordinate(g, states[i]));
}

// -- the race -----------------------------------------------------------------------------------------------------------

/** Points and losses of every rule after 0 … steps steps from the same start: {name: {points, losses}}. */
export function race(setup, weights, state, steps) {
  const surface = (point) => SURFACES[state.surface](state, point), found = {};
  const rules = Object.fromEntries(Object.entries(RULES).map(([name, make]) => [name, make(state.rates[name])]));
  for (const [name, rule] of Object.entries({ ...rules, LSTM: learned(setup.network, weights) })) {
    let point = state.start, now = surface(point);
    const points = [point], losses = [now.f];
    for (let t = 0; t < steps; t++) {
      const step = rule(now.g);
      point = point.map((v, i) => v + step[i]);
      now = surface(point);
      points.push(point);
      losses.push(now.f);
    }
    found[name] = { points, losses };
  }
  return found;
}
