// The glossary's entry beside the word that is pointed at, focused or touched (book/_ext/glossary_terms.py).
(() => {
  "use strict";
  function start() {
    const listing = document.getElementById("glossary-entries");
    if (!listing) return;
    const entries = JSON.parse(listing.textContent);
    const tip = document.createElement("div");
    tip.id = "glossary-tip";
    tip.setAttribute("role", "tooltip");
    tip.hidden = true;
    document.body.append(tip);
    let shown = null;
    let leaving = 0;

    function hide() {
      shown?.removeAttribute("aria-describedby");
      shown = null;
      tip.hidden = true;
    }

    function show(link) {
      clearTimeout(leaving);
      if (shown === link) return;
      hide();
      shown = link;
      tip.textContent = entries[decodeURIComponent(link.hash.slice(1))] || "";
      link.setAttribute("aria-describedby", tip.id);
      tip.hidden = false;
      const box = link.getBoundingClientRect();
      const width = tip.offsetWidth;
      const left = Math.max(8, Math.min(box.left, document.documentElement.clientWidth - width - 8));
      const isBelow = box.bottom + tip.offsetHeight + 12 < window.innerHeight;
      tip.style.left = `${left + window.scrollX}px`;
      tip.style.top = `${(isBelow ? box.bottom + 6 : box.top - tip.offsetHeight - 6) + window.scrollY}px`;
    }

    function leave(link) {
      if (shown !== link) return; // a page that scrolls takes a link from under the pointer while another one is shown
      clearTimeout(leaving);
      leaving = setTimeout(hide, 150); // time enough to move onto the entry itself
    }

    tip.addEventListener("pointerenter", () => clearTimeout(leaving));
    tip.addEventListener("pointerleave", () => leave(shown));
    for (const link of document.querySelectorAll("a.glossary-term")) {
      link.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(link));
      link.addEventListener("pointerleave", (event) => event.pointerType === "mouse" && leave(link));
      link.addEventListener("focus", () => link.matches(":focus-visible") && show(link));
      link.addEventListener("blur", () => leave(link));
      link.addEventListener("click", (event) => {
        if (event.pointerType !== "touch" || shown === link) return; // a second touch follows the link
        event.preventDefault();
        show(link);
      });
    }
    document.addEventListener("keydown", (event) => event.key === "Escape" && hide());
    document.addEventListener("pointerdown", (event) => event.target.closest("#glossary-tip, a.glossary-term") || hide());
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
