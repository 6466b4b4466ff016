// The results table as an instrument: filters, sorting, a count, the shown rows as CSV or JSON, a link to every row.
//
// DataTables sorts and filters. The choices stand in the address (?state=...&method=...), so that a view can be passed on.
(() => {
  "use strict";
  const table = document.getElementById("ledger");
  if (!table || !window.DataTable) return;
  const ALL = "";
  const FIELDS = [
    ["state", "Rows", "all rows"],
    ["set", "Data", "all data"],
    ["method", "Method", "all methods"],
  ];
  const STATES = { run: "with a number of ours", "not run yet": "not run yet", quoted: "quoted from other work", "no experiment yet": "no experiment yet" };
  const address = new URLSearchParams(location.search);
  const chosen = { state: "run", set: ALL, method: ALL, text: "" };
  for (const key of Object.keys(chosen)) if (address.has(key)) chosen[key] = address.get(key);

  const rows = [...table.tBodies[0].rows];
  const data = new DataTable(table, {
    paging: false,
    info: false,
    order: [],
    autoWidth: false,
    layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null },
    columnDefs: [{ targets: [4], orderable: false }],
  });

  // DataTables and the copy buttons' library both set `delegateTarget` on an event; the second fails on what the first has set.
  table.closest(".ledger-box").addEventListener("click", (event) => {
    if (event.target.closest("thead")) event.stopPropagation();
  });

  const bar = document.createElement("form");
  bar.className = "ledger-bar";
  bar.addEventListener("submit", (event) => event.preventDefault());
  const count = document.createElement("output");
  count.className = "ledger-count";
  count.setAttribute("aria-live", "polite");

  function labelled(text, control) {
    const label = document.createElement("label");
    label.append(text, control);
    bar.append(label);
    return control;
  }
  const controls = {};
  for (const [key, text, all] of FIELDS) {
    const select = labelled(text, document.createElement("select"));
    const found = [...new Set(rows.map((row) => row.dataset[key]))];
    if (key !== "state") found.sort((a, b) => a.localeCompare(b));
    select.append(new Option(all, ALL), ...found.map((value) => new Option(key === "state" ? STATES[value] : value, value)));
    select.addEventListener("change", () => choose(key, select.value));
    controls[key] = select;
  }
  const search = labelled("Search", document.createElement("input"));
  search.type = "search";
  search.addEventListener("input", () => choose("text", search.value));
  controls.text = search;

  function button(text, act) {
    const made = document.createElement("button");
    made.type = "button";
    made.textContent = text;
    made.addEventListener("click", act);
    bar.append(made);
  }
  button("Save as CSV", () => save("results.csv", "text/csv", csv(shown())));
  button("Save as JSON", () => save("results.json", "application/json", JSON.stringify(shown().map(entry), null, 1) + "\n"));
  bar.append(count);
  table.closest(".dt-container, .ledger-box").before(bar);

  const HEAD = ["experiment", "published", "ours", "difference", "state"];
  const shown = () => data.rows({ search: "applied", order: "applied" }).nodes().toArray();
  function entry(row) {
    const cells = [...row.cells], text = (i) => cells[i].textContent.replace(/\u00a0/g, " ").trim();
    const values = [row.id, text(1), text(2), text(3), row.dataset.state];
    const made = Object.fromEntries(HEAD.map((name, i) => [name, values[i]]));
    const parts = [...row.querySelectorAll("dl > dt")];
    made.how = Object.fromEntries(parts.filter((dt) => dt.textContent !== "link").map((dt) => [dt.textContent, dt.nextElementSibling.textContent]));
    return made;
  }
  function csv(list) {
    const quoted = (text) => (/[",\n]/.test(text) ? `"${text.replace(/"/g, '""')}"` : text);
    return [HEAD, ...list.map((row) => HEAD.map((name) => entry(row)[name]))].map((line) => line.map(quoted).join(",") + "\n").join("");
  }
  function save(name, type, text) {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type }));
    link.download = name;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }

  function show() {
    for (const [key, control] of Object.entries(controls)) if (control.value !== chosen[key]) control.value = chosen[key];
    const words = chosen.text.toLowerCase().split(/\s+/).filter(Boolean);
    data.search.fixed("chosen", (text, _, index) => {
      const row = rows[index];
      return (
        FIELDS.every(([key]) => chosen[key] === ALL || row.dataset[key] === chosen[key]) &&
        words.every((word) => row.textContent.toLowerCase().includes(word))
      );
    });
    data.draw();
    count.textContent = `${shown().length} of ${rows.length} rows`;
  }
  function choose(key, value) {
    chosen[key] = value;
    show();
    const query = new URLSearchParams();
    for (const [name, its] of Object.entries(chosen)) if (its !== (name === "state" ? "run" : "")) query.set(name, its);
    history.replaceState(null, "", `${location.pathname}${query.size ? `?${query}` : ""}${location.hash}`);
  }
  // A link to a row shows it, whatever the filters say.
  function go() {
    const row = rows.find((one) => one.id === decodeURIComponent(location.hash.slice(1)));
    if (!row) return;
    if (!shown().includes(row)) {
      Object.assign(chosen, { state: ALL, set: ALL, method: ALL, text: "" });
      show();
    }
    row.querySelector("details").open = true;
    row.scrollIntoView({ block: "center" });
  }
  addEventListener("hashchange", go);
  show();
  go();
})();
