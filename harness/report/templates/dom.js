"use strict";
/* Elements, numbers and colours. Text enters the page as text nodes only, never as markup. */

const SVG = "http://www.w3.org/2000/svg";
const DATA = JSON.parse(document.getElementById("data").textContent);
const byId = (id) => document.getElementById(id);
const text = (index) => (index < 0 || index === undefined ? null : DATA.texts[index]);

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes || {})) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return node;
}

const h = (tag, attributes, ...children) => fill(document.createElement(tag), attributes, children);
const s = (tag, attributes, ...children) => fill(document.createElementNS(SVG, tag), attributes, children);

/* Rounds as terminal and boards do: to the nearest, from halfway to the even digit. */
function fixed(x, digits) {
  const halfway = Number.isInteger(x * 2 ** (digits + 1)) && !Number.isInteger(x * 2 ** digits);
  if (!halfway) return x.toFixed(digits);
  const below = Math.floor(x * 10 ** digits);
  return ((below % 2 ? below + 1 : below) / 10 ** digits).toFixed(digits);
}

function significant(x) {
  const digits = x > 0 ? 2 - Math.floor(Math.log10(x)) : 0;
  return String(Number(digits < 0 ? x.toPrecision(3) : fixed(x, digits)));
}

const percent = (x) => (x === null ? "" : fixed(100 * x, 1));
const interval = (low, high, write) => (low === null || high === null ? "" : `[${write(low)}, ${write(high)}]`);

function points(x) {
  if (x === null) return "";
  const written = fixed(Math.abs(100 * x), 1);
  return (x < 0 && Number(written) > 0 ? "−" : "+") + written;
}

function seconds(x) {
  if (x === null || x === undefined) return "";
  if (x >= 999.5) return `${fixed(x, 0)} s`;
  if (x >= 0.9995) return `${significant(x)} s`;
  return x >= 0.0009995 ? `${significant(1e3 * x)} ms` : `${significant(1e6 * x)} µs`;
}

function size(x) {
  if (x === null || x === undefined) return "";
  const units = ["B", "kB", "MB", "GB", "TB"];
  let step = 0;
  for (; x >= 999.5 && step < units.length - 1; step += 1) x /= 1000;
  return `${significant(x)} ${units[step]}`;
}

const KNOWN = ["receiver", "sharer", "routed", "t2t", "c2c"];
const NAMES = { t2t: "T2T", c2c: "C2C" };
const color = (channel) => `var(--${KNOWN.includes(channel) ? channel : "other"})`;
const channelName = (channel) => NAMES[channel] || channel;
const armName = (arm) => channelName(arm.channel) + (arm.control ? `/${arm.control}` : "");

const tip = byId("tip");

function showTip(words, x, y) {
  tip.textContent = words;
  tip.hidden = false;
  const box = tip.getBoundingClientRect();
  const left = Math.min(Math.max(8, x - box.width / 2), window.innerWidth - box.width - 8);
  const above = y - box.height - 14;
  tip.style.left = `${left}px`;
  tip.style.top = `${above > 8 ? above : y + 18}px`;
}

const hideTip = () => { tip.hidden = true; };

/* A mark that explains itself to pointer, keyboard and screen reader alike. */
function explained(words, ...children) {
  const at = (event) => {
    const box = event.currentTarget.getBoundingClientRect();
    showTip(words, box.left + box.width / 2, box.top);
  };
  return s("g", { tabindex: 0, role: "img", "aria-label": words.replaceAll("\n", ", "), onpointerenter: at,
    onpointerleave: hideTip, onfocus: at, onblur: hideTip }, ...children);
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
