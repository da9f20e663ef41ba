// The view: a camera that all scales depend on, but no frame does.

const bounds = all => {
  const low = [Infinity, Infinity, Infinity], high = [-Infinity, -Infinity, -Infinity];
  for (const values of all) for (let i = 0; i < values.length; i += 3) for (let k = 0; k < 3; k++) {
    if (values[i + k] < low[k]) low[k] = values[i + k];
    if (values[i + k] > high[k]) high[k] = values[i + k];
  }
  return {low, high, middle: low.map((x, k) => (x + high[k]) / 2)};
};
const clouds = new Set(everybody.map(body => body.poses)), room = bounds(clouds);
let radius = 0.5;
for (const poses of clouds) for (let i = 0; i < poses.length; i += 3)
  radius = Math.max(radius, Math.hypot(...room.middle.map((middle, k) => poses[i + k] - middle)));
const view = {}, distance = scene.view.distance * radius;
const resetView = () => Object.assign(view, {yaw: scene.view.yaw, pitch: scene.view.pitch, zoom: 1, x: 0, y: 0});
resetView();

function camera(target) {
  const yaw = view.yaw * Math.PI / 180, pitch = view.pitch * Math.PI / 180;
  const [sy, cy, sp, cp] = [Math.sin(yaw), Math.cos(yaw), Math.sin(pitch), Math.cos(pitch)];
  return (x, y, z) => {  // right and down in metres as seen at the target, and how far away
    x -= target[0]; y -= target[1]; z -= target[2];
    const ahead = x * sy + y * cy, depth = ahead * cp - z * sp + distance;
    const near = distance / Math.max(depth, 0.05 * distance);
    return [(x * cy - y * sy) * near, -(ahead * sp + z * cp) * near, depth];
  };
}

const some = Math.max(1, Math.floor(scene.frames / 1500));  // of so many frames one is enough to find what all take up
function seen(follow) {  // what all frames take up in the view as it is at first; that much fills the panel
  const project = camera(room.middle), low = [Infinity, Infinity], high = [-Infinity, -Infinity];
  const add = (x, y, z) => project(x, y, z).slice(0, 2).forEach((value, k) => {
    low[k] = Math.min(low[k], value);
    high[k] = Math.max(high[k], value);
  });
  for (const {poses, from, to} of everybody) for (let frame = 0; frame < scene.frames; frame += some) {
    const root = frame * stride + 3 * (from + scene.root);
    const [dx, dy] = [0, 1].map(k => follow ? room.middle[k] - poses[root + k] : 0);
    for (let i = frame * stride + 3 * from; i < frame * stride + 3 * to; i += 3) {
      add(poses[i] + dx, poses[i + 1] + dy, poses[i + 2]);
      add(poses[i] + dx, poses[i + 1] + dy, 0);  // its shadow
    }
  }
  const [x0, y0, x1, y1] = scene.floor;
  if (!follow) for (const x of [x0, x1]) for (const y of [y0, y1]) add(x, y, 0);
  return {middle: low.map((x, k) => (x + high[k]) / 2), size: low.map((x, k) => Math.max(0.1, high[k] - x))};
}
const fitted = [seen(false), seen(true)];
const image = keypoints && bounds([keypoints]);
