// What stands around every lab: a goal in one sentence, presets, and three tools: back to the beginning, a link to what is on the screen, and
// the lab alone and large.
import { saidTo, written } from "./address.js";
import { button, connect, frame, html } from "./shared.js";

/** Only a page of the built site has an address that others can open: in Jupyter and in Colab there is a kernel behind it. */
const hasAddress = () => "content_root" in document.documentElement.dataset;

/** Text into the clipboard; false where the browser does not let a page do that. */
async function copied(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

/**
 * The state of a lab, as by `connect`, with what its page's address says about it; call it before anything is made of the state.
 *
 * `fields`: how each trait is written in an address (`kept` of address.js). `restart` is called before all of the state is set at once, for
 * what a lab remembers beside its traits. `agree(state)`: whether traits that are right one by one are so together. `exact(state)`: the state
 * with what rounding took from it.
 */
export function openLab(model, name, fields, { restart = () => {}, agree = () => true, exact = (values) => values } = {}) {
  const { state, change, soon, follow } = connect(model, Object.keys(fields)), initial = state();
  const before = document.querySelectorAll(`[data-lab="${name}"]`).length, own = before ? `${name}.${before + 1}` : name; // a page may hold two
  let show = () => {}, arrive = () => {};

  /** All of the state: that of the beginning, but for these values. */
  function put(values) {
    restart();
    change({ ...initial, ...values });
  }
  /** What the page's address says; null where it is about something else. */
  function heard() {
    const said = hasAddress() ? saidTo(own, location.hash, fields) : null;
    if (!said || said.problem !== null) return said;
    const whole = { ...initial, ...said.values };
    return agree(whole) ? { ...said, values: exact(whole) } : { ...said, values: {}, problem: location.hash.slice(1, 41) };
  }
  const atFirst = heard(), again = () => {
    const said = heard();
    if (!said) return;
    put(said.values);
    arrive(said);
  };
  if (atFirst) change(atFirst.values);

  /**
   * The lab's elements, put into `el` as `frame` of shared.js does. `goal`: one sentence; `presets`: {words: values that differ from the
   * beginning}, up to three; `kind`: what a screen reader hears before the label.
   */
  function build(el, { label, live, parts, goal, presets = {}, kind, ...attributes }) {
    const reset = button("Reset", () => (put({}), large.focus()), { class: "mlb-small" });
    const link = button("Copy link", copy, { class: "mlb-small" });
    const large = button("Large view", () => (dialog ? dialog.close() : enlarge()), { class: "mlb-small" });
    const line = html("p", { class: "mlb-said-once", role: "alert" });
    const choices = Object.entries(presets).map(([words, values]) => ({ values, node: button(words, () => put(values), { class: "mlb-small" }) }));
    const root = frame(el, name, label, live, parts, { ...attributes, ...(kind && { "aria-label": `${kind}: ${label}` }) });
    root.prepend(html("div", { class: "mlb-head" },
      html("p", { class: "mlb-goal" }, goal),
      ...(choices.length ? [html("div", { class: "mlb-presets", role: "group", "aria-label": "Presets" }, html("span", { "aria-hidden": "true" }, "Try"), ...choices.map((c) => c.node))] : []),
      html("div", { class: "mlb-around", role: "group", "aria-label": "This lab" }, reset, ...(hasAddress() ? [link] : []), large), line));

    show = () => {
      const now = state();
      reset.style.visibility = written(fields, now, initial) ? "" : "hidden"; // its place stays: the others do not jump
      for (const { node, values } of choices) node.setAttribute("aria-pressed", written(fields, now, { ...initial, ...values }) === "");
    };

    async function copy() {
      const address = `${location.href.split("#")[0]}#lab=${own}${written(fields, state(), initial)}${dialog ? "&view=lab" : ""}`;
      if (await copied(address)) {
        link.textContent = "Copied";
        live.say("The link is copied.");
        setTimeout(() => (link.textContent = "Copy link"), 2000);
      } else {
        const text = html("input", { class: "mlb-link", readonly: true, value: address, "aria-label": "The link, to copy by hand" });
        line.replaceChildren("The browser does not let this page copy. The link: ", text);
        text.select();
      }
    }

    // A modal dialog keeps the focus inside, ends with Escape and lies above everything; the lab moves into it and back.
    let dialog = null;
    function enlarge() {
      el.style.minHeight = `${root.offsetHeight}px`; // the page below keeps its place
      dialog = html("dialog", { class: "mlb-large", "aria-label": label, onclose: reduce });
      root.before(dialog);
      dialog.append(root);
      dialog.showModal();
      large.textContent = "Close";
      large.focus();
    }
    function reduce() {
      dialog.replaceWith(root);
      [dialog, el.style.minHeight, large.textContent] = [null, "", "Large view"];
      large.focus();
    }

    arrive = ({ problem, large: wanted }) => {
      line.textContent = problem === null ? "" : `This link does not fit this lab as it is now (“${problem}”). The lab starts as usual.`;
      const there = () => root.scrollIntoView({ block: "start", behavior: "instant" });
      requestAnimationFrame(() => requestAnimationFrame(() => {
        there();
        if (wanted && !dialog) enlarge();
        if (document.readyState !== "complete") addEventListener("load", there, { once: true }); // what came later moved the lab
      }));
    };
    if (atFirst) arrive(atFirst);
    addEventListener("hashchange", again);
    show();
    return root;
  }
  return {
    state, change, soon, put, initial, frame: build,
    /** Whether the page's address asked for this state. */
    asked: atFirst !== null && atFirst.problem === null && written(fields, atFirst.values, initial) !== "",
    follow: (draw, ...ends) => follow(() => (draw(), show()), ...ends, () => removeEventListener("hashchange", again)),
  };
}
