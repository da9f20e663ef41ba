// Playing, buttons, and what the page says.

function seek(frame) {
  state.frame = Math.min(last, Math.max(0, Math.round(frame)));
  redraw();
}
let began = null;  // when playing: the time and the frame
function play(on) {
  state.playing = on && last > 0;
  began = null;
  document.querySelector("#play path").setAttribute("d", state.playing ? "M2 1h4v12H2zM8 1h4v12H8z" : "M2 1v12l11-6z");
  if (state.playing) requestAnimationFrame(advance);
}
function advance(now) {
  if (!state.playing) return;
  began ??= [now, state.frame];
  const frame = Math.floor(began[1] + (now - began[0]) / 1000 * scene.fps * $("speed").value) % scene.frames;
  if (frame !== state.frame) { state.frame = frame; redraw(); }
  requestAnimationFrame(advance);
}
const step = by => { play(false); seek(state.frame + by); };
function press(button, action) {
  button.addEventListener("click", event => {
    action();
    if (event.detail) button.blur();  // by mouse: the space bar is for playing again
  });
}
function toggle(button, owner, key) {
  press(button, () => {
    owner[key] = !owner[key];
    button.setAttribute("aria-pressed", owner[key]);
    graphIsOld = true;
    redraw();
  });
}

for (const body of everybody) {
  const chip = document.createElement("button"), dot = document.createElement("i"), name = document.createElement("span");
  chip.className = "chip";
  chip.setAttribute("aria-pressed", true);
  chip.style.setProperty("--colour", `var(${body.colour})`);
  chip.title = `show or hide (${body === truth ? "T" : bodies.indexOf(body) + 1})`;
  name.textContent = body.name;
  chip.append(dot, name);
  if (hasErrors && body.errors) {
    const mean = document.createElement("span");
    mean.className = "faint";
    mean.textContent = `${body.mean.toFixed(1)} mm`;
    chip.append(mean);
  }
  toggle(chip, body, "shown");
  $("chips").append(chip);
  body.chip = chip;
}
toggle($("overlay"), state, "overlay");
toggle($("follow"), state, "follow");
toggle($("real"), state, "real");
toggle($("trails"), state, "trails");
for (const [name] of kinds) $("which").add(new Option(name));
$("which").addEventListener("change", event => {
  kind = kinds[event.target.selectedIndex];
  graphIsOld = true;
  redraw();
});
press($("reset"), () => { resetView(); redraw(); });
press($("back"), () => step(-1));
press($("on"), () => step(1));
press($("play"), () => play(!state.playing));
$("slider").max = last;
$("slider").addEventListener("input", event => { play(false); seek(+event.target.value); });
for (const speed of [0.1, 0.25, 0.5, 1, 2, 4]) $("speed").add(new Option(`${speed} ×`, speed, speed === 1, speed === 1));
$("speed").addEventListener("change", () => { began = null; });

document.title = `${scene.name} – lifter`;
$("name").textContent = scene.name;
$("about").textContent = `${scene.frames} frames, ${+scene.fps.toFixed(2)} per second`;
if (film && film.numbers.length > 1 && film.numbers[1] > film.numbers[0] + 1)
  $("about").textContent += `, a picture every ${film.numbers[1] - film.numbers[0]} frames`;
$("scale").textContent = `· floor: squares of ${scene.floor[4]} m`;
$("overlay").hidden = scene.models.length < 2;
$("real").hidden = !scene.camera;
$("trails").hidden = !last;
$("flat").hidden = !keypoints;
if (film) $("flat").style.setProperty("--ratio", film.height / film.width);
$("room").style.flexGrow = 1.4 + 0.8 * scene.models.length;
$("curves").hidden = !hasCurves;
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { colours = {}; graphIsOld = true; redraw(); });
new ResizeObserver(() => { graphIsOld = true; redraw(); }).observe(document.body);
play(false);
redraw();
