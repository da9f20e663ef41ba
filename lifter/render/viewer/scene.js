"use strict";
// The data: poses and keypoints are 16-bit multiples of a step (0.1 mm) from an origin.
const $ = id => document.getElementById(id);
const scene = JSON.parse($("scene").textContent);

function bytes(text) {
  const letters = atob(text), values = new Uint8Array(letters.length);
  for (let i = 0; i < letters.length; i++) values[i] = letters.charCodeAt(i);
  return values.buffer;
}
function unpack({step, origin, data}) {
  const numbers = new Int16Array(bytes(data)), values = new Float32Array(numbers.length);
  for (let i = 0; i < numbers.length; i++) values[i] = origin[i % 3] + step * numbers[i];
  return values;
}
const joints = scene.joints, stride = 3 * joints, last = scene.frames - 1;
const crowd = scene.people.length > 1, tenths = text => Float32Array.from(new Int16Array(bytes(text)), value => value / 10);
const bodies = scene.models.flatMap((model, i) => {  // of each model, and in it of each person
  const poses = unpack(model.poses), errors = model.errors && new Float32Array(bytes(model.errors));
  return scene.people.map(([from, to], p) => ({
    model: i, from, to, poses, errors, number: p + 1, colour: `--model${(crowd ? p : i) % 6}`, shown: true,
    name: !crowd ? model.name : scene.models.length > 1 ? `${model.name}, person ${p + 1}` : `person ${p + 1}`,
    angles: Object.fromEntries(Object.entries(model.angles[p]).map(([name, data]) => [name, tenths(data)])),
  }));
});
for (const body of bodies) if (body.errors) {
  const known = body.errors.filter(isFinite);
  body.mean = known.reduce((sum, error) => sum + error, 0) / known.length;
}
const truth = scene.truth && {
  name: "truth", colour: "--truth", shown: true, poses: unpack(scene.truth), from: 0, to: joints, angles: {},
};
const keypoints = scene.keypoints && unpack(scene.keypoints);
const hasErrors = bodies.some(body => body.errors && body.errors.some(isFinite));
function isThere(values, {from, to}, frame) {  // who is not in a frame is a point in it
  const first = frame * stride + 3 * from;
  for (let i = first + 3; i < frame * stride + 3 * to; i += 3)
    if (Math.abs(values[i] - values[first]) + Math.abs(values[i + 1] - values[first + 1]) > 2e-3) return true;
  return false;
}
const rootAt = (body, frame) => {
  const first = frame * stride + 3 * (body.from + scene.root);
  return body.poses.subarray(first, first + 3);
};
const everybody = truth ? [...bodies, truth] : bodies;
const tips = scene.bones.map(([joint]) => joint).filter(joint => !scene.bones.some(([, parent]) => parent === joint));
