// The steps' cards, looked into: the array as a picture, and the arrays it is made of, with the row and the column of the
// number under the pointer lit up; beside them the lines of Python that ran and the equation.
"use strict";

Object.assign(WORDS, {
  lookInside: ["Look inside {name}", "细看 {name}"], inside: ["look inside", "细看"], close: ["close", "收起"],
  zoomIn: ["Zoom in", "放大"], zoomOut: ["Zoom out", "缩小"],
  chooseHead: ["head", "头"],
  cellHint: ["Point at the result, or use the arrow keys: what made the number is lit up.", "指向结果，或用方向键：得到该数的行和列会亮起。"],
  resultPanel: ["{name}: choose a number with the arrow keys", "{name}：用方向键选一个数"],
  noArrays: ["This page shows a recorded run: the arrays themselves are too large for it.", "本页显示的是记录下来的运行：数组本身太大，放不下。"],
  weightsOf: ["weights of {name}", "{name} 的权重"], vectorOf: ["learned {name}", "可学习的 {name}"], pixelsOf: ["pixels, channel {c}", "像素，通道 {c}"],
  madeRows: ["row times row, {n} products, divided by √{K}: {x}", "行乘以行，{n} 个乘积，除以 √{K}：{x}"], madeRowsUnscaled: ["row times row, {n} products: {x}", "行乘以行，{n} 个乘积：{x}"],
  madeDot: ["row times column, {n} products{bias}: {x}", "行乘以列，{n} 个乘积{bias}：{x}"], plusBias: [", plus the bias", "，加偏置"],
  madeSum: ["the sum of both: {x}", "两者之和：{x}"], madeCopy: ["the same number, moved: {x}", "同一个数，换了位置：{x}"],
  madeNorm: ["its row has mean {mean} and standard deviation {deviation}; then scale and shift: {x}", "该行的平均值为 {mean}，标准差为 {deviation}；再缩放、平移：{x}"],
  madeSoftmax: ["exp of the score, divided by the sum of its row's: {x}", "分数的 exp，除以整行之和：{x}"],
  madeOne: ["of this one number: {x}", "由这一个数得到：{x}"], madeNothing: ["switched off: {x}", "已关闭：{x}"],
});

// ------------------------------------------------------------------------------------------------ where a number comes from

const matrixOf = (title, rows, columns, data) => ({title, rows, columns, data});

// A step's array as a matrix: of four axes the head's, of two one row
function stepMatrix(steps, name, head) {
  const {shape, data} = steps[name], [rows, columns] = shape.length === 2 ? shape : shape.slice(-2);
  const at = shape.length === 4 ? head * rows * columns : 0;
  return matrixOf(name, rows, columns, data.subarray(at, at + rows * columns));
}
function weightMatrix(w, name) {
  const {shape, data} = w[`${name}.weight`] ?? w[name];
  const [rows, columns] = shape.length === 1 ? [1, ...shape] : shape;
  return matrixOf(w[`${name}.weight`] ? say("weightsOf", {name}) : say("vectorOf", {name}), rows, columns, data);
}

// Number [i, j] of a step (of a head): the matrices it is made of, each with its row and column (null: none of its own), and
// how: a key of WORDS. `at` has the run: {steps, w, config, changes, block, head}.
function originOf(local, i, j, at) {
  const {steps, w, config, changes, block, head} = at, own = block === null ? "" : `blocks.${block}.`, K = config.width / config.heads;
  const step = (name, row, column) => ({...stepMatrix(steps, name, head), row, column});
  const weights = (name, row, column) => ({...weightMatrix(w, name), row, column});
  const cameIn = block ? `blocks.${block - 1}.residual2` : "embed.positions";
  const off = block !== null && changes.blocksOff.includes(block), alone = changes.residualsOff.includes(block);
  const dot = (source, name, column) => ({how: "madeDot", of: [step(source, i, null), weights(own + name, null, column)], bias: w[`${own}${name}.bias`]?.data[column] ?? 0});
  const norm = (source, name) => ({how: "madeNorm", of: [step(source, i, null)], name: own + name});
  const sum = (source, name) => alone ? {how: "madeCopy", of: [step(own + name, i, j)]} : {how: "madeSum", of: [step(source, i, j), step(own + name, i, j)]};
  const afterwards = (name, branch) => changes.normAfter ? name : branch;
  switch (local) {
    case "embed.patches": return patchOrigin(i, j, at);
    case "embed.projection": return dot("embed.patches", "embed.projection", j);
    case "embed.tokens": return {how: "madeCopy", of: [i === 0 ? weights("embed.class_token", 0, j) : step("embed.projection", i - 1, j)]};
    case "embed.positions":
      if (changes.positionsOff) return {how: "madeCopy", of: [step("embed.tokens", i, j)]};
      return {how: "madeSum", of: [step("embed.tokens", i, j), weights("embed.positions", i, j)]};
    case "norm1": return norm(changes.normAfter ? `${own}attention.output` : cameIn, "norm1");
    case "attention.query": case "attention.key": case "attention.value":
      return dot(changes.normAfter ? cameIn : `${own}norm1`, local, head * K + j);
    case "attention.scores":
      return {how: changes.unscaled ? "madeRowsUnscaled" : "madeRows", of: [step(`${own}attention.query`, i, null), step(`${own}attention.key`, j, null)], scale: changes.unscaled ? 1 : K ** -.5};
    case "attention.probs": return {how: "madeSoftmax", of: [{...step(`${own}attention.scores`, i, null), picked: j}]};
    case "attention.context":
      if (changes.headsOff.includes(`${block}.${head}`)) return {how: "madeNothing", of: []};
      return {how: "madeDot", of: [step(`${own}attention.probs`, i, null), step(`${own}attention.value`, null, j)]};
    case "attention.output": {
      if (off) return {how: "madeNothing", of: []};
      const merged = mergeHeads(steps[`${own}attention.context`]), source = matrixOf(`${own}attention.context`, merged.shape[1], merged.shape[2], merged.data);
      return {how: "madeDot", of: [{...source, row: i, column: null}, weights(`${own}attention.output`, null, j)], bias: w[`${own}attention.output.bias`]?.data[j] ?? 0};
    }
    case "residual1": return sum(cameIn, afterwards("norm1", "attention.output"));
    case "norm2": return norm(changes.normAfter ? `${own}mlp.output` : `${own}residual1`, "norm2");
    case "mlp.hidden": return dot(changes.normAfter ? `${own}residual1` : `${own}norm2`, "mlp.hidden", j);
    case "mlp.output": return off ? {how: "madeNothing", of: []} : dot(own + activationStep(at), "mlp.output", j);
    case "residual2": return sum(`${own}residual1`, afterwards("norm2", "mlp.output"));
    case "norm": return norm(`blocks.${config.depth - 1}.residual2`, "norm");
    case "pool": return {how: "madeCopy", of: [step("norm", 0, j)]};
    case "logits": return dot("pool", "head", j);
    default: return {how: "madeOne", of: [step(`${own}mlp.hidden`, i, j)]};
  }
}
const activationOf = ({config, changes}) => changes.activation ?? config.activation;
const activationStep = at => `mlp.${activationOf(at).includes("gelu") ? "gelu" : activationOf(at)}`;

// A patch's number j is pixel (py, px) of channel c
function patchOrigin(i, j, {steps, config, changes}) {
  const [, , Y, X] = steps.pixels.shape, P = config.patch, columns = Math.floor(X / P), from = changes.order ? changes.order[i] : i;
  const c = Math.floor(j / (P * P)), row = Math.floor(from / columns) * P + Math.floor(j / P) % P, column = from % columns * P + j % P;
  if (changes.masked.includes(i)) return {how: "madeNothing", of: []};
  return {how: "madeCopy", of: [{...matrixOf(say("pixelsOf", {c}), Y, X, steps.pixels.data.subarray(c * Y * X, (c + 1) * Y * X)), row, column}]};
}

// The number computed again from where it comes from: what the card says, and a test of this very table
function computedAgain(origin, at, j) {
  const [a, b] = origin.of, row = ({data, columns}, n) => data.subarray(n * columns, (n + 1) * columns);
  switch (origin.how) {
    case "madeDot": return row(a, a.row).reduce((sum, x, k) => sum + x * b.data[k * b.columns + b.column], origin.bias ?? 0);
    case "madeRows": case "madeRowsUnscaled": return row(a, a.row).reduce((sum, x, k) => sum + x * b.data[b.row * b.columns + k], 0) * origin.scale;
    case "madeSum": return a.data[a.row * a.columns + a.column] + b.data[b.row * b.columns + b.column];
    case "madeCopy": return a.data[a.row * a.columns + a.column];
    case "madeNorm": {
      const {mean, deviation} = spread(row(a, a.row), at.changes.eps ?? at.config.eps);
      return (a.data[a.row * a.columns + j] - mean) / deviation * at.w[`${origin.name}.weight`].data[j] + at.w[`${origin.name}.bias`].data[j];
    }
    case "madeSoftmax": return softmax(array([a.columns], row(a, a.row))).data[a.picked];
    case "madeOne": return ACTIVATIONS[activationOf(at)](a.data[a.row * a.columns + a.column]);
    default: return 0;
  }
}
function spread(row, eps) {
  const mean = row.reduce((sum, x) => sum + x, 0) / row.length;
  return {mean, deviation: Math.sqrt(row.reduce((sum, x) => sum + (x - mean) ** 2, 0) / row.length + eps)};
}

// ------------------------------------------------------------------------------------------------ arrays as pictures

// Blue is below 0, red above, the stronger the further; weights of attention have the colours of the maps
function paintMatrix(canvas, {rows, columns, data, title}) {
  [canvas.width, canvas.height] = [columns, rows];
  const image = canvas.getContext("2d").createImageData(columns, rows), high = data.reduce((most, x) => Math.max(most, Math.abs(x)), 0) || 1;
  const dark = document.documentElement.dataset.look === "dark", middle = dark ? [32, 38, 48] : [247, 246, 242], ends = dark ? [[110, 160, 255], [255, 120, 100]] : [[30, 80, 190], [190, 40, 40]];
  for (let n = 0; n < data.length; n++) {
    const share = data[n] / high, end = ends[share < 0 ? 0 : 1], strength = Math.sqrt(Math.abs(share)); // small numbers are to be seen too
    const c = title.endsWith("probs") ? PALETTE[Math.round(1023 * share)] : middle.map((m, k) => Math.round(m + (end[k] - m) * strength));
    image.data.set([c[0], c[1], c[2], 255], 4 * n);
  }
  canvas.getContext("2d").putImageData(image, 0, 0);
}

const WIDE = 300, TALL = 190; // px of an array's picture at zoom 1, if it is not small
function matrixFigure(matrix, zoom) {
  const figure = make("figure", "matrix-figure"), scroll = figure.appendChild(make("div", "scroll")), sheet = scroll.appendChild(make("div", "sheet"));
  const canvas = sheet.appendChild(make("canvas")), size = (count, most) => clamp(count * 8, 14, most) * zoom;
  sheet.style.width = `${size(matrix.columns, WIDE)}px`;
  sheet.style.height = `${size(matrix.rows, TALL)}px`;
  canvas.setAttribute("aria-hidden", "true");
  paintMatrix(canvas, matrix);
  figure.append(make("figcaption", "", `${matrix.title}  ${matrix.rows} × ${matrix.columns}`));
  light(sheet, matrix);
  return figure;
}

// The row and the column lit up; where there is both, the one number
function light(sheet, {rows, columns, row = null, column = null, picked = null}) {
  sheet.querySelectorAll(".lit").forEach(old => old.remove());
  const add = (kind, style) => Object.assign(sheet.appendChild(make("div", `lit ${kind}`)).style, style);
  if (row !== null) add("row", {top: `${100 * row / rows}%`, height: `${100 / rows}%`});
  if (column !== null) add("column", {left: `${100 * column / columns}%`, width: `${100 / columns}%`});
  const across = column ?? picked;
  if (row !== null && across !== null) add("cell", {top: `${100 * row / rows}%`, height: `${100 / rows}%`, left: `${100 * across / columns}%`, width: `${100 / columns}%`});
}

// ------------------------------------------------------------------------------------------------ the card that is open

const bench = {name: null, place: null, i: 0, j: 0, head: 0, zoom: 1};

function openCard(step, place, focused = true) {
  const same = bench.name === step.name && bench.place === place;
  Object.assign(bench, {name: same ? null : step.name, place, i: 0, j: 0, zoom: 1});
  fillSteps();
  if (!same) document.querySelector(".step.open")?.scrollIntoView({block: "nearest"});
  if (focused) document.querySelector(`[data-step="${place}/${step.name}"]`).focus({preventScroll: true});
}

function cardButton(step, place) {
  const open = bench.name === step.name && bench.place === place, button = make("button", "inside", say(open ? "close" : "inside"));
  Object.assign(button, {type: "button", ariaLabel: say("lookInside", {name: step.name}), ariaExpanded: String(open)});
  button.dataset.step = `${place}/${step.name}`;
  button.addEventListener("click", () => openCard(step, place));
  return button;
}

// What a card shows when it is open: the lines that ran, and on a page that computes the arrays
function cardInside(step, place) {
  const inside = make("div", "bench");
  if (FACTS.code[step.name]) inside.append(codeOf(FACTS.code[step.name]));
  if (!shown) inside.append(make("p", "small soft", say("noArrays")));
  else if (stepIn(shown, step, place, Number($("block").value))) inside.append(arraysOf(step, place));
  return inside;
}

// A step's equation and what it says; of a step that the paper does not have, its formula in words
function equationOf(step) {
  const template = $(`math-${step.name}`), figure = make("figure", "equation");
  if (!template) return make("p", "formula", step.formula);
  figure.append(template.content.cloneNode(true), make("figcaption", "", said(FACTS.captions[step.name])));
  return figure;
}

function codeOf(parts) {
  const code = make("div", "code");
  for (const {file, first, code: lines} of parts) code.append(make("div", "file", `${file}:${first}`), make("pre", "", lines));
  Object.assign(code, {tabIndex: 0, role: "group", ariaLabel: "Python"}); // it may scroll
  return code;
}

const benchContext = block => ({steps: shown.steps, w: live.w, config: LIVE.config, changes: live.after === live.before ? NO_CHANGES : live.changes, block, head: bench.head});

function arraysOf(step, place) {
  const block = place === "block" ? Number($("block").value) : null, at = benchContext(block);
  const box = make("div", "arrays"), full = block === null ? step.name : `blocks.${block}.${step.name}`;
  const controls = box.appendChild(make("div", "controls"));
  controls.append(zoomButton("−", "zoomOut", .5), zoomButton("+", "zoomIn", 2));
  if (shown.steps[full].shape.length === 4) controls.append(headChoice());
  controls.append(make("span", "small soft", say("cellHint")));
  const row = box.appendChild(make("div", "matrices")), readout = box.appendChild(make("p", "readout small"));
  readout.setAttribute("aria-live", "polite");
  const result = stepMatrix(shown.steps, full, bench.head), own = row.appendChild(resultFigure(result, step, () => lightUp()));
  let sources = [];
  Object.assign(bench, {i: clamp(bench.i, 0, result.rows - 1), j: clamp(bench.j, 0, result.columns - 1)});
  function lightUp() { // as the pointer moves the lights do; the arrays are drawn anew only where others are needed
    const origin = originOf(step.name, bench.i, bench.j, at);
    if (sources.map(figure => figure.dataset.title).join() !== origin.of.map(matrix => matrix.title).join()) {
      sources.forEach(figure => figure.remove());
      row.prepend(...sources = origin.of.map(titledFigure));
    }
    origin.of.forEach((matrix, n) => light(sources[n].querySelector(".sheet"), matrix));
    light(own.querySelector(".sheet"), {...result, row: bench.i, column: bench.j});
    readout.replaceChildren(...readoutOf(step.name, origin, at, result));
  }
  lightUp();
  return box;
}
function titledFigure(matrix) {
  const figure = matrixFigure(matrix, bench.zoom);
  figure.dataset.title = matrix.title;
  return figure;
}

function zoomButton(sign, label, factor) {
  const button = make("button", "", sign);
  Object.assign(button, {type: "button", ariaLabel: say(label), className: label});
  button.addEventListener("click", () => { bench.zoom = clamp(bench.zoom * factor, 1, 16); fillSteps(); document.querySelector(`.bench .${label}`).focus({preventScroll: true}); });
  return button;
}

function headChoice() {
  const label = make("label", "small soft", `${say("chooseHead")} `), select = label.appendChild(make("select", "bench-head"));
  for (let h = 0; h < LIVE.config.heads; h++) select.append(new Option(h, h));
  select.value = bench.head;
  select.addEventListener("change", () => { bench.head = Number(select.value); fillSteps(); document.querySelector(".bench-head").focus({preventScroll: true}); });
  return label;
}

// The step's own array: pointer and arrow keys choose a number
function resultFigure(result, step, moved) {
  const figure = matrixFigure(result, bench.zoom), scroll = figure.querySelector(".scroll"), sheet = figure.querySelector(".sheet");
  figure.classList.add("result");
  scroll.tabIndex = 0;
  scroll.setAttribute("role", "application");
  scroll.setAttribute("aria-label", say("resultPanel", {name: step.name}));
  sheet.addEventListener("pointermove", event => {
    const box = sheet.getBoundingClientRect();
    bench.i = clamp(Math.floor((event.clientY - box.top) / box.height * result.rows), 0, result.rows - 1);
    bench.j = clamp(Math.floor((event.clientX - box.left) / box.width * result.columns), 0, result.columns - 1);
    moved();
  });
  sheet.addEventListener("pointerdown", () => moved());
  scroll.addEventListener("keydown", event => {
    const move = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]}[event.key];
    if (!move) return;
    event.preventDefault();
    bench.i = clamp(bench.i + move[0], 0, result.rows - 1);
    bench.j = clamp(bench.j + move[1], 0, result.columns - 1);
    moved();
  });
  return figure;
}

function readoutOf(name, origin, at, result) {
  const {i, j} = bench, value = result.data[i * result.columns + j], again = computedAgain(origin, at, j), x = signed(short(again));
  const names = {x, n: origin.of[0]?.columns, K: at.config.width / at.config.heads, bias: origin.bias ? say("plusBias") : ""};
  if (origin.how === "madeNorm") {
    const {mean, deviation} = spread(origin.of[0].data.subarray(i * origin.of[0].columns, (i + 1) * origin.of[0].columns), at.changes.eps ?? at.config.eps);
    Object.assign(names, {mean: signed(short(mean)), deviation: short(deviation)});
  }
  return [`${name}[${i}, ${j}] = `, make("b", "", signed(short(value))), ` · ${say(origin.how, names)}`];
}
