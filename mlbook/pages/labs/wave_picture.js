// The picture to save: one wave, its curves and its errors, as large as networks want a card to be.
import { format } from "./shared.js";

const SIZE = [1200, 630], FRAME = { x: 60, y: 130, width: 740, height: 410 };

/** A canvas. curves: {ys, colour, dash, width}, the last on top; rows: {name, colour, error}; `look` has the colours of ground, ink, muted text and edges. */
export function wavePicture({ grid, y_range: [low, high], points, curves, rows, title, about, book, look }) {
  const canvas = document.createElement("canvas"), context = canvas.getContext("2d");
  [canvas.width, canvas.height] = SIZE;
  const X = (x) => FRAME.x + ((x - grid[0]) / (grid.at(-1) - grid[0])) * FRAME.width;
  const Y = (y) => FRAME.y + ((high - y) / (high - low)) * FRAME.height;
  const words = (text, x, y, size, colour, weight = 400, align = "left") => {
    Object.assign(context, { font: `${weight} ${size}px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif`, fillStyle: colour, textAlign: align });
    context.fillText(text, x, y);
  };
  context.fillStyle = look.ground;
  context.fillRect(0, 0, ...SIZE);
  words(title, 60, 84, 46, look.ink, 700);
  Object.assign(context, { strokeStyle: look.edge, lineWidth: 1.5 });
  context.strokeRect(FRAME.x, FRAME.y, FRAME.width, FRAME.height);
  context.save();
  context.beginPath();
  context.rect(FRAME.x, FRAME.y, FRAME.width, FRAME.height);
  context.clip();
  for (const { ys, colour, dash = [], width } of curves) {
    Object.assign(context, { strokeStyle: colour, lineWidth: width, lineJoin: "round" });
    context.setLineDash(dash);
    context.beginPath();
    ys.forEach((y, i) => context.lineTo(X(grid[i]), Y(y)));
    context.stroke();
  }
  context.restore();
  context.fillStyle = look.ink;
  for (const [x, y] of points) {
    context.beginPath();
    context.arc(X(x), Y(y), 10, 0, 7);
    context.fill();
  }
  words("error", 1140, 158, 22, look.muted, 400, "right");
  rows.forEach(({ name, colour, error }, i) => {
    const y = 206 + 100 * i;
    Object.assign(context, { fillStyle: colour });
    context.fillRect(840, y - 22, 12, 58);
    words(name, 868, y + 15, 24, look.ink, 600);
    words(error === undefined ? "" : format(error), 1140, y + 18, 34, look.ink, 700, "right");
  });
  words(about, 60, 592, 23, look.muted);
  words(book, 1140, 592, 27, look.ink, 700, "right");
  return canvas;
}
