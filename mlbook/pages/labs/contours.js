// Contour lines, and powers of ten on axes.
import { Plot } from "./shared.js";

/** The d of the contour lines of f over `plot`, one for each level, from a grid of n × n cells. */
export function contours(plot, f, levels, n = 40) {
  const [x0, x1] = plot.domain, [y0, y1] = plot.range, at = (i, j) => [x0 + ((x1 - x0) * i) / n, y0 + ((y1 - y0) * j) / n];
  const corners = Array.from({ length: n + 1 }, (_, i) => Array.from({ length: n + 1 }, (_, j) => ({ p: at(i, j), f: f(...at(i, j)) })));
  const cross = (a, b, level) => {
    const t = (level - a.f) / (b.f - a.f);
    return `${plot.X(a.p[0] + t * (b.p[0] - a.p[0])).toFixed(1)} ${plot.Y(a.p[1] + t * (b.p[1] - a.p[1])).toFixed(1)}`;
  };
  return levels.map((level) => {
    let d = "";
    for (let i = 0; i < n; i++)
      for (let j = 0; j < n; j++)
        for (const middle of [corners[i + 1][j], corners[i][j + 1]]) { // two triangles: a line crosses two of three sides
          const triangle = [corners[i][j], middle, corners[i + 1][j + 1]];
          const sides = [[0, 1], [1, 2], [2, 0]].filter(([a, b]) => triangle[a].f > level !== triangle[b].f > level);
          if (sides.length) d += `M${sides.map(([a, b]) => cross(triangle[a], triangle[b], level)).join("L")}`;
        }
    return d;
  });
}

// -- powers of ten ----------------------------------------------------------------------------------------------------

/** A plot with powers of ten on both axes. */
export class LogLogPlot extends Plot {
  constructor(settings) {
    super({ ...settings, log: true });
  }

  X(value) {
    const [low, high] = this.domain.map(Math.log10);
    return ((Math.log10(value) - low) / (high - low)) * this.width;
  }
}

class Power extends Number {
  toString() {
    return "10" + [...`${Math.round(Math.log10(this))}`].map((c) => (c === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[c])).join("");
  }
}

/** 10ⁿ as a tick of an axis: a number that writes itself as a power. */
export const power = (n) => new Power(10 ** n);
