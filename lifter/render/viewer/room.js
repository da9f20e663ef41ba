// The 3D panel: a cell for each model, or one for all, each with floor, shadows, trails and bodies.

function drawRoom() {
  const {pen, width, height} = surface(document.querySelector("#room canvas"));
  const shown = bodies.filter(body => body.shown), seen = truth && truth.shown ? [truth] : [];
  const byModels = scene.models.map((_, i) => shown.filter(body => body.model === i)).filter(group => group.length);
  const cells = state.overlay || !shown.length ? [shown] : byModels;
  let columns = 1;
  for (let n = 2; n <= cells.length; n++) {
    const size = n => Math.min(width / n, height / Math.ceil(cells.length / n));
    if (size(n) > size(columns)) columns = n;
  }
  const w = width / columns, h = height / Math.ceil(cells.length / columns);
  cells.forEach((cell, i) => {
    const box = {left: i % columns * w, top: Math.floor(i / columns) * h, width: w, height: h};
    pen.save();
    pen.beginPath(); pen.rect(box.left, box.top, w, h); pen.clip();
    drawCell(pen, [...cell, ...seen], box);
    pen.restore();
  });
}

function drawCell(pen, cell, box) {
  const leader = (truth && truth.shown) ? truth : cell[0] || bodies[0];
  const eye = (state.real ? filming : free)(leader, box);
  const compared = new Set(cell.filter(body => body !== truth).map(body => body.model)).size > 1;
  const present = cell.filter(body => isThere(body.poses, body, state.frame));
  if (eye.frame) drawPicture(pen, eye.frame);
  drawFloor(pen, eye);
  if (state.trails) for (const body of present) drawTrails(pen, body, eye);
  drawBodies(pen, present, compared, eye);
  drawNames(pen, cell, compared, box);
}

// ---- eyes: where a point is seen; what is nearer than `near` is not; `fit` pixels show a metre -----------------------
function free(leader, {left, top, width, height}) {  // goes around the room, or with somebody
  const [x, y] = rootAt(leader, state.frame), {middle, size} = fitted[+state.follow];
  const project = camera(state.follow ? [x, y, room.middle[2]] : room.middle);
  const fit = Math.min((width - 56) / size[0], (height - 90) / size[1]) * view.zoom;
  const [x0, y0] = [left + width / 2, top + height / 2 + 16];
  const place = (x, y, z) => {
    const [right, down, depth] = project(x, y, z);
    return [x0 + (right - middle[0] + view.x) * fit, y0 + (down - middle[1] + view.y) * fit, depth];
  };
  return {place, fit, near: 0.06 * distance};
}

function filming(leader, {left, top, width, height}) {  // stands where the camera stood
  const {rotation: r, translation: t, fx, fy, cx, cy, width: wide, height: tall} = scene.camera;
  const scale = Math.min(width / wide, height / tall) * view.zoom;
  const [x0, y0] = [left + width / 2 - wide * scale / 2, top + height / 2 - tall * scale / 2];
  const place = (x, y, z) => {
    const [right, down, depth] = [0, 1, 2].map(k => r[k][0] * x + r[k][1] * y + r[k][2] * z + t[k]);
    const away = Math.max(depth, 0.01);
    return [x0 + (cx + fx * right / away) * scale, y0 + (cy + fy * down / away) * scale, depth];
  };
  const fit = fx * scale / Math.max(place(...rootAt(leader, state.frame))[2], 0.5);
  return {place, fit, near: 0.1, frame: [x0, y0, wide * scale, tall * scale]};
}

const ahead = ({near}, a, b) => Math.min(a[2], b[2]) > near;

// ---- what is seen -----------------------------------------------------------------------------------------------------
function drawPicture(pen, frame) {
  if (film && picture()) pen.drawImage(picture(), ...frame);
  else { pen.strokeStyle = colour("--line"); pen.strokeRect(...frame); }
}

function drawFloor(pen, eye) {
  const [x0, y0, x1, y1, step] = scene.floor;
  pen.beginPath();
  for (let x = x0; x <= x1 + step / 2; x += step) for (let y = y0; y <= y1 + step / 2; y += step) {
    const from = eye.place(x, y, 0);
    for (const [u, v] of [[x + step, y], [x, y + step]]) {
      if (u > x1 + step / 2 || v > y1 + step / 2) continue;
      const to = eye.place(u, v, 0);
      if (ahead(eye, from, to)) { pen.moveTo(from[0], from[1]); pen.lineTo(to[0], to[1]); }
    }
  }
  pen.strokeStyle = colour("--grid"); pen.lineWidth = 1; pen.stroke();
}

function drawTrails(pen, body, eye) {  // the way on the floor until now, and a second of hands, feet and head
  const path = (joint, begin, every, height, style, width) => {
    let before = null;
    pen.beginPath();
    for (let frame = Math.max(0, begin); frame <= state.frame; frame += every) {
      if (!isThere(body.poses, body, frame)) { before = null; continue; }
      const i = frame * stride + 3 * joint, point = eye.place(body.poses[i], body.poses[i + 1], height * body.poses[i + 2]);
      if (before && ahead(eye, before, point)) pen.lineTo(point[0], point[1]); else pen.moveTo(point[0], point[1]);
      before = point;
    }
    pen.strokeStyle = style; pen.lineWidth = width; pen.lineCap = "round"; pen.stroke();
  };
  path(body.from + scene.root, 0, Math.max(1, Math.floor(state.frame / 400)), 0, colour(body.colour), 1.5);
  for (const joint of tips) if (joint >= body.from && joint < body.to) {
    const side = scene.sides[scene.bones.findIndex(([a]) => a === joint)];
    path(joint, state.frame - Math.round(scene.fps), 1, 1, colour(crowd ? body.colour : limbs[side]), 2);
  }
}

function drawBodies(pen, present, compared, eye) {
  const bones = [], first = state.frame * stride;
  const thick = (compared ? 0.75 : 1) * Math.min(9, Math.max(2.2, 0.036 * eye.fit));
  for (const body of present) {
    const points = [], shadow = [];
    for (let j = body.from; j < body.to; j++) {
      const [x, y, z] = body.poses.subarray(first + 3 * j, first + 3 * j + 3);
      points[j] = eye.place(x, y, z); shadow[j] = eye.place(x, y, 0);
    }
    body.top = points.reduce((top, point) => point[1] < top[1] ? point : top);
    scene.bones.forEach(([a, b], i) => {
      if (a < body.from || a >= body.to || !ahead(eye, points[a], points[b])) return;
      line(pen, shadow[a], shadow[b], colour("--shadow"), 0.6 * thick);
      const side = scene.sides[i], own = body === truth || compared ? body.colour : limbs[side];
      const [size, edge, behind] = body === truth ? [0.5 * thick, 0, 0.3] : [thick, 4, 0];  // the model is before the truth
      const depth = points[a][2] + points[b][2] + behind, pale = compared && body !== truth && side === 2;
      bones.push({a: points[a], b: points[b], style: colour(own), size, edge, depth, pale});
    });
  }
  bones.sort((one, other) => other.depth - one.depth);
  for (const {a, b, style, size, edge, pale} of bones) {
    line(pen, a, b, colour("--paper"), size + edge, "butt");  // the nearer limb is seen to be before the other
    pen.globalAlpha = pale ? 0.6 : 1;
    line(pen, a, b, style, size);
    pen.globalAlpha = 1;
  }
  if (!crowd) return;
  pen.textAlign = "center";
  for (const body of present) label(pen, body.number, body.top[0], body.top[1] - 9, colour(body.colour), 700, 14);
  pen.textAlign = "left";
}

function drawNames(pen, cell, compared, {left, top, width, height}) {
  if (left > 0) line(pen, [left, top + 14], [left, top + height - 14], colour("--line"), 1);
  if (top > 0) line(pen, [left + 14, top], [left + width - 14, top], colour("--line"), 1);
  if (compared) {
    label(pen, "overlay", left + 16, top + 26, colour("--ink"));
    label(pen, "right limbs are paler", left + 16, top + 45, colour("--faint"), 400, 13);
  } else if (cell.length && !state.real) {
    const name = crowd && cell[0] !== truth ? scene.models[cell[0].model].name : cell[0].name;
    if (!crowd) line(pen, [left + 20, top + 21], [left + 20, top + 21], colour(cell[0].colour), 9);
    label(pen, name, left + (crowd ? 16 : 31), top + 26, colour("--ink"), 600, 14, width - 45);
    if (cell[0].errors) label(pen, millimetres(cell[0]), left + 16, top + 45, colour("--faint"), 400, 13, width - 30);
  }
}

function millimetres(body) {
  const error = body.errors[state.frame];
  return `${isFinite(error) ? error.toFixed(1) : "–"} mm, mean ${body.mean.toFixed(1)}`;
}
