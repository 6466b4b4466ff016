// A plane cut into the regions of the classes: polygons to fill, and the lines between them.

/** Corners of n × n cells over [low, high]². */
export const cornersOf = (low, high, n) =>
  Array.from({ length: (n + 1) ** 2 }, (_, i) => [i % (n + 1), Math.floor(i / (n + 1))].map((v) => low + ((high - low) * v) / n));

/** The part of a polygon of {p, s} (place, scores) where class k has at least as much as class l. */
function clip(polygon, k, l) {
  const margin = ({ s }) => s[k] - s[l];
  return polygon.flatMap((a, i) => {
    const b = polygon[(i + 1) % polygon.length], fa = margin(a), fb = margin(b), kept = fa >= 0 ? [a] : [];
    if (fa >= 0 === fb >= 0) return kept;
    const t = fa / (fa - fb), mix = (u, v) => u.map((value, j) => value + t * (v[j] - value));
    return [...kept, { p: mix(a.p, b.p), s: mix(a.s, b.s) }];
  });
}

/** Segments [from, to] as the d of as few lines as possible, so that dashes run through. */
function joined(segments) {
  const at = new Map(), used = new Set(), note = (end, s) => at.set(end, [...(at.get(end) ?? []), s]);
  segments.forEach((s) => s.forEach((end) => note(end, s)));
  const next = (end) => at.get(end).find((s) => !used.has(s));
  const follow = (end) => {
    const line = [];
    for (let s = next(end); s; s = next(end)) used.add(s), line.push((end = s[0] === end ? s[1] : s[0]));
    return line;
  };
  return segments.map((s) => (used.has(s) ? "" : `M${[...(used.add(s), follow(s[0])).reverse(), ...s, ...follow(s[1])].join("L")}`)).join("");
}

/** d of the region of each class and of the boundary, from scores at `cornersOf`. place: from the plane to "x y" in pixels. */
export function partition(scores, corners, n, place) {
  const own = scores.map((s) => s.indexOf(Math.max(...s))), classes = scores[0].map((_, k) => k), regions = classes.map(() => ""), segments = [];
  const polygon = (points) => `M${points.map(place).join("L")}Z`, corner = (i) => ({ p: corners[i], s: scores[i] });
  function cut(triangle) {
    for (const k of classes) {
      const others = classes.filter((l) => l !== k), inside = others.reduce((rest, l) => clip(rest, k, l), triangle);
      if (inside.length < 3) continue;
      regions[k] += polygon(inside.map(({ p }) => p));
      const tied = (l, ...ends) => l > k && ends.every(({ s }) => Math.abs(s[k] - s[l]) <= 1e-9 * (1 + Math.abs(s[k])));
      inside.forEach((a, i) => {
        const b = inside[(i + 1) % inside.length], ends = [place(a.p), place(b.p)];
        if (ends[0] !== ends[1] && others.some((l) => tied(l, a, b))) segments.push(ends);
      });
    }
  }
  for (let row = 0; row < n; row++)
    for (let column = 0, first = 0; column < n; column++) {
      const i = row * (n + 1) + column, cell = [i, i + 1, i + n + 2, i + n + 1], plain = (shift) => cell.every((c) => own[c + shift] === own[i]);
      if (plain(0)) {
        if (column + 1 < n && plain(1)) continue; // neighbours of one class in a row make one rectangle
        const start = i - column + first;
        regions[own[i]] += polygon([start, i + 1, i + n + 2, start + n + 1].map((c) => corners[c]));
      } else {
        cut([cell[0], cell[1], cell[2]].map(corner));
        cut([cell[0], cell[2], cell[3]].map(corner));
      }
      first = column + 1;
    }
  return { regions, boundary: joined(segments) };
}
