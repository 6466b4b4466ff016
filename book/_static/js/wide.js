// Formulas, code, tables and figures that are wider than their frame scroll in it; at the edge where more follows they fade.
(() => {
  "use strict";
  const WIDE = "div.math, .amsmath, pre, figure.mlbook-figure, .pst-scrollable-table-container, table, .cell_output .output";
  const mark = (frame) => {
    const rest = frame.scrollWidth - frame.clientWidth - Math.abs(frame.scrollLeft);
    frame.classList.toggle("has-more", rest > 2 && getComputedStyle(frame).overflowX !== "visible");
  };
  const sizes = new ResizeObserver((changes) => changes.forEach((change) => mark(change.target)));
  for (const frame of document.querySelectorAll(`.bd-article :is(${WIDE})`)) {
    frame.addEventListener("scroll", () => mark(frame), { passive: true });
    sizes.observe(frame);
  }
})();
