// A fully connected ReLU network and its inner loop, in plain loops over double-precision numbers.
//
// All parameters lie in one array θ in PyTorch's order: for each layer the weight [outputs, inputs], row by row, then the
// bias [outputs]. The network has one input and one output, so a set of points is two lists of numbers, xs and ys.
// tests/test_adapt_sinusoid.py compares every function here with PyTorch.

/** Where each layer's numbers lie in θ. */
export function layersOf(sizes) {
  let end = 0;
  return sizes.slice(1).map((outputs, i) => {
    const weight = end, bias = weight + sizes[i] * outputs;
    end = bias + outputs;
    return { inputs: sizes[i], outputs, weight, bias, end };
  });
}

export const countParameters = (sizes) => layersOf(sizes).at(-1).end;

/** The values of every layer for one input, from [x] to [f(x)]; all but the last went through ReLU. */
function activations(layers, theta, x) {
  const values = [Float64Array.of(x)]; // the same type in every layer, or the loop below is ten times slower
  for (let l = 0; l < layers.length; l++) {
    const { inputs, outputs, weight, bias } = layers[l], below = values[l], here = new Float64Array(outputs);
    for (let o = 0, w = weight; o < outputs; o++) {
      let sum = theta[bias + o];
      for (let i = 0; i < inputs; i++) sum += theta[w++] * below[i];
      here[o] = l === layers.length - 1 || sum > 0 ? sum : 0;
    }
    values.push(here);
  }
  return values;
}

/** f(x; θ) for each x. */
export function predict(sizes, theta, xs) {
  const layers = layersOf(sizes);
  return xs.map((x) => activations(layers, theta, x).at(-1)[0]);
}

export function meanSquaredError(predictions, ys) {
  return predictions.reduce((sum, p, i) => sum + (p - ys[i]) ** 2, 0) / ys.length;
}

/** L = mean (f(x; θ) − y)² over the points, and ∇L, by backpropagation. */
export function lossAndGradient(sizes, theta, xs, ys) {
  const layers = layersOf(sizes), gradient = new Float64Array(theta.length);
  let loss = 0;
  for (let n = 0; n < xs.length; n++) {
    const values = activations(layers, theta, xs[n]), error = values.at(-1)[0] - ys[n];
    loss += error ** 2 / xs.length;
    let delta = Float64Array.of((2 * error) / xs.length); // ∂L/∂(sum before the ReLU), here of the output, which has none
    for (let l = layers.length - 1; l >= 0; l--) delta = backward(layers[l], theta, values[l], delta, gradient);
  }
  return { loss, gradient };
}

/** One layer down: adds its part of ∇L to `gradient` and returns δ of the layer below, whose values are `below`. */
function backward({ inputs, outputs, weight, bias }, theta, below, delta, gradient) {
  const next = new Float64Array(inputs);
  for (let o = 0; o < outputs; o++) {
    const d = delta[o], row = weight + o * inputs;
    if (d === 0) continue; // a closed ReLU: nothing flows
    gradient[bias + o] += d;
    for (let i = 0; i < inputs; i++) {
      gradient[row + i] += d * below[i];
      next[i] += d * theta[row + i];
    }
  }
  for (let i = 0; i < inputs; i++) if (below[i] <= 0) next[i] = 0;
  return next;
}

/** The inner loop: [θ⁰, …, θᴺ] with θⁿ⁺¹ = θⁿ − α ∇L_S(θⁿ), on the support set (xs, ys). */
export function innerPath(sizes, theta, xs, ys, rate, steps) {
  const path = [theta];
  for (let n = 0; n < steps; n++) {
    const { gradient } = lossAndGradient(sizes, path[n], xs, ys);
    path.push(gradient.map((g, i) => path[n][i] - rate * g));
  }
  return path;
}
