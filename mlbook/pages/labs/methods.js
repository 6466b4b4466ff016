// The four update rules as every lab draws them: a colour, a dash and a marker each, so that none is told by colour alone.
// Colours: --mlb-… in the style sheets. Sizes fall, so that a rule that lies on another leaves it visible.
import { handle, svg } from "./shared.js";

export const METHODS = [
  { key: "pretraining", name: "pre-training", dash: undefined, width: 6, size: 8 },
  { key: "fomaml", name: "FOMAML", dash: "9 4", width: 4.5, size: 7.5 },
  { key: "maml", name: "MAML", dash: undefined, width: 3.5, size: 7 },
  { key: "reptile", name: "Reptile", dash: "3 3", width: 2.5, size: 5.5 },
];

const CORNERS = {
  pretraining: [[-0.85, -0.85], [0.85, -0.85], [0.85, 0.85], [-0.85, 0.85]],
  fomaml: [[0, -1.1], [1.05, 0.8], [-1.05, 0.8]],
  maml: Array.from({ length: 24 }, (_, i) => [Math.cos((i * Math.PI) / 12), Math.sin((i * Math.PI) / 12)]),
  reptile: [[0, -1.3], [1.3, 0], [0, 1.3], [-1.3, 0]],
};

/** The d of a method's marker around a pixel: square, triangle, disc, diamond. */
export function markerPath({ key, size }, x, y) {
  const corners = CORNERS[key].map(([u, v]) => `${(x + size * u).toFixed(1)} ${(y + size * v).toFixed(1)}`);
  return `M${corners.join("L")}Z`;
}

/** A point of `plot` to drag (`handle` of shared.js) with a letter in it: a bigger disc with the letter on top. */
export function lettered(plot, letter, move, style, along) {
  const grip = handle(plot, { move, along, size: 9.5 }), text = svg("text", {}, letter);
  grip.node.classList.add("mlb-lettered");
  text.setAttribute("y", 4.5);
  if (style) grip.node.setAttribute("style", style);
  grip.node.append(text);
  plot.front.append(grip.node);
  return grip;
}
