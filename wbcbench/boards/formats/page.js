// DataTables and plotly do the work; this says what they draw and keeps the reader's choices in the address.
const dark = matchMedia("(prefers-color-scheme: dark)");
const paint = () => document.documentElement.classList.toggle("dark", dark.matches);
paint();
dark.addEventListener("change", paint);
const read = (id) => JSON.parse(document.getElementById(id).textContent);

// The address: #board-KEY.search=gated&board-KEY.sort=macs+asc. A # without a = is an ordinary anchor.
const here = () => new URLSearchParams(location.hash.includes("=") ? location.hash.slice(1) : "");
const link = here();
const write = () => {
  const text = link.toString();
  if (text || here().size) history.replaceState(null, "", location.href.split("#")[0] + (text && "#" + text));
};
const put = (key, values) => {
  link.delete(key);
  for (const value of values) link.append(key, value);
};
addEventListener("hashchange", () => {
  if (here().size && here().toString() !== link.toString()) location.reload();
  else write();
});

// DataTables' state <-> the address, by the columns' names, and only what differs from the page as it was sent.
const save = (board, { names, shown, filters }, state) => {
  const visible = names.filter((_, i) => state.columns[i].visible);
  const picked = Object.fromEntries((state.searchPanes?.selectionList ?? []).map((p) => [names[p.column], p.rows]));
  put(board + ".search", state.search.search ? [state.search.search] : []);
  put(board + ".sort", state.order.map(([i, way]) => `${names[i]} ${way}`));
  put(board + ".columns", visible.join() === names.filter((n) => shown.includes(n)).join() ? [] : [visible.join(" ")]);
  for (const name of filters) put(`${board}.${name}`, picked[name] ?? []);
  write();
};
const load = (board, { names, shown, filters }) => {
  if (![...link.keys()].some((key) => key.startsWith(board + "."))) return null;
  const visible = link.get(board + ".columns")?.split(" ") ?? shown;
  const none = { search: "", smart: true, regex: false, caseInsensitive: true };
  return {
    time: Date.now(), start: 0, length: -1,
    search: { ...none, search: link.get(board + ".search") ?? "" },
    order: link.getAll(board + ".sort").map((s) => s.split(" ")).map(([name, way]) => [names.indexOf(name), way])
      .filter(([i, way]) => i >= 0 && ["asc", "desc"].includes(way)),
    columns: names.map((name) => ({ name: "", visible: visible.includes(name), search: none })),
    searchPanes: {
      selectionList: filters.map((name) => ({ column: names.indexOf(name), rows: link.getAll(`${board}.${name}`) }))
        .filter(({ rows }) => rows.length),
    },
  };
};

// On a phone: rank, method and score with its interval; a button shows the rest of a row under it.
const narrow = matchMedia("(max-width: 640px)");
const fold = (table, options, columns) => {
  const { names } = columns;
  const by = table.dataset.by;
  const kept = ["rank", "method", by];
  const rest = columns.shown.filter((n) => ![...kept, `${by}_interval`].includes(n));
  table.classList.add("folded");
  for (const row of table.tBodies[0].rows) {
    const interval = row.querySelector(`.c-${by}_interval`)?.textContent.trim();
    if (interval) row.querySelector(`.c-${by}`).append(Object.assign(document.createElement("small"), { textContent: interval }));
    const method = row.querySelector(".c-method");
    const button = Object.assign(document.createElement("button"), { type: "button", className: "fold", textContent: "+" });
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-label", `More of ${method.textContent.trim()}`);
    method.prepend(button);
  }
  delete options.fixedColumns;
  options.scrollX = false;
  options.columnDefs.unshift(
    { visible: true, targets: kept.map((n) => names.indexOf(n)) },
    { visible: false, targets: names.map((n, i) => i).filter((i) => !kept.includes(names[i])) },
  );
  columns.shown = kept;
  table.addEventListener("click", ({ target }) => {
    if (!target.classList.contains("fold")) return;
    const row = $(table).DataTable().row(target.closest("tr"));
    const open = !row.child.isShown();
    target.setAttribute("aria-expanded", String(open));
    target.textContent = open ? "\u2212" : "+";
    if (!open) return row.child.hide();
    const list = document.createElement("dl");
    for (const name of rest) {
      const text = $(table).DataTable().cell(row.index(), names.indexOf(name)).node().textContent.trim();
      if (!text) continue;
      const head = $(table).DataTable().column(names.indexOf(name)).header().textContent.trim();
      list.append(Object.assign(document.createElement("dt"), { textContent: head }));
      list.append(Object.assign(document.createElement("dd"), { textContent: text }));
    }
    row.child(list).show();
  });
};

const { jQuery: $ } = await window[Object.keys(window).find((name) => name.startsWith("_itables_"))];
document.head.append(document.getElementById("page-style"));  // after DataTables' own
for (const table of document.querySelectorAll("table.board")) {
  const board = table.closest("section").id;
  const { options, ...columns } = read(table.id + "-options");
  if (narrow.matches) fold(table, options, columns);
  $(table).DataTable({
    ...options,
    stateSaveCallback: (settings, state) => save(board, columns, state),
    stateLoadCallback: () => load(board, columns),
  });
  const scroller = table.closest(".dt-scroll-body");  // so that arrow keys can scroll it
  if (scroller) Object.assign(scroller, { tabIndex: 0, role: "region", ariaLabel: "Table, scrolls sideways" });
}

for (const script of document.querySelectorAll("script.figure")) {
  const { data, layout } = JSON.parse(script.textContent);
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  Plotly.newPlot(script.dataset.plot, data, layout, config);
}
// A choice shows the traces that carry its value; traces that carry none are always there.
const choose = (select) => {
  const layout = JSON.parse(select.selectedOptions[0].dataset.layout ?? "{}");
  for (const id of select.dataset.plots.split(" ")) {
    const visible = document.getElementById(id).data.map(({ meta }) => meta === undefined || meta === select.value);
    Plotly.update(id, { visible }, layout);
  }
};
for (const select of document.querySelectorAll("select[data-plots]")) {
  const wanted = link.get(select.name);
  if ([...select.options].some(({ value }) => value === wanted)) {
    select.value = wanted;
    choose(select);
  }
  select.addEventListener("change", () => {
    choose(select);
    put(select.name, select.selectedIndex ? [select.value] : []);
    write();
  });
}
// Paper is narrower than most screens. A sheet of A4 is some 700 pixels wide.
const resize = (width) => document.querySelectorAll(".plot").forEach((plot) => Plotly.relayout(plot, width));
addEventListener("beforeprint", () => resize({ autosize: false, width: 680 }));
addEventListener("afterprint", () => resize({ autosize: true, width: null }));
document.documentElement.dataset.ready = "yes";
