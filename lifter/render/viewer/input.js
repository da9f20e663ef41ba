// Pointers and keys: one finger or the mouse turns, two fingers or shift move, pinch and wheel zoom.

const stage = document.querySelector("#room canvas"), fingers = new Map();
stage.addEventListener("pointerdown", event => {
  stage.setPointerCapture(event.pointerId);
  fingers.set(event.pointerId, [event.clientX, event.clientY]);
});
stage.addEventListener("pointermove", event => {
  const before = fingers.get(event.pointerId);
  if (!before) return;
  const now = [event.clientX, event.clientY], [dx, dy] = [now[0] - before[0], now[1] - before[1]];
  fingers.set(event.pointerId, now);
  if (fingers.size === 2) {
    const [other] = [...fingers.keys()].filter(id => id !== event.pointerId).map(id => fingers.get(id));
    const apart = point => Math.hypot(point[0] - other[0], point[1] - other[1]) || 1;
    zoom(apart(now) / apart(before));
    move(dx / 2, dy / 2);  // the middle between both
  } else if (event.shiftKey || event.buttons & 6) move(dx, dy);
  else {
    view.yaw += 0.4 * dx;
    view.pitch = Math.min(90, Math.max(-90, view.pitch + 0.4 * dy));
  }
  redraw();
});
for (const kind of ["pointerup", "pointercancel"]) stage.addEventListener(kind, event => fingers.delete(event.pointerId));
stage.addEventListener("contextmenu", event => event.preventDefault());
stage.addEventListener("wheel", event => {
  event.preventDefault();
  zoom(Math.exp(-0.0015 * event.deltaY));
}, {passive: false});
function zoom(factor) {
  view.zoom = Math.min(20, Math.max(0.2, view.zoom * factor));
  redraw();
}
function move(right, down) {  // in pixels
  const metres = fitted[+state.follow].size[1] / stage.clientHeight / view.zoom;
  view.x += right * metres;
  view.y += down * metres;
}

const axes = document.querySelector("#curves canvas"), jump = event => {
  const {left, width} = axes.getBoundingClientRect();
  play(false);
  seek((event.clientX - left - axis.left) / (width - axis.left - axis.right) * last);
};
axes.addEventListener("pointerdown", event => { axes.setPointerCapture(event.pointerId); jump(event); });
axes.addEventListener("pointermove", event => { if (event.buttons) jump(event); });

document.addEventListener("keydown", event => {
  const {key, target} = event;
  if (event.ctrlKey || event.metaKey || event.altKey || target.tagName === "SELECT") return;
  if (target.tagName === "BUTTON" && (key === " " || key === "Enter")) return;
  const stride = event.shiftKey ? 10 : 1;
  const actions = {
    " ": () => play(!state.playing), ArrowLeft: () => step(-stride), ArrowRight: () => step(stride),
    Home: () => step(-last), End: () => step(last), r: () => $("reset").click(), f: () => $("follow").click(),
    o: () => $("overlay").click(), c: () => scene.camera && $("real").click(), l: () => $("trails").click(),
    t: () => truth && truth.chip.click(),
  };
  const action = actions[key] || actions[key.toLowerCase()] || (bodies[key - 1] && (() => bodies[key - 1].chip.click()));
  if (!action) return;
  event.preventDefault();
  action();
});
