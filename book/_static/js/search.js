// The search page (book/_ext/search_page.py): sections of the book, found by MiniSearch and grouped by chapter.
//
// A chapter stands where its best section puts it, and a chapter whose title has the words before all others. Terms of the
// glossary that are just what was typed stand on top with their meaning.
"use strict";

(() => {
  const SHOWN = 3; // sections of a chapter before the rest unfolds
  const form = document.getElementById("book-search");
  const field = document.getElementById("book-search-words");
  const count = document.getElementById("book-search-count");
  const results = document.getElementById("search-results");
  if (!form || !window.MiniSearch || !window.mlbookSections) return;

  // "Tasks" finds "task"; Greek, accents and CJK stay as they are.
  const fold = (word) => {
    const low = word.toLowerCase().normalize("NFKC");
    return low.length > 3 && /[a-z]s$/.test(low) && !/(ss|us|is)$/.test(low) ? low.slice(0, -1) : low;
  };
  const wordsOf = (text) => text.split(/[\s\p{P}\p{S}]+/u).filter(Boolean).map(fold);

  // -- the index ---------------------------------------------------------------------------------------------------

  // What somebody looks for is in the chapters more often than in the notes about the book.
  const WEIGHTS = { "book/api": 0.1, "book/glossary": 0.35, "book/changelog": 0.3, "book/status": 0.4, "book/bibliography": 0.4, "book/results": 0.5, "book/labs": 0.6, "book/progress": 0.3 };
  const weightOf = (page, number) => (number ? 1 : (WEIGHTS[page] ?? 0.7));

  const entries = [];
  for (const [page, { number, title, sections }] of Object.entries(window.mlbookSections)) {
    sections.forEach((section, i) => {
      // A name of the API is its own address on the page.
      entries.push({ id: section.kind === "name" ? section.title : undefined, ...section, at: entries.length, page, number, pageTitle: title, chapter: i === 0 ? title : "" });
    });
  }
  const index = new MiniSearch({
    idField: "at",
    fields: ["chapter", "title", "text"],
    tokenize: wordsOf,
    processTerm: (word) => word || null,
  });
  index.addAll(entries);

  const find = (query, settings) =>
    index.search(query, {
      prefix: (word) => word.length > 2,
      boost: { chapter: 6, title: 3 },
      boostDocument: (at) => weightOf(entries[at].page, entries[at].number),
      tokenize: wordsOf,
      ...settings,
    });

  // -- what was found ------------------------------------------------------------------------------------------------

  const same = (a, b) => wordsOf(a).join(" ") === wordsOf(b).join(" ");
  // A term stands in the glossary under one name or several, and with its Chinese behind 简 and 繁.
  const isTerm = (entry, query) =>
    entry.kind === "term" &&
    (entry.title.split(", ").some((name) => same(name, query)) ||
      [...entry.text.matchAll(/[简繁] ([^·]+)/g)].some((m) => same(m[1], query)));

  const groups = (hits, asked, home) => {
    const found = new Map();
    for (const hit of hits) {
      const entry = entries[hit.id];
      if (!found.has(entry.page)) found.set(entry.page, { entry, hits: [], score: 0 });
      const group = found.get(entry.page);
      group.hits.push({ entry, terms: hit.terms });
      const titled = asked.length && asked.every((word) => wordsOf(entry.chapter).includes(word));
      group.score = Math.max(group.score, hit.score * (titled ? 3 : 1) * (home.has(entry.number) ? 2 : 1));
    }
    // Many sections about something weigh a little beside the best one.
    for (const group of found.values()) group.score *= 1 + 0.1 * Math.log(group.hits.length);
    return [...found.values()].sort((a, b) => b.score - a.score);
  };

  // -- how it is shown ------------------------------------------------------------------------------------------------

  const make = (name, properties = {}, ...children) => {
    const node = Object.assign(document.createElement(name), properties);
    node.append(...children);
    return node;
  };

  // A piece of the text around the first of the words, cut between words, the words marked.
  const snippet = (text, terms, room = 200) => {
    const spans = [];
    for (const m of text.matchAll(/[^\s\p{P}\p{S}]+/gu)) {
      if (terms.has(fold(m[0]))) spans.push([m.index, m.index + m[0].length]);
    }
    let from = spans.length ? Math.max(0, spans[0][0] - room / 3) : 0;
    if (from > 0) from = text.indexOf(" ", from) + 1;
    let to = Math.min(text.length, from + room);
    if (to < text.length) to = Math.max(text.lastIndexOf(" ", to), spans.length ? spans[0][1] : 0);
    const line = make("p", { className: "search-snippet" });
    let last = from;
    if (from > 0) line.append("… ");
    for (const [a, b] of spans.filter((span) => span[0] >= from && span[1] <= to)) {
      line.append(text.slice(last, a), make("mark", {}, text.slice(a, b)));
      last = b;
    }
    line.append(text.slice(last, to), to < text.length ? " …" : "");
    return line;
  };

  const addressOf = (entry) => `${entry.page}.html${entry.id ? `#${entry.id}` : ""}`;

  const item = ({ entry, terms }) => {
    const link = make("a", { href: addressOf(entry) }, entry.chapter ? "At the start" : entry.title);
    if (entry.kind === "name") link.replaceChildren(make("code", {}, entry.title));
    const li = make("li", {}, link);
    if (entry.text) li.append(snippet(entry.text, new Set(terms)));
    return li;
  };

  const chapter = ({ entry, hits }) => {
    const heading = make("h2", {}, make("a", { href: `${entry.page}.html` }, entry.number ? `${entry.number}. ${entry.pageTitle}` : entry.pageTitle));
    const box = make("section", { className: "search-chapter" }, heading, make("ol", {}, ...hits.slice(0, SHOWN).map(item)));
    if (hits.length > SHOWN) {
      const more = make("ol", {}, ...hits.slice(SHOWN).map(item));
      box.append(make("details", {}, make("summary", {}, `${hits.length - SHOWN} more here`), more));
    }
    return box;
  };

  const show = () => {
    const query = field.value.trim();
    results.replaceChildren();
    document.title = document.title.replace(/^.*?(?=Search)/, query ? `${query} — ` : "");
    if (!query) return void (count.textContent = "");
    const asked = wordsOf(query);
    let hits = find(query, { combineWith: "AND" });
    let note = "";
    if (!hits.length && asked.length > 1) {
      hits = find(query, { combineWith: "OR" });
      note = "No section has all of these words; these have some. ";
    }
    if (!hits.length) {
      hits = find(query, { combineWith: "OR", fuzzy: 0.25 });
      note = hits.length ? "These words do not occur in the book; these places have similar ones. " : "";
    }
    const terms = hits.map((hit) => entries[hit.id]).filter((entry) => isTerm(entry, query));
    // The glossary names the chapter that a term has to itself.
    const home = new Set(terms.flatMap((term) => [...term.text.matchAll(/\(chapter (\d+)\)/g)].map((m) => Number(m[1]))));
    const found = groups(hits.filter((hit) => !terms.includes(entries[hit.id])), asked, home);
    const places = (n, what) => `${n} ${what}${n === 1 ? "" : "s"}`;
    const total = found.reduce((sum, group) => sum + group.hits.length, 0);
    count.textContent = total
      ? `${note}${places(total, "place")} on ${places(found.length, "page")}.`
      : terms.length
      ? "Only the glossary has it."
      : "Nothing found. Are the words spelled as the book spells them?";
    if (terms.length) {
      const list = make("dl", { className: "search-terms" });
      for (const entry of terms) {
        list.append(make("dt", {}, make("a", { href: addressOf(entry) }, entry.title), " (glossary)"), make("dd", {}, entry.text));
      }
      results.append(list);
    }
    results.append(...found.map(chapter));
  };

  // -- typing, the address, the keys -----------------------------------------------------------------------------------

  const remember = () => {
    const address = new URL(location.href);
    if (field.value.trim()) address.searchParams.set("q", field.value.trim());
    else address.searchParams.delete("q");
    history.replaceState(null, "", address);
  };
  let waiting;
  field.addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(() => (show(), remember()), 120);
  });
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    clearTimeout(waiting);
    show();
    remember();
  });
  // ↓ and ↑ go from result to result, and back into the field.
  document.addEventListener("keydown", (event) => {
    const links = [...results.querySelectorAll("a")].filter((a) => a.checkVisibility?.() ?? a.offsetParent);
    const here = links.indexOf(document.activeElement);
    if (here < 0 && document.activeElement !== field) {
      if (event.key === "/" && !event.target.closest("input, textarea, select")) {
        event.preventDefault();
        field.focus();
      }
      return;
    }
    const step = { ArrowDown: 1, ArrowUp: -1 }[event.key];
    if (!step || event.ctrlKey || event.altKey || event.metaKey) return;
    event.preventDefault();
    (links[here + step] ?? (here + step < 0 ? field : links[here]))?.focus();
  });

  field.value = new URLSearchParams(location.search).get("q") ?? "";
  show();
  if (!field.value) field.focus();
})();
