// What runs in the background of the lab "Draw three characters": adaptation of a Conv4 to the drawn support set, step by step, and
// the answer for the query after every step. Runs as a web worker, and where there is none, in small pieces on the page itself.
import { conv4Layout, softmax } from "./conv4.js";
import { conv4Gradient, conv4Logits } from "./conv4_gradient.js";
import { unpackHalf } from "./half.js";

const BETA2 = 0.999, EPSILON = 1e-8; // Adam's, as in mlbook.meta_learners.inner_loop

/** Second moments as mlbook.pages.labs.coded_weights packs them: for each tensor the lowest and the highest logarithm (base 2), then 8 bits
 *  for every number in between. */
export function unpackLogarithms(view, shapes) {
  const all = [];
  let at = 0;
  for (const shape of shapes) {
    const low = view.getFloat32(at, true), high = view.getFloat32(at + 4, true);
    at += 8;
    for (let i = shape.reduce((a, b) => a * b, 1); i; i--) all.push(2 ** (low + ((high - low) * view.getUint8(at++)) / 255));
  }
  return Float64Array.from(all);
}

/** The parameters of the network with fewer classes: it keeps these rows of the head. `network` is that of all classes. */
export function keepRows(network, values, rows) {
  const { head, bias, features } = conv4Layout(network);
  const weights = rows.flatMap((k) => [...values.subarray(head + k * features, head + (k + 1) * features)]);
  return Float64Array.from([...values.subarray(0, head), ...weights, ...rows.map((k) => values[bias + k])]);
}

/** Parameters after 0, 1, 2, … inner steps on the support set, without end, and the support loss before the step that comes next.
 *  method: {network, kind, rate, fixedNorm} and for adam the moments {v, weight}. The array that is given out is written over. */
export function* innerSteps(method, parameters, images, labels) {
  const { network, rate, kind, fixedNorm } = method, { layers, head } = conv4Layout(network), p = parameters.slice();
  const norms = [layers[0].gamma ?? layers[0].beta, head], v = kind === "adam" && method.v.slice();
  let { weight } = method;
  for (;;) {
    yield p;
    const { gradient } = conv4Gradient(network, p, images, labels);
    if (fixedNorm) gradient.fill(0, ...norms);
    if (kind === "adam") {
      weight = BETA2 * weight + (1 - BETA2);
      const step = rate * Math.sqrt(weight);
      for (let i = 0; i < p.length; i++) {
        const g = gradient[i];
        v[i] = BETA2 * v[i] + (1 - BETA2) * g * g;
        p[i] -= (step * g) / (Math.sqrt(v[i]) + EPSILON);
      }
    } else for (let i = 0; i < p.length; i++) p[i] -= rate * gradient[i];
  }
}

/** Probabilities of the query, with the batch-norm statistics of the support set together with it. */
export const answer = (network, parameters, support, query) => softmax(conv4Logits(network, parameters, [...support, query]).at(-1));

/** The methods of the lab, unpacked: what Python describes in `methods`, with their weights (16 bits each) and second moments one
 *  after the other in `bytes`. */
export function unpackMethods(methods, bytes) {
  let from = bytes.byteOffset;
  const take = (length) => new DataView(bytes.buffer, (from += length) - length, length);
  return Object.fromEntries(Object.entries(methods).map(([name, method]) => {
    const { length } = conv4Layout(method.network), parameters = unpackHalf(take(2 * length));
    const v = method.kind === "adam" ? unpackLogarithms(take(length + 8 * method.shapes.length), method.shapes) : null;
    return [name, { ...method, parameters, v }];
  }));
}

/** A method for the task with these classes (rows of the head), and the images as that method sees them. */
export function methodFor(method, rows) {
  const network = { ...method.network, ways: rows.length }, keep = (values) => values && keepRows(method.network, values, rows);
  return { ...method, network, parameters: keep(method.parameters), v: keep(method.v) };
}

export const seen = (method, ink) => Float64Array.from(ink, (v) => (method.inverted ? 1 - v : v));

/** Takes tasks {id, method, rows, support, query, first} and answers each with {id, step, probabilities, ms}, first for the step
 *  `first` where its parameters are known already. A new task takes the place of the one before it. `later` calls a function when
 *  messages have had their turn. */
export function answering(setup, bytes, post, later = (f) => setTimeout(f, 0)) {
  const methods = unpackMethods(setup.methods, bytes);
  let task = null, open = [], support = null, running = false;

  function take(next) {
    task = next;
    const key = JSON.stringify([task.method, task.rows, task.support.map((ink) => ink.join(""))]);
    if (support?.key !== key) {
      const method = methodFor(methods[task.method], task.rows), images = task.support.map((ink) => seen(method, ink));
      // The parameters after every step are kept, in 32 bits, so that a new query need not wait for the support set again.
      support = { key, method, images, kept: [], steps: innerSteps(method, method.parameters, images, task.rows.map((_, n) => n)) };
    }
    open = Array.from({ length: support.method.steps + 1 }, (_, step) => step);
    if (task.first < support.kept.length) open.unshift(...open.splice(task.first, 1));
    if (!running) later(work);
    running = true;
  }

  function work() {
    const begin = performance.now(), step = open.shift(), { method, images, kept } = support;
    while (kept.length <= step) kept.push(Float32Array.from(support.steps.next().value));
    const probabilities = answer(method.network, Float64Array.from(kept[step]), images, seen(method, task.query));
    post({ id: task.id, step, probabilities, ms: performance.now() - begin });
    running = open.length > 0;
    if (running) later(work);
  }
  return take;
}

/** The worker: the first message is {setup, bytes}, every other a task. */
export function listen(scope) {
  let take;
  scope.onmessage = ({ data }) => {
    if (data.setup) take = answering(data.setup, data.bytes, (reply) => scope.postMessage(reply));
    else take(data);
  };
}
