// Zooming and moving of drawings.
const STEP = 1.25;
// Share of the window's height that a drawing may have, as in the style sheet.
const SHARE = 0.75;
const LEAST = 0.05;
const MOST = 4;

function scaleOf(svg) {
  return svg.getAttribute("width") / svg.dataset.width;
}

export function zoomBy(graph, how) {
  const svg = graph.querySelector("svg");
  const old = scaleOf(svg);
  const wanted = {
    in: old * STEP,
    out: old / STEP,
    fit: Math.min(1, graph.clientWidth / svg.dataset.width, (innerHeight * SHARE) / svg.dataset.height),
    full: 1,
  }[how];
  const scale = Math.min(MOST, Math.max(LEAST, wanted));
  const x = (graph.scrollLeft + graph.clientWidth / 2) * (scale / old);
  const y = (graph.scrollTop + graph.clientHeight / 2) * (scale / old);
  svg.setAttribute("width", svg.dataset.width * scale);
  svg.setAttribute("height", svg.dataset.height * scale);
  graph.scrollTo(x - graph.clientWidth / 2, y - graph.clientHeight / 2);
}

// Returns whether the key has a meaning here. Browsers scroll by arrows themselves.
export function moveByKey(graph, key) {
  const how = { "+": "in", "=": "in", "-": "out", 0: "fit", 1: "full" }[key];
  if (how) zoomBy(graph, how);
  return Boolean(how);
}

export function panBy(event) {
  const graph = event.target.closest?.(".graph");
  if (!graph || event.button !== 0 || event.pointerType !== "mouse" || event.target.closest("a")) return;
  const start = [event.clientX + graph.scrollLeft, event.clientY + graph.scrollTop];
  const move = (moved) => graph.scrollTo(start[0] - moved.clientX, start[1] - moved.clientY);
  addEventListener("pointermove", move);
  addEventListener("pointerup", () => removeEventListener("pointermove", move), { once: true });
}
