// A tour of about two minutes. It goes on by itself, but not where motion is unwanted; arrow keys and buttons go on and back.
"use strict";

Object.assign(WORDS, {
  tour: ["Tour, 2 min", "导览，2 分钟"], tourName: ["Guided tour", "导览"],
  tourNext: ["Next", "下一步"], tourBack: ["Back", "上一步"], tourEnd: ["End the tour", "结束导览"], tourPause: ["Pause", "暂停"], tourGo: ["Go on", "继续"],
  tourCount: ["{n} of {all}", "{n} / {all}"],
  tourTry: ["Draw a digit here, or choose a picture. With every stroke the whole model runs again, in this page.", "在这里画一个数字，或选一张图片。每画一笔，整个模型都在本页重新运行一次。"],
  tourPicture: ["The picture is brought to the model's size, and its values to the range the model was trained on.", "图片先缩放到模型的尺寸，数值变到训练时的范围。"],
  tourPatches: ["It is cut into patches. Each will be one word of a sentence.", "图片切成图块。每个图块将是一句话里的一个词。"],
  tourTokens: ["One matrix makes a token of every patch. A class token is put first: it will collect what the picture shows.", "一个矩阵把每个图块变成词元。最前面放类别词元：它将收集图片的内容。"],
  tourTokensAlone: ["One matrix makes a token of every patch, and each token learns its position.", "一个矩阵把每个图块变成词元，每个词元得知自己的位置。"],
  tourSteps: ["Every step has a card: shape in, shape out, why. Look inside one: its equation, the lines that ran, its numbers, and the row and column that made each.", "每个步骤有一张卡片：输入形状、输出形状、原因。点开一张：公式、运行的代码行、数值，以及得到每个数的行和列。"],
  tourScores: ["Attention begins with scores: every query times every key. Where they point the same way, the score is large.", "注意力从分数开始：每个查询乘以每个键。方向相同，分数就大。"],
  tourAttention: ["Softmax makes weights of the scores. Point at a patch: the map shows from where it takes.", "softmax 把分数变成注意力权重。指向一个图块：图上显示它从哪里取。"],
  tourOverview: ["Every head of every block looks elsewhere. Early blocks often look nearby, later ones at what matters.", "每个编码器块的每个头看的地方都不同。前面的常看近处，后面的看要紧的地方。"],
  tourLens: ["The logit lens: what the model would answer if it ended after each block. See where it makes up its mind.", "logit lens：如果模型在每个编码器块之后就结束，会给出什么答案。看它在哪里拿定主意。"],
  tourSwitches: ["Now break it: switch off a head, a block, a residual, the positions. Before and after stand side by side.", "现在动手破坏它：关闭一个头、一个编码器块、一处残差，或位置。改动前后并排显示。"],
  tourAnswer: ["At the end the head gives every class a score, and softmax makes them probabilities. That is all there is.", "最后，分类头给每个类别一个分数，softmax 把它们变成概率。全部就是这些。"],
});

const STOP_MS = 11_000;
const tour = {at: -1, timer: 0, paused: false};
const STILL = matchMedia("(prefers-reduced-motion: reduce)");

// Where it stops: an element, what is said, and what is done there
function tourStops() {
  const first = step => FACTS.steps.block.some(({name}) => name === step);
  return [
    LIVE && ["try-picture", "tourTry"],
    ["picture", "tourPicture"], ["cut", "tourPatches"], ["tokens", FIRST ? "tourTokens" : "tourTokensAlone"],
    ["steps-before", "tourSteps"],
    first("attention.scores") && ["steps-block", "tourScores", () => { if (bench.name !== "attention.scores") openCard(FACTS.steps.block.find(({name}) => name === "attention.scores"), "block", false); }, ".step.open"],
    ["explorer", "tourAttention"], ["overview", "tourOverview"],
    LIVE && ["try-lens", "tourLens"], LIVE && ["try-switches", "tourSwitches"],
    ["answer", "tourAnswer"],
  ].filter(Boolean);
}

function goTo(n) {
  const stops = tourStops();
  document.querySelectorAll(".toured").forEach(element => element.classList.remove("toured"));
  clearTimeout(tour.timer);
  tour.at = n;
  if (n < 0 || n >= stops.length) return endTour();
  const [id, key, act, inside] = stops[n];
  act?.();
  const element = (inside && document.querySelector(inside)) || $(id);
  element.classList.add("toured");
  element.scrollIntoView({block: element.offsetHeight < innerHeight * .7 ? "center" : "start"});
  showTour();
  if (!STILL.matches && !tour.paused) tour.timer = setTimeout(() => goTo(tour.at + 1), STOP_MS);
}

function showTour() {
  const stops = tourStops();
  $("tour").setAttribute("aria-label", say("tourName"));
  $("tour-start").textContent = say("tour");
  $("tour").hidden = tour.at < 0;
  for (const [id, key] of [["tour-back", "tourBack"], ["tour-next", "tourNext"], ["tour-end", "tourEnd"], ["tour-pause", tour.paused ? "tourGo" : "tourPause"]]) $(id).textContent = say(key);
  $("tour-pause").hidden = STILL.matches;
  if (tour.at < 0) return;
  $("tour-back").disabled = tour.at === 0;
  $("tour-said").textContent = say(stops[tour.at][1]);
  $("tour-count").textContent = say("tourCount", {n: tour.at + 1, all: stops.length});
}

function startTour() {
  tour.paused = false;
  goTo(0);
  $("tour-next").focus({preventScroll: true});
}

function endTour() {
  const inside = $("tour").contains(document.activeElement);
  tour.at = -1;
  showTour();
  if (inside) $("tour-start").focus({preventScroll: true});
}

$("tour-start").addEventListener("click", startTour);
$("tour-next").addEventListener("click", () => goTo(tour.at + 1));
$("tour-back").addEventListener("click", () => goTo(Math.max(0, tour.at - 1)));
$("tour-end").addEventListener("click", () => goTo(-1));
$("tour-pause").addEventListener("click", () => { tour.paused = !tour.paused; goTo(tour.at); });
$("tour").addEventListener("keydown", event => {
  const action = {ArrowRight: () => goTo(tour.at + 1), ArrowLeft: () => goTo(Math.max(0, tour.at - 1)), Escape: () => goTo(-1)}[event.key];
  if (action) { event.preventDefault(); action(); }
});
