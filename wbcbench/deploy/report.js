// Plotly does the work; this draws what the page holds and follows its menus.
for (const script of document.querySelectorAll("script.figure")) {
  const { data, layout } = JSON.parse(script.textContent);
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  Plotly.newPlot(script.dataset.plot, data, layout, config);
}
// A choice shows the traces that carry its value; traces that carry none are always there.
for (const select of document.querySelectorAll("select[data-plot]")) {
  select.addEventListener("change", () => {
    const layout = JSON.parse(select.selectedOptions[0].dataset.layout ?? "{}");
    const visible = document.getElementById(select.dataset.plot).data
      .map(({ meta }) => meta === undefined || meta === select.value);
    Plotly.update(select.dataset.plot, { visible }, layout);
  });
}
// Paper is narrower than most screens. A sheet of A4 is some 700 pixels wide.
const resize = (width) => document.querySelectorAll(".plot").forEach((plot) => Plotly.relayout(plot, width));
addEventListener("beforeprint", () => resize({ autosize: false, width: 680 }));
addEventListener("afterprint", () => resize({ autosize: true, width: null }));
document.documentElement.dataset.ready = "yes";
