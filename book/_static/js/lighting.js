// A step in the lab lights the lines of the algorithm that it ran: in the box, in the code and in the formulas.
//
// The lab says which (mlbook/pages/labs/lines.js): an event "mlbook:lit" with [{tag: "MAML 5", words: "..."}, ...], from the place in
// the lab where the page may write. Everything on the page that bears a tag has the class "line-maml-5": terms of formulas from the
// build (book/_ext/lighting.py), items of boxes and lines of code from here. A style sheet lights the classes, so it does not matter
// whether the formulas are set before or after.
(() => {
  "use strict";
  const TAG = /\[([A-Z][A-Za-z-]* \d+)\]/g;
  const nameOf = (tag) => `line-${tag.toLowerCase().replace(/ /g, "-")}`;
  const make = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const article = document.querySelector(".bd-article");
  const sheet = document.head.appendChild(document.createElement("style"));

  /** The first of a name gets it as its address. */
  function addressed(node, tag, kind) {
    const id = `${nameOf(tag)}-${kind}`;
    if (!node.id && !document.getElementById(id)) node.id = id;
  }

  // -- what bears a tag -------------------------------------------------------------------------------------------------

  for (const item of article.querySelectorAll("div.algorithm li")) {
    const nested = [...item.childNodes].findIndex((child) => /^[OU]L$/.test(child.nodeName));
    const own = [...item.childNodes].slice(0, nested < 0 ? undefined : nested); // without the items inside it
    const tags = [...own.map((node) => node.textContent).join(" ").matchAll(TAG)].map((found) => found[1]);
    if (!tags.length) continue;
    const line = make("span", { className: "box-line" });
    item.prepend(line);
    line.append(...own);
    for (const tag of tags) line.classList.add(nameOf(tag));
    tags.forEach((tag, i) => addressed(i ? [...line.querySelectorAll("code")].find((code) => code.textContent.includes(`[${tag}]`)) : line, tag, "box"));
  }

  const depth = (nodes) => {
    const text = nodes.filter((node) => !node.classList?.contains("c1")).map((node) => node.textContent).join("");
    return text.replace(/[^)\]}]/g, "").length - text.replace(/[^([{]/g, "").length;
  };

  /** The nodes of one line of code, from the comment at its end back to where the line begins, or the bracket that it closes opens. */
  function lineBefore(comment) {
    const nodes = [comment];
    for (let node = comment.previousSibling; node; node = node.previousSibling) {
      const end = node.nodeType === Node.TEXT_NODE ? node.data.lastIndexOf("\n") : -1; // the highlighter puts no line's end elsewhere
      if (end >= 0 && depth(nodes) <= 0) {
        if (end + 1 < node.length) nodes.unshift(node.splitText(end + 1));
        break;
      }
      nodes.unshift(node);
    }
    return nodes;
  }

  const wrapped = new Set();
  function wrapCode(tag) {
    if (wrapped.has(tag)) return;
    wrapped.add(tag);
    for (const comment of article.querySelectorAll("pre .c1")) {
      if (!comment.textContent.includes(`[${tag}]`)) continue;
      const line = comment.closest(".code-line") || make("span", { className: "code-line" });
      if (!line.contains(comment)) {
        const nodes = lineBefore(comment);
        nodes[0].before(line);
        line.append(...nodes);
        const first = line.firstChild, space = first.textContent.match(/^[ ]*/)[0].length; // the indentation stays dark
        if (first.nodeType === Node.TEXT_NODE && space) {
          if (space < first.length) first.splitText(space);
          line.before(first);
        }
      }
      line.classList.add(nameOf(tag));
      addressed(line, tag, "code");
    }
  }

  /** The displayed formula with a term of this name, set or still to be set. */
  const formulaWith = (name) =>
    [...article.querySelectorAll("div.math")].find((block) => block.querySelector(`.${name}`) || block.textContent.includes(`{${name}}`));

  function targets(tag) {
    wrapCode(tag);
    const formula = formulaWith(nameOf(tag));
    if (formula && !formula.id) addressed(formula, tag, "formula");
    const found = { box: document.getElementById(`${nameOf(tag)}-box`), formula, code: document.getElementById(`${nameOf(tag)}-code`) };
    return Object.entries(found).filter(([, node]) => node);
  }

  // -- what is lit ------------------------------------------------------------------------------------------------------

  let flashes = 0;
  function light(tags) {
    const lines = tags.map((tag) => `.${nameOf(tag)}`).join(", ");
    // Two names for one animation: under a new name it runs again.
    sheet.textContent = tags.length ? `:is(${lines}) { background: var(--lit-ground); outline: 2px solid var(--lit-edge); outline-offset: 1px; border-radius: 2px; animation: lit-${(flashes ^= 1)} 0.8s ease-out; }` : "";
    document.documentElement.dataset.lit = tags.join(", ");
  }

  // -- what is said beside the lab --------------------------------------------------------------------------------------

  const said = make("p", { className: "lit-said" });
  said.setAttribute("role", "status"); // which is polite
  article.append(said);
  let waiting;
  function announce(text) {
    clearTimeout(waiting); // a reader who drags or plays is told where it ended
    waiting = setTimeout(() => (said.textContent = text), 700);
  }

  function write(place, ran) {
    const head = ran.length ? "What that ran:" : "What a step here runs lights up below: in the algorithm, in the formulas, in the code.";
    const items = ran.map(({ tag, words }) => {
      const links = targets(tag).map(([kind, node]) => {
        const link = make("a", { href: `#${node.id}`, textContent: kind });
        link.setAttribute("aria-label", `${kind} of ${tag}`);
        link.addEventListener("click", () => follow(node, place));
        return link;
      });
      return make("li", {}, make("code", { textContent: `[${tag}]` }), ` ${words} `, make("span", { className: "lit-links" }, ...links));
    });
    place.replaceChildren(make("p", { textContent: head }), make("ul", {}, ...items));
  }

  // -- the way there and back -------------------------------------------------------------------------------------------

  // A reader who has gone to the box can take further steps from there: a bar at the edge has the lab's buttons for them.
  let bar;
  function follow(node, place) {
    for (let box = node.closest("details"); box; box = box.parentElement.closest("details")) box.open = true;
    const lab = place.closest("[data-lab]");
    lab.id ||= `lab-${lab.dataset.lab}`;
    bar?.remove();
    const buttons = [...lab.querySelectorAll("button.mlb-runs")].map((button) => {
      const twin = make("button", { type: "button", textContent: button.textContent, onclick: () => button.click() });
      const same = () => (twin.disabled = button.disabled);
      same();
      place.addEventListener("mlbook:lit", same);
      return twin;
    });
    const back = make("a", { href: `#${lab.id}`, textContent: "back to the lab" });
    bar = make("div", { className: "lit-bar" }, ...buttons, back);
    bar.setAttribute("role", "region");
    bar.setAttribute("aria-label", "The lab's steps");
    const leave = () => (bar?.remove(), (bar = null));
    back.addEventListener("click", leave);
    article.append(bar);
    const seen = new IntersectionObserver((entries) => {
      if (seen.away && entries.at(-1).isIntersecting) leave(), seen.disconnect();
      seen.away ||= !entries.at(-1).isIntersecting;
    });
    seen.observe(place);
  }

  function heard(place, ran) {
    const first = !place.firstChild;
    write(place, ran);
    light(ran.map(({ tag }) => tag));
    if (!first) announce(ran.map(({ tag, words }) => `${tag}: ${words}.`).join(" "));
  }
  document.addEventListener("mlbook:lit", (event) => heard(event.target, event.detail));
  for (const place of document.querySelectorAll(".mlb-lines")) if (place.ran) heard(place, place.ran); // a lab that was here first
})();
