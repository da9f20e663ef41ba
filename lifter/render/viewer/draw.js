// Drawing: what is shown, the pens of all panels, and when they draw.

const state = {frame: 0, playing: false, overlay: false, follow: false, real: false, trails: false};
let colours = {};
const colour = name => colours[name] ??= getComputedStyle(document.documentElement).getPropertyValue(name).trim();
const limbs = ["--middle", "--left", "--right"];

function surface(canvas) {
  const ratio = devicePixelRatio || 1, {clientWidth: width, clientHeight: height} = canvas;
  if (canvas.width !== Math.round(width * ratio) || canvas.height !== Math.round(height * ratio)) {
    canvas.width = Math.round(width * ratio);
    canvas.height = Math.round(height * ratio);
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  pen.lineJoin = "round";
  return {pen, width, height};
}
function line(pen, a, b, style, width, ends = "round") {
  pen.beginPath(); pen.moveTo(a[0], a[1]); pen.lineTo(b[0] + 0.01, b[1]);  // of no length at all it would not be drawn
  pen.strokeStyle = style; pen.lineWidth = width; pen.lineCap = ends; pen.stroke();
}
const family = getComputedStyle(document.body).fontFamily;
function label(pen, text, x, y, style, weight = 600, size = 14, within = undefined) {
  pen.font = `${weight} ${size}px ${family}`;
  pen.fillStyle = style; pen.fillText(text, x, y, within);
}

let asked = false;
function redraw() {
  if (!asked) requestAnimationFrame(draw);
  asked = true;
}
function draw() {
  asked = false;
  drawRoom();
  if (keypoints) drawFlat();
  if (hasCurves) drawCurves();
  $("slider").value = state.frame;
  const number = scene.start + state.frame;
  $("when").textContent = `frame ${number} of ${scene.start + last} · ${(number / scene.fps).toFixed(2)} s`;
}
