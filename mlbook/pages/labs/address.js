// The state of a lab as the end of an address: #lab=which-way&phi=0.4,-1.2&alpha=0.3&surface=bowls
//
// A lab says of each of its traits how it is written, and which values it takes; whatever else stands in an address is refused as a
// whole, so that a link from another version of the lab, or a torn one, never gives half a state.

const rounded = (value, digits) => `${Number(value.toFixed(digits))}`.replace(/^-0$/, "0");
const encoded = (text) => encodeURIComponent(text).replace(/%20/g, "+").replace(/%2C/g, ",");
const decoded = (text) => decodeURIComponent(text.replace(/\+/g, " "));

/** Kinds of traits: `write(value)` gives text for an address, `read(text)` a value, or undefined where the text holds none. */
export const kept = {
  /** A number within the limits, with as many digits as the lab can show. */
  number: (digits, [low, high]) => ({
    write: (value) => rounded(value, digits),
    read: (text) => (/^-?\d+(\.\d+)?(e-?\d+)?$/.test(text) && Number(text) >= low && Number(text) <= high ? Number(text) : undefined),
  }),
  whole: (low, high) => ({ write: String, read: (text) => (/^-?\d+$/.test(text) ? kept.number(0, [low, high]).read(text) : undefined) }),
  flag: { write: (value) => (value ? "1" : "0"), read: (text) => ({ 0: false, 1: true })[text] },
  /** One of these values, words or numbers. */
  choice: (values) => ({ write: (value) => encoded(`${value}`), read: (text) => values.find((value) => `${value}` === decoded(text)) }),
  /** From `least` to `most` values of one kind; `mark` stands between them, ";" between points. */
  list: (kind, least, most = least, mark = ",") => ({
    write: (values) => values.map(kind.write).join(mark),
    read(text) {
      const values = text === "" ? [] : text.split(mark).map(kind.read);
      return values.length >= least && values.length <= most && !values.includes(undefined) ? values : undefined;
    },
  }),
  /** As many numbers as there are limits: `numbers(2, [-4, 4], [-3, 3])` is a point. */
  numbers: (digits, ...limits) => ({
    write: (values) => values.map((value) => rounded(value, digits)).join(","),
    read(text) {
      const values = text.split(",").map((part, i) => limits[i] && kept.number(digits, limits[i]).read(part));
      return values.length === limits.length && !values.includes(undefined) ? values : undefined;
    },
  }),
};

/** All of a state, or nothing where it is that of the beginning. */
export function written(fields, state, initial) {
  const of = (values) => Object.entries(fields).map(([name, kind]) => `&${name}=${kind.write(values[name])}`).join("");
  return of(state) === of(initial) ? "" : of(state);
}

/** What an address says to the lab of this name: null where it is about something else, else {values, large, problem}. */
export function saidTo(name, hash, fields) {
  const [first, ...parts] = hash.replace(/^#/, "").split("&"), values = {};
  if (first !== `lab=${name}`) return null;
  let large = false, problem = null;
  for (const part of parts) {
    const [key, text] = [part.split("=")[0], part.slice(part.indexOf("=") + 1)];
    if (key === "view" && text === "lab") {
      large = true;
      continue;
    }
    try {
      values[key] = Object.hasOwn(fields, key) ? fields[key].read(text) : undefined;
    } catch {} // a torn % code
    if (values[key] === undefined) problem ??= part.slice(0, 40);
  }
  return problem === null ? { values, large, problem } : { values: {}, large, problem };
}
