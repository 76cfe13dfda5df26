// What can be tried on a page that computes: a picture drawn, chosen or dropped, and a model with something changed in it. Every
// change runs vit.js again, as it is and as it is changed, and shows both side by side. FACTS.live is there where a page can.
"use strict";
const live = {
  w: null,            // the weights
  rgba: null,         // the picture as the model sees it, {width, height, data}
  changes: {...NO_CHANGES},
  before: null,       // the run of the model as it is: {steps, lens, probabilities}
  after: null,        // and as it is changed; the same where it is not
  shuffle: 0,         // how often patches were shuffled: the seed
};
const EPSILONS = [1e-12, 1e-6, 1e-5, 1e-3, .1, 1], SHOWN_CLASSES = 10;
const SETTLED = 150; // ms without a new picture until the sections below are drawn again

Object.assign(WORDS, {
  tryPad: ["Drawing pad: draw with pointer or finger; or move with the arrow keys and press Space to put the pen down and lift it", "画板：用指针或手指画；也可以用方向键移动，按空格键落笔、抬笔"],
  penDown: ["Pen down.", "落笔。"], penUp: ["Pen up.", "抬笔。"],
  sample: ["sample {name}", "样本 {name}"], given: ["the picture given", "给出的图片"],
  drawn: ["a drawing", "手绘图片"],
  inkLight: ["ink: light", "墨色：浅"], inkDark: ["ink: dark", "墨色：深"],
  modelAsItIs: ["as it is", "原样"], changedModel: ["changed", "改动后"],
  lensStart: ["tokens", "词元"], lensRow: ["block {n}", "编码器块 {n}"],
  answerIs: ["The answer: {label}, {share}.", "答案：{label}，{share}。"],
  answerWas: ["The answer: {label}, {share}; as it is: {label0}, {share0}.", "答案：{label}，{share}；原样：{label0}，{share0}。"],
  boardHead: ["head {h} of block {n}", "编码器块 {n} 的头 {h}"], boardBlock: ["block {n}", "编码器块 {n}"], boardResidual: ["residual of block {n}", "编码器块 {n} 的残差"],
  columnBlock: ["all", "整体"], columnResidual: ["+ x", "+ x"],
  trained: ["{value} (trained)", "{value}（训练时）"],
  undoAll: ["undo changes ({n})", "撤销改动（{n}）"],
  maskPanel: ["What the model gets: choose a patch with the arrow keys, mask it with Enter or by a click", "模型得到的图片：用方向键选图块，按回车或点击遮住"],
  shuffled: ["shuffle again", "再次打乱"], shuffle: ["shuffle patches", "打乱图块"],
  notAPicture: ["{name} is no picture that this browser can read.", "{name} 不是浏览器能读取的图片。"],
  prepDrawn: ["Drawn on the pad, {pad} × {pad} pixels.", "在画板上画成，{pad} × {pad} 像素。"],
  prepOpened: ["Read by the browser, turned upright, put on white where it is transparent.", "由浏览器读入，转正，透明处垫白色。"],
  prepHere: ["Resized to {Y} × {X} ({way}) by this page, as Pillow does.", "由本页缩放到 {Y} × {X}（{way}），与 Pillow 的做法相同。"],
  prepNumbers: ["The same scale, mean and standard deviation as for every picture.", "与其他图片相同的缩放、均值和标准差。"],
  prepApproximate: ["Approximate: browsers smooth strokes and decode JPEG each in their own way, so single values may differ by a level or two of 255.", "近似：各浏览器对笔画的平滑和对 JPEG 的解码不尽相同，个别数值可能相差 255 级中的一两级。"],
  agreement: ["This page's JavaScript ran the model again. Over all steps, min, mean and max are NumPy's to within {n} of the step's largest number.", "本页的 JavaScript 重新运行了模型。所有步骤的最小、平均和最大值与 NumPy 的相差不超过该步骤最大数的 {n}。"],
});

// A run, with what is shown of it
function runOf(changes) {
  const steps = forward(normalized(live.rgba, LIVE.preprocess), live.w, LIVE.config, changes);
  const config = {...LIVE.config, eps: changes.eps ?? LIVE.config.eps};
  return {steps, lens: logitLens(steps, live.w, config).map(shares), probabilities: shares(steps.logits.data), rollout: null};
}
const shares = logits => softmax(array([logits.length], logits)).data;

const changed = () => Object.keys(NO_CHANGES).filter(key => Array.isArray(live.changes[key]) && key !== "order" ? live.changes[key].length : live.changes[key] !== NO_CHANGES[key]);
const countChanges = () => changed().reduce((sum, key) => sum + (key !== "order" && Array.isArray(live.changes[key]) ? live.changes[key].length : 1), 0);

let settling = 0, computing = false;
const tell = what => { document.documentElement.dataset.run = what; }; // "computing", or "live" once all of the page shows the run
function recompute() { // once a frame, however fast the pen
  tell("computing");
  if (computing) return;
  computing = true;
  requestAnimationFrame(() => {
    computing = false;
    live.before = runOf(NO_CHANGES);
    live.after = changed().length ? runOf(live.changes) : live.before;
    showTry();
    clearTimeout(settling);
    settling = setTimeout(settle, SETTLED);
  });
}

// The sections below show the run of the changed model, once the pen rests
function settle() {
  shown = live.after;
  const order = [...shown.probabilities.keys()].sort((a, b) => shown.probabilities[b] - shown.probabilities[a]);
  FACTS.best = order.slice(0, FACTS.best.length).map(n => ({label: LIVE.labels[n], probability: shown.probabilities[n], logit: shown.steps.logits.data[n]}));
  document.querySelectorAll(".panel img").forEach(image => { image.src = FACTS.picture.seen; });
  document.documentElement.style.setProperty("--seen", `url(${FACTS.picture.seen})`);
  fillPicture();
  showCloseup();
  fillSteps();
  painted = -1;
  showAttention();
  fillAnswer();
  announce();
  tell("live");
}

function announce() {
  const [now, then] = [live.after, live.before].map(run => ({n: run.probabilities.indexOf(Math.max(...run.probabilities)), run}));
  const share = ({n, run}) => percent(run.probabilities[n]);
  $("try-said").textContent = say(live.after === live.before ? "answerIs" : "answerWas", {label: LIVE.labels[now.n], share: share(now), label0: LIVE.labels[then.n], share0: share(then)});
}

// ------------------------------------------------------------------------------------------------ a run in place of the record

// As attentionRow, of a run that this page made: the numbers are float32's, good to five places
function liveRow({steps}, layer, head, query) {
  const scale = 9e-6;
  if (head === "rollout") return {weights: rolloutOf(shown).slice(query * TOKENS, (query + 1) * TOKENS), scale};
  const {data, shape: [, H]} = steps[`blocks.${layer}.attention.probs`], weights = new Float64Array(TOKENS);
  for (const h of head === "mean" ? Array(H).keys() : [head])
    for (let n = 0; n < TOKENS; n++) weights[n] += data[(h * TOKENS + query) * TOKENS + n] / (head === "mean" ? H : 1);
  return {weights, scale};
}

// Half of a token stays, half is the heads' mean; block after block (numpy_vit.pictures.draw.rollout). (N, N)
function rolloutOf(run) {
  if (run.rollout) return run.rollout;
  let flow = null;
  for (let layer = 0; layer < BLOCKS; layer++) {
    const mixed = new Float64Array(TOKENS * TOKENS);
    for (let query = 0; query < TOKENS; query++) {
      mixed.set(liveRow(run, layer, "mean", query).weights.map(weight => weight / 2), query * TOKENS);
      mixed[query * TOKENS + query] += .5;
    }
    const next = new Float64Array(TOKENS * TOKENS);
    if (flow) product(mixed, flow, next, TOKENS, TOKENS);
    flow = flow ? next : mixed;
  }
  return run.rollout = flow;
}

// min, mean, max of a step of the run, as the record has them
function statisticsOf(data) {
  let least = Infinity, most = -Infinity, sum = 0;
  for (let n = 0; n < data.length; n++) { least = Math.min(least, data[n]); most = Math.max(most, data[n]); sum += data[n]; }
  return [least, sum / data.length, most];
}
const stepIn = (run, step, place, block) => run.steps[place === "block" ? `blocks.${block}.${step.name}` : step.name];

// How far this page's numbers are from the recorded ones, in shares of each step's largest number
function disagreement(run) {
  let worst = 0;
  for (const place of ["before", "block", "after"])
    for (const step of FACTS.steps[place])
      step.values.forEach((values, block) => {
        const found = statisticsOf(stepIn(run, step, place, block).data), high = Math.max(...values.map(Math.abs));
        values.forEach((value, n) => { worst = Math.max(worst, Math.abs(found[n] - value) / (high || 1)); });
      });
  return worst;
}

// ------------------------------------------------------------------------------------------------ before and after

function showTry() {
  const two = live.after !== live.before;
  $("try").classList.toggle("two", two);
  $("undo").hidden = !two;
  $("undo").textContent = say("undoAll", {n: countChanges()});
  showTryAnswer(two);
  const layer = Number($("try-layer").value), head = $("try-head").value === "mean" ? "mean" : Number($("try-head").value);
  for (const [which, run] of [["before", live.before], ["after", live.after]]) {
    paintOver($(`try-map-${which}`), liveRow(run, layer, head, 0).weights);
    fillLens($(`lens-${which}`), run);
    for (const id of [`try-map-${which}-said`, `lens-${which}-said`]) $(id).textContent = say(which === "before" ? "modelAsItIs" : "changedModel");
  }
  showWhatItGets();
}

function showTryAnswer(two) {
  const order = [...live.after.probabilities.keys()].sort((a, b) => live.after.probabilities[b] - live.after.probabilities[a]).slice(0, 5);
  $("try-bars").replaceChildren(...order.map(n => {
    const item = make("li"), text = item.appendChild(make("div", "label"));
    const [now, then] = [live.after, live.before].map(run => run.probabilities[n]);
    text.append(make("span", "", LIVE.labels[n]), make("span", "", two ? `${percent(then)} → ${percent(now)}` : percent(now)));
    if (two) item.append(bar(then, "before"));
    item.append(bar(now, ""));
    return item;
  }));
}

function bar(share, kind) {
  const track = make("div", `track ${kind}`);
  track.appendChild(make("div", "fill")).style.width = `${100 * share}%`;
  return track;
}

// The picture in grey, the weights over it
function paintOver(canvas, weights) {
  const small = paintOver.small ??= make("canvas"), context = canvas.getContext("2d");
  [small.width, small.height] = [COLUMNS, ROWS];
  paint(small, weights, 190);
  context.imageSmoothingEnabled = false;
  context.filter = "grayscale(1)";
  context.drawImage(pictureCanvas(), 0, 0, canvas.width, canvas.height);
  context.filter = "none";
  context.drawImage(small, 0, 0, canvas.width, canvas.height);
}

// The picture at the model's size, as a canvas (one, drawn again for every picture)
function pictureCanvas() {
  const canvas = pictureCanvas.canvas ??= make("canvas");
  if (pictureCanvas.of === live.rgba) return canvas;
  [canvas.width, canvas.height] = [live.rgba.width, live.rgba.height];
  canvas.getContext("2d", {willReadFrequently: true}).putImageData(new ImageData(live.rgba.data, live.rgba.width, live.rgba.height), 0, 0);
  pictureCanvas.of = live.rgba;
  return canvas;
}

// The classes in the table of the logit lens: all, or those that any row of it or the answer finds likeliest
function lensClasses() {
  if (LIVE.labels.length <= SHOWN_CLASSES) return [...LIVE.labels.keys()];
  const rows = [...live.before.lens, ...live.after.lens].reverse(), found = new Set();
  for (const row of rows) if (found.size < SHOWN_CLASSES) found.add(row.indexOf(Math.max(...row)));
  return [...found].sort((a, b) => a - b);
}

function fillLens(table, run) {
  const classes = lensClasses(), head = make("tr");
  head.append(make("th"), ...classes.map(n => Object.assign(make("th", "", LIVE.labels[n]), {scope: "col"})));
  const rows = run.lens.map((row, n) => {
    const line = make("tr"), best = row.indexOf(Math.max(...row));
    line.append(Object.assign(make("th", "", n ? say("lensRow", {n: n - 1}) : say("lensStart")), {scope: "row"}));
    for (const c of classes) {
      const cell = line.appendChild(make("td", c === best ? "best" : "", row[c] >= .005 ? String(Math.round(100 * row[c])) : ""));
      const [r, g, b] = PALETTE[Math.round(1023 * row[c])];
      cell.style.background = `rgb(${r} ${g} ${b})`;
      cell.style.color = .2126 * r + .7152 * g + .0722 * b > 110 ? "#000" : "#fff";
    }
    return line;
  });
  table.replaceChildren(head, ...rows);
}

// ------------------------------------------------------------------------------------------------ the switches

function toggled(key, value) {
  const list = live.changes[key];
  live.changes[key] = list.includes(value) ? list.filter(other => other !== value) : [...list, value];
  showSwitches();
  recompute();
}
function change(key, value) {
  live.changes[key] = value;
  showSwitches();
  recompute();
}

function fillBoard() {
  const heads = [...Array(LIVE.config.heads).keys()], board = $("board");
  const header = make("tr");
  header.append(make("th"), ...heads.map(h => make("th", "", h)), make("th", "", say("columnBlock")), make("th", "", say("columnResidual")));
  const lines = Array.from({length: BLOCKS}, (_, n) => {
    const line = make("tr");
    line.append(make("th", "", n));
    for (const h of heads) line.append(boardCell("headsOff", `${n}.${h}`, say("boardHead", {h, n})));
    line.append(boardCell("blocksOff", n, say("boardBlock", {n})), boardCell("residualsOff", n, say("boardResidual", {n})));
    return line;
  });
  board.replaceChildren(header, ...lines);
}
function boardCell(key, value, label) {
  const cell = make("td"), button = cell.appendChild(make("button", key));
  Object.assign(button, {type: "button", title: label, ariaLabel: label});
  Object.assign(button.dataset, {key, value});
  button.addEventListener("click", () => toggled(key, value));
  return cell;
}

function fillSwitchChoices() {
  const {eps, activation} = LIVE.config, own = (value, trained) => value === trained ? say("trained", {value}) : String(value);
  $("eps").replaceChildren(...[...new Set([eps, ...EPSILONS])].sort((a, b) => a - b).map(value => new Option(own(value, eps), value)));
  $("activation").replaceChildren(...Object.keys(ACTIVATIONS).map(name => new Option(own(name, activation), name)));
  $("try-layer").replaceChildren(...Array.from({length: BLOCKS}, (_, n) => new Option(say("blockN", {n}), n)));
  $("try-head").replaceChildren(new Option(say("headsMean"), "mean"), ...Array.from({length: LIVE.config.heads}, (_, n) => new Option(say("headN", {n}), n)));
}

function showSwitches() {
  const {changes} = live;
  for (const button of $("board").querySelectorAll("button")) {
    const {key, value} = button.dataset, off = changes[key].map(String).includes(value);
    button.setAttribute("aria-pressed", String(!off));
  }
  for (const [id, key] of [["switch-positions", "positionsOff"], ["switch-scaled", "unscaled"]]) $(id).checked = !changes[key];
  $("switch-after").checked = changes.normAfter;
  $("eps").value = changes.eps ?? LIVE.config.eps;
  $("activation").value = changes.activation ?? LIVE.config.activation;
  $("shuffle").textContent = say(changes.order ? "shuffled" : "shuffle");
}

// The patches as they come to the model: shuffled, masked
const maskPanel = {cursor: 0};
function showWhatItGets() {
  const canvas = $("gets"), context = canvas.getContext("2d"), {order, masked: off} = live.changes, P = SIZES.P;
  [canvas.width, canvas.height] = [COLUMNS * P, ROWS * P];
  for (let n = 0; n < PATCHES; n++) {
    const from = order ? order[n] : n, x = n % COLUMNS * P, y = Math.floor(n / COLUMNS) * P;
    if (off.includes(n)) { context.fillStyle = "#808080"; context.fillRect(x, y, P, P); }
    else context.drawImage(pictureCanvas(), from % COLUMNS * P, Math.floor(from / COLUMNS) * P, P, P, x, y, P, P);
  }
  const {cursor} = maskPanel;
  Object.assign($("gets-frame").style, {left: `${100 * (cursor % COLUMNS) / COLUMNS}%`, top: `${100 * Math.floor(cursor / COLUMNS) / ROWS}%`, width: `${100 / COLUMNS}%`, height: `${100 / ROWS}%`});
}

// The patches in an order of chance, the same for the same seed (Fisher and Yates; mulberry32)
function shuffledOrder(seed) {
  const random = () => {
    seed = seed + 0x6D2B79F5 | 0;
    let t = Math.imul(seed ^ seed >>> 15, 1 | seed);
    t = t + Math.imul(t ^ t >>> 7, 61 | t) ^ t;
    return ((t ^ t >>> 14) >>> 0) / 2 ** 32;
  };
  const order = [...Array(PATCHES).keys()];
  for (let n = PATCHES - 1; n > 0; n--) {
    const other = Math.floor(random() * (n + 1));
    [order[n], order[other]] = [order[other], order[n]];
  }
  return order;
}

function startSwitches() {
  $("switch-positions").addEventListener("change", event => change("positionsOff", !event.target.checked));
  $("switch-scaled").addEventListener("change", event => change("unscaled", !event.target.checked));
  $("switch-after").addEventListener("change", event => change("normAfter", event.target.checked));
  $("eps").addEventListener("change", event => change("eps", Number(event.target.value) === LIVE.config.eps ? null : Number(event.target.value)));
  $("activation").addEventListener("change", event => change("activation", event.target.value === LIVE.config.activation ? null : event.target.value));
  $("shuffle").addEventListener("click", () => change("order", shuffledOrder(++live.shuffle)));
  for (const id of ["undo", "undo-here"]) $(id).addEventListener("click", () => {
    live.changes = {...NO_CHANGES};
    showSwitches();
    recompute();
  });
  for (const id of ["try-layer", "try-head"]) $(id).addEventListener("change", showTry);
  const gets = $("gets-panel");
  gets.addEventListener("click", event => {
    const box = gets.getBoundingClientRect();
    const column = clamp(Math.floor((event.clientX - box.left) / box.width * COLUMNS), 0, COLUMNS - 1);
    maskPanel.cursor = clamp(Math.floor((event.clientY - box.top) / box.height * ROWS), 0, ROWS - 1) * COLUMNS + column;
    toggled("masked", maskPanel.cursor);
  });
  gets.addEventListener("keydown", event => {
    const step = {ArrowLeft: -1, ArrowRight: 1, ArrowUp: -COLUMNS, ArrowDown: COLUMNS}[event.key];
    if (step) { maskPanel.cursor = clamp(maskPanel.cursor + step, 0, PATCHES - 1); showWhatItGets(); }
    else if (event.key === "Enter" || event.key === " ") toggled("masked", maskPanel.cursor);
    else return;
    event.preventDefault();
  });
}

// ------------------------------------------------------------------------------------------------ pictures: chosen, drawn, opened

const PAD = 4; // pad pixels for each of the model's
const pad = {pen: null, down: false, own: false, dark: false, waiting: false}; // own: what is on it was drawn here

// A picture as the model sees it, and how it came: the whole page follows
function show(rgba, {name, original, size, preparation}) {
  live.rgba = rgba;
  const seen = pictureCanvas().toDataURL();
  Object.assign(FACTS.picture, {name: name ?? say("drawn"), seen, original: original ?? seen, size, frame: [0, 0, 1, 1], preparation: preparation ?? FACTS.picture.preparation});
  recompute();
}

function rgbaOf(source, width, height) {
  const canvas = make("canvas"), context = (Object.assign(canvas, {width, height}), canvas.getContext("2d", {willReadFrequently: true}));
  context.fillStyle = "#fff";
  context.fillRect(0, 0, width, height);
  context.drawImage(source, 0, 0, width, height);
  return context.getImageData(0, 0, width, height);
}

const inBothLanguages = keys => keys.map(([key, names = {}]) => WORDS[key].map(text => fill(text, {...SIZES, way: LIVE.preprocess.resample, ...names})));

function fillSamples() {
  const pictures = LIVE.samples.length ? LIVE.samples : [];
  $("samples").replaceChildren(...[{...given, name: null}, ...pictures].map(sample => {
    const button = make("button"), image = button.appendChild(make("img"));
    Object.assign(image, {src: sample.seen, alt: sample.name === null ? say("given") : say("sample", sample)});
    button.type = "button";
    button.addEventListener("click", () => choosePicture(sample.seen, sample.name === null ? given.name : `${say("sample", sample)}`));
    return button;
  }));
}
const given = {seen: FACTS.picture.seen, name: FACTS.picture.name, original: FACTS.picture.original, size: FACTS.picture.size, frame: FACTS.picture.frame, preparation: FACTS.picture.preparation};

async function choosePicture(url, name) {
  tell("computing");
  const image = make("img");
  image.src = url;
  await image.decode();
  const rgba = rgbaOf(image, image.naturalWidth, image.naturalHeight), own = url === given.seen;
  onPad(image);
  pad.own = false;
  show(rgba, {name, size: own ? given.size : [rgba.height, rgba.width], original: own ? given.original : null, preparation: given.preparation});
  if (own) FACTS.picture.frame = given.frame;
}

async function openFile(file) {
  tell("computing");
  let image;
  try { image = await createImageBitmap(file); }
  catch {
    $("try-said").textContent = say("notAPicture", {name: file.name});
    return tell("live");
  }
  const scale = Math.min(1, 1600 / Math.max(image.width, image.height)); // larger ones are first made smaller by the browser
  const rgba = prepared(rgbaOf(image, Math.round(image.width * scale), Math.round(image.height * scale)), LIVE.preprocess);
  live.rgba = rgba;
  onPad(pictureCanvas());
  pad.own = false;
  show(rgba, {name: file.name, size: [image.height, image.width], preparation: inBothLanguages([["prepOpened"], ["prepHere"], ["prepNumbers"], ["prepApproximate"]])});
}

function onPad(image) {
  const context = $("pad").getContext("2d", {willReadFrequently: true});
  context.imageSmoothingEnabled = false;
  context.drawImage(image, 0, 0, $("pad").width, $("pad").height);
}

function clearPad() {
  const context = $("pad").getContext("2d", {willReadFrequently: true});
  context.fillStyle = pad.dark ? "#c9d3c2" : "#3d5a6c";
  context.fillRect(0, 0, $("pad").width, $("pad").height);
  pad.own = true;
  fromPad();
}

function fromPad() { // once a frame
  if (pad.waiting) return;
  tell("computing");
  pad.waiting = true;
  requestAnimationFrame(readPad);
}
function readPad() {
  pad.waiting = false;
  const {width, height} = $("pad");
  const image = $("pad").getContext("2d", {willReadFrequently: true}).getImageData(0, 0, width, height);
  show(prepared(image, LIVE.preprocess), {size: [height, width], preparation: inBothLanguages([["prepDrawn", {pad: width}], ["prepHere"], ["prepNumbers"], ["prepApproximate"]])});
}

// From where the pen was to (x, y), in pixels of the pad; the first stroke over a picture begins a drawing of its own
function stroke(x, y) {
  if (!pad.own) clearPad();
  const context = $("pad").getContext("2d", {willReadFrequently: true}), from = pad.pen ?? [x, y];
  Object.assign(context, {lineWidth: $("pad").height / 9, lineCap: "round", lineJoin: "round", strokeStyle: pad.dark ? "#4a1d1d" : "#f4e7c3"});
  context.beginPath();
  context.moveTo(...from);
  context.lineTo(x + .01, y); // a point is drawn too
  context.stroke();
  pad.pen = [x, y];
  fromPad();
}

function startPad() {
  const canvas = $("pad");
  [canvas.width, canvas.height] = [PAD * SIZES.X, PAD * SIZES.Y];
  const at = event => {
    const box = canvas.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width * canvas.width, (event.clientY - box.top) / box.height * canvas.height];
  };
  canvas.addEventListener("pointerdown", event => { canvas.setPointerCapture(event.pointerId); pad.pen = null; pad.down = true; stroke(...at(event)); });
  canvas.addEventListener("pointermove", event => { if (pad.down) for (const each of [...event.getCoalescedEvents?.() ?? [], event]) stroke(...at(each)); });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => { pad.down = false; pad.pen = null; });
  canvas.addEventListener("keydown", drawByKey);
  $("pad-clear").addEventListener("click", () => { clearPad(); });
  $("pad-ink").addEventListener("click", () => { pad.dark = !pad.dark; $("pad-ink").textContent = say(pad.dark ? "inkDark" : "inkLight"); clearPad(); });
  $("pad-file").addEventListener("change", event => { if (event.target.files[0]) openFile(event.target.files[0]); });
  const section = $("try");
  section.addEventListener("dragover", event => { event.preventDefault(); section.classList.add("dropping"); });
  section.addEventListener("dragleave", () => section.classList.remove("dropping"));
  section.addEventListener("drop", event => {
    event.preventDefault();
    section.classList.remove("dropping");
    if (event.dataTransfer.files[0]) openFile(event.dataTransfer.files[0]);
  });
}

// Arrow keys move the pen, Space puts it down and lifts it
const keyPen = {x: .5, y: .2, down: false};
function drawByKey(event) {
  const canvas = $("pad"), step = {ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1]}[event.key];
  if (!step && event.key !== " ") return;
  event.preventDefault();
  if (!step) { keyPen.down = !keyPen.down; $("pen-said").textContent = say(keyPen.down ? "penDown" : "penUp"); }
  else { keyPen.x = clamp(keyPen.x + step[0] / 24, 0, 1); keyPen.y = clamp(keyPen.y + step[1] / 24, 0, 1); }
  const [x, y] = [keyPen.x * canvas.width, keyPen.y * canvas.height];
  if (keyPen.down) { if (!step) pad.pen = null; stroke(x, y); }
  Object.assign($("pad-pen").style, {left: `${100 * keyPen.x}%`, top: `${100 * keyPen.y}%`});
}

// ------------------------------------------------------------------------------------------------ the whole of it

// Every step of the run shown, as a file for `numpy-vit golden check`
function saveSteps() {
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([safetensors(shown.steps)]));
  link.download = "steps.safetensors";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function fillTry() { // in a language
  if (!LIVE) return;
  for (const [id, key] of [["pad", "tryPad"], ["gets-panel", "maskPanel"]]) $(id).setAttribute("aria-label", say(key));
  const chosen = ["try-layer", "try-head"].map(id => $(id).value);
  fillSwitchChoices();
  ["try-layer", "try-head"].forEach((id, n) => { if (chosen[n]) $(id).value = chosen[n]; });
  fillBoard();
  fillSamples();
  $("pad-ink").textContent = say(pad.dark ? "inkDark" : "inkLight");
  showSwitches();
  if (live.before) { showTry(); announce(); showAgreement(); }
}
function showAgreement() { $("agreement").textContent = live.agreement === undefined ? "" : say("agreement", {n: live.agreement.toExponential(0)}); }

async function startLive() {
  for (const element of document.querySelectorAll("[data-live]")) element.hidden = !LIVE;
  document.documentElement.classList.toggle("computes", LIVE !== null);
  if (!LIVE) return;
  live.w = unpacked($("weights").textContent, LIVE.shapes);
  $("weights").textContent = "";
  startPad();
  startSwitches();
  $("save-steps").addEventListener("click", saveSteps);
  fillTry();
  $("try-layer").value = FACTS.telling;
  await choosePicture(given.seen, given.name);
  const first = runOf(NO_CHANGES);
  live.agreement = disagreement(first);
  showAgreement();
}
