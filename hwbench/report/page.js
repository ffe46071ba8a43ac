"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const narrow = window.matchMedia("(max-width: 40rem)").matches;
  const plots = new Map();
  const off = { method: new Set(), backend: new Set() };

  // Plots ------------------------------------------------------------------------------------
  const drawn = Object.entries(data).map(([name, figure]) => {
    const box = document.getElementById(`plot-${name}`);
    plots.set(name, box);
    // Every button is named here: plotly's own set has one that uploads the chart to its cloud.
    const config = { responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover",
      modeBarButtons: [["toImage", "zoom2d", "pan2d", "zoomIn2d", "zoomOut2d", "resetScale2d"]],
      showSendToCloud: false, plotlyServerURL: "", scrollZoom: false };
    if (narrow) {
      figure.layout.font.size = 11;
      figure.layout.dragmode = false; // a finger on the plot scrolls the page
      figure.layout.hoverlabel.font = { size: 10 };
      if (figure.layout.meta) figure.layout.annotations = figure.layout.meta.narrow;
    }
    return Plotly.newPlot(box, figure.data, figure.layout, config).then(() => {
      box.on("plotly_click", (event) => show(event.points[0].customdata));
    });
  });
  Promise.all(drawn).then(() => document.documentElement.setAttribute("data-drawn", "true"));

  for (const button of document.querySelectorAll(".legend button")) {
    button.addEventListener("click", () => {
      const hidden = off[button.dataset.kind];
      const now = hidden.has(button.dataset.name);
      hidden[now ? "delete" : "add"](button.dataset.name);
      button.setAttribute("aria-pressed", String(now));
      for (const box of plots.values()) {
        const seen = box.data.map((trace) =>
          !off.method.has(trace.meta.method) && !off.backend.has(trace.meta.backend));
        Plotly.restyle(box, { visible: seen });
      }
    });
  }

  for (const button of document.querySelectorAll(".zoom")) {
    button.addEventListener("click", () => {
      const box = plots.get(button.dataset.plot);
      const near = button.getAttribute("aria-pressed") !== "true";
      button.setAttribute("aria-pressed", String(near));
      if (!near) return Plotly.relayout(box, { "yaxis.autorange": true, "xaxis.autorange": true });
      const top = Math.max(...box.data.flatMap((trace) => trace.y));
      const floor = Number(button.dataset.floor);
      return Plotly.relayout(box, { "yaxis.range": [floor, top + (top - floor) * 0.15] });
    });
  }

  // Table ------------------------------------------------------------------------------------
  const table = document.getElementById("candidates");
  if (!table) return;
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];

  function show(key) {
    const row = [...body.rows].find((r) => r.dataset.key === key);
    if (!row) return;
    for (const other of body.rows) other.classList.toggle("found", other === row);
    row.hidden = false;
    row.scrollIntoView({ behavior: "smooth", block: "center", inline: "nearest" });
  }

  function compare(a, b, place, direction) {
    const x = a.cells[place].dataset.sort;
    const y = b.cells[place].dataset.sort;
    if (x === "" || y === "") return (x === "") - (y === ""); // missing numbers stay last
    if (body.rows[0].cells[place].classList.contains("number")) return (x - y) * direction;
    return x.localeCompare(y, "en", { numeric: true }) * direction;
  }

  heads.forEach((head, place) => {
    head.querySelector("button").addEventListener("click", () => {
      const up = head.getAttribute("aria-sort") !== "ascending";
      for (const other of heads) other.setAttribute("aria-sort", "none");
      head.setAttribute("aria-sort", up ? "ascending" : "descending");
      body.append(...[...body.rows].sort((a, b) => compare(a, b, place, up ? 1 : -1)));
    });
  });

  document.getElementById("filter").addEventListener("input", (event) => {
    const words = event.target.value.toLowerCase().split(/\s+/).filter(Boolean);
    for (const row of body.rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
  });
})();
