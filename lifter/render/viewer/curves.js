// Curves: errors, angles, heights and speeds over time.

function overTime(body, value) {
  const values = new Float32Array(scene.frames).fill(NaN);
  for (let frame = 0; frame < scene.frames; frame++) if (isThere(body.poses, body, frame)) values[frame] = value(frame);
  return values;
}
function speeds(body) {  // along the floor, over a tenth of a second to both sides
  const by = Math.max(1, Math.round(scene.fps / 10));
  return overTime(body, frame => {
    const [a, b] = [Math.max(0, frame - by), Math.min(last, frame + by)];
    if (!isThere(body.poses, body, a) || !isThere(body.poses, body, b)) return NaN;
    const [dx, dy] = [0, 1].map(k => rootAt(body, b)[k] - rootAt(body, a)[k]);
    return Math.hypot(dx, dy) / (b - a) * scene.fps;
  });
}
const sided = name => body => ["left", "right"].map(side => {
  const angles = body.angles[`${side}_${name}`];
  return [overTime(body, frame => angles[frame]), side];
});
const kinds = [];  // [name, what it is and its unit, body => [[values, side], ...]]
if (hasErrors) kinds.push(["errors", "error in mm, each pose less its own root (MPJPE)", body => [[body.errors, ""]]]);
if (Object.keys(bodies[0].angles).length) for (const joint of ["knee", "hip", "elbow", "shoulder"])
  kinds.push([`${joint}s`, `${joint} flexion in degrees`, sided(`${joint}_flexion`)]);
kinds.push(["height", "height of the root in m", body => [[overTime(body, frame => rootAt(body, frame)[2]), ""]]]);
kinds.push(["speed", "speed along the floor in m/s", body => [[speeds(body), ""]]]);
const hasCurves = last > 0;
let kind = kinds[0];
const known = new Map();
function curves() {  // [{body, style, dash, values}] of those that are shown
  const own = body => {
    const key = `${kind[0]} ${bodies.indexOf(body)}`;
    if (!known.has(key)) known.set(key, kind[2](body).filter(([values]) => values));
    return known.get(key);
  };
  return bodies.filter(body => body.shown).flatMap(body => own(body).map(([values, side]) => {
    const bySide = side && bodies.length === 1;
    return {values, style: bySide ? `--${side}` : body.colour, dash: side === "right" && !bySide ? [5, 4] : []};
  }));
}
const axis = {left: 46, right: 16, top: 32, bottom: 20};
const graph = document.createElement("canvas");  // all but the mark of the frame
let graphIsOld = true, range = [0, 1];
function drawCurves() {
  const canvas = document.querySelector("#curves canvas"), {pen, width, height} = surface(canvas), lines = curves();
  if (graphIsOld || graph.width !== canvas.width || graph.height !== canvas.height) {
    graphIsOld = false;
    range = extremes(lines);
    drawAxes(pen, lines, width, height);
    for (const each of lines) drawCurve(pen, each, width, height);
    graph.width = canvas.width; graph.height = canvas.height;
    if (canvas.width && canvas.height) graph.getContext("2d").drawImage(canvas, 0, 0);
  } else pen.drawImage(graph, 0, 0, width, height);
  const x = across(state.frame, width);
  line(pen, [x, axis.top - 6], [x, height - axis.bottom], colour("--ink"), 1);
  for (const {values, style} of lines) {
    if (!isFinite(values[state.frame])) continue;
    const point = [x, up(values[state.frame], height)];
    line(pen, point, point, colour("--paper"), 11);
    line(pen, point, point, colour(style), 7);
  }
}
const across = (frame, width) => axis.left + (width - axis.left - axis.right) * (last ? frame / last : 0.5);
const up = (value, height) =>
  height - axis.bottom - (height - axis.top - axis.bottom) * (value - range[0]) / (range[1] - range[0]);

function extremes(lines) {
  let [low, high] = [0, 0];
  for (const {values} of lines) for (const value of values) if (isFinite(value)) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return [low, high - low < 1e-3 ? low + 1 : high];
}

function drawAxes(pen, lines, width, height) {
  const note = lines.some(({dash}) => dash.length) ? "; right dashed" : "";
  label(pen, kind[1] + note, axis.left, 19, colour("--faint"), 400, 12, width - axis.left - 100);
  const step = tick(range[1] - range[0], 3);
  pen.textAlign = "right";
  for (let value = Math.ceil(range[0] / step) * step; value <= range[1]; value += step) {
    const y = up(value, height);
    line(pen, [axis.left, y], [width - axis.right, y], colour("--grid"), 1);
    label(pen, String(+value.toFixed(2)), axis.left - 8, y + 4, colour("--faint"), 400, 11);
  }
  pen.textAlign = "center";
  const every = Math.max(tick(Math.max(1, last), Math.min(10, width / 60)), 1);
  for (let frame = 0; frame <= last; frame += every)
    label(pen, String(scene.start + frame), across(frame, width), height - 5, colour("--faint"), 400, 11);
  pen.textAlign = "left";
}

function drawCurve(pen, {values, style, dash}, width, height) {
  const many = Math.max(1, Math.floor(scene.frames / width));  // frames of one pixel, of which the extremes are drawn
  let gap = true;
  pen.beginPath();
  for (let first = 0; first <= last; first += many) {
    let low = Infinity, high = -Infinity;
    for (const value of values.subarray(first, first + many)) {
      if (value < low) low = value;
      if (value > high) high = value;
    }
    if (low <= high) pen[gap ? "moveTo" : "lineTo"](across(first, width), up(low, height));
    if (low < high) pen.lineTo(across(first, width), up(high, height));
    gap = low > high;
  }
  pen.setLineDash(dash);
  pen.strokeStyle = colour(style); pen.lineWidth = 1.6; pen.stroke();
  pen.setLineDash([]);
}

function tick(range, count) {  // 1, 2 or 5 times a power of ten
  const rough = range / count, power = 10 ** Math.floor(Math.log10(rough));
  return power * [1, 2, 5, 10].find(factor => factor * power >= rough);
}
