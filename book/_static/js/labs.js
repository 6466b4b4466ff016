// Draws the labs of a page from the state that the build has put into it, without a kernel.
//
// A lab is an anywidget: one ES module with `render({model, el})`, a style sheet, and traits, of which some are bytes. That is
// little enough to do here, so a page does not load ipywidgets' own manager (3.6 MB). Where it meets a widget that is not an
// anywidget it fetches that manager after all, from this site, and leaves the page to it.
(() => {
  "use strict";
  const STATE = "application/vnd.jupyter.widget-state+json";
  const VIEW = "application/vnd.jupyter.widget-view+json";

  function bytes({ data, encoding }) {
    const text = encoding === "hex" ? null : atob(data);
    const length = text === null ? data.length / 2 : text.length;
    return new DataView(
      Uint8Array.from({ length }, (_, i) => (text === null ? parseInt(data.substr(2 * i, 2), 16) : text.charCodeAt(i))).buffer,
    );
  }

  // The part of a Backbone model that anywidget promises to a lab.
  class Model {
    constructor({ state, buffers = [] }) {
      this.values = { ...state };
      this.listeners = new Map();
      for (const buffer of buffers) {
        const path = [...buffer.path], last = path.pop();
        path.reduce((place, key) => place[key], this.values)[last] = bytes(buffer);
      }
    }
    get(name) {
      return this.values[name];
    }
    set(name, value) {
      const changes = typeof name === "object" ? name : { [name]: value };
      const changed = Object.keys(changes).filter((key) => !same(this.values[key], changes[key]));
      for (const key of changed) this.values[key] = changes[key];
      for (const key of changed) this.trigger(`change:${key}`, this, changes[key]);
      if (changed.length) this.trigger("change", this);
    }
    save_changes() {} // nobody is listening behind the page
    send() {}
    on(names, callback) {
      for (const name of names.split(/\s+/)) this.listeners.set(name, [...(this.listeners.get(name) || []), callback]);
    }
    off(names, callback) {
      if (!names) return this.listeners.clear();
      for (const name of names.split(/\s+/))
        this.listeners.set(name, callback ? (this.listeners.get(name) || []).filter((other) => other !== callback) : []);
    }
    trigger(name, ...values) {
      for (const callback of this.listeners.get(name) || []) callback(...values);
    }
  }
  const same = (a, b) => Object.is(a, b) || (typeof a === "object" && typeof b === "object" && JSON.stringify(a) === JSON.stringify(b));

  const modules = new Map(); // one import for all labs with the same code
  function load(source) {
    if (!modules.has(source)) {
      const address = URL.createObjectURL(new Blob([source], { type: "text/javascript" }));
      modules.set(source, import(address).finally(() => URL.revokeObjectURL(address)));
    }
    return modules.get(source);
  }

  const styles = new Set();
  function addStyle(text) {
    if (!text || styles.has(text)) return;
    styles.add(text);
    document.head.append(Object.assign(document.createElement("style"), { textContent: text }));
  }

  async function draw(script, model) {
    const el = document.createElement("div");
    el.className = "anywidget";
    const place = document.createElement("div");
    place.className = "widget-subarea jupyter-widgets";
    addStyle(model.get("_css"));
    const widget = (await load(model.get("_esm"))).default;
    const lab = typeof widget === "function" ? await widget() : widget;
    await (model.ready ||= Promise.resolve(lab.initialize?.({ model }))); // once, however many views it has
    place.append(el); // on the page before it draws: what it measures is then its size
    script.after(place);
    await lab.render({ model, el });
    for (const [trait, address] of Object.entries(model.get("later") || {})) if (!model.get(trait)) fetchLater(model, trait, address);
  }

  // What a lab can do without at first lies in a script of its own (book/_ext/later.py), which also loads from a folder.
  const waiting = new Map();
  window.mlbookLater = (address, data) => {
    for (const [model, trait] of waiting.get(address) || []) {
      model.values[trait] = bytes({ data });
      model.trigger(`change:${trait}`, model, model.values[trait]);
    }
  };
  function fetchLater(model, trait, address) {
    waiting.set(address, [...(waiting.get(address) || []), [model, trait]]);
    const root = document.documentElement.dataset.content_root || "./";
    document.head.append(Object.assign(document.createElement("script"), { src: root + address }));
  }

  function useManager() {
    const root = document.documentElement.dataset.content_root || "./";
    const names = ["vendor/require.js", "js/widgets-offline.js", "vendor/embed-amd.js"];
    names.reduce(
      (before, name) =>
        before.then(
          () =>
            new Promise((resolve, reject) => {
              const script = Object.assign(document.createElement("script"), { src: `${root}_static/${name}` });
              script.onload = resolve;
              script.onerror = () => reject(new Error(`${name} is missing: the widgets of this page cannot be drawn`));
              document.head.append(script);
            }),
        ),
      Promise.resolve(),
    );
  }

  function start() {
    const described = {};
    for (const script of document.querySelectorAll(`script[type="${STATE}"]`)) Object.assign(described, JSON.parse(script.textContent).state);
    const views = [...document.querySelectorAll(`script[type="${VIEW}"]`)].map((script) => [script, JSON.parse(script.textContent).model_id]);
    if (views.some(([, id]) => described[id] && described[id].model_module !== "anywidget")) return useManager();
    const models = {};
    for (const [script, id] of views) if (described[id]) draw(script, (models[id] ||= new Model(described[id])));
  }

  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", start);
  else start();
})();
