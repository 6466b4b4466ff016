// A curve that a hand draws: one height for each input of a grid, null where nothing is drawn yet.
import { clamp } from "./shared.js";

const near = (grid, x) => clamp(Math.round(((x - grid[0]) / (grid.at(-1) - grid[0])) * (grid.length - 1)), [0, grid.length - 1]);
const hundredths = (y) => Math.round(100 * y) / 100;

/** The sketch after the pen went straight from one point to another; what was there before is overwritten. */
export function penned(grid, sketch, from, to) {
  const [[x0, y0], [x1, y1]] = from[0] <= to[0] ? [from, to] : [to, from], next = [...sketch];
  for (let i = near(grid, x0); i <= near(grid, x1); i++)
    next[i] = hundredths(x1 > x0 ? y0 + (y1 - y0) * clamp((grid[i] - x0) / (x1 - x0), [0, 1]) : to[1]);
  next[near(grid, to[0])] = hundredths(to[1]);
  return next;
}

export const covered = (sketch) => sketch.filter((y) => y !== null).length / sketch.length;

/** A whole curve: gaps on the straight line between their ends, and beyond the first and the last height their own. */
export function whole(sketch) {
  const known = sketch.flatMap((y, i) => (y === null ? [] : [i]));
  return sketch.map((y, i) => {
    if (y !== null) return y;
    const after = known.find((k) => k > i), before = known.findLast((k) => k < i);
    if (after === undefined || before === undefined) return sketch[after ?? before];
    return hundredths(sketch[before] + ((sketch[after] - sketch[before]) * (i - before)) / (after - before));
  });
}

/** A sketch of `n` heights within the limits for an address (`kept` of address.js): two letters each, "__" where nothing is drawn. */
export const keptSketch = (n, [low, high]) => ({
  write: (sketch) => (covered(sketch) ? sketch.map((y) => (y === null ? "__" : Math.round(100 * (y - low)).toString(36).padStart(2, "0"))).join("") : ""),
  read(text) {
    if (text === "") return Array(n).fill(null);
    const sketch = /^([0-9a-z]{2}|__)+$/.test(text) ? text.match(/../g).map((two) => (two === "__" ? null : hundredths(low + Number.parseInt(two, 36) / 100))) : [];
    return sketch.length === n && sketch.every((y) => y === null || y <= high) ? sketch : undefined;
  },
});

/** The drawn parts, as [inputs, heights] each. */
export function parts(grid, sketch) {
  const found = [];
  sketch.forEach((y, i) => {
    if (y === null) return;
    if (!i || sketch[i - 1] === null) found.push([[], []]);
    found.at(-1)[0].push(grid[i]);
    found.at(-1)[1].push(y);
  });
  return found;
}
