"use strict";
// Tables that sort, filter and search; without this script all rows are there in the order they were written.
{
  const words = document.getElementById("content").dataset;
  const say = (text, values) => text.replace(/\{(\w+)\}/g, (_, name) => values[name]);
  // NFC and lower case, as people type; `words` of a query must all occur.
  const plain = (text) => text.normalize("NFC").toLowerCase();
  const text = (cell) => (cell.querySelector(".hidden") ? cell.childNodes[0].textContent : cell.textContent);

  const live = (box) => {
    const page = Number(box.dataset.live);
    const body = box.querySelector("tbody");
    const rows = [...body.rows].map((row) => ({ row, cells: [...row.cells].map(text), plain: plain(row.textContent) }));
    const search = box.querySelector("input[type=search]");
    const selects = [...box.querySelectorAll("select")];
    const count = box.querySelector(".count");
    const more = box.querySelector(".more");
    let limit = page;

    const show = () => {
      const asked = search ? plain(search.value).split(/\s+/).filter(Boolean) : [];
      const chosen = selects.filter((s) => s.value).map((s) => [Number(s.dataset.column), s.selectedOptions[0].textContent]);
      let matching = 0;
      for (const { row, cells, plain } of rows) {
        const fits = asked.every((word) => plain.includes(word)) && chosen.every(([place, value]) => cells[place] === value);
        matching += fits;
        row.hidden = !fits || matching > limit;
      }
      const seen = Math.min(matching, limit);
      count.hidden = !search && !selects.length && rows.length <= page;
      count.textContent = matching ? say(words.count, { seen, total: matching }) : words.none;
      more.hidden = matching <= limit;
      more.textContent = say(words.more, { count: Math.min(page, matching - limit) });
    };

    const value = (cell, numeric) => {
      const given = cell.dataset.value;
      if (numeric) return given === undefined ? -Infinity : Number(given);
      return given ?? text(cell);
    };
    const sort = (heading, place) => {
      const numeric = heading.classList.contains("number");
      const before = heading.getAttribute("aria-sort");
      // The first click shows the largest numbers, or texts from their beginning.
      const order = before ? (before === "ascending" ? "descending" : "ascending") : numeric ? "descending" : "ascending";
      for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const compare = (a, b) => (numeric ? (a === b ? 0 : a < b ? -1 : 1) : a.localeCompare(b, document.documentElement.lang));
      rows.sort((a, b) => sign * compare(value(a.row.cells[place], numeric), value(b.row.cells[place], numeric)));
      body.append(...rows.map(({ row }) => row));
      show();
    };

    box.querySelectorAll("th[data-sort]").forEach((heading) => {
      const button = document.createElement("button");
      button.type = "button";
      button.textContent = heading.textContent;
      button.title = say(words.sort, { name: heading.textContent });
      heading.replaceChildren(button);
      button.addEventListener("click", () => sort(heading, heading.cellIndex));
    });
    const anew = () => { limit = page; show(); };
    search?.addEventListener("input", anew);
    selects.forEach((select) => select.addEventListener("change", anew));
    more.addEventListener("click", () => { limit += page; show(); });
    box.querySelectorAll(".tools").forEach((tools) => { tools.hidden = false; });
    show();
  };
  document.querySelectorAll("[data-live]").forEach(live);
}
