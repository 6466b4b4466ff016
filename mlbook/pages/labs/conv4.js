// The strided four-layer convolutional network of MAML and Reptile: its forward pass, with the statistics of batch norm taken from
// the batch or handed in.
//
// A network is described by {ways, filters, size, channels, gamma, spatialMean, eps}. All parameters lie in one array in PyTorch's
// order (Conv4.named_parameters): the convolutions [filters, channels, 3, 3], batch norm's γ (where there is one) and β layer by
// layer, the head's weight [ways, features] and bias. An image is channels·size·size numbers, row by row.
// tests/test_lab_query_batch.py compares every function here with PyTorch.

export const LAYERS = 4;

/** Where everything lies in the parameters, and how large every layer's picture is. */
export function conv4Layout({ ways, filters, size, channels = 1, gamma = false, spatialMean = true }) {
  const layers = [];
  let end = 0;
  for (let i = 0; i < LAYERS; i++) {
    const below = i ? filters : channels, out = (size + 1) >> 1;
    layers.push({ channels: below, size, out, weight: end });
    end += filters * below * 9;
    size = out;
  }
  for (const layer of layers) {
    if (gamma) [layer.gamma, end] = [end, end + filters];
    [layer.beta, end] = [end, end + filters];
  }
  const features = spatialMean ? filters : filters * size * size;
  return { layers, filters, spatialMean, features, ways, head: end, bias: end + ways * features, length: end + ways * (features + 1) };
}

/** 3×3, stride 2, one pixel of zeros around: [count, channels, size, size] -> [count, filters, out, out]. */
export function convolve(x, count, { channels, size, out, weight }, filters, parameters) {
  const taps = channels * 9, area = out * out, patch = new Float64Array(taps), y = new Float64Array(count * filters * area);
  for (let n = 0; n < count; n++) {
    for (let row = 0; row < out; row++) {
      for (let column = 0; column < out; column++) {
        for (let c = 0, t = 0; c < channels; c++) {
          const from = (n * channels + c) * size * size;
          for (let i = 2 * row - 1; i <= 2 * row + 1; i++)
            for (let j = 2 * column - 1; j <= 2 * column + 1; j++)
              patch[t++] = i < 0 || j < 0 || i >= size || j >= size ? 0 : x[from + i * size + j];
        }
        for (let f = 0, w = weight; f < filters; f++) {
          let even = 0, odd = 0, t = 0; // two sums at once: a processor need not wait for one to finish
          for (; t + 1 < taps; t += 2, w += 2) {
            even += parameters[w] * patch[t];
            odd += parameters[w + 1] * patch[t + 1];
          }
          if (t < taps) even += parameters[w++] * patch[t];
          y[(n * filters + f) * area + row * out + column] = even + odd;
        }
      }
    }
  }
  return y;
}

/** Mean and variance (divided by the number of values) of every channel of y [count, filters, area]. */
export function channelStatistics(y, count, filters, area) {
  const mean = new Float64Array(filters), variance = new Float64Array(filters), all = count * area;
  const sum = (f, value) => {
    let total = 0;
    for (let n = 0; n < count; n++) for (let i = (n * filters + f) * area, end = i + area; i < end; i++) total += value(y[i]);
    return total / all;
  };
  for (let f = 0; f < filters; f++) {
    const m = (mean[f] = sum(f, (v) => v));
    variance[f] = sum(f, (v) => (v - m) * (v - m));
  }
  return { mean, variance };
}

/** Batch norm, then ReLU, in place. */
function normalise(y, count, filters, area, { mean, variance }, layer, parameters, eps) {
  for (let f = 0; f < filters; f++) {
    const scale = (layer.gamma === undefined ? 1 : parameters[layer.gamma + f]) / Math.sqrt(variance[f] + eps);
    const shift = parameters[layer.beta + f] - mean[f] * scale;
    for (let n = 0; n < count; n++)
      for (let i = (n * filters + f) * area, end = i + area; i < end; i++) {
        const v = y[i] * scale + shift;
        y[i] = v > 0 ? v : 0;
      }
  }
}

/** Logits of a batch of `images` and the statistics of every layer. `given`: statistics to normalise with instead of the batch's. */
export function conv4(network, parameters, images, given = null) {
  const layout = conv4Layout(network), { layers, filters, spatialMean, features, ways, head, bias } = layout, count = images.length;
  const statistics = [];
  let x = new Float64Array(count * images[0].length);
  images.forEach((image, n) => x.set(image, n * image.length));
  for (let l = 0; l < LAYERS; l++) {
    const area = layers[l].out ** 2;
    x = convolve(x, count, layers[l], filters, parameters);
    statistics.push(given ? given[l] : channelStatistics(x, count, filters, area));
    normalise(x, count, filters, area, statistics[l], layers[l], parameters, network.eps ?? 1e-3);
  }
  const area = layers.at(-1).out ** 2, logits = [];
  for (let n = 0; n < count; n++) {
    const read = spatialMean
      ? Float64Array.from({ length: filters }, (_, f) => mean(x, (n * filters + f) * area, area))
      : x.subarray(n * filters * area, (n + 1) * filters * area);
    logits.push(Array.from({ length: ways }, (_, k) => {
      let sum = parameters[bias + k];
      for (let i = 0; i < features; i++) sum += parameters[head + k * features + i] * read[i];
      return sum;
    }));
  }
  return { logits, statistics };
}

function mean(values, from, count) {
  let sum = 0;
  for (let i = from; i < from + count; i++) sum += values[i];
  return sum / count;
}

/** Probabilities from logits. */
export function softmax(logits) {
  const top = Math.max(...logits), powers = logits.map((v) => Math.exp(v - top)), sum = powers.reduce((a, b) => a + b);
  return powers.map((v) => v / sum);
}
