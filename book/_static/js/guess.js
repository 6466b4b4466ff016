// Guess first, then look: a lab whose page asks "Before you press" stays covered until the reader has guessed, or wants no guess.
//
// The guesses stay beside their questions and in this browser. "Always show labs at once" is remembered for all pages.
(() => {
  "use strict";
  const VIEW = 'script[type="application/vnd.jupyter.widget-view+json"]';
  const GUESSES = "mlbook-guesses", OFF = "mlbook-guess-off";
  const page = location.pathname.split("/").pop().replace(/\.html$/, "");
  const read = (key) => {
    try {
      return JSON.parse(localStorage.getItem(key));
    } catch {
      return null;
    }
  };
  const write = (key, value) => {
    try {
      localStorage.setItem(key, JSON.stringify(value));
    } catch {} // a browser that keeps nothing forgets the guesses
  };
  const make = (name, properties = {}, ...children) => {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  };
  const linked = /^#lab=/.test(location.hash); // whoever sent the link wants this state of the lab to be seen
  const labs = [...document.querySelectorAll(`.bd-article ${VIEW}`)].map((script) => script.closest(".cell_output"));

  function labOf(box) {
    const section = box.closest("section");
    return labs.find((lab) => lab && box.compareDocumentPosition(lab) & Node.DOCUMENT_POSITION_FOLLOWING && section.contains(lab));
  }

  [...document.querySelectorAll(".bd-article .admonition")].forEach((box) => {
    const title = box.querySelector(".admonition-title"), lab = labOf(box);
    const listed = [...box.querySelectorAll("li")];
    const questions = listed.length ? listed : [...box.querySelectorAll("p:not(.admonition-title)")];
    if (!/^Before you (press|look|draw)$/.test(title?.textContent || "") || !lab) return;
    const name = `${page}/${labs.indexOf(lab)}`;
    const kept = (read(GUESSES) || {})[name];

    const told = (guesses) =>
      questions.forEach((question, i) => {
        if (guesses[i]) question.append(make("div", { className: "guess-told", textContent: `Your guess: ${guesses[i]}` }));
      });
    if (kept) return told(kept);
    if (linked || read(OFF)) return;

    const inputs = questions.map((_, i) => {
      const input = make("input", { type: "text", className: "guess-input", placeholder: `your guess for ${i + 1}`, maxLength: 200 });
      input.setAttribute("aria-label", `Your guess for question ${i + 1}`);
      return input;
    });
    lab.classList.add("guess-covered");
    lab.inert = true;
    const show = make("button", { type: "button", textContent: "Show the lab" });
    const skip = make("button", { type: "button", className: "guess-skip", textContent: "without guessing" });
    const always = make("input", { type: "checkbox" });
    const buttons = make("div", { className: "guess-bar" }, show, skip);
    const cover = make("div", { className: "guess-cover" }, make("p", { textContent: "Guess first: the lab shows the answers." }));
    cover.append(...inputs, buttons, make("label", {}, always, " always show labs at once"));
    lab.parentElement.classList.add("guess-cell");
    lab.after(cover);

    const ready = () => (show.disabled = !inputs.some((input) => input.value.trim()));
    inputs.forEach((input) => {
      input.addEventListener("input", ready);
      input.addEventListener("keydown", (event) => event.key === "Enter" && !show.disabled && show.click());
    });
    ready();
    const open = (guesses) => {
      if (always.checked) write(OFF, true);
      if (guesses.some(Boolean)) write(GUESSES, { ...read(GUESSES), [name]: guesses });
      told(guesses);
      cover.remove();
      lab.inert = false;
      lab.classList.remove("guess-covered");
      lab.querySelector("button, input, [tabindex='0']")?.focus({ preventScroll: true });
    };
    show.addEventListener("click", () => open(inputs.map((input) => input.value.trim())));
    skip.addEventListener("click", () => open(questions.map(() => "")));
  });
})();
