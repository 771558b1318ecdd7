/* What every chart shares: scales, axes and the frame that redraws with its container. */

const linear = (from, to, low, high) => (x) => low + ((x - from) / (to - from || 1)) * (high - low);

function ticks(from, to, count) {
  const raw = (to - from) / Math.max(1, count);
  const power = 10 ** Math.floor(Math.log10(raw));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * power).find((candidate) => candidate >= raw);
  const found = [];
  for (let x = Math.ceil(from / step - 1e-9) * step; x <= to + step * 1e-9; x += step) found.push(Math.abs(x) < step / 1e6 ? 0 : x);
  return found;
}

function logTicks(from, to) {
  const factors = to / from > 30 ? [1] : to / from > 4 ? [1, 2, 3, 5] : [1, 1.5, 2, 3, 4, 5, 7];
  const found = [];
  for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power += 1) {
    for (const factor of factors) {
      const x = factor * 10 ** power;
      if (x >= from && x <= to) found.push(x);
    }
  }
  return found;
}

const line = (x1, y1, x2, y2, attributes) => s("line", { x1, y1, x2, y2, ...attributes });
const label = (x, y, words, attributes) => s("text", { x, y, ...attributes }, words);
const rect = (x, y, width, height, attributes) => s("rect", { x, y, width: Math.max(0, width), height, ...attributes });

function frame(width, height, title, ...children) {
  return s("svg", { viewBox: `0 0 ${width} ${height}`, width, height, role: "group", "aria-label": title }, ...children);
}

function verticalGrid(scale, values, top, bottom, write) {
  return values.map((x) => s("g", {}, line(scale(x), top, scale(x), bottom, { class: x === 0 ? "zero" : "grid" }),
    label(scale(x), bottom + 17, write(x), { class: "axis", "text-anchor": "middle" })));
}

function clipped(words, limit) {
  return words.length > limit ? `${words.slice(0, limit - 1)}…` : words;
}

/* An estimate with its interval on one row: filled when matched, hollow for a control. */
function whisker(scale, y, item, hue, hollow) {
  return [
    item.low === null ? null : line(scale(item.low), y, scale(item.high), y, { stroke: hue, "stroke-width": 2, "stroke-linecap": "round", opacity: hollow ? 0.6 : 0.85 }),
    s("circle", { cx: scale(item.value), cy: y, r: 5.5, fill: hollow ? "var(--card)" : hue, stroke: hue, "stroke-width": 2 }),
    rect(scale(item.low ?? item.value) - 12, y - 13, scale(item.high ?? item.value) - scale(item.low ?? item.value) + 24, 26, { fill: "transparent" }),
  ];
}

function legend(entries) {
  return h("ul", { class: "legend" }, entries.map(([name, hue]) => h("li", {}, h("i", { style: `background:${hue}` }), name)));
}

const nothing = (words) => [h("p", { class: "empty" }, words)];
