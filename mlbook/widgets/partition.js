// A plane cut into the regions of the classes: polygons to fill, and the lines between them.

/** Corners of n × n cells over [low, high]². */
export const cornersOf = (low, high, n) =>
  Array.from({ length: (n + 1) ** 2 }, (_, i) => [i % (n + 1), Math.floor(i / (n + 1))].map((v) => low + ((high - low) * v) / n));

/** The part of a polygon of {p, s} (place, scores) where class k has more than class l. */
function clip(polygon, k, l) {
  const margin = ({ s }) => s[k] - s[l];
  return polygon.flatMap((a, i) => {
    const b = polygon[(i + 1) % polygon.length], fa = margin(a), fb = margin(b), kept = fa >= 0 ? [a] : [];
    if (fa >= 0 === fb >= 0) return kept;
    const t = fa / (fa - fb), mix = (u, v) => u.map((value, j) => value + t * (v[j] - value));
    return [...kept, { p: mix(a.p, b.p), s: mix(a.s, b.s) }];
  });
}

/** d of the region of each class and of the boundary, from scores at `cornersOf`. place: from the plane to "x y" in pixels. */
export function partition(scores, corners, n, place) {
  const best = scores.map((s) => s.indexOf(Math.max(...s))), classes = scores[0].map((_, k) => k), regions = classes.map(() => []), lines = [];
  const polygon = (points) => `M${points.map(place).join("L")}Z`, corner = (i) => ({ p: corners[i], s: scores[i] });
  function cut(triangle) {
    for (const k of classes) {
      let inside = triangle;
      for (const l of classes) if (l !== k && inside.length) inside = clip(inside, k, l);
      if (inside.length < 3) continue;
      regions[k].push(polygon(inside.map(({ p }) => p)));
      const tie = ({ s }, l) => Math.abs(s[k] - s[l]) <= 1e-9 * (1 + Math.abs(s[k]));
      inside.forEach((a, i) => {
        const b = inside[(i + 1) % inside.length];
        if (classes.some((l) => l > k && tie(a, l) && tie(b, l))) lines.push(`M${place(a.p)}L${place(b.p)}`);
      });
    }
  }
  for (let row = 0; row < n; row++) {
    for (let column = 0, first = 0; column < n; column++) {
      const i = row * (n + 1) + column, four = [i, i + 1, i + n + 2, i + n + 1], own = best[i], plain = (cell) => cell.every((c) => best[c] === own);
      if (!plain(four)) {
        cut([four[0], four[1], four[2]].map(corner));
        cut([four[0], four[2], four[3]].map(corner));
        first = column + 1;
        continue;
      }
      // neighbours of one class in a row make one rectangle
      const next = four.map((c) => c + 1), goes = column + 1 < n && plain(next);
      if (goes) continue;
      const start = row * (n + 1) + first;
      regions[own].push(polygon([start, i + 1, i + n + 2, start + n + 1].map((c) => corners[c])));
      first = column + 1;
    }
  }
  return { regions: regions.map((parts) => parts.join("")), boundary: lines.join("") };
}
