// Quizzes that answer, and the reader's progress: kept in this browser, nowhere else (book/_ext/self_study.py).
(() => {
  "use strict";
  const KEY = "mlbook-progress";
  const page = location.pathname.split("/").pop().replace(/\.html$/, "");
  const isChapter = /^\d\d_/.test(page);

  // -- what is kept: {version, chapters: {page: date}, exercises: {label: date}, quiz: {page: [numbers]}} -----------
  let memory = null; // where the browser keeps nothing (private windows, files opened from disk in some browsers)
  const empty = () => ({ version: 1, chapters: {}, exercises: {}, quiz: {} });
  const today = () => new Date().toISOString().slice(0, 10);

  // Only what is known is taken over, whatever the text is; null where it is no progress at all.
  function parse(text) {
    let found;
    try {
      found = JSON.parse(text);
    } catch {
      return null;
    }
    if (!found || found.version !== 1) return null;
    const clean = empty();
    const isDate = (value) => typeof value === "string" && /^\d{4}-\d\d-\d\d$/.test(value);
    for (const part of ["chapters", "exercises"])
      for (const [name, date] of Object.entries(found[part] || {}))
        if (/^[\w-]+$/.test(name) && isDate(date)) clean[part][name] = date;
    for (const [name, numbers] of Object.entries(found.quiz || {}))
      if (/^[\w-]+$/.test(name) && Array.isArray(numbers))
        clean.quiz[name] = [...new Set(numbers.filter((n) => Number.isInteger(n) && n > 0 && n < 100))].sort((a, b) => a - b);
    return clean;
  }

  function load() {
    try {
      return parse(localStorage.getItem(KEY) || "") || memory || empty();
    } catch {
      return memory || empty();
    }
  }

  function save(progress) {
    memory = progress;
    try {
      localStorage.setItem(KEY, JSON.stringify(progress));
    } catch {
      /* kept in memory until the page is left */
    }
    document.dispatchEvent(new CustomEvent("mlbook-progress"));
  }

  function change(edit) {
    const progress = load();
    edit(progress);
    save(progress);
  }

  const setDone = (part, name, done) =>
    change((progress) => {
      if (done) progress[part][name] ||= today();
      else delete progress[part][name];
    });

  function merge(one, other) {
    const both = empty();
    for (const part of ["chapters", "exercises"]) both[part] = { ...one[part], ...other[part] };
    for (const name of new Set([...Object.keys(one.quiz), ...Object.keys(other.quiz)]))
      both.quiz[name] = [...new Set([...(one.quiz[name] || []), ...(other.quiz[name] || [])])].sort((a, b) => a - b);
    return both;
  }

  function make(tag, attributes = {}, ...children) {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
    element.append(...children);
    return element;
  }

  function checkbox(label, isDone, onChange) {
    const box = make("input", { type: "checkbox" });
    const show = () => (box.checked = isDone());
    box.addEventListener("change", () => onChange(box.checked));
    document.addEventListener("mlbook-progress", show);
    show();
    return make("label", { class: "study-check" }, box, " " + label);
  }

  // -- quizzes ------------------------------------------------------------------------------------------------------
  function enliven(question, number) {
    const options = [...question.querySelectorAll(".quiz-options > li")];
    const told = [];
    options.forEach((option, index) => {
      const letter = "abcde"[index];
      const text = option.querySelector(".quiz-option");
      text.id = `quiz-${number}-${letter}`;
      text.firstChild.data = text.firstChild.data.replace(/^\([a-e]\)\s*/, ""); // the button says it
      const button = make("button", { type: "button", class: "quiz-pick", id: text.id + "-pick" }, letter);
      button.setAttribute("aria-labelledby", `${button.id} ${text.id}`);
      const why = option.querySelector(".quiz-why");
      const isRight = option.classList.contains("quiz-right");
      const shown = make("div", { class: "quiz-told", role: "status" }); // filled later, so that it is read out
      option.prepend(button);
      option.append(shown);
      why.remove();
      why.prepend(make("strong", { class: "quiz-verdict" }, isRight ? "Right. " : "No. "));
      const pick = () => {
        if (!told[index]) shown.append(why);
        told[index] = true;
        option.classList.add("quiz-picked");
        if (isRight)
          change((progress) => {
            const numbers = new Set(progress.quiz[page] || []);
            progress.quiz[page] = [...numbers.add(number)].sort((a, b) => a - b);
          });
      };
      button.addEventListener("click", pick);
      text.addEventListener("click", (event) => event.target.closest("a") || pick());
    });
  }

  // -- the boxes at exercises and at the end of a chapter -----------------------------------------------------------
  function count(chapter, progress) {
    return {
      exercises: chapter.exercises.filter((exercise) => progress.exercises[exercise.id]).length,
      quiz: Math.min((progress.quiz[chapter.page] || []).length, chapter.quiz),
    };
  }

  function addBoxes() {
    for (const exercise of document.querySelectorAll("div.exercise[id]"))
      exercise.append(
        checkbox(
          "Done",
          () => Boolean(load().exercises[exercise.id]),
          (done) => setDone("exercises", exercise.id, done),
        ),
      );
    const article = document.querySelector(".bd-article");
    if (!isChapter || !article) return;
    const summary = make("span", { class: "study-summary" });
    const here = {
      page,
      quiz: document.querySelectorAll(".quiz-question").length,
      exercises: [...document.querySelectorAll("div.exercise[id]")],
    };
    const show = () => {
      const done = count(here, load());
      summary.textContent = `${done.exercises} of ${here.exercises.length} exercises, ${done.quiz} of ${here.quiz} quiz questions. `;
    };
    document.addEventListener("mlbook-progress", show);
    show();
    article.append(
      make(
        "div",
        { class: "study-end", role: "group", "aria-label": "Your progress" },
        checkbox(
          "I have finished this chapter",
          () => Boolean(load().chapters[page]),
          (done) => setDone("chapters", page, done),
        ),
        summary,
        make("a", { href: "progress.html" }, "All your progress"),
      ),
    );
  }

  function tickSidebar() {
    const { chapters } = load();
    for (const link of document.querySelectorAll(".bd-sidebar-primary nav.bd-links a.reference")) {
      const name = link.getAttribute("href") === "#" ? page : link.href.split("#")[0].split("/").pop().replace(/\.html$/, "");
      link.querySelector(".study-tick")?.remove();
      if (chapters[name]) link.append(make("span", { class: "study-tick", role: "img", "aria-label": "finished" }, "✓"));
    }
    for (const box of document.querySelectorAll(":is(.book-map, .book-map-list) a[data-chapter]"))
      box.classList.toggle("is-finished", Boolean(chapters[box.dataset.chapter]));
  }

  // -- the page of progress -----------------------------------------------------------------------------------------
  function progressPage(place) {
    const chapters = JSON.parse(document.getElementById("study-list").textContent);
    const bar = make("progress", { max: String(chapters.length), "aria-label": "Chapters finished" });
    const next = make("p", { role: "status" });
    const rows = chapters.map((chapter) => {
      const cells = [make("td"), make("td")];
      const show = () => {
        const done = count(chapter, load());
        cells[0].textContent = `${done.exercises} of ${chapter.exercises.length}`;
        cells[1].textContent = `${done.quiz} of ${chapter.quiz}`;
      };
      document.addEventListener("mlbook-progress", show);
      show();
      const box = checkbox(
        "",
        () => Boolean(load().chapters[chapter.page]),
        (done) => setDone("chapters", chapter.page, done),
      );
      box.firstChild.setAttribute("aria-label", `Chapter ${chapter.number} finished`);
      const title = make("a", { href: `${chapter.page}.html` }, `${chapter.number}. ${chapter.title}`);
      return make("tr", {}, make("td", {}, box), make("th", { scope: "row" }, title), ...cells);
    });
    const show = () => {
      const progress = load();
      const done = chapters.filter((chapter) => progress.chapters[chapter.page]);
      bar.value = done.length;
      // The one after the last that was finished: a reader who begins with chapter 4 goes on with 5.
      const open = (chapter) => !progress.chapters[chapter.page], last = chapters.findLastIndex((chapter) => !open(chapter));
      const ahead = chapters.slice(last + 1).find(open) || chapters.find(open);
      next.replaceChildren(`${done.length} of ${chapters.length} chapters finished. `);
      if (ahead) next.append("Next: ", make("a", { href: `${ahead.page}.html` }, `${ahead.number}. ${ahead.title}`));
    };
    document.addEventListener("mlbook-progress", show);
    show();

    const message = make("p", { role: "status", class: "study-message" });
    const download = make("button", { type: "button", class: "study-button" }, "Save to a file");
    download.addEventListener("click", () => {
      const file = new Blob([JSON.stringify(load(), null, 1)], { type: "application/json" });
      const link = make("a", { href: URL.createObjectURL(file), download: `mlbook-progress-${today()}.json` });
      link.click();
      setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
      message.textContent = "Saved.";
    });
    const input = make("input", { type: "file", accept: "application/json,.json", id: "study-file", class: "study-file" });
    input.addEventListener("change", async () => {
      const [file] = input.files;
      const found = file && file.size < 1_000_000 ? parse(await file.text()) : null;
      if (found) save(merge(load(), found));
      message.textContent = found
        ? "Read. What was done here and what was done there are both kept."
        : "This is not a file of progress from this book. Nothing was changed.";
      input.value = "";
    });
    const forget = make("button", { type: "button", class: "study-button" }, "Forget everything");
    forget.addEventListener("click", () => {
      if (!confirm("Forget all chapters, exercises and quiz questions that are marked as done in this browser?")) return;
      save(empty());
      message.textContent = "Forgotten.";
    });
    const head = ["", "Chapter", "Exercises", "Quiz"].map((text) =>
      text ? make("th", { scope: "col" }, text) : make("td"),
    );
    place.replaceChildren(
      next,
      bar,
      make("table", { class: "table study-table" }, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...rows)),
      make(
        "div",
        { class: "study-actions" },
        download,
        make("label", { for: "study-file", class: "study-button" }, "Read from a file"),
        input,
        forget,
      ),
      message,
    );
  }

  // The theme makes wide tables reachable for the keyboard when the page loads; formulas can widen one later.
  function reachWideTables() {
    for (const box of document.querySelectorAll(".pst-scrollable-table-container, .bd-article pre"))
      if (box.scrollWidth > box.clientWidth && !box.hasAttribute("tabindex")) box.tabIndex = 0;
  }

  function start() {
    document.documentElement.classList.add("study-js");
    document.querySelectorAll(".quiz-question").forEach((question, index) => enliven(question, index + 1));
    addBoxes();
    tickSidebar();
    document.addEventListener("mlbook-progress", tickSidebar);
    window.addEventListener("storage", () => document.dispatchEvent(new CustomEvent("mlbook-progress")));
    const place = document.getElementById("study-progress");
    if (place) progressPage(place);
    window.addEventListener("load", () => (window.MathJax?.startup?.promise || Promise.resolve()).then(reachWideTables));
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
