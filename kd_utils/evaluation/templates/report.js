// Tables sort by any column, and a panel opens at its full size.
(() => {
  const value = (row, n) => {
    const cell = row.cells[n];
    return cell.dataset.value === undefined ? cell.textContent : cell.dataset.value === "" ? null : +cell.dataset.value;
  };

  function sort(table, head, n) {
    const ascending = head.getAttribute("aria-sort") === "descending"; // the largest first, the other way when asked again
    const body = table.tBodies[0], sign = ascending ? 1 : -1;
    const rows = [...body.rows].sort((a, b) => {
      const x = value(a, n), y = value(b, n);
      if (x === null || y === null) return (x === null) - (y === null); // what has no number stays at the end
      return sign * (typeof x === "string" ? x.localeCompare(y) : x - y);
    });
    table.querySelectorAll("th").forEach(th => th.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", ascending ? "ascending" : "descending");
    body.append(...rows);
  }

  document.querySelectorAll(".kd-table table").forEach(table => {
    const heads = table.tHead.rows[table.tHead.rows.length - 1].cells;
    [...heads].forEach((head, n) => {
      const button = document.createElement("button");
      button.textContent = head.textContent || "name";
      button.title = "sort by this column";
      head.replaceChildren(button);
      button.addEventListener("click", () => sort(table, head, n));
    });
  });

  const dialog = document.querySelector("dialog");
  document.querySelectorAll(".panel").forEach(panel => panel.addEventListener("click", () => {
    dialog.replaceChildren(panel.cloneNode(true));
    dialog.showModal();
  }));
  dialog.addEventListener("click", () => dialog.close());
})();
