// Draws the figures of the page with Plotly, and updates them when a menu changes.
for (const script of document.querySelectorAll("script.figure")) {
  const { data, layout } = JSON.parse(script.textContent);
  const config = { responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"] };
  Plotly.newPlot(script.dataset.plot, data, layout, config);
}
// A choice shows the traces with its value; traces without a value are always shown.
for (const select of document.querySelectorAll("select[data-plot]")) {
  select.addEventListener("change", () => {
    const layout = JSON.parse(select.selectedOptions[0].dataset.layout ?? "{}");
    const visible = document.getElementById(select.dataset.plot).data
      .map(({ meta }) => meta === undefined || meta === select.value);
    Plotly.update(select.dataset.plot, { visible }, layout);
  });
}
// Paper is narrower than most screens: A4 is about 700 pixels wide.
const resize = (width) => document.querySelectorAll(".plot").forEach((plot) => Plotly.relayout(plot, width));
addEventListener("beforeprint", () => resize({ autosize: false, width: 680 }));
addEventListener("afterprint", () => resize({ autosize: true, width: null }));
document.documentElement.dataset.ready = "yes";
