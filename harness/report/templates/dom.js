"use strict";
/* Elements, numbers and explanations. Text enters the page as text nodes only, never as markup. */

let DATA = null;
const byId = (id) => document.getElementById(id);
const text = (index) => (index < 0 || index === undefined ? null : DATA.texts[index]);

/* The data of the page: base64 of gzip of JSON. */
async function unpacked(content) {
  const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

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

function seconds(x) {
  if (x === null || x === undefined) return "";
  if (x >= 999.5) return `${fixed(x, 0)} s`;
  if (x >= 0.9995) return `${significant(x)} s`;
  return x >= 0.0009995 ? `${significant(1e3 * x)} ms` : `${significant(1e6 * x)} µs`;
}

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

/* Marks of the figures explain themselves to pointer and keyboard; a screen reader has their label. */
for (const mark of document.querySelectorAll("[data-tip]")) {
  const show = () => {
    const box = mark.getBoundingClientRect();
    showTip(mark.dataset.tip, box.left + box.width / 2, box.top);
  };
  for (const name of ["pointerenter", "focus"]) mark.addEventListener(name, show);
  for (const name of ["pointerleave", "blur"]) mark.addEventListener(name, hideTip);
}

document.addEventListener("keydown", (event) => { if (event.key === "Escape") hideTip(); });
