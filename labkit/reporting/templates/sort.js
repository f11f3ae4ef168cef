// A click on the head of a column, or Enter, sorts a table by it; a second one turns the order round.
document.querySelectorAll("table").forEach((table) => {
  table.querySelectorAll("thead th").forEach((head, at) => {
    head.tabIndex = 0;
    head.style.cursor = "pointer";
    const sort = () => {
      const down = head.getAttribute("aria-sort") !== "descending", body = table.tBodies[0];
      const value = (row) => row.cells[at].textContent.trim();
      const order = (a, b) => parseFloat(value(a)) - parseFloat(value(b)) || value(a).localeCompare(value(b));
      table.querySelectorAll("thead th").forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      [...body.rows].sort((a, b) => (down ? order(b, a) : order(a, b))).forEach((row) => body.append(row));
    };
    head.onclick = sort;
    head.onkeydown = (event) => event.key === "Enter" && sort();
  });
});
