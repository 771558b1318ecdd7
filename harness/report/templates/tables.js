/* Tables that sort by a click or the keyboard; blanks stay last whichever way. */

function cellValue(row, index) {
  const cell = row.cells[index];
  const raw = cell.hasAttribute("data-value") ? cell.getAttribute("data-value") : cell.textContent.trim();
  return raw !== "" && !Number.isNaN(Number(raw)) ? Number(raw) : raw;
}

function compare(a, b) {
  if (a === "" || b === "") return 0;
  return typeof a === "number" && typeof b === "number" ? a - b : String(a).localeCompare(String(b));
}

function sortTable(table, index) {
  const head = table.tHead.rows[0].cells[index];
  const descending = head.getAttribute("aria-sort") !== "descending" && head.classList.contains("num") || head.getAttribute("aria-sort") === "ascending";
  for (const cell of table.tHead.rows[0].cells) cell.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", descending ? "descending" : "ascending");
  const rows = [...table.tBodies[0].rows].map((row) => ({ row, value: cellValue(row, index) }));
  rows.sort((a, b) => (a.value === "") - (b.value === "") || (descending ? -1 : 1) * compare(a.value, b.value));
  table.tBodies[0].append(...rows.map(({ row }) => row));
}

for (const table of document.querySelectorAll("table.sortable")) {
  [...table.tHead.rows[0].cells].forEach((head, index) => {
    const words = head.textContent;
    head.textContent = "";
    head.append(h("button", { type: "button", title: "Sort", onclick: () => sortTable(table, index) }, words));
  });
}
