// A switch in the page's header: with the code of the cells or without, remembered for all pages.
//
// Without it, the text, the algorithms, the package's code beside them, figures and tables stay.
(() => {
  "use strict";
  const KEY = "mlbook-code", root = document.documentElement;
  const buttons = document.querySelector(".article-header-buttons");
  if (!buttons || !document.querySelector(".bd-article .cell_input")) return;
  let hidden = false;
  try {
    hidden = localStorage.getItem(KEY) === "hidden";
  } catch {} // a browser that keeps nothing shows the code
  const button = document.createElement("button");
  button.type = "button";
  button.className = "btn btn-sm code-switch";
  button.addEventListener("click", () => {
    hidden = !hidden;
    try {
      localStorage.setItem(KEY, hidden ? "hidden" : "shown");
    } catch {}
    show();
  });
  function show() {
    root.classList.toggle("without-code", hidden);
    button.textContent = "</>";
    button.title = hidden ? "Show code" : "Hide code";
    button.setAttribute("aria-label", button.title);
  }
  buttons.prepend(button);
  show();
})();
