// A click on a column's head sorts a table by that column: by number where cells begin with one, else by text.
"use strict";

const sign = { ascending: 1, descending: -1 };

function valueOf(cell) {
  const text = cell.innerText.replace(/\u00ad/g, "").trim();
  const number = text.match(/[+-]?\d[\d,]*\.?\d*/);
  return { text, number: number ? parseFloat(number[0].replaceAll(",", "")) : null };
}

function compared(a, b) {
  if (a.number !== null && b.number !== null && a.number !== b.number) return a.number - b.number;
  return a.text.localeCompare(b.text);
}

function sortBy(table, column, order) {
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, value: valueOf(row.cells[column]) }));
  const empty = (one) => (one.value.text === "" ? 1 : 0);
  rows.sort((a, b) => empty(a) - empty(b) || sign[order] * compared(a.value, b.value));
  table.tBodies[0].append(...rows.map((one) => one.row));
  [...table.tHead.rows[0].cells].forEach((head, place) => {
    head.setAttribute("aria-sort", place === column ? order : "none");
  });
}

function makeSortable(table) {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.className = "sort";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "descending";
      sortBy(table, column, down ? "ascending" : "descending");
    });
  });
}

document.querySelectorAll("article table").forEach((table) => {
  if (table.tHead && table.tBodies.length && table.tBodies[0].rows.length > 1) makeSortable(table);
});
