/* The charts themselves: (task, run, width) -> nodes. Each says what it lacks instead of drawing zeros. */

function drawAccuracy({ task, width }) {
  const rows = task.rows;
  const left = width < 480 ? 128 : 170, right = width < 480 ? 46 : 150, height = 34 * rows.length + 34;
  const from = Math.max(0, Math.floor(10 * Math.min(...rows.map((row) => row.accuracy_low)) - 0.3) / 10);
  const to = Math.min(1, Math.ceil(10 * Math.max(...rows.map((row) => row.accuracy_high)) + 0.3) / 10);
  const x = linear(from, to, left, width - right);
  const marks = rows.map((row, index) => {
    const y = 17 + 34 * index;
    const item = { value: row.accuracy, low: row.accuracy_low, high: row.accuracy_high };
    const said = `${armName(row)}: ${percent(row.accuracy)}% ${interval(row.accuracy_low, row.accuracy_high, percent)}\nn ${row.n}, errors ${row.errors}, invalid ${row.invalid}`;
    return explained(said, ...whisker(x, y, item, color(row.channel), Boolean(row.control)),
      label(left - 14, y + 4, clipped(armName(row), width < 480 ? 16 : 24), { "text-anchor": "end", class: row.control ? "dim" : "strong" }),
      label(width - right + 14, y + 4, percent(row.accuracy) + (width < 480 ? "" : `  ${interval(row.accuracy_low, row.accuracy_high, percent)}`), { class: row.control ? "dim" : "" }));
  });
  return [frame(width, height, "Accuracy by channel, percent", verticalGrid(x, ticks(from, to, width / 130), 4, height - 26, (v) => `${Math.round(100 * v)}%`), marks)];
}

const wholePoints = (x) => (x === 0 ? "0" : points(x).replace(".0", ""));

function drawEffects({ task, width }) {
  const found = task.effects.filter((effect) => effect.difference !== null);
  if (!found.length) return nothing("No two arms to compare in this run.");
  const narrow = width < 620, left = narrow ? 158 : 230, right = narrow ? 18 : 200, height = 30 * found.length + 34;
  const reach = Math.max(...found.flatMap((effect) => [Math.abs(effect.low), Math.abs(effect.high), effect.minimum_detectable || 0]));
  const x = linear(-reach, reach, left, width - right);
  const marks = found.map((effect, index) => {
    const y = 15 + 30 * index, band = effect.minimum_detectable || 0;
    const item = { value: effect.difference, low: effect.low, high: effect.high };
    const unresolved = !["higher", "lower"].includes(effect.verdict);
    const said = `${channelName(effect.channel)} ${effect.title}: ${points(effect.difference)} points ${interval(effect.low, effect.high, points)}\n${effect.verdict}; ${effect.n} pairs, ${effect.left_out} left out, detectable ±${percent(band)}`;
    return explained(said, rect(x(-band), y - 10, x(band) - x(-band), 20, { fill: "var(--band)", rx: 4 }),
      line(x(0), y - 15, x(0), y + 15, { class: "zero" }), ...whisker(x, y, item, color(effect.channel), unresolved),
      s("text", { x: left - 14, y: y + 4, "text-anchor": "end" }, s("tspan", { class: "strong" }, `${channelName(effect.channel)} `), s("tspan", { class: "dim" }, effect.title)),
      narrow ? null : label(width - right + 14, y + 4, `${points(effect.difference)}  ${effect.verdict}`, { class: unresolved ? "dim" : "" }));
  });
  return [frame(width, height, "Paired differences, points", verticalGrid(x, ticks(-reach, reach, (width - left - right) / (narrow ? 55 : 90)), 4, height - 26, wholePoints), marks)];
}

function frontier(rows) {
  const sorted = [...rows].sort((a, b) => a.e2e_s_p50 - b.e2e_s_p50 || b.accuracy - a.accuracy);
  let best = -1;
  return sorted.filter((row) => row.accuracy > best && (best = row.accuracy) >= 0);
}

/* Labels keep out of each other's way by moving down a line. */
function spaced(places) {
  const taken = [];
  for (const place of [...places].sort((a, b) => a.y - b.y)) {
    while (taken.some((other) => Math.abs(other.y - place.y) < 15 && Math.abs(other.x - place.x) < 96)) place.y += 5;
    taken.push(place);
  }
  return places;
}

function drawPareto({ task, width }) {
  const rows = task.rows.filter((row) => row.e2e_s_p50 !== null);
  if (!rows.length) return nothing("Nothing was timed in this run.");
  const height = 330, left = 46, right = 20, bottom = height - 44;
  const times = rows.map((row) => row.e2e_s_p50);
  const t0 = Math.min(...times) / 1.25, t1 = Math.max(...times) * 1.6;
  const a0 = Math.max(0, Math.min(...rows.map((row) => row.accuracy_low)) - 0.02), a1 = Math.min(1, Math.max(...rows.map((row) => row.accuracy_high)) + 0.02);
  const x = (v) => linear(Math.log(t0), Math.log(t1), left, width - right)(Math.log(v)), y = linear(a0, a1, bottom, 10);
  const best = frontier(rows.filter((row) => !row.control));
  const places = spaced(rows.filter((row) => !row.control).map((row) => ({ row, x: x(row.e2e_s_p50), y: y(row.accuracy) + 4 })));
  return [frame(width, height, "Accuracy against median end-to-end seconds",
    ticks(a0, a1, 5).map((v) => s("g", {}, line(left, y(v), width - right, y(v), { class: "grid" }), label(left - 8, y(v) + 4, `${Math.round(100 * v)}%`, { class: "axis", "text-anchor": "end" }))),
    logTicks(t0, t1).map((v) => s("g", {}, line(x(v), 10, x(v), bottom, { class: "grid" }), label(x(v), bottom + 17, seconds(v), { class: "axis", "text-anchor": "middle" }))),
    label((left + width - right) / 2, height - 8, "median end to end, log scale", { class: "axis", "text-anchor": "middle" }),
    s("polyline", { points: best.map((row) => `${x(row.e2e_s_p50)},${y(row.accuracy)}`).join(" "), fill: "none", stroke: "var(--faint)", "stroke-dasharray": "4 4" }),
    [...rows].sort((a, b) => Boolean(b.control) - Boolean(a.control)).map((row) => explained(`${armName(row)}: ${percent(row.accuracy)}%\n${seconds(row.e2e_s_p50)} median, ${seconds(row.e2e_s_p90)} p90\npayload ${size(row.payload_bytes_mean)}`,
      line(x(row.e2e_s_p50), y(row.accuracy_low), x(row.e2e_s_p50), y(row.accuracy_high), { stroke: color(row.channel), "stroke-width": 1.5, opacity: row.control ? 0.35 : 0.7 }),
      s("circle", { cx: x(row.e2e_s_p50), cy: y(row.accuracy), r: row.control ? 4 : 6.5, fill: row.control ? "var(--card)" : color(row.channel), stroke: color(row.channel), "stroke-width": 1.5 }))),
    places.map((place) => label(place.x + (place.x > width - 100 ? -12 : 12), place.y, channelName(place.row.channel), { class: "strong halo", "text-anchor": place.x > width - 100 ? "end" : "start" })))];
}

const STAGE_ORDER = ["sharer_prefill", "sharer_decode", "message_transfer", "fusion", "receiver_prefill", "receiver_decode"];

function drawStages({ task, width }) {
  const rows = task.rows.filter((row) => !row.control && Object.keys(row.stages_s_p50).length);
  if (!rows.length) return nothing("Nothing was timed in this run.");
  const names = [...new Set([...STAGE_ORDER, ...rows.flatMap((row) => Object.keys(row.stages_s_p50))])].filter((name) => rows.some((row) => row.stages_s_p50[name] > 0));
  const hue = (name) => `var(--s-${STAGE_ORDER.includes(name) ? name : "other"})`;
  const left = 82, right = 70, height = 44 * rows.length + 34;
  const total = (row) => Object.values(row.stages_s_p50).reduce((sum, v) => sum + v, 0);
  const longest = Math.max(...rows.map(total)), x = linear(0, longest, left, width - right);
  const bars = rows.map((row, index) => {
    const y = 8 + 44 * index;
    let start = 0;
    const parts = names.filter((name) => row.stages_s_p50[name] > 0).map((name) => {
      const value = row.stages_s_p50[name], from = start;
      start += value;
      return explained(`${channelName(row.channel)}, ${name.replaceAll("_", " ")}: ${seconds(value)} median\n${seconds(row.stages_s_p90[name])} p90`,
        rect(x(from), y, Math.max(1, x(from + value) - x(from) - 1), 26, { fill: hue(name), rx: 2 }));
    });
    return s("g", {}, label(left - 12, y + 18, channelName(row.channel), { "text-anchor": "end", class: "strong" }), parts, label(x(start) + 8, y + 18, seconds(row.e2e_s_p50), { class: "dim" }));
  });
  return [legend(names.map((name) => [name.replaceAll("_", " "), hue(name)])),
    frame(width, height, "Median seconds by stage", verticalGrid(x, ticks(0, longest, 4), 0, height - 26, (v) => (v === 0 ? "0" : seconds(v))), bars)];
}

function drawSubjects({ task, width }) {
  const picked = byId("subject-channel").value;
  const found = task.subjects.filter((gain) => gain.channel === picked).sort((a, b) => b.difference - a.difference || a.subject.localeCompare(b.subject));
  if (!found.length) return nothing("This task has no subjects that can be told apart.");
  const left = width < 480 ? 130 : 230, right = 56, height = 19 * found.length + 36;
  const low = Math.min(-0.05, ...found.map((gain) => gain.low)), high = Math.max(0.05, ...found.map((gain) => gain.high));
  const x = linear(low, high, left, width - right);
  const marks = found.map((gain, index) => {
    const y = 11 + 19 * index, hue = color(picked), sure = gain.low > 0 || gain.high < 0;
    return explained(`${gain.subject}: ${points(gain.difference)} points ${interval(gain.low, gain.high, points)}\n${gain.n} questions`,
      rect(0, y - 9.5, width, 19, { fill: "transparent" }),
      line(x(gain.low), y, x(gain.high), y, { stroke: hue, opacity: sure ? 0.75 : 0.35, "stroke-width": 2 }),
      s("circle", { cx: x(gain.difference), cy: y, r: 4.2, fill: sure ? hue : "var(--card)", stroke: hue, "stroke-width": 1.8 }),
      label(left - 12, y + 4, clipped(gain.subject.replaceAll("_", " "), width < 480 ? 17 : 32), { "text-anchor": "end" }),
      label(width - 4, y + 4, `n ${gain.n}`, { class: "axis", "text-anchor": "end" }));
  });
  return [frame(width, height, `Difference of ${channelName(picked)} to the receiver by subject, points`, verticalGrid(x, ticks(low, high, (width - left - right) / 75), 0, height - 26, wholePoints), marks)];
}

function drawFusion({ run, width }) {
  const layers = run.fusion.filter((layer) => layer.layer !== undefined);
  if (!layers.length) return nothing("This run recorded no fuser.");
  const sharers = [...new Set(layers.map((layer) => layer.sharer ?? ""))];
  return sharers.flatMap((sharer) => fusionStrip(layers.filter((layer) => (layer.sharer ?? "") === sharer), sharer, width));
}

function fusionStrip(layers, sharer, width) {
  const left = 30, cell = Math.min(46, Math.max(9, (width - left - 4) / layers.length)), tall = Math.max(26, Math.min(40, cell)), height = 2 * (tall + 6) + 26;
  const every = Math.ceil(28 / cell);
  const square = (layer, index, kind, y) => {
    const open = Boolean(layer[`gate_${kind}`]), weight = layer[`weight_${kind}`] ?? null;
    return explained(`layer ${layer.layer}, ${kind === "k" ? "keys" : "values"}: gate ${open ? "open" : "closed"}${weight === null ? "" : `\nmean weight ${weight.toFixed(2)}`}`,
      rect(left + index * cell + 1, y, cell - 2, tall, { rx: 3, fill: open ? "var(--c2c)" : "transparent", "fill-opacity": open ? 0.15 + 0.85 * (weight ?? 1) : 1, stroke: open ? "var(--c2c)" : "var(--faint)", "stroke-dasharray": open ? null : "2 2" }));
  };
  const row = (kind, y) => [label(left - 12, y + tall / 2 + 4, kind.toUpperCase(), { "text-anchor": "end", class: "strong" }), layers.map((layer, index) => square(layer, index, kind, y))];
  const opened = (kind) => layers.filter((layer) => layer[`gate_${kind}`]).length;
  return [h("p", { class: "count" }, `${sharer === "" ? "" : `Sharer ${sharer}: `}${opened("k")} of ${layers.length} key gates open, ${opened("v")} of ${layers.length} value gates.`),
    frame(width, height, "Gates and mean weights by layer", row("k", 2), row("v", tall + 8),
      layers.map((layer, index) => (index % every ? null : label(left + (index + 0.5) * cell, height - 6, String(layer.layer), { class: "axis", "text-anchor": "middle" }))))];
}
