"use strict";
(() => {
  const COLOURS = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#999999"];
  const VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];
  const [ON_LIGHT, ON_DARK] = [VIRIDIS.slice(1, 7), VIRIDIS.slice(3)]; // what can be seen there
  const LIGHTER = { "#0072B2": "#56B4E9", "#56B4E9": "#0072B2" }; // blue on dark
  const OFFLINE = { showSendToCloud: false, plotlyServerURL: "" }; // plotly's own button would upload the plot
  const CONFIG = { ...OFFLINE, displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
  const all = (what, within = document) => [...within.querySelectorAll(what)];
  const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;"); // plotly reads markup
  const read = (element) => JSON.parse(element.textContent);

  // Colours follow the page's: light, dark, on paper.
  const dark = () => matchMedia("screen and (prefers-color-scheme: dark)").matches;
  const shade = (colour) => (dark() && LIGHTER[colour]) || colour;
  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const [ink, quiet, line, paper] = ["--ink", "--quiet", "--line", "--paper"].map((name) => style.getPropertyValue(name).trim());
    const axis = { gridcolor: line, linecolor: quiet, tickcolor: line, zerolinecolor: line, automargin: true, ticks: "outside" };
    const titled = (each) => ({ ...axis, ...each, title: { standoff: 10, ...each?.title } });
    return {
      margin: { l: 56, r: 14, t: 14, b: 46 },
      hovermode: "closest",
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { family: getComputedStyle(document.body).fontFamily, size: 12, color: ink },
      hoverlabel: { bgcolor: paper, bordercolor: quiet, font: { color: ink }, align: "left", namelength: -1 },
      modebar: { bgcolor: "rgba(0,0,0,0)", color: quiet, activecolor: ink },
      ...layout,
      xaxis: titled(layout.xaxis),
      yaxis: titled(layout.yaxis),
    };
  }

  // A plot is drawn when it comes into sight, or all of them to be printed.
  const plots = new Map();
  const drawn = new Set();
  function draw(element) {
    const { data, layout } = plots.get(element)();
    for (const { marker } of data) if (marker) marker.color = shade(marker.color);
    drawn.add(element);
    return Plotly.react(element, data, themed(layout), CONFIG);
  }
  const sight = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting && !drawn.has(target)) draw(target);
    }
  }, { rootMargin: "600px" });
  function plot(element, figure) {
    plots.set(element, figure);
    sight.observe(element);
  }
  const redraw = () => drawn.forEach(draw);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  matchMedia("print").addEventListener("change", () => plots.forEach((_, element) => draw(element)));

  for (const element of all(".chart")) {
    const figure = read(element.querySelector("script"));
    plot(element, () => {
      const made = structuredClone(figure);
      for (const { line } of made.data) if (line?.color) line.color = shade(line.color);
      return made;
    });
  }

  // Learning curves
  const chart = document.getElementById("curves-chart");
  if (chart) curves(chart, read(document.getElementById("curves-data")), document.querySelector("#curves form"));

  function curves(element, data, form) {
    const value = (name) => form.elements[name].value;
    const last = data.epochs.reduce((most, epochs) => Math.max(most, epochs.at(-1)), 0);
    const shown = () => ["val", "train"].filter((stage) => form.elements[stage].checked);
    const line = (run, name) => {
      const found = run.lines[name];
      return found && { x: data.epochs[found[0]], y: found[1] };
    };

    function between(first, second, part) {
      const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
      const [from, to] = [parts(first), parts(second)];
      return `rgb(${from.map((value, at) => Math.round(value + part * (to[at] - value)))})`;
    }

    function colour(group, level) {
      const count = group.labels.length;
      if (!group.ordered && count <= COLOURS.length) return shade(COLOURS[level]);
      const scale = dark() ? ON_DARK : ON_LIGHT;
      const place = (level * (scale.length - 1)) / Math.max(1, count - 1);
      return between(scale[Math.floor(place)], scale[Math.ceil(place)], place % 1);
    }

    // All runs of a colour are one trace with gaps: a thousand traces would be slow.
    function runs(members, name) {
      const trace = { x: [], y: [], text: [] };
      for (const run of members) {
        const found = line(run, name);
        if (!found) continue;
        found.x.forEach((epoch, place) => {
          trace.x.push(epoch);
          trace.y.push(found.y[place]);
          trace.text.push(run.name);
        });
        trace.x.push(null);
        trace.y.push(null);
        trace.text.push("");
      }
      return trace;
    }

    // The mean over the finished runs, at the epochs that all of them have.
    function means(members, name) {
      const lines = members.filter((run) => run.finished).map((run) => line(run, name)).filter(Boolean);
      const sums = new Map();
      for (const { x, y } of lines) {
        x.forEach((epoch, place) => {
          const [sum, count] = sums.get(epoch) || [0, 0];
          sums.set(epoch, [sum + y[place], count + 1]);
        });
      }
      const common = [...sums].filter(([, [, count]]) => count === lines.length).sort((a, b) => a[0] - b[0]);
      return {
        x: common.map(([epoch]) => epoch),
        y: common.map(([, [sum, count]]) => sum / count),
        text: common.map(() => `mean of ${lines.length}`),
      };
    }

    let marked = false;
    function figure() {
      marked = false;
      const [metric, group, mean] = [value("metric"), data.groups[value("group")], value("what") === "means"];
      const traces = [];
      group.labels.forEach((label, level) => {
        const members = data.runs.filter((_, place) => group.of[place] === level);
        shown().forEach((stage) => {
          const name = `${stage}/${metric}`;
          const trace = (mean ? means : runs)(members, name);
          if (!trace.x.length) return;
          traces.push({
            ...trace,
            type: "scatter",
            mode: new Set(trace.x).size < 4 ? "lines+markers" : "lines", // a gap between two runs is a point, too
            name: label,
            legendgroup: String(level),
            showlegend: !traces.some((each) => each.legendgroup === String(level)),
            opacity: mean || data.runs.length < 5 ? 1 : Math.max(0.25, 0.8 - data.runs.length / 500),
            line: { color: colour(group, level), width: mean ? 2.5 : 1.3, dash: stage === "train" ? "dot" : "solid" },
            hovertemplate: `%{text}<br>epoch %{x}, ${plain(name)} %{y}<extra></extra>`,
          });
        });
      });
      const { axis, beyond } = data.axes[metric];
      document.getElementById("curves-beyond").textContent = beyond;
      return {
        data: traces,
        layout: {
          xaxis: { title: { text: "epoch" }, zeroline: false, ...(last <= 12 && { dtick: 1 }) },
          yaxis: structuredClone(axis),
          showlegend: true,
          legend: {
            title: { text: group.name },
            itemsizing: "constant",
            ...(element.clientWidth < 640 && { orientation: "h", y: -0.2 }),
          },
        },
      };
    }

    // The curve that one clicks at stands out.
    function unmark() {
      if (marked) Plotly.deleteTraces(element, -1);
      marked = false;
    }
    function mark(point) {
      unmark();
      const { x, y, text } = point.data;
      const from = y.lastIndexOf(null, point.pointNumber) + 1;
      const end = y.indexOf(null, point.pointNumber);
      const cut = (list) => list.slice(from, end < 0 ? undefined : end);
      const style = getComputedStyle(document.documentElement);
      const ink = style.getPropertyValue("--ink").trim();
      marked = true;
      Plotly.addTraces(element, {
        x: cut(x), y: cut(y), text: cut(text), mode: "lines", hoverinfo: "skip", showlegend: false,
        line: { color: ink, width: 2.5, dash: point.data.line.dash },
      });
    }

    plot(element, figure);
    form.addEventListener("change", () => draw(element));
    form.addEventListener("submit", (event) => event.preventDefault());
    const ready = setInterval(() => {
      if (!element.on) return;
      clearInterval(ready);
      element.on("plotly_click", ({ points }) => mark(points[0]));
      element.on("plotly_doubleclick", unmark);
    }, 200);
  }

  // Tables
  const compare = (a, b) => {
    if (a === "" || b === "") return (a === "") - (b === "");
    const [x, y] = [Number(a), Number(b)];
    return Number.isNaN(x) || Number.isNaN(y) ? a.localeCompare(b) : x - y;
  };
  const key = (row, column) => {
    const cell = row.cells[column];
    return "order" in cell.dataset ? cell.dataset.order : cell.textContent.trim().replace("%", "");
  };
  for (const table of all(".sortable")) {
    const [head, body] = [table.tHead.rows[0], table.tBodies[0]];
    const first = [...body.rows].filter((row) => !row.hidden).length;
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
        const few = rows.some(([, row]) => row.hidden);
        rows.forEach(([, row], place) => { row.hidden = few && place >= first; });
        body.append(...rows.map(([, row]) => row));
      };
      cell.addEventListener("click", sort);
      cell.addEventListener("keydown", (event) => { if (event.key === "Enter") sort(); });
    });
  }
  for (const button of all("[data-all]")) {
    button.addEventListener("click", () => {
      all("tr[hidden]", button.previousElementSibling).forEach((row) => { row.hidden = false; });
      button.remove();
    });
  }

  // Pictures, commands
  for (const chooser of all("[name=picture]")) {
    chooser.addEventListener("change", () => {
      all(".gallery").forEach((gallery) => { gallery.hidden = gallery.dataset.picture !== chooser.value; });
    });
  }
  for (const button of all("[data-copy]")) {
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(button.previousElementSibling.textContent);
      button.textContent = "Copied";
    });
  }
})();
