// From the strokes of a pen to the pixels that a network sees, the way Omniglot's pictures came to be: black lines on a square of
// 105 × 105, of which every pixel of the 28 × 28 reads one, without smoothing (mlbook.tasks.omniglot.nearest_28).
//
// A stroke is a list of coordinates x0, y0, x1, y1, … on that square, y downwards. mlbook.pages.labs.draw_characters has the same in
// Python, and tests/test_draw_characters.py compares the two.

export const PAPER = 105, PIXELS = 28;
/** Diameter of the pen: with it, pixels have as many neighbours with ink as in Omniglot. */
export const PEN = 5.4;
/** Where the middle of a drawing lies on average in Omniglot (left and right edge, top and bottom edge): a little left and high. */
export const MIDDLE = [51, 50.5];

/** The middle of the box around all strokes. */
export function middle(strokes) {
  const of = (axis) => {
    const values = strokes.flatMap((stroke) => stroke.filter((_, i) => i % 2 === axis));
    return (Math.min(...values) + Math.max(...values)) / 2;
  };
  return [of(0), of(1)];
}

/** Points pulled a little towards their neighbours, but for the ends: a mouse writes in small steps. */
export function smoothed(stroke) {
  return stroke.map((v, i) => (i < 2 || i >= stroke.length - 2 ? v : (stroke[i - 2] + 2 * v + stroke[i + 2]) / 4));
}

/** The strokes as they go onto the paper: smoothed, and moved so that their middle is where Omniglot's is. */
export function arranged(strokes, centred) {
  if (!strokes.length) return [];
  const smooth = strokes.map(smoothed);
  if (!centred) return smooth;
  const now = middle(smooth);
  return smooth.map((stroke) => stroke.map((v, i) => v + MIDDLE[i % 2] - now[i % 2]));
}

/** [28 · 28] zeros and ones (ink), row by row. */
export function pixelsOf(strokes, centred) {
  const ink = new Uint8Array(PIXELS * PIXELS), reach = PEN / 2;
  const read = Array.from({ length: PIXELS }, (_, i) => Math.floor(((i + 0.5) * PAPER) / PIXELS) + 0.5); // centre of the pixel that is read
  for (const stroke of arranged(strokes, centred))
    for (let i = 0; i < Math.max(stroke.length - 2, 2); i += 2) {
      const [ax, ay] = stroke.slice(i, i + 2), [bx, by] = i + 2 < stroke.length ? stroke.slice(i + 2, i + 4) : [ax, ay]; // a tap is a dot
      const dx = bx - ax, dy = by - ay, square = dx * dx + dy * dy;
      for (let row = 0; row < PIXELS; row++)
        for (let column = 0; column < PIXELS; column++) {
          const x = read[column] - ax, y = read[row] - ay;
          const t = square ? Math.min(1, Math.max(0, (x * dx + y * dy) / square)) : 0;
          if ((x - t * dx) ** 2 + (y - t * dy) ** 2 <= reach * reach) ink[row * PIXELS + column] = 1;
        }
    }
  return ink;
}

// -- a drawing in an address --------------------------------------------------------------------------------------------

const LETTERS_64 = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";

/** Strokes for `kept.list` of address.js: tenths of a unit from point to point, small moves in one letter; a dot between strokes. */
export const keptDrawing = {
  write: (strokes) => strokes.map((stroke) => {
    const tenths = stroke.map((v) => Math.round(10 * v));
    return tenths.map((v, i) => {
      const move = v - (i < 2 ? 0 : tenths[i - 2]);
      let left = move < 0 ? -2 * move - 1 : 2 * move, letters = "";
      for (; left > 31; left >>= 5) letters += LETTERS_64[32 + (left & 31)]; // 32: more of this number follows
      return letters + LETTERS_64[left];
    }).join("");
  }).join("."),
  read(text) {
    const strokes = text === "" ? [] : text.split(".").map((part) => {
      const tenths = [];
      let number = 0, shift = 0;
      for (const letter of part) {
        const bits = LETTERS_64.indexOf(letter);
        number |= (bits & 31) << shift;
        shift += 5;
        if (bits < 0 || shift > 20) return null;
        if (bits > 31) continue;
        tenths.push((number & 1 ? -(number + 1) / 2 : number / 2) + (tenths.length < 2 ? 0 : tenths[tenths.length - 2]));
        [number, shift] = [0, 0];
      }
      const whole = !shift && tenths.length > 0 && tenths.length % 2 === 0 && tenths.every((v) => v >= 0 && v <= 10 * PAPER);
      return whole ? tenths.map((v) => v / 10) : null;
    });
    return strokes.includes(null) ? undefined : strokes;
  },
};
