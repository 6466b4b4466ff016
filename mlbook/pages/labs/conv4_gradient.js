// The gradient of the cross-entropy of the strided Conv4 (see conv4.js for the layout of its parameters), written out from the
// last layer to the first: head, mean over space or flattening, ReLU, batch norm with the statistics of the batch, convolution.
//
// A convolution is one product of matrices: its patches [positions, taps] times its filters [filters, taps]. Between the layers
// activations lie as [positions, filters], a position being an image, a row and a column. Everything is in double precision.
// tests/test_draw_characters.py compares the gradient with PyTorch's.
import { conv4Layout, LAYERS, softmax } from "./conv4.js";

/** A·Bᵀ of a [rows, length] and b [columns, length]. All three products of a layer are of this form, so that it is the only loop
 *  that has to be fast: eight sums at a time, of two rows and four columns, share what they read. */
export function product(a, rows, b, columns, length) {
  const c = new Float64Array(rows * columns), evenRows = rows & ~1, wholeColumns = columns & ~3;
  for (let i = 0; i < evenRows; i += 2) {
    for (let j = 0; j < wholeColumns; j += 4) {
      let s00 = 0, s01 = 0, s02 = 0, s03 = 0, s10 = 0, s11 = 0, s12 = 0, s13 = 0;
      let p = i * length, q = p + length, u = j * length, v = u + length, w = v + length, z = w + length;
      for (const end = p + length; p < end; p++, q++, u++, v++, w++, z++) {
        const x = a[p], y = a[q], bu = b[u], bv = b[v], bw = b[w], bz = b[z];
        s00 += x * bu; s01 += x * bv; s02 += x * bw; s03 += x * bz;
        s10 += y * bu; s11 += y * bv; s12 += y * bw; s13 += y * bz;
      }
      const at = i * columns + j, below = at + columns;
      c[at] = s00; c[at + 1] = s01; c[at + 2] = s02; c[at + 3] = s03;
      c[below] = s10; c[below + 1] = s11; c[below + 2] = s12; c[below + 3] = s13;
    }
  }
  for (let i = 0; i < rows; i++) // what is left over
    for (let j = i < evenRows ? wholeColumns : 0; j < columns; j++) {
      let sum = 0;
      for (let k = 0; k < length; k++) sum += a[i * length + k] * b[j * length + k];
      c[i * columns + j] = sum;
    }
  return c;
}

export function transposed(a, rows, columns) {
  const t = new Float64Array(rows * columns);
  for (let i = 0; i < rows; i++) for (let j = 0; j < columns; j++) t[j * rows + i] = a[i * columns + j];
  return t;
}

/** Calls f(place in the patches, place in the layer's input) for every tap that does not hang over the edge. Strides: how far apart
 *  two images, two channels and two pixels lie in the input. */
function everyTap(count, { channels, size, out }, [image, channel, pixel], f) {
  for (let n = 0, patch = 0; n < count; n++)
    for (let row = 0; row < out; row++)
      for (let column = 0; column < out; column++, patch += 9 * channels)
        for (let i = 0; i < 3; i++)
          for (let j = 0; j < 3; j++) {
            const y = 2 * row + i - 1, x = 2 * column + j - 1;
            if (y < 0 || x < 0 || y >= size || x >= size) continue;
            let to = patch + 3 * i + j, from = n * image + (y * size + x) * pixel;
            for (let c = 0; c < channels; c++, to += 9, from += channel) f(to, from);
          }
}

const strides = (l, { channels, size }) => (l ? [channels * size * size, 1, channels] : [channels * size * size, size * size, 1]);

/** Patches, batch norm with the statistics of the batch and ReLU of one layer; what the way back needs is kept. */
function layerForward(x, count, l, layer, filters, parameters, eps) {
  const taps = 9 * layer.channels, positions = count * layer.out ** 2, patches = new Float64Array(positions * taps);
  everyTap(count, layer, strides(l, layer), (to, from) => (patches[to] = x[from]));
  const weights = parameters.subarray(layer.weight, layer.weight + filters * taps);
  const hat = product(patches, positions, weights, filters, taps), out = new Float64Array(hat.length), inverse = new Float64Array(filters);
  for (let f = 0; f < filters; f++) {
    let mean = 0, variance = 0;
    for (let i = f; i < hat.length; i += filters) mean += hat[i];
    mean /= positions;
    for (let i = f; i < hat.length; i += filters) variance += (hat[i] -= mean) ** 2;
    const one = (inverse[f] = 1 / Math.sqrt(variance / positions + eps));
    const gamma = layer.gamma === undefined ? 1 : parameters[layer.gamma + f], beta = parameters[layer.beta + f];
    for (let i = f; i < hat.length; i += filters) {
      const v = gamma * (hat[i] *= one) + beta;
      out[i] = v > 0 ? v : 0;
    }
  }
  return { patches, taps, positions, weights, hat, inverse, out };
}

/** From the gradient with respect to a layer's output to its parameters' (written into `gradient`) and to its input's (returned). */
function layerBackward(up, count, l, layer, filters, parameters, kept, gradient) {
  const { patches, taps, positions, weights, hat, inverse, out } = kept;
  for (let f = 0; f < filters; f++) {
    let sum = 0, along = 0; // of the gradient behind the ReLU, and of it times the normalised values
    for (let i = f; i < up.length; i += filters) {
      if (!(out[i] > 0)) up[i] = 0;
      sum += up[i];
      along += up[i] * hat[i];
    }
    gradient[layer.beta + f] = sum;
    if (layer.gamma !== undefined) gradient[layer.gamma + f] = along;
    const scale = inverse[f] * (layer.gamma === undefined ? 1 : parameters[layer.gamma + f]);
    for (let i = f; i < up.length; i += filters) up[i] = scale * (up[i] - (sum + hat[i] * along) / positions);
  }
  gradient.set(product(transposed(up, positions, filters), filters, transposed(patches, positions, taps), taps, positions), layer.weight);
  if (!l) return null; // nobody asks for the gradient of the images
  const ofPatches = product(up, positions, transposed(weights, filters, taps), taps, filters);
  const down = new Float64Array(count * layer.channels * layer.size ** 2);
  everyTap(count, layer, strides(l, layer), (to, from) => (down[from] += ofPatches[to]));
  return down;
}

/** All layers and the head; `kept` has what the way back needs. */
function forward(network, parameters, images) {
  const layout = conv4Layout(network), { layers, filters, spatialMean, features, ways, head, bias } = layout, count = images.length;
  let x = new Float64Array(count * images[0].length);
  images.forEach((image, n) => x.set(image, n * image.length));
  const kept = layers.map((layer, l) => {
    const made = layerForward(x, count, l, layer, filters, parameters, network.eps ?? 1e-3);
    x = made.out;
    return made;
  });
  const area = layers[LAYERS - 1].out ** 2, read = new Float64Array(count * features);
  for (let n = 0; n < count; n++)
    for (let p = 0; p < area; p++)
      for (let f = 0; f < filters; f++) {
        const value = x[(n * area + p) * filters + f];
        if (spatialMean) read[n * features + f] += value / area;
        else read[n * features + f * area + p] = value;
      }
  const logits = product(read, count, parameters.subarray(head, bias), ways, features);
  for (let i = 0; i < logits.length; i++) logits[i] += parameters[bias + (i % ways)];
  return { layout, kept, read, area, logits: images.map((_, n) => [...logits.subarray(n * ways, (n + 1) * ways)]) };
}

/** Logits of a batch of images with the batch's own statistics: `conv4` of conv4.js, several times as fast. */
export const conv4Logits = (network, parameters, images) => forward(network, parameters, images).logits;

/** Mean cross-entropy of the images under their labels, its gradient in the layout of the parameters, and the logits. */
export function conv4Gradient(network, parameters, images, labels) {
  const { layout, kept, read, area, logits } = forward(network, parameters, images);
  const { layers, filters, spatialMean, features, ways, head, bias, length } = layout, count = images.length;
  const gradient = new Float64Array(length), up = new Float64Array(count * area * filters);
  let loss = 0;
  logits.forEach((row, n) => {
    const chances = softmax(row), top = Math.max(...row);
    loss += (top - row[labels[n]] + Math.log(row.reduce((sum, v) => sum + Math.exp(v - top), 0))) / count;
    for (let k = 0; k < ways; k++) {
      const d = (chances[k] - (k === labels[n])) / count;
      gradient[bias + k] += d;
      for (let i = 0; i < features; i++) {
        const w = head + k * features + i, slope = d * parameters[w];
        gradient[w] += d * read[n * features + i];
        if (spatialMean) for (let p = 0; p < area; p++) up[(n * area + p) * filters + i] += slope / area;
        else up[(n * area + (i % area)) * filters + Math.floor(i / area)] += slope;
      }
    }
  });
  for (let l = LAYERS - 1, at = up; l >= 0; l--) at = layerBackward(at, count, l, layers[l], filters, parameters, kept[l], gradient);
  return { loss, gradient, logits };
}
