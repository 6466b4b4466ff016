// A box to draw in with a mouse, a finger or the keyboard, and beside it the 28 × 28 pixels that a network sees of the drawing.
import { button, clamp, html } from "./shared.js";
import { PAPER, PEN, PIXELS, smoothed } from "./strokes.js";

const SHARP = 2; // canvas pixels per unit of the paper
const PIXEL = PAPER / PIXELS;

/** One box: the paper under the reader's pen, the pixels that the network sees, and two buttons.
 *
 *  get and set: the strokes; begin is called before every change that can be undone, undo takes one back, say tells a screen reader.
 *  `show(strokes, {ink, inverted, undoable})` draws; ink is what `pixelsOf` makes of the strokes, or null. */
export function drawingBox(name, { get, set, begin, undo, say }) {
  const paper = html("canvas", { class: "mlb-paper", width: SHARP * PAPER, height: SHARP * PAPER, "aria-hidden": "true" });
  const seen = html("canvas", { class: "mlb-seen", width: PIXELS, height: PIXELS, role: "img" });
  const surface = html("div", { class: "mlb-surface", tabindex: 0, role: "application", "aria-roledescription": "box to draw in" }, paper);
  const undoButton = button("↶", () => undo(), { "aria-label": `Undo in ${name}`, title: "undo" });
  const clearButton = button("✕", () => clear(), { "aria-label": `Clear ${name}`, title: "clear" });
  let stroke = null, pen = [PAPER / 2, PAPER / 2], down = false, keys = false;
  const clear = () => get().length && (begin(), set([]));
  const round = (v) => Math.round(10 * clamp(v, [0, PAPER])) / 10;

  function extend(points) {
    const fresh = [...stroke];
    for (const [x, y] of points)
      if (fresh.length < 2 || Math.hypot(x - fresh.at(-2), y - fresh.at(-1)) >= 1) fresh.push(round(x), round(y));
    if (fresh.length === stroke.length) return;
    stroke = fresh;
    set([...get().slice(0, -1), stroke]);
  }
  function start(point) {
    begin();
    stroke = point.map(round);
    set([...get(), stroke]);
  }
  const place = (event) => {
    const around = paper.getBoundingClientRect();
    return [((event.clientX - around.left) / around.width) * PAPER, ((event.clientY - around.top) / around.height) * PAPER];
  };
  surface.addEventListener("pointerdown", (event) => {
    if (event.button || (stroke && !down)) return;
    event.preventDefault();
    surface.setPointerCapture(event.pointerId);
    surface.focus({ preventScroll: true });
    [down, keys] = [false, false];
    start(place(event));
  });
  surface.addEventListener("pointermove", (event) => {
    if (!stroke || down || !surface.hasPointerCapture(event.pointerId)) return;
    const all = event.getCoalescedEvents?.() ?? [];
    extend((all.length ? all : [event]).map(place));
  });
  for (const end of ["pointerup", "pointercancel", "lostpointercapture"])
    surface.addEventListener(end, () => !down && (stroke = null));
  const lift = () => ([stroke, down] = [null, false]);
  surface.addEventListener("keydown", (event) => {
    const arrow = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    const far = PIXEL * (event.shiftKey ? 4 : 1);
    if (arrow) {
      pen = pen.map((v, i) => clamp(v + far * arrow[i], [0, PAPER]));
      if (down) extend([pen]);
    } else if (event.key === " " || event.key === "Enter") {
      if (down) lift();
      else {
        down = true;
        start(pen);
      }
      say(`Pen ${down ? "down" : "up"} in ${name}`);
    } else if (event.key === "Escape" && down) lift();
    else if (event.key === "Backspace") (lift(), undo());
    else if (event.key === "Delete") (lift(), clear());
    else return;
    keys = true;
    show(get(), last);
    event.preventDefault();
    event.stopPropagation(); // Jupyter would take the key for itself
  });
  surface.addEventListener("blur", () => (lift(), (keys = false), show(get(), last)));

  let last = null;
  function show(strokes, look) {
    last = look;
    const context = paper.getContext("2d");
    context.setTransform(SHARP, 0, 0, SHARP, 0, 0);
    context.clearRect(0, 0, PAPER, PAPER);
    Object.assign(context, { lineWidth: PEN, lineCap: "round", lineJoin: "round", strokeStyle: "#1c2128" });
    for (const line of strokes) {
      const s = smoothed(line);
      context.beginPath();
      context.moveTo(s[0], s[1]);
      for (let i = 2; i < s.length; i += 2) context.lineTo(s[i], s[i + 1]);
      if (s.length === 2) context.lineTo(s[0] + 0.01, s[1]);
      context.stroke();
    }
    if (keys) {
      Object.assign(context, { lineWidth: 1.5, strokeStyle: "#0a5a9c", fillStyle: down ? "#0a5a9c" : "#ffffff" });
      context.beginPath();
      context.arc(...pen, 4.5, 0, 7);
      context.fill();
      context.stroke();
    }
    const small = seen.getContext("2d"), pixels = small.createImageData(PIXELS, PIXELS);
    for (let i = 0; i < PIXELS * PIXELS; i++) {
      const ink = look.ink?.[i] ? 1 : 0, light = 255 * (look.inverted ? 1 - ink : ink);
      pixels.data.set([light, light, light, look.ink ? 255 : 0], 4 * i);
    }
    small.putImageData(pixels, 0, 0);
    undoButton.disabled = !look.undoable;
    clearButton.disabled = !strokes.length;
    const drawn = strokes.length ? `${strokes.length} ${strokes.length === 1 ? "stroke" : "strokes"}` : "empty";
    surface.setAttribute("aria-label", `${name}: ${drawn}`);
    seen.setAttribute("aria-label", look.ink ? `${name} as the network sees it, ${look.ink.reduce((a, b) => a + b)} of 784 pixels inked` : `${name} is empty`);
    node.classList.toggle("mlb-unused", !strokes.length);
  }
  const node = html("div", { class: "mlb-box", role: "group", "aria-label": name },
    html("p", { "aria-hidden": "true" }, name), surface, html("div", { class: "mlb-tools" }, seen, undoButton, clearButton));
  return { node, show };
}
