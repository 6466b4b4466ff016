// A lab that runs the lines of its chapter's algorithm tells the page which ones the reader's last action ran. What the page makes of
// it is its own affair: on the site book/_static/js/lighting.js lights them, in a notebook nobody listens.
import { html } from "./shared.js";

/**
 * `lines`: {action: [[tag, words], …]}, such as step: [["MAML 5", "inner gradient on the support set"]]; `actionOf(before, now)`: what
 * the reader did between two states, or nothing. `place` is where the page may write; `tell(now)` belongs at the end of every drawing.
 */
export function ranLines(lines, actionOf) {
  const place = html("div", { class: "mlb-lines" });
  let before;
  return {
    place,
    tell(now) {
      const action = before && actionOf(before, now);
      if (!before || lines[action]) {
        place.ran = (lines[action] || []).map(([tag, words]) => ({ tag, words })); // for a listener that comes later
        place.dispatchEvent(new CustomEvent("mlbook:lit", { bubbles: true, detail: place.ran }));
      }
      before = now;
    },
  };
}

export const differ = (before, now, ...names) => names.some((name) => JSON.stringify(before[name]) !== JSON.stringify(now[name]));
