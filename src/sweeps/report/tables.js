// Tables: sort by a column, and show only the rows that contain all words and meet all conditions of the query.
const compare = (a, b) => {
  if (a === "" || b === "") return (a === "") - (b === "");
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
};
const key = (row, column) => {
  const cell = row.cells[column];
  return "order" in cell.dataset ? cell.dataset.order : cell.textContent.trim().replace("%", "");
};
const number = (text) => (text === "" ? NaN : Number(text.replace(/ ±.*/, "").replace(/[%,]/g, "")));
const COMPARISONS = {
  "<": (order) => order < 0, ">": (order) => order > 0, "<=": (order) => order <= 0,
  ">=": (order) => order >= 0, "=": (order) => order === 0, "!=": (order) => order !== 0,
};
const spelt = (name) => name.trim().toLowerCase().replaceAll(" ", "_");

// Turn a word of a query into a predicate on rows: a condition on a column, or else a search in the row's text.
function condition(word, columns) {
  const [, name, sign, wanted] = word.match(/^([^<>=!]+)(<=|>=|!=|<|>|=)(.+)$/) || [];
  if (!sign) return (row) => row.textContent.toLowerCase().includes(word);
  const column = columns.findIndex((names) => names.includes(name));
  if (column < 0) throw new Error(`no column ${name}; there are ${columns.map(([shown]) => shown).join(", ")}`);
  return (row) => {
    const shown = row.cells[column].textContent.trim().toLowerCase();
    const [x, y] = [number(shown), number(wanted)];
    if (!Number.isNaN(x) && !Number.isNaN(y)) return COMPARISONS[sign](x - y);
    return sign === "=" ? shown === wanted : sign === "!=" ? shown !== wanted : false;
  };
}

for (const table of all(".sortable")) {
  const [head, body] = [table.tHead.rows[0], table.tBodies[0]];
  const tools = table.closest("[data-table]");
  const [query, told, button] = ["[data-filter]", "output", "[data-all]"].map((what) => tools.querySelector(what));
  const first = [...body.rows].filter((row) => !row.hidden).length;
  const columns = [...head.cells].map((cell) => [spelt(cell.textContent), spelt(cell.title.split(",")[0])]); // the heading and the full name
  let few = Boolean(button);
  function refresh() {
    const words = query.value.toLowerCase().split(/\s+/).filter(Boolean);
    let conditions = [];
    try {
      conditions = words.map((word) => condition(word, columns));
    } catch (error) {
      told.textContent = error.message;
    }
    let count = 0;
    for (const row of body.rows) {
      const fits = conditions.every((each) => each(row));
      count += fits;
      row.hidden = !fits || (few && !conditions.length && count > first);
    }
    if (conditions.length === words.length) told.textContent = words.length ? `${count} of ${body.rows.length}` : "";
  }
  query.addEventListener("input", refresh);
  button?.addEventListener("click", () => {
    few = false;
    button.remove();
    refresh();
  });
  [...head.cells].forEach((cell, column) => {
    if (cell.classList.contains("fixed")) return;
    cell.tabIndex = 0;
    const sort = () => {
      const down = cell.getAttribute("aria-sort") === "ascending";
      [...head.cells].forEach((each) => each.removeAttribute("aria-sort"));
      cell.setAttribute("aria-sort", down ? "descending" : "ascending");
      const rows = [...body.rows].map((row) => [key(row, column), row]);
      const sign = down ? -1 : 1;
      rows.sort(([a], [b]) => (a === "" || b === "" ? compare(a, b) : sign * compare(a, b)));
      body.append(...rows.map(([, row]) => row));
      refresh();
    };
    cell.addEventListener("click", sort);
    cell.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" && event.key !== " ") return;
      event.preventDefault();
      sort();
    });
  });
}
