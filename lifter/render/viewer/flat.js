// The 2D panel: the keypoints, on the video's picture where there is one.

function drawFlat() {
  const {pen, width, height} = surface(document.querySelector("#flat canvas"));
  let [wide, tall] = [0, 1].map(k => Math.max(0.1, image.high[k] - image.low[k])), [midX, midY] = image.middle;
  let scale = Math.min((width - 48) / wide, (height - 90) / tall), down = 16;
  if (film) {
    [wide, tall, midX, midY, down] = [2, 2 * film.height / film.width, 0, 0, 0];
    scale = Math.min(width / wide, height / tall);
    const [w, h] = [wide * scale, tall * scale];
    if (picture()) pen.drawImage(picture(), (width - w) / 2, (height - h) / 2, w, h);
  }
  const points = [], first = state.frame * stride;
  for (let j = 0; j < joints; j++) {
    const [x, y, sure] = keypoints.subarray(first + 3 * j, first + 3 * j + 3);
    points.push([width / 2 + (x - midX) * scale, height / 2 + down + (y - midY) * scale, sure]);
  }
  const thick = Math.min(5, Math.max(2, width / 90));
  const away = scene.people.filter(([from, to]) => !isThere(keypoints, {from, to}, state.frame));
  scene.bones.forEach(([a, b], i) => {
    if (away.some(([from, to]) => a >= from && a < to)) return;
    const sure = Math.min(points[a][2], points[b][2]) >= 0.3;
    line(pen, points[a], points[b], colour(sure ? limbs[scene.sides[i]] : "--pale"), thick);
  });
  for (const point of points) line(pen, point, point, colour("--paper"), 0.5 * thick);
  if (!film) label(pen, "2D keypoints", 16, 26, colour("--ink"));
}
