"use strict";

/* Tables sort by their headings: the first click shows the largest number, or the first name, on top. */

function keyOf(row, column) {
  const key = row.cells[column].dataset.key;
  if (key === undefined) return null;
  const number = Number(key);
  return Number.isNaN(number) ? key : number;
}

function compareKeys(a, b, sign) {
  if (a === null || b === null) return (a === null) - (b === null);
  if (typeof a === "number" && typeof b === "number") return sign * (a - b);
  return sign * String(a).localeCompare(String(b), "en", { numeric: true });
}

function sortBy(heading) {
  const table = heading.closest("table"), column = heading.cellIndex, body = table.tBodies[0];
  const rows = [...body.rows];
  const names = rows.some((row) => typeof keyOf(row, column) === "string");
  const before = heading.getAttribute("aria-sort");
  const ascending = before === "none" ? names : before === "descending";
  rows.sort((a, b) => compareKeys(keyOf(a, column), keyOf(b, column), ascending ? 1 : -1));
  body.append(...rows);
  for (const other of table.tHead.rows[0].cells) other.setAttribute("aria-sort", "none");
  heading.setAttribute("aria-sort", ascending ? "ascending" : "descending");
}

function startTables() {
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => sortBy(button.closest("th")));
  }
}
