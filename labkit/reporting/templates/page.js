// One button shows or hides the code of all cells.
{
  const button = document.getElementById("toggle"), cells = document.querySelectorAll("details.code");
  button.hidden = cells.length === 0;
  button.onclick = () => {
    const open = button.getAttribute("aria-pressed") !== "true";
    button.setAttribute("aria-pressed", open);
    button.textContent = open ? "Hide code" : "Show code";
    cells.forEach((cell) => (cell.open = open));
  };
}

// What is wider than its place is scrolled by keys, too.
for (const wide of document.querySelectorAll(".html, .text table, .output table, .first table, pre")) if (wide.scrollWidth > wide.clientWidth) wide.tabIndex = 0;
