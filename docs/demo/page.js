"use strict";
/* What the page shows and what a person does. ram.js computes.

`state` is what the person chose. `update` plays the episodes that follow from it, `render` draws
them. The words of the dimension key are those of ram.js.
*/

const $ = (id) => document.getElementById(id);
const PAD = 280, PEN_WIDTH = 22, PEN_STEP = 8; // side of the drawing pad, its pen [px]
const PACE = 800; // between glimpses of a running episode [ms]
const BOX = "255, 159, 28", PATH = "86, 180, 233", GAUSSIAN = "205, 160, 255"; // red, green, blue
const TITLES = {
  "ClutteredMNISTGlimpse-v0": "Cluttered, 60×60",
  "LargeClutteredMNISTGlimpse-v0": "Cluttered, 100×100",
  "TranslatedMNISTGlimpse-v0": "Translated, 60×60",
  "MNISTGlimpse-v0": "MNIST, 28×28",
};
const OTHERS = { "cluttered-paper-rule": "Network and rule of Mnih et al. (2014)" };
const LABELS = { // of the canvas
  watch: "The canvas with the agent’s glimpses and its path",
  draw: "The canvas. Drag the digit, or move it with the arrow keys.",
  play: "The canvas, hidden. Arrow keys move the cross, Enter looks there.",
};

let data; // {agents, tasks, sample}
let view; // what is on the page: {task, pixels, label, path, cards}
const state = {
  mode: "watch", number: 0, glimpse: 0, timer: 0,
  digits: [], clutter: [], first: [0, 0], drawn: null, pen: null, // Draw; the pad edits `drawn`
  locations: [], cross: [0, 0], answer: null, seen: 0, right: [0, 0], // Play; right: person, agent
};

const task = () => data.tasks[$("task").value];
const episode = () => task().canvases[state.number];
const percent = (p) => `${Math.round(100 * p)} %`;
const toLocation = (x, y) => [x, y].map((value) => Math.fround(clip(value)));
const anywhere = (random) => toLocation(2 * random() - 1, 2 * random() - 1);

/** Play the episodes that the state asks for, and show them. */
function update() {
  const { canvases, numGlimpses } = task(), { pixels, label } = canvases[state.number];
  view = { task: task(), pixels, label, std: 0, cards: [] };
  ({ watch: updateWatch, draw: updateDraw, play: updatePlay })[state.mode](task().agents[0]);
  const last = state.mode === "play" ? view.path.length - 1 : numGlimpses - 1;
  state.glimpse = state.mode === "play" ? last : Math.min(state.glimpse, last);
  render();
}

const perform = (agent, locations, length) => look(agent, task(), view.pixels, locations, length);

function updateWatch(ours) {
  const { index, location } = episode(), random = randomNumbers(index);
  const places = Array.from({ length: task().numGlimpses - 1 }, () => anywhere(random));
  Object.assign(view, { path: perform(ours, [location]), std: ours.std });
  view.cards = task().agents.slice(1).map((agent) => ({
    title: `${OTHERS[agent.name]}, test error ${agent.error}`,
    path: perform(agent, [location]), std: agent.std,
  }));
  const title = "Random locations, our agent’s classifier";
  view.cards.push({ title, path: perform(ours, [location, ...places]), std: 0 });
}

function updateDraw(ours) {
  view.pixels = paint(task().side, [...state.digits, ...state.clutter]);
  Object.assign(view, { label: null, path: perform(ours, [state.first]), std: ours.std });
}

function updatePlay(ours) {
  view.path = perform(ours, state.locations, state.locations.length);
  if (state.answer === null) return;
  view.cards = [{ title: "The agent", path: perform(ours, [episode().location]), std: 0 }];
}

/** Draw the view at the present glimpse. */
function render() {
  const { path, cards } = view, t = state.glimpse, last = view.task.numGlimpses - 1;
  const hidden = state.mode === "play" && state.answer === null;
  drawScene($("scene"), { ...view, path, t, hidden, cross: hidden && t < last });
  drawRetina(path[t].glimpse);
  if (state.mode !== "play") showBelief(path[t].probabilities, path[t - 1]?.probabilities);
  $("cards").replaceChildren(...cards.map((card) => {
    const says = describeBelief(card.path[t], t === last), text = make("p", { textContent: says });
    const title = make("h3", { textContent: card.title });
    return make("article", {}, title, makePicture({}, `${card.title}: ${says}`), text);
  }));
  const canvases = $("cards").querySelectorAll("canvas"); // drawn when all of them are laid out
  canvases.forEach((canvas, k) => drawScene(canvas, { ...view, ...cards[k], t }));
  $("glimpse").max = last + 1;
  $("glimpse").value = t + 1;
  $("glimpse").setAttribute("aria-valuetext", `${t + 1} of ${last + 1}`);
  $("back").disabled = t === 0;
  $("step").disabled = t === last;
  if (document.activeElement.disabled) $("run").focus(); // the keyboard keeps its place
  $("number").textContent = `Canvas ${state.number + 1} of ${view.task.canvases.length}`;
  const text = state.mode === "play" ? describePlay() : describeGlimpse();
  if ($("status").textContent !== text) $("status").textContent = text;
  if (state.mode === "play") showPlay();
}

const verdict = (label) =>
  view.label === null ? "" : label === view.label ? ": right" : ": wrong";
const describePlace = (location) => {
  const rounded = location.map((value) => Math.round(100 * value) / 100); // toFixed has a -0.00
  const [x, y] = rounded.map((value) => value.toFixed(2).replace("-", "−"));
  return `x ${x}, y ${y}`;
};

/** Say what an agent thinks of a glimpse and, where one came before, how that changed. */
function describeBelief({ probabilities }, isLast, before) {
  const best = argmax(probabilities), share = probabilities[best];
  const change = before ? Math.round(100 * (share - before.probabilities[best])) : 0;
  const size = Math.abs(change), points = size === 1 ? "point" : "points";
  const moved = change ? `, ${change > 0 ? "up" : "down"} ${size} ${points}` : "";
  const says = `${isLast ? "Answers" : "Believes"} ${best}, ${percent(share)}${moved}`;
  return says + (isLast ? verdict(best) : "");
}

/** Say what a glimpse changed, for eyes and screen readers. */
function describeGlimpse() {
  const { path, label } = view, t = state.glimpse, last = path.length - 1;
  const where = describePlace(path[t].location);
  const says = describeBelief(path[t], t === last, path[t - 1]);
  const truth = label === null || t < last ? "" : ` It is ${label}.`;
  return `Glimpse ${t + 1} of ${last + 1} at ${where}. ${says}.${truth}`;
}

function describePlay() {
  const seen = view.path.length, { numGlimpses } = view.task;
  if (state.answer === null) {
    const next = seen < numGlimpses
      ? `The cross is at ${describePlace(state.cross)}. `
        + "Click where to look next, or move the cross with the arrow keys and press Enter."
      : "That was the last glimpse. Which digit is it? Click it or press its key.";
    return `Glimpse ${seen} of ${numGlimpses}. ${next}`;
  }
  const agent = argmax(view.cards[0].path.at(-1).probabilities);
  const classifier = argmax(view.path.at(-1).probabilities);
  return `It is ${view.label}. You say ${state.answer}${verdict(state.answer)}. The agent says `
    + `${agent}${verdict(agent)}. From your glimpses, its classifier says ${classifier}.`;
}

function showPlay() {
  const over = state.answer !== null, ready = view.path.length === view.task.numGlimpses;
  for (const button of $("answers").children) button.disabled = over || !ready;
  for (const id of ["again", "save"]) $(id).disabled = !over;
  const label = over ? "The canvas with your glimpses and your path" : "The canvas, hidden";
  $("scene").ariaLabel = ready ? label : LABELS.play;
  const [person, agent] = state.right.map((count) => `${count} of ${state.seen}`);
  $("score").textContent = state.seen ? `You ${person}, the agent ${agent}` : "Not played yet";
}

// Drawing

/** Draw a canvas with the path up to glimpse t, its patches and the policy's Gaussian. */
function drawScene(element, { pixels, task, path, t, std, hidden, cross }) {
  const width = Math.round(element.clientWidth * devicePixelRatio) || 300;
  if (element.width !== width) element.width = element.height = width;
  const { side, glimpseSize, numScales } = task, pen = element.getContext("2d");
  const unit = width / side, thin = devicePixelRatio; // a canvas's and the screen's pixel
  const corner = path[t].location.map((value) => toPixel(value, side));
  const boxes = Array.from({ length: numScales }, (_, scale) => {
    const size = glimpseSize * 2 ** scale;
    return [...corner.map((value) => (value - size / 2) * unit), size * unit, size * unit];
  });
  pen.fillStyle = "#0c0e12";
  pen.fillRect(0, 0, width, width);
  if (!hidden) {
    const image = toImage(pixels, side);
    pen.imageSmoothingEnabled = false;
    pen.globalAlpha = 0.5;
    pen.drawImage(image, 0, 0, width, width);
    pen.globalAlpha = 1;
    pen.save();
    pen.beginPath();
    pen.rect(...boxes.at(-1));
    pen.clip();
    pen.drawImage(image, 0, 0, width, width);
    pen.restore();
  }
  const toScreen = (location) => location.map((value) => ((value + 1) * width) / 2);
  if (std && t < path.length - 1) {
    drawGaussian(pen, toScreen(toLocation(...path[t].mean)), (std * width) / 2, thin);
  }
  boxes.forEach((box, scale) => {
    pen.strokeStyle = `rgba(${BOX}, ${1 - 0.7 * (scale / numScales)})`;
    pen.lineWidth = 2 * thin;
    pen.strokeRect(...box);
  });
  drawPath(pen, path.slice(0, t + 1).map(({ location }) => toScreen(location)), thin);
  if (cross) drawCross(pen, toScreen(state.cross), thin);
}

const scratch = document.createElement("canvas");

/** Return pixels (H, H) as an image, valid until the next call. */
function toImage(pixels, side) {
  scratch.width = scratch.height = side;
  putPixels(scratch, pixels, (grey) => grey);
  return scratch;
}

function putPixels(canvas, values, toGrey) {
  const image = new ImageData(canvas.width, canvas.height);
  const words = new Uint32Array(image.data.buffer); // alpha, blue, green, red
  for (let i = 0; i < words.length; i++) words[i] = 0xff000000 | (toGrey(values[i]) * 0x010101);
  canvas.getContext("2d").putImageData(image, 0, 0);
}

function drawGaussian(pen, [x, y], deviation, thin) {
  const cloud = pen.createRadialGradient(x, y, 0, x, y, 2 * deviation);
  cloud.addColorStop(0, `rgba(${GAUSSIAN}, .55)`);
  cloud.addColorStop(1, `rgba(${GAUSSIAN}, .1)`);
  pen.fillStyle = cloud;
  pen.strokeStyle = `rgb(${GAUSSIAN})`;
  pen.lineWidth = thin;
  for (const radius of [2 * deviation, deviation]) {
    pen.beginPath();
    pen.arc(x, y, radius, 0, 2 * Math.PI);
    if (radius > deviation) pen.fill();
    pen.stroke();
  }
}

/** Draw the centres of glimpses, the first and the last numbered. */
function drawPath(pen, centres, thin) {
  pen.strokeStyle = `rgb(${PATH})`;
  pen.lineWidth = 2 * thin;
  pen.beginPath();
  for (const centre of centres) pen.lineTo(...centre);
  pen.stroke();
  pen.font = `600 ${12 * thin}px system-ui, sans-serif`;
  const edge = pen.canvas.width - 9 * thin; // a number stays on the canvas
  centres.forEach(([x, y], k) => {
    const last = k === centres.length - 1;
    pen.fillStyle = `rgb(${last ? BOX : PATH})`;
    pen.beginPath();
    pen.arc(x, y, (last ? 5 : 3.5) * thin, 0, 2 * Math.PI);
    pen.fill();
    if (k && !last) return;
    pen.lineWidth = 3 * thin;
    pen.strokeStyle = "#0c0e12";
    const at = [Math.min(x + 7 * thin, edge), Math.max(y - 6 * thin, 12 * thin)];
    for (const draw of ["strokeText", "fillText"]) pen[draw](k + 1, ...at);
  });
}

function drawCross(pen, [x, y], thin) {
  pen.strokeStyle = "#fff";
  pen.lineWidth = 1.5 * thin;
  pen.beginPath();
  for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
    pen.moveTo(x + 3 * dx * thin, y + 3 * dy * thin);
    pen.lineTo(x + 11 * dx * thin, y + 11 * dy * thin);
  }
  pen.stroke();
}

/** Draw a glimpse (S, G, G): one small picture for each scale. */
function drawRetina(glimpse) {
  const { glimpseSize: size, numScales } = view.task, area = size * size;
  $("retina").replaceChildren(...Array.from({ length: numScales }, (_, scale) => {
    const text = `${size * 2 ** scale} px`, shape = { width: size, height: size };
    const canvas = makePicture({ ...shape, className: "pixels" }, `Retina, patch of ${text}`);
    const patch = glimpse.subarray(scale * area, (scale + 1) * area);
    putPixels(canvas, patch, (x) => Math.round(255 * x));
    return make("figure", {}, canvas, make("figcaption", { textContent: text }));
  }));
}

/** Show probabilities (K) as bars, with marks where they were a glimpse before. */
function showBelief(probabilities, before) {
  const best = argmax(probabilities);
  probabilities.forEach((p, label) => {
    const row = $("belief").children[label], [, track, share, change] = row.children;
    const moved = before ? Math.round(100 * (p - before[label])) : 0;
    row.className = label === best ? "best" : "";
    track.children[0].style.width = `${100 * p}%`;
    track.children[1].style.left = `${100 * (before?.[label] ?? 0)}%`;
    track.children[1].hidden = !before || before[label] < 0.01;
    share.textContent = percent(p);
    change.textContent = moved ? `${moved > 0 ? "+" : "−"}${Math.abs(moved)}` : "";
    change.className = `change ${moved > 0 ? "rise" : "fall"}`;
  });
}

function make(tag, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  element.append(...children);
  return element;
}

const makePicture = (properties, ariaLabel) =>
  make("canvas", { ...properties, role: "img", ariaLabel });

// What a person does

function chooseMode(mode) {
  document.body.dataset.mode = state.mode = mode;
  for (const part of document.querySelectorAll("[data-modes]")) {
    part.hidden = !part.dataset.modes.split(" ").includes(mode);
  }
  $("others-title").textContent = mode === "play" ? "You and the agent" : "On the same canvas";
  const role = mode === "watch" ? "img" : "application", tabIndex = mode === "watch" ? -1 : 0;
  Object.assign($("scene"), { ariaLabel: LABELS[mode], role, tabIndex });
  chooseTask();
}

function chooseTask() {
  stop();
  const { side, canvases, agents } = task();
  $("about").textContent = `Canvases: the first ${canvases.length} of the validation split, none `
    + `picked. Test error of the agent ${agents[0].name}: ${agents[0].error}, 95 % interval; its `
    + "weights are rounded to float16 here. Nothing leaves this page.";
  if (view && view.task !== task()) {
    const shift = (side - view.task.side) / 2; // what was in the middle stays there
    for (const p of [...state.digits, ...state.clutter]) moveDigit(p, p.x + shift, p.y + shift);
    Object.assign(state, { seen: 0, right: [0, 0] });
  }
  state.glimpse = state.mode === "draw" ? task().numGlimpses - 1 : 0;
  if (state.mode === "play") startPlay();
  update();
}

function turn(pages) {
  const { length } = task().canvases;
  state.number = (state.number + pages + length) % length;
  state.glimpse = 0;
}

// Watch

function go(glimpse) {
  state.glimpse = clip(glimpse, 0, view.path.length - 1);
  render();
}

function run() {
  if (state.timer) return stop();
  $("run").textContent = "Pause";
  if (state.glimpse === view.path.length - 1) go(0);
  state.timer = setInterval(() => {
    go(state.glimpse + 1);
    if (state.glimpse === view.path.length - 1) stop();
  }, PACE);
}

function stop() {
  clearInterval(state.timer);
  state.timer = 0;
  $("run").textContent = "Run";
}

// Draw

const mnist = () => data.tasks["MNISTGlimpse-v0"].canvases;

/** Add a digit in the middle of the canvas, in place of one of MNIST that nobody moved or kept. */
function addDigit(image) {
  const middle = (task().side - DIGIT_SIDE) / 2;
  const digit = { image, cut: [0, 0], size: DIGIT_SIDE, x: middle, y: middle };
  state.digits = [...state.digits.filter(({ borrowed }) => !borrowed), digit];
  return digit;
}

/** Move a digit or a piece of clutter, as far as the canvas goes. */
function moveDigit(digit, x, y) {
  const room = task().side - digit.size;
  [digit.x, digit.y] = [x, y].map((at) => clip(Math.round(at), 0, room));
}

function borrowDigit() {
  const { pixels } = mnist()[Math.floor(Math.random() * mnist().length)];
  beginDrawing();
  addDigit(pixels).borrowed = true;
  showPreview(pixels);
}

/** Empty the pad; what it held stays on the canvas. */
function beginDrawing() {
  state.drawn = null;
  movePen([PAD / 2, PAD / 2]);
  $("pad").getContext("2d").clearRect(0, 0, PAD, PAD);
  showPreview(new Uint8Array(DIGIT_SIDE ** 2));
}

const showPreview = (image) => putPixels($("preview"), image, (grey) => grey);

/** Move the pen; style.css shows it to a person who draws by keyboard. */
function movePen(to) {
  state.pen = to;
  $("pad").style.setProperty("--pen", to.map((at) => `${(100 * at) / PAD}%`).join(" "));
}

/** Put what the pad shows on the canvas. */
function takeDrawing() {
  const colours = $("pad").getContext("2d").getImageData(0, 0, PAD, PAD).data;
  const ink = new Uint8Array(PAD * PAD);
  for (let i = 0; i < ink.length; i++) ink[i] = colours[4 * i + 3]; // what is not transparent
  const image = preprocess(ink, PAD);
  if (!image) return; // a stroke beside the pad
  state.drawn ??= addDigit(image);
  state.drawn.image = image;
  showPreview(image);
  update();
}

function startPad() {
  const pad = $("pad"), pen = pad.getContext("2d", { willReadFrequently: true });
  Object.assign(pen, { lineWidth: PEN_WIDTH, lineCap: "round", strokeStyle: "#fff" });
  const stroke = (...points) => {
    for (const [x, y] of points) {
      pen.beginPath();
      pen.moveTo(...state.pen);
      pen.lineTo(x + 0.01, y); // some browsers draw no line without a length
      pen.stroke();
      movePen([x, y]);
    }
    takeDrawing();
  };
  const place = (event) => pointAt(event, pad).map((share) => share * PAD);
  follow(pad, (event) => { movePen(place(event)); stroke(state.pen); }, (event) => {
    const events = event.getCoalescedEvents?.() ?? []; // all since the last frame
    stroke(...(events.length ? events : [event]).map(place));
  });
  pad.addEventListener("keydown", (event) => {
    const arrow = readArrow(event);
    if (!arrow) return;
    const to = state.pen.map((x, k) => clip(x + PEN_STEP * arrow[k], 0, PAD));
    if (event.shiftKey) stroke(to);
    else movePen(to);
  });
}

/** In Draw, call `begin` where a pointer goes down on an element and `move` as it is dragged. */
function follow(element, begin, move) {
  let pointer = null;
  element.addEventListener("pointerdown", (event) => {
    if (!event.isPrimary || event.button || state.mode !== "draw") return;
    pointer = event.pointerId;
    element.setPointerCapture(pointer);
    $("status").ariaLive = "off"; // screen readers don't follow every move
    begin(event);
  });
  element.addEventListener("pointermove", (event) => event.pointerId === pointer && move(event));
  element.addEventListener("lostpointercapture", (event) => { // as it is released or cancelled
    if (event.pointerId !== pointer) return; // a second finger
    pointer = null;
    $("status").ariaLive = "polite";
  });
}

/** Return where in an element its event lies, as shares of its width and height. */
const pointAt = ({ offsetX, offsetY }, { clientWidth, clientHeight }) =>
  [offsetX / clientWidth, offsetY / clientHeight];

/** Return the (x, y) of an arrow key, or null; the page does not scroll. */
function readArrow(event) {
  if (event.altKey || event.ctrlKey || event.metaKey) return null;
  const arrows = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };
  if (event.key in arrows) event.preventDefault();
  return arrows[event.key] ?? null;
}

// Play

function startPlay() {
  turn(1);
  Object.assign(state, { locations: [episode().location], cross: [0, 0], answer: null });
}

function lookAt(x, y) {
  if (state.locations.length === task().numGlimpses) return;
  state.cross = toLocation(x, y);
  state.locations.push(state.cross);
  update();
}

function answer(label) {
  if (state.mode !== "play" || $("answers").children[label].disabled) return;
  state.answer = label;
  update();
  const answers = [label, argmax(view.cards[0].path.at(-1).probabilities)];
  state.seen += 1;
  state.right = state.right.map((count, k) => count + (answers[k] === view.label));
  showPlay();
  $("again").focus({ preventScroll: true }); // on a phone the canvas, now uncovered, stays in view
}

/** Return the episode in the format of ram_env.episode_from_json. */
function toScanpath() {
  const { envId, numGlimpses } = task(), before = Array(numGlimpses - 1);
  return {
    format: "ram-env-scanpath",
    version: 1,
    env_id: envId,
    split: "validation",
    index: episode().index,
    data_is_sample: data.sample,
    locations: state.locations,
    labels: [...before.fill(null), state.answer],
    rewards: [...before.fill(0), Number(state.answer === episode().label)],
  };
}

function save() {
  const blob = new Blob([JSON.stringify(toScanpath(), null, 1)], { type: "application/json" });
  const download = `scanpath-${task().envId}-${episode().index}.json`;
  const link = make("a", { href: URL.createObjectURL(blob), download });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// The canvas in Draw and Play

function startScene() {
  const scene = $("scene");
  let held, grip;
  follow(scene, (event) => {
    const [x, y] = pointAt(event, scene).map((share) => share * task().side);
    const within = (from) => from >= 0 && from <= DIGIT_SIDE;
    const covers = (digit) => within(x - digit.x) && within(y - digit.y);
    held = state.digits.findLast(covers) ?? state.digits.at(-1);
    if (!held) return;
    grip = [x - held.x, y - held.y];
    held.borrowed = false;
    state.digits = [...state.digits.filter((digit) => digit !== held), held]; // the keys move it
  }, (event) => {
    if (!held) return;
    moveDigit(held, ...pointAt(event, scene).map((share, k) => share * task().side - grip[k]));
    update();
  });
  scene.addEventListener("click", (event) => { // a touch that scrolls is no click
    if (state.mode === "play") lookAt(...pointAt(event, scene).map((share) => 2 * share - 1));
  });
  scene.addEventListener("keydown", (event) => {
    const looks = state.mode === "play" && state.locations.length < task().numGlimpses;
    const arrow = looks || state.mode === "draw" ? readArrow(event) : null;
    const steps = event.shiftKey ? 5 : 1, digit = state.digits.at(-1);
    if (looks && event.key === "Enter" && !event.repeat) lookAt(...state.cross);
    if (!arrow) return;
    if (looks) {
      state.cross = toLocation(...state.cross.map((x, k) => x + (steps * arrow[k]) / 15));
      render();
    } else if (digit) {
      digit.borrowed = false;
      moveDigit(digit, digit.x + steps * arrow[0], digit.y + steps * arrow[1]);
      update();
    }
  });
}

async function start() {
  data = read(JSON.parse($("header").textContent), await unpack($("content").textContent));
  $("sample").hidden = !data.sample;
  for (const envId of Object.keys(data.tasks)) $("task").append(new Option(TITLES[envId], envId));
  for (let label = 0; label < 10; label++) {
    $("answers").append(make("button", { textContent: label, onclick: () => answer(label) }));
    const track = make("span", { className: "track" },
      make("span", { className: "bar" }), make("span", { className: "was" }));
    const parts = [make("span", { textContent: label }), track,
      make("span", { className: "share" }), make("span", { className: "change" })];
    $("belief").append(make("li", {}, ...parts));
  }
  const clicks = {
    run, save,
    back: () => { stop(); go(state.glimpse - 1); },
    step: () => { stop(); go(state.glimpse + 1); },
    previous: () => { stop(); turn(-1); update(); },
    next: () => { stop(); turn(1); update(); },
    another: () => { for (const digit of state.digits) digit.borrowed = false; beginDrawing(); },
    borrow: () => { borrowDigit(); update(); },
    clutter: () => {
      const { side, clutterSize } = task(), digits = mnist().map(({ pixels }) => pixels);
      for (let k = 0; k < 4; k++) state.clutter.push(drawClutter(digits, side, clutterSize));
      update();
    },
    clear: () => { state.digits = []; state.clutter = []; beginDrawing(); update(); },
    first: () => { state.first = anywhere(Math.random); update(); },
    again: () => {
      startPlay();
      update();
      $("scene").focus({ preventScroll: true });
      $("seen").scrollIntoView({ block: "nearest" }); // all that a person needs to see
    },
  };
  for (const [id, act] of Object.entries(clicks)) $(id).onclick = act;
  $("choices").onsubmit = (event) => event.preventDefault();
  $("choices").onchange = ({ target }) =>
    target.name === "mode" ? chooseMode(target.value) : chooseTask();
  $("glimpse").oninput = ({ target }) => { stop(); go(target.value - 1); };
  document.addEventListener("keydown", ({ key, target, ctrlKey, metaKey, altKey }) => {
    const meant = ctrlKey || metaKey || altKey || target.closest("form"); // for something else
    if (!meant && /^[0-9]$/.test(key)) answer(Number(key));
  });
  addEventListener("resize", () => view && render());
  startPad();
  startScene();
  $("choices").elements.mode.value = "watch"; // some browsers restore another choice
  borrowDigit();
  chooseMode("watch");
  document.body.dataset.ready = "yes";
}

start().catch(({ message }) => {
  $("status").textContent = `The page is damaged or this browser is too old: ${message}`;
});
