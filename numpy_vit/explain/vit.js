// The Vision Transformer's forward pass in plain JavaScript: numpy_vit/model.py and numpy_vit/ops.py, name for name.
//
// The page of `numpy-vit explain` runs it in your browser, so that a picture can be drawn and the model be changed. Every step
// is kept under the name it has in numpy_vit, and `numpy-vit golden check` compares all of them with NumPy's, with and without
// each of the changes below (tests/test_explain_live.py).
//
// An array is {shape, data}: the numbers lie row by row in a Float32Array, as in NumPy. Sums are added up in float64, which is
// what a JavaScript number is, and rounded to float32 when they are stored. There is one picture at a time: B is 1.
//
// Letters:  C channels   Y X picture height and width   P patch size   G patches   N tokens: G + 1   D width
//           H heads      K = D / H numbers of a head     M MLP width    L blocks    O classes
"use strict";

const array = (shape, data = new Float32Array(shape.reduce((a, b) => a * b, 1))) => ({shape, data});
const lastAxis = x => x.shape[x.shape.length - 1];

// What may be changed in a run. `forward(pixels, w, config)` without changes is the model as it was trained.
const NO_CHANGES = {
  headsOff: [],        // "3.1": head 1 of block 3 gives nothing: zeros in place of its context
  blocksOff: [],       // 3: block 3 adds nothing
  residualsOff: [],    // 3: in block 3, what came in is not added to what attention and MLP give
  positionsOff: false, // no position embeddings are added
  masked: [],          // 12: the pixels of patch 12 are 0, which is middle grey where pixels are normalised
  order: null,         // [5, 0, 2, ...]: patch 5 first, then patch 0, ...
  unscaled: false,     // scores are not divided by sqrt(K)
  normAfter: false,    // norms stand after attention and MLP, before the sum (as in Swin v2), not before them
  eps: null,           // another eps in every layer norm
  activation: null,    // another activation: a name of ACTIVATIONS
};

// ---------------------------------------------------------------------------------------------- the model (model.py)

// The whole model: pixels (1, C, Y, X) -> every step, by name. `w` holds the weights by name, as (in, out).
function forward(pixels, w, config, changes = NO_CHANGES) {
  const run = {w, config: {...config, eps: changes.eps ?? config.eps, activation: changes.activation ?? config.activation}, changes, steps: {pixels}};
  let x = embed(pixels, run);                                                            // (1, N, D)
  for (let n = 0; n < config.depth; n++) x = encoderBlock(x, n, run);                    // (1, N, D)
  classify(x, run);
  return run.steps;
}

// Eq. 1: patches are projected, the class token is put first, positions are added. (1, C, Y, X) -> (1, N, D)
function embed(pixels, {w, config, changes, steps}) {
  const patches = patchify(pixels, config.patch);
  steps["embed.patches"] = masked(inOrder(patches, changes.order), changes.masked);      // (1, G, C*P*P)
  let x = steps["embed.projection"] = linear(steps["embed.patches"], w, "embed.projection"); // (1, G, D)
  x = steps["embed.tokens"] = prepend(w["embed.class_token"], x);                        // (1, N, D)
  return steps["embed.positions"] = changes.positionsOff ? x : add(x, w["embed.positions"]);
}

// Eq. 2 and 3: x + attention(norm(x)), then x + mlp(norm(x)). (1, N, D) -> (1, N, D)
function encoderBlock(x, n, run) {
  x = halfBlock(x, n, 1, multiHeadAttention, run);
  return halfBlock(x, n, 2, mlp, run);
}

// One of the two halves: norm, attention or MLP, sum. With normAfter: attention or MLP, norm, sum.
function halfBlock(x, n, half, branch, run) {
  const {w, config, changes, steps} = run, block = `blocks.${n}`;
  const norm = x => steps[`${block}.norm${half}`] = layerNorm(x, w, `${block}.norm${half}`, config.eps);
  let added = changes.normAfter ? norm(branch(x, n, run)) : branch(norm(x), n, run);
  if (changes.residualsOff.includes(n)) return steps[`${block}.residual${half}`] = added;
  return steps[`${block}.residual${half}`] = add(x, added);
}

// Eq. 5 and 8: every token has, for each head, a query, a key and a value. (1, N, D) -> (1, N, D)
function multiHeadAttention(x, n, {w, config, changes, steps}) {
  const name = `blocks.${n}.attention`, H = config.heads;
  for (const part of ["query", "key", "value"])
    steps[`${name}.${part}`] = splitHeads(linear(x, w, `${name}.${part}`), H);           // (1, H, N, K)
  const context = attend(name, steps, changes.unscaled);                                 // (1, H, N, K)
  steps[`${name}.context`] = withoutHeads(context, n, changes.headsOff);
  const output = linear(mergeHeads(steps[`${name}.context`]), w, `${name}.output`);      // (1, N, D)
  return steps[`${name}.output`] = changes.blocksOff.includes(n) ? zeros(output) : output;
}

// Eq. 6 and 7: weighted means of the values, the weights from query times key. Each (1, H, N, K) -> (1, H, N, K)
function attend(name, steps, unscaled) {
  const query = steps[`${name}.query`], key = steps[`${name}.key`], value = steps[`${name}.value`], K = lastAxis(query);
  steps[`${name}.scores`] = queryTimesKey(query, key, unscaled ? 1 : K ** -0.5);         // (1, H, N, N)
  steps[`${name}.probs`] = softmax(steps[`${name}.scores`]);                             // every row sums to 1
  return weightedMeans(steps[`${name}.probs`], value);
}

// Section 3.1: each token independently is widened to M numbers, through GELU, and back to D. (1, N, D) -> (1, N, D)
function mlp(x, n, {w, config, changes, steps}) {
  const name = `blocks.${n}.mlp`, activation = config.activation;
  x = steps[`${name}.hidden`] = linear(x, w, `${name}.hidden`);                          // (1, N, M)
  x = steps[`${name}.${activation.includes("gelu") ? "gelu" : activation}`] = mapped(x, ACTIVATIONS[activation]);
  const output = linear(x, w, `${name}.output`);                                         // (1, N, D)
  return steps[`${name}.output`] = changes.blocksOff.includes(n) ? zeros(output) : output;
}

// Eq. 4: after a last norm the class token stands for the picture; a linear head scores the classes.
function classify(x, {w, config, steps}) {
  x = steps.norm = layerNorm(x, w, "norm", config.eps);                                  // (1, N, D)
  const pooled = steps.pool = array([1, config.width], x.data.slice(0, config.width));   // (1, D): token 0
  steps.logits = linear(pooled, w, "head");                                              // (1, O)
}

// The logit lens: what the model would answer if it ended after the embedding, or after a block: the last norm and the head,
// applied there. The steps of a run -> L + 1 rows of O logits. (nostalgebraist, "interpreting GPT: the logit lens", 2020)
function logitLens(steps, w, config) {
  const after = ["embed.positions", ...Array.from({length: config.depth}, (_, n) => `blocks.${n}.residual2`)];
  return after.map(name => {
    const classToken = array([1, config.width], steps[name].data.slice(0, config.width));
    return linear(layerNorm(classToken, w, "norm", config.eps), w, "head").data;
  });
}

// ---------------------------------------------------------------------------------------------- the arithmetic (ops.py)

// Cut a picture into patches, row by row, each flattened channel first (c, py, px). (1, C, Y, X) -> (1, G, C*P*P)
function patchify(pixels, P) {
  const [, C, Y, X] = pixels.shape, rows = Math.floor(Y / P), columns = Math.floor(X / P);
  const patches = array([1, rows * columns, C * P * P]);
  let at = 0;
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++)
      for (let c = 0; c < C; c++)
        for (let py = 0; py < P; py++)
          for (let px = 0; px < P; px++)
            patches.data[at++] = pixels.data[(c * Y + row * P + py) * X + column * P + px];
  return patches;
}

// The product of two matrices, A (rows, inner) @ B (inner, columns), times `scale`, plus `bias` -> Y (rows, columns).
// Four rows of A meet two columns of B at once: a number that has been fetched is used several times, which is what makes a
// matrix product fast. At the edges a row or a column is done twice.
function product(A, B, Y, inner, columns, scale = 1, bias = null) {
  const rows = A.length / inner;
  for (let i = 0; i < rows; i += 4) {
    const i1 = Math.min(i + 1, rows - 1), i2 = Math.min(i + 2, rows - 1), i3 = Math.min(i + 3, rows - 1);
    const p0 = i * inner, p1 = i1 * inner, p2 = i2 * inner, p3 = i3 * inner;
    for (let column = 0; column < columns; column += 2) {
      const j = Math.min(column, columns - 2);
      let a0 = 0, a1 = 0, a2 = 0, a3 = 0, b0 = 0, b1 = 0, b2 = 0, b3 = 0;
      for (let k = 0, q = j; k < inner; k++, q += columns) {
        const u = B[q], v = B[q + 1], x0 = A[p0 + k], x1 = A[p1 + k], x2 = A[p2 + k], x3 = A[p3 + k];
        a0 += x0 * u; a1 += x1 * u; a2 += x2 * u; a3 += x3 * u;
        b0 += x0 * v; b1 += x1 * v; b2 += x2 * v; b3 += x3 * v;
      }
      const left = bias ? bias[j] : 0, right = bias ? bias[j + 1] : 0;
      Y[i * columns + j] = a0 * scale + left; Y[i * columns + j + 1] = b0 * scale + right;
      Y[i1 * columns + j] = a1 * scale + left; Y[i1 * columns + j + 1] = b1 * scale + right;
      Y[i2 * columns + j] = a2 * scale + left; Y[i2 * columns + j + 1] = b2 * scale + right;
      Y[i3 * columns + j] = a3 * scale + left; Y[i3 * columns + j + 1] = b3 * scale + right;
    }
  }
}

// y = x W + b. x (..., in), weight (in, out), bias (out,) -> (..., out)
function linear(x, w, name) {
  const weight = w[`${name}.weight`], [from, to] = weight.shape, y = array([...x.shape.slice(0, -1), to]);
  product(x.data, weight.data, y.data, from, to, 1, w[`${name}.bias`]?.data);
  return y;
}

// The class token before the patches. (D,), (1, G, D) -> (1, G + 1, D)
function prepend(token, tokens) {
  const [, G, D] = tokens.shape, x = array([1, G + 1, D]);
  x.data.set(token.data);
  x.data.set(tokens.data, D);
  return x;
}

// Each token is brought to mean 0 and variance 1, then by a learned scale and shift for each of the D numbers.
function layerNorm(x, w, name, eps) {
  const scale = w[`${name}.weight`].data, shift = w[`${name}.bias`].data, D = lastAxis(x), y = array(x.shape);
  for (let at = 0; at < x.data.length; at += D) {
    let mean = 0, variance = 0;
    for (let d = 0; d < D; d++) mean += x.data[at + d] / D;
    for (let d = 0; d < D; d++) variance += (x.data[at + d] - mean) ** 2 / D;
    const deviation = Math.sqrt(variance + eps);
    for (let d = 0; d < D; d++) y.data[at + d] = (x.data[at + d] - mean) / deviation * scale[d] + shift[d];
  }
  return y;
}

// (1, N, H*K) -> (1, H, N, K): head h takes the K numbers from h*K on
function splitHeads(x, H) {
  const [, N, D] = x.shape, K = D / H, y = array([1, H, N, K]);
  for (let h = 0; h < H; h++)
    for (let n = 0; n < N; n++)
      y.data.set(x.data.subarray(n * D + h * K, n * D + (h + 1) * K), (h * N + n) * K);
  return y;
}

// The inverse: (1, H, N, K) -> (1, N, H*K)
function mergeHeads(x) {
  const [, H, N, K] = x.shape, y = array([1, N, H * K]);
  for (let h = 0; h < H; h++)
    for (let n = 0; n < N; n++)
      y.data.set(x.data.subarray((h * N + n) * K, (h * N + n + 1) * K), n * H * K + h * K);
  return y;
}

// Head h of an array (1, H, N, K), as a matrix (N, K)
const headOf = (x, h) => x.data.subarray(h * x.shape[2] * x.shape[3], (h + 1) * x.shape[2] * x.shape[3]);

// Every query times every key, times `scale`. (1, H, N, K), (1, H, N, K) -> (1, H, N, N)
function queryTimesKey(query, key, scale) {
  const [, H, N, K] = query.shape, scores = array([1, H, N, N]), keys = new Float32Array(K * N);
  for (let h = 0; h < H; h++) {
    headOf(key, h).forEach((number, at) => { keys[at % K * N + Math.floor(at / K)] = number; }); // (N, K) -> (K, N)
    product(headOf(query, h), keys, headOf(scores, h), K, N, scale);
  }
  return scores;
}

// exp(x) / sum(exp(x)) over the last axis. The row's maximum is subtracted first, so that exp cannot overflow.
function softmax(x) {
  const N = lastAxis(x), y = array(x.shape), e = new Float64Array(N);
  for (let at = 0; at < x.data.length; at += N) {
    let high = -Infinity, sum = 0;
    for (let j = 0; j < N; j++) high = Math.max(high, x.data[at + j]);
    for (let j = 0; j < N; j++) sum += e[j] = Math.exp(x.data[at + j] - high);
    for (let j = 0; j < N; j++) y.data[at + j] = e[j] / sum;
  }
  return y;
}

// Means of the values, weighted by attention. (1, H, N, N), (1, H, N, K) -> (1, H, N, K)
function weightedMeans(probs, value) {
  const [, H, N, K] = value.shape, context = array([1, H, N, K]);
  for (let h = 0; h < H; h++) product(headOf(probs, h), headOf(value, h), headOf(context, h), N, K);
  return context;
}

// The error function, as tanh(x P(x^2)): within a float32 rounding of the true value (numpy_vit/arithmetic/special.py)
const ERF_AS_TANH = [1.1283792743127914, .10276905574024961, -1.9183069874350645e-4, -6.197847363865146e-4, 8.763735252093397e-5, -5.668479143496388e-6, 1.418523970355535e-7];
function erf(x) {
  const square = x * x;
  let sum = 0;
  for (let n = 6; n >= 0; n--) sum = sum * square + ERF_AS_TANH[n];
  return 1 - 2 / (Math.exp(2 * x * sum) + 1);
}

const sigmoid = x => 1 / (1 + Math.exp(-x));
const ACTIVATIONS = {
  gelu: x => 0.5 * x * (1 + erf(x * Math.SQRT1_2)), // x times the normal distribution: the exact one
  gelu_tanh: x => x * sigmoid(2 * Math.sqrt(2 / Math.PI) * (x + 0.044715 * x * x * x)), // JAX, GPT-2
  quick_gelu: x => x * sigmoid(1.702 * x), // OpenAI's CLIP
  silu: x => x * sigmoid(x),
  relu: x => Math.max(x, 0),
};

function mapped(x, f) {
  const y = array(x.shape);
  for (let i = 0; i < y.data.length; i++) y.data[i] = f(x.data[i]);
  return y;
}

const zeros = x => array(x.shape);

function add(a, b) {
  const sum = array(a.shape);
  for (let i = 0; i < sum.data.length; i++) sum.data[i] = a.data[i] + b.data[i];
  return sum;
}

// ---------------------------------------------------------------------------------------------- what may be changed

// The patches in another order: order[n] is the patch that comes in place n
function inOrder(patches, order) {
  if (!order) return patches;
  const size = lastAxis(patches), shuffled = array(patches.shape);
  order.forEach((patch, n) => shuffled.data.set(patches.data.subarray(patch * size, (patch + 1) * size), n * size));
  return shuffled;
}

function masked(patches, which) {
  if (!which.length) return patches;
  const size = lastAxis(patches), some = array(patches.shape, patches.data.slice());
  for (const n of which) some.data.fill(0, n * size, (n + 1) * size);
  return some;
}

function withoutHeads(context, block, off) {
  const [, H, N, K] = context.shape;
  for (let h = 0; h < H; h++) if (off.includes(`${block}.${h}`)) context.data.fill(0, h * N * K, (h + 1) * N * K);
  return context;
}

// ---------------------------------------------------------------------------------------------- pictures, in and out

// An RGB(A) picture as canvases have it -> the same in another size, as Pillow resizes: the mean of the pixels around, weighted
// by a triangle ("bilinear") or a cubic ("bicubic") as wide as one new pixel; columns first, then rows, each rounded to 8 bits.
function resized({width, height, data}, columns, rows, kind = "bilinear") {
  const along = (data, count, old, now, at) => { // `count` lines of `old` pixels -> lines of `now`; at(line, pixel) of `wide`
    const result = new Uint8ClampedArray(4 * count * now);
    weightsOf(old, now, kind).forEach(({first, weights}, pixel) => {
      for (let line = 0; line < count; line++)
        for (let c = 0; c < 4; c++) {
          let sum = 0;
          weights.forEach((weight, n) => { sum += weight * data[4 * at(line, first + n, old) + c]; });
          result[4 * at(line, pixel, now) + c] = Math.floor(sum + 0.5);
        }
    });
    return result;
  };
  const wide = width === columns ? data : along(data, height, width, columns, (line, pixel, length) => line * length + pixel);
  const done = height === rows ? wide : along(wide, columns, height, rows, (line, pixel) => pixel * columns + line);
  return {width: columns, height: rows, data: done};
}

// For each new pixel the first old one that it is a mean of, and the weights from there on
function weightsOf(old, now, kind) {
  const reach = kind === "bicubic" ? 2 : 1, scale = old / now, wide = Math.max(scale, 1);
  const bump = x => kind !== "bicubic" ? Math.max(0, 1 - x) : x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-.5 * x + 2.5) * x - 4) * x + 2 : 0;
  return Array.from({length: now}, (_, n) => {
    const centre = (n + 0.5) * scale;
    const first = Math.max(0, Math.floor(centre - reach * wide + 0.5)), end = Math.min(old, Math.floor(centre + reach * wide + 0.5));
    const weights = Array.from({length: end - first}, (_, i) => bump(Math.abs(first + i + 0.5 - centre) / wide));
    const sum = weights.reduce((a, b) => a + b, 0);
    return {first, weights: weights.map(weight => weight / sum)};
  });
}

// A picture of any size as the model wants it: resized, its middle cut out (numpy_vit.pictures.images.Preprocess)
function prepared(image, {resize, size, crop, resample, crop_rounding: rounding}) {
  const [short, long] = [image.width, image.height].sort((a, b) => a - b);
  const byShorter = side => side === short ? size : Math.floor(size * long / short);
  const [Y, X] = resize === "squash" ? size : [byShorter(image.height), byShorter(image.width)];
  const whole = resized(image, X, Y, resample);
  return crop ? cropped(whole, crop, rounding) : whole;
}

// The middle of a picture, black around what is smaller. Of two middles the upper one, or as torchvision rounds ("even")
function cropped({width, height, data}, [rows, columns], rounding) {
  const even = spare => spare < 0 || spare % 4 === 3 ? Math.ceil(spare / 2) : Math.floor(spare / 2);
  const [top, left] = [height - rows, width - columns].map(spare => rounding === "even" ? even(spare) : Math.floor(spare / 2));
  const middle = new Uint8ClampedArray(4 * rows * columns);
  for (let y = Math.max(0, -top); y < Math.min(rows, height - top); y++) {
    const from = Math.max(0, left), to = Math.min(width, left + columns);
    middle.set(data.subarray(4 * ((y + top) * width + from), 4 * ((y + top) * width + to)), 4 * (y * columns + from - left));
  }
  return {width: columns, height: rows, data: middle};
}

// A picture (RGBA, 0 to 255) of the model's size -> pixels (1, C, Y, X): (value * scale - mean) / std, a channel at a time
function normalized({width, height, data}, {channels, scale, mean, std}) {
  const pixels = array([1, channels, height, width]);
  for (let c = 0; c < channels; c++)
    for (let at = 0; at < width * height; at++) {
      const grey = Math.floor((data[4 * at] * 19595 + data[4 * at + 1] * 38470 + data[4 * at + 2] * 7471 + 32768) / 65536); // as Pillow's
      const value = (channels === 1 ? grey : data[4 * at + c]) * (scale ?? 1);
      pixels.data[c * width * height + at] = mean ? (value - mean[c]) / std[c] : value;
    }
  return pixels;
}

// Steps -> the bytes of a .safetensors file, which `numpy-vit golden check GOLDEN FILE` reads
function safetensors(steps) {
  const header = {}, names = Object.keys(steps);
  let end = 0;
  for (const name of names)
    header[name] = {dtype: "F32", shape: steps[name].shape, data_offsets: [end, end += steps[name].data.byteLength]};
  let text = JSON.stringify(header);
  text = text.padEnd(8 * Math.ceil(text.length / 8));
  const bytes = new Uint8Array(8 + text.length + end);
  new DataView(bytes.buffer).setUint32(0, text.length, true);
  bytes.set(new TextEncoder().encode(text), 8);
  for (const name of names) {
    const {buffer, byteOffset, byteLength} = steps[name].data;
    bytes.set(new Uint8Array(buffer, byteOffset, byteLength), 8 + text.length + header[name].data_offsets[0]);
  }
  return bytes;
}

// Base64 of float32 numbers, tensor after tensor -> {name: {shape, data}}. shapes: {name: shape}, in the same order
function unpacked(text, shapes) {
  const bytes = Uint8Array.from(atob(text), letter => letter.charCodeAt(0)), w = {};
  let at = 0;
  for (const [name, shape] of Object.entries(shapes)) {
    const size = shape.reduce((a, b) => a * b, 1);
    w[name] = array(shape, new Float32Array(bytes.buffer, 4 * at, size));
    at += size;
  }
  return w;
}

if (typeof module !== "undefined") // Node.js, for tests; a browser has no `module`
  module.exports = {NO_CHANGES, ACTIVATIONS, forward, logitLens, erf, resized, prepared, normalized, safetensors, unpacked};
