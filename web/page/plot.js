// Milliseconds over tokens, both axes logarithmic, as SVG.

const SIZE = { width: 720, height: 380, left: 76, right: 84, top: 12, bottom: 44 };

function element(name, attributes, text) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

export function plot(points) {
  const { width, height, left, right, top, bottom } = SIZE;
  const svg = element("svg", { viewBox: `0 0 ${width} ${height}`, role: "img" });
  svg.append(element("title", {}, "Milliseconds of a call over its tokens; the table below has the numbers"));

  const all = points.flatMap((point) => [point.linear, point.softmax]).filter((ms) => ms > 0);
  const low = Math.floor(Math.log10(Math.min(...all)));
  const high = Math.max(low + 1, Math.log10(Math.max(...all)) + 0.1);
  const first = Math.log2(points[0].tokens);
  // Room for four lengths at least, so that the first points do not fill the width.
  const last = Math.max(first + 3, Math.log2(points.at(-1).tokens));
  const x = (tokens) =>
    left + ((Math.log2(tokens) - first) / (last - first)) * (width - left - right);
  const y = (ms) =>
    height - bottom - ((Math.log10(ms) - low) / (high - low)) * (height - top - bottom);

  for (let power = low; power <= high; power++) {
    const at = y(10 ** power);
    svg.append(element("line", { class: "grid", x1: left, x2: width - right, y1: at, y2: at }));
    const text = `${power < 0 ? (10 ** power).toFixed(-power) : 10 ** power} ms`;
    svg.append(element("text", { x: left - 8, y: at + 4, "text-anchor": "end" }, text));
  }
  for (let power = first; power <= last; power++) {
    const tokens = 2 ** power;
    const text = tokens >= 1024 ? `${tokens / 1024}k` : `${tokens}`;
    svg.append(element("text", { x: x(tokens), y: height - bottom + 20, "text-anchor": "middle" }, text));
  }
  const middle = (left + width - right) / 2;
  svg.append(element("text", { x: middle, y: height - 6, "text-anchor": "middle" }, "tokens of the sequence"));

  for (const kind of ["softmax", "linear"]) {
    const drawn = points.filter((point) => point[kind] > 0);
    const path = drawn.map((point) => `${x(point.tokens)},${y(point[kind])}`).join(" ");
    svg.append(element("polyline", { class: kind, points: path }));
    for (const point of drawn) {
      svg.append(element("circle", { class: kind, cx: x(point.tokens), cy: y(point[kind]), r: 4 }));
    }
    const end = drawn.at(-1);
    const at = { class: kind, x: x(end.tokens) + 10, y: y(end[kind]) + 4 };
    svg.append(element("text", at, kind));
  }
  return svg;
}
