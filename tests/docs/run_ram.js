"use strict";
/* Node's side of test_demo.py: runs ram.js on what Python wrote into a folder, and writes back. */
const fs = require("fs");
const [, , ramPath, pagePath, folder, name] = process.argv;
const { unpack, read, look, preprocess } = require(ramPath);
const bytesOf = (file) => new Uint8Array(fs.readFileSync(`${folder}/${file}`));
const write = (file, arrays) =>
  fs.writeFileSync(`${folder}/${file}`, Buffer.concat(arrays.map(({ buffer, byteOffset, byteLength }) =>
    Buffer.from(buffer, byteOffset, byteLength))));

async function runAgent() {
  const page = fs.readFileSync(pagePath, "utf8");
  const textOf = (id) => page.match(new RegExp(`id="${id}">([^<]*)<`))[1];
  const data = read(JSON.parse(textOf("header")), await unpack(textOf("content")));
  const agent = data.agents[name];
  const task = Object.values(data.tasks).find(({ agents }) => agents.includes(agent));
  const canvases = bytesOf("canvases"), locations = new Float32Array(bytesOf("locations").buffer);
  const area = task.side ** 2, length = task.numGlimpses, glimpses = [], logits = [], means = [];
  const chosen = task.canvases.flatMap(({ pixels, location }) =>
    look(agent, task, pixels, [location]).flatMap((seen) => [...seen.location]));
  for (let k = 0; k < canvases.length / area; k++) {
    const path = Array.from({ length }, (_, t) =>
      [...locations.subarray(2 * (k * length + t), 2 * (k * length + t) + 2)]);
    for (const seen of look(agent, task, canvases.subarray(k * area, (k + 1) * area), path)) {
      glimpses.push(seen.glimpse);
      logits.push(seen.logits);
      means.push(seen.mean);
    }
  }
  write("glimpses", glimpses);
  write("logits", logits);
  write("means", means);
  write("chosen", [Float32Array.from(chosen)]);
  write("shown", task.canvases.map(({ pixels }) => pixels));
}

function runDrawings() {
  const ink = bytesOf("drawings"), area = 280 * 280, images = [];
  for (let at = 0; at < ink.length; at += area) {
    images.push(preprocess(ink.subarray(at, at + area), 280) ?? new Uint8Array(784));
  }
  write("images", images);
}

if (name === "drawings") runDrawings();
else runAgent();
