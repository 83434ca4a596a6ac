"use strict";
/* What the page computes: retina, network, canvas and MNIST's preprocessing. Runs in Node, too.

Dimension key:
  S, G: scales (finest first), glimpse side [px]
  H: canvas side [px]
  T: glimpses per episode
  D, K: size of the recurrent state, classes
Arrays are flat, last dimension fastest. A location is (x, y) in [-1, 1], y down, float32.
*/

const DIGIT_SIDE = 28, BOX_SIDE = 20; // MNIST's image, and the box that the digit fills [px]

/** Inflate the page's base64 text to bytes. */
async function unpack(text) {
  const packed = Uint8Array.from(atob(text.trim()), (character) => character.charCodeAt(0));
  const stream = new Blob([packed]).stream().pipeThrough(new DecompressionStream("deflate"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

/** Return {agents, tasks, sample} from the header and the bytes that build.py packs. */
function read(header, bytes) {
  const numbers = new Float32Array(header.numWeights);
  for (let i = 0; i < numbers.length; i++) {
    numbers[i] = halfToNumber(bytes[i] | (bytes[header.numWeights + i] << 8));
  }
  const agents = {}, tasks = {};
  for (const [name, agent] of Object.entries(header.agents)) {
    const weights = {};
    for (const [key, { start, shape }] of Object.entries(agent.tensors)) {
      weights[key] = numbers.subarray(start, start + shape.reduce((a, b) => a * b));
    }
    agents[name] = { ...agent, name, weights };
  }
  for (const [envId, { episodes, sizes, start, agents: names }] of Object.entries(header.tasks)) {
    const area = sizes.side ** 2;
    const canvases = episodes.index.map((index, k) => ({
      index,
      label: episodes.label[k],
      location: episodes.location[k],
      pixels: bytes.subarray(start + k * area, start + (k + 1) * area),
    }));
    tasks[envId] = { ...sizes, envId, canvases, agents: names.map((name) => agents[name]) };
  }
  return { agents, tasks, sample: header.sample };
}

/** Return the number that 16 bits of IEEE 754 binary16 stand for. */
function halfToNumber(bits) {
  const exponent = (bits >> 10) & 31, fraction = bits & 1023;
  const size = exponent ? (1024 + fraction) * 2 ** (exponent - 25) : fraction * 2 ** -24;
  return bits & 0x8000 ? -size : size;
}

/** Return the pixel corner at a coordinate: as ram_env.retina.to_pixels, half to even. */
function toPixel(coordinate, side) {
  const exact = Math.fround(Math.fround(coordinate + 1) * (side / 2)), down = Math.floor(exact);
  const half = exact - down === 0.5;
  return half ? down + (down % 2) : Math.round(exact);
}

/** Cut the glimpse (S, G, G) at a location from pixels (H, H): as ram_env.extract_glimpses. */
function extractGlimpse(pixels, side, [x, y], size, numScales) {
  const glimpse = new Float32Array(numScales * size * size);
  const column = toPixel(x, side), row = toPixel(y, side);
  for (let scale = 0, at = 0; scale < numScales; scale++) {
    const block = 2 ** scale, reach = (size * block) / 2;
    const factor = Math.fround(1 / (255 * block * block));
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        const top = row - reach + i * block, left = column - reach + j * block;
        glimpse[at++] = sumBlock(pixels, side, top, left, block) * factor;
      }
    }
  }
  return glimpse;
}

/** Sum block x block pixels; those outside the canvas are 0. */
function sumBlock(pixels, side, top, left, block) {
  let sum = 0;
  for (let i = Math.max(top, 0); i < Math.min(top + block, side); i++) {
    for (let j = Math.max(left, 0); j < Math.min(left + block, side); j++) {
      sum += pixels[i * side + j];
    }
  }
  return sum;
}

/** Return W x + b of a linear layer; four sums at once are three times as fast as one. */
function linear({ weights }, layer, input) {
  const weight = weights[`${layer}.weight`], output = weights[`${layer}.bias`].slice();
  const width = input.length, fours = width - (width % 4);
  for (let i = 0, at = 0; i < output.length; i++, at += width) {
    let a = output[i], b = 0, c = 0, d = 0;
    for (let j = 0; j < fours; j += 4) {
      a += weight[at + j] * input[j];
      b += weight[at + j + 1] * input[j + 1];
      c += weight[at + j + 2] * input[j + 2];
      d += weight[at + j + 3] * input[j + 3];
    }
    for (let j = fours; j < width; j++) a += weight[at + j] * input[j];
    output[i] = a + b + c + d;
  }
  return output;
}

/** Return ReLU of the 2x2 maxima of a 3x3 convolution: as in agents.ram.GlimpseNetwork. */
function convolve({ weights }, layer, input) {
  const kernels = weights[`${layer}.weight`], bias = weights[`${layer}.bias`];
  const planes = kernels.length / (9 * bias.length), side = Math.sqrt(input.length / planes);
  const half = Math.ceil(side / 2), output = new Float32Array(bias.length * half ** 2);
  const offsets = (at) => [-1, 0, 1].filter((offset) => at + offset >= 0 && at + offset < side);
  for (let k = 0; k < bias.length; k++) {
    for (let row = 0; row < side; row++) {
      const rows = offsets(row);
      for (let column = 0; column < side; column++) {
        const columns = offsets(column);
        let sum = bias[k];
        for (let plane = 0; plane < planes; plane++) {
          for (const i of rows) {
            const weight = ((k * planes + plane) * 3 + i + 1) * 3 + 1;
            const pixel = (plane * side + row + i) * side + column;
            for (const j of columns) sum += kernels[weight + j] * input[pixel + j];
          }
        }
        const at = (k * half + (row >> 1)) * half + (column >> 1);
        output[at] = Math.max(output[at], sum); // at least the 0 that it began with
      }
    }
  }
  return output;
}

const relu = (array) => array.map((x) => Math.max(x, 0));
const add = (a, b) => a.map((x, i) => x + b[i]);
const clip = (x, low = -1, high = 1) => Math.min(Math.max(x, low), high);

/** Return h_t (D) from g_t and h_{t-1}: as agents.ram.RectifierCore or GRUCore. */
function core(agent, g, state) {
  const input = linear(agent, "core.input", g), recurrent = linear(agent, "core.recurrent", state);
  if (agent.core === "rnn") return relu(add(input, recurrent));
  const size = state.length, gate = (i) => 1 / (1 + Math.exp(-input[i] - recurrent[i]));
  return state.map((old, i) => {
    const reset = gate(i), keep = gate(size + i), last = 2 * size + i;
    return keep * old + (1 - keep) * Math.tanh(input[last] + reset * recurrent[last]);
  });
}

/** Process one glimpse: as agents.ram.RecurrentAttentionModel.

Returns the next state h_t (D), the class logits (K) and the next location's mean. */
function step(agent, glimpse, location, state) {
  const convolutions = ["glimpse_network.conv.0", "glimpse_network.conv.3"];
  const kept = convolutions.filter((layer) => `${layer}.weight` in agent.weights);
  const features = kept.reduce((input, layer) => convolve(agent, layer, input), glimpse);
  const what = relu(linear(agent, "glimpse_network.what", features));
  const where = relu(linear(agent, "glimpse_network.where", location));
  const g = relu(
    add(
      linear(agent, "glimpse_network.join_what", what),
      linear(agent, "glimpse_network.join_where", where),
    ),
  );
  const next = core(agent, g, state);
  const hidden = "location_network.hidden.weight" in agent.weights;
  const h = hidden ? relu(linear(agent, "location_network.hidden", next)) : next;
  const output = linear(agent, "location_network.mean", h);
  const mean = agent.offset ? add(output, location) : output.map(Math.tanh);
  return { state: next, logits: linear(agent, "action_network", next), mean };
}

/** Look at pixels (H, H) from the given locations, then where the agent's mean says, T in all.

Returns a list with the location, glimpse, logits, probabilities and next mean of each glimpse. */
function look(agent, task, pixels, locations, numGlimpses = task.numGlimpses) {
  let state = new Float32Array(agent.size);
  const path = [];
  for (let t = 0; t < numGlimpses; t++) {
    const location = locations[t] ?? [...path[t - 1].mean].map((x) => clip(x));
    const glimpse = extractGlimpse(
      pixels, task.side, location, task.glimpseSize, task.numScales,
    );
    const output = step(agent, glimpse, location, state);
    ({ state } = output);
    path.push({ ...output, location, glimpse, probabilities: softmax(output.logits) });
  }
  return path;
}

function softmax(logits) {
  const highest = Math.max(...logits), powers = [...logits].map((x) => Math.exp(x - highest));
  const sum = powers.reduce((a, b) => a + b);
  return powers.map((x) => x / sum);
}

const argmax = (array) => array.indexOf(Math.max(...array));

/** Return numbers in [0, 1) that depend on the seed alone (Marsaglia 2003, xorshift). */
function randomNumbers(seed) {
  let bits = Math.imul(seed + 1, 0x9e3779b1);
  return () => {
    bits ^= bits << 13;
    bits ^= bits >>> 17;
    bits ^= bits << 5;
    return (bits >>> 0) / 2 ** 32;
  };
}

/** Add pieces of digits to a black canvas; sums above 255 are clipped, as in ram_env.canvas.

A piece is {image, cut: [x, y], size, x, y}: size x size pixels of a digit, cut at `cut`, with its
top left pixel at (x, y) of the canvas. */
function paint(side, pieces) {
  const pixels = new Uint8ClampedArray(side * side);
  for (const { image, cut, size, x, y } of pieces) {
    for (let i = 0; i < size; i++) {
      for (let j = 0; j < size; j++) {
        pixels[(y + i) * side + x + j] += image[(cut[1] + i) * DIGIT_SIDE + cut[0] + j];
      }
    }
  }
  return pixels;
}

/** Cut a random piece of a random digit and drop it anywhere on the canvas. */
function drawClutter(digits, side, size) {
  const below = (bound) => Math.floor(Math.random() * bound);
  const image = digits[below(digits.length)], room = DIGIT_SIDE - size + 1;
  const [x, y] = [below(side - size + 1), below(side - size + 1)];
  return { image, cut: [below(room), below(room)], size, x, y };
}

/** Make a drawing (width x height, 0..255) an MNIST image (28, 28), or null if it is empty.

As LeCun et al. (1998): scaled into 20 x 20, its aspect kept, with grey levels from averaging, and
its centre of mass put in the middle of 28 x 28, as far as the digit stays inside. */
function preprocess(ink, width) {
  const box = findBox(ink, width);
  if (!box) return null;
  const scale = BOX_SIDE / Math.max(box.width, box.height);
  const columns = Math.max(1, Math.round(box.width * scale));
  const rows = Math.max(1, Math.round(box.height * scale));
  const small = new Float64Array(rows * columns);
  let mass = 0, sumX = 0, sumY = 0;
  for (let i = 0, at = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++, at++) {
      small[at] = averageArea(
        ink, width,
        box.left + (j * box.width) / columns, box.left + ((j + 1) * box.width) / columns,
        box.top + (i * box.height) / rows, box.top + ((i + 1) * box.height) / rows,
      );
      mass += small[at];
      sumX += small[at] * (j + 0.5);
      sumY += small[at] * (i + 0.5);
    }
  }
  const left = clip(Math.round(DIGIT_SIDE / 2 - sumX / mass), 0, DIGIT_SIDE - columns);
  const top = clip(Math.round(DIGIT_SIDE / 2 - sumY / mass), 0, DIGIT_SIDE - rows);
  const image = new Uint8Array(DIGIT_SIDE ** 2);
  small.forEach((grey, at) => {
    const row = top + Math.floor(at / columns), column = left + (at % columns);
    image[row * DIGIT_SIDE + column] = Math.round(grey);
  });
  return image;
}

/** Return the box around all ink, or null. */
function findBox(ink, width) {
  let left = width, right = -1, top = -1, bottom = -1;
  ink.forEach((grey, at) => {
    if (!grey) return;
    left = Math.min(left, at % width);
    right = Math.max(right, at % width);
    bottom = Math.floor(at / width);
    if (top < 0) top = bottom;
  });
  return right < 0 ? null : { left, top, width: right - left + 1, height: bottom - top + 1 };
}

/** Return the mean ink of a rectangle whose edges may lie within pixels. */
function averageArea(ink, width, left, right, top, bottom) {
  let sum = 0;
  for (let i = Math.floor(top); i < bottom; i++) {
    const high = Math.min(i + 1, bottom) - Math.max(i, top);
    for (let j = Math.floor(left); j < right; j++) {
      sum += high * (Math.min(j + 1, right) - Math.max(j, left)) * (ink[i * width + j] ?? 0);
    }
  }
  return sum / ((right - left) * (bottom - top));
}

if (typeof module !== "undefined") {
  module.exports = { unpack, read, look, preprocess };
}
