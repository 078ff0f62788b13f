// A heading sorts the table by its column, twice the other way round; the figures follow.
const body = document.querySelector("tbody");
const headings = [...document.querySelectorAll("thead tr:last-child th")];
const figures = new Map([...document.querySelectorAll("figure")].map((figure) => [figure.dataset.run, figure]));

function compare(a, b) {
  const [x, y] = [Number(a), Number(b)];
  return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b, "en", { numeric: true }) : x - y; // "9 of 11" before "10 of 11"
}

function sort(column) {
  const descending = headings[column].getAttribute("aria-sort") === "ascending";
  headings.forEach((heading) => heading.removeAttribute("aria-sort"));
  headings[column].setAttribute("aria-sort", descending ? "descending" : "ascending");
  const value = (row) => row.cells[column].dataset.value;
  const rows = [...body.rows].sort((a, b) => {
    if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === ""); // what is missing comes last
    return (descending ? -1 : 1) * compare(value(a), value(b));
  });
  for (const row of rows) {
    body.append(row);
    const figure = figures.get(row.dataset.run);
    if (figure) figure.parentNode.append(figure);
  }
}

headings.forEach((heading, column) => heading.querySelector("button").addEventListener("click", () => sort(column)));
