// The video: small pictures, of which those around the frame are decoded.

const film = scene.film, decoded = new Map();
function load(index) {
  if (!decoded.has(index)) {
    const picture = new Image();
    picture.onload = redraw;
    picture.src = `data:image/jpeg;base64,${film.data[index]}`;
    decoded.set(index, picture);
    if (decoded.size > 80) decoded.delete(decoded.keys().next().value);
  }
  return decoded.get(index);
}
let shownPicture = null;
function picture() {
  let low = 0, high = film.numbers.length - 1;  // the last one that is not after the frame
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (film.numbers[middle] <= state.frame) low = middle; else high = middle - 1;
  }
  const wanted = load(low);
  for (let next = low + 1; next < Math.min(low + 8, film.numbers.length); next++) load(next);
  if (wanted.complete) shownPicture = wanted;
  return shownPicture;
}
