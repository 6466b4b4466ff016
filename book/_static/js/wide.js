// Formulas, code, tables and figures that are wider than their frame scroll in it; at the edge where more follows they fade.
(() => {
  "use strict";
  const WIDE = "div.math, .amsmath, pre, figure.mlbook-figure, .pst-scrollable-table-container, table, .cell_output .output";
  const mark = (frame) => {
    const rest = frame.scrollWidth - frame.clientWidth - Math.abs(frame.scrollLeft);
    frame.classList.toggle("has-more", rest > 2 && getComputedStyle(frame).overflowX !== "visible");
  };
  const known = new Set();
  const watch = (frame) => {
    if (!frame || known.has(frame)) return;
    known.add(frame);
    frame.addEventListener("scroll", () => mark(frame), { passive: true });
    sizes.observe(frame);
  };
  const sizes = new ResizeObserver((changes) => {
    for (const { target } of changes) {
      mark(target);
      if (target.matches("div.math")) watch(target.querySelector("mjx-container")); // drawn later, and what scrolls
    }
  });
  document.querySelectorAll(`.bd-article :is(${WIDE})`).forEach(watch);
})();
