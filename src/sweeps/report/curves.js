// Learning curves
const chart = document.getElementById("curves-chart");
if (chart) curves(chart, read(document.getElementById("curves-data")), document.querySelector("#curves form"));

function curves(element, data, form) {
  const value = (name) => form.elements[name].value;
  const set = () => Number(form.elements.data?.value ?? 0); // index of the selected data set
  const stages = () => ["val", "train"].filter((stage) => form.elements[stage].checked);
  const unchecked = new Set(); // indices of hidden runs
  const words = (text) => plain(text.toLowerCase()).split(/\s+/);
  const found = () => data.runs.map((_, place) => place).filter((place) => {
    const run = data.runs[place];
    return run.data === set() && words(value("find")).every((word) => run.name.toLowerCase().includes(word));
  });

  // Return a run's curve over epochs or time, raw and smoothed.
  function line(run, name) {
    const curve = run.lines[name];
    if (!curve || (value("over") === "time" && run.seconds === null)) return null;
    const epochs = data.epochs[curve[0]];
    const x = value("over") === "time" ? epochs.map((epoch) => epoch * run.seconds) : epochs;
    return { epochs, x, raw: curve[1], y: smoothed(curve[1]) };
  }

  // Return the exponential moving average, corrected for its bias, so that it starts at the first value.
  function smoothed(values) {
    const weight = Number(value("smooth"));
    let [sum, weights] = [0, 0];
    return values.map((each) => {
      sum = weight * sum + each;
      weights = weight * weights + 1;
      return sum / weights;
    });
  }

  function between(first, second, part) {
    const parts = (colour) => [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16));
    const [from, to] = [parts(first), parts(second)];
    return `rgb(${from.map((value, at) => Math.round(value + part * (to[at] - value)))})`;
  }

  function colour(group, level) {
    const count = group.labels.length;
    if (!group.ordered && count <= COLOURS.light.length) return COLOURS[dark() ? "dark" : "light"][level];
    const scale = dark() ? ON_DARK : ON_LIGHT;
    const place = (level * (scale.length - 1)) / Math.max(1, count - 1);
    return between(scale[Math.floor(place)], scale[Math.ceil(place)], place % 1);
  }

  // Draw all runs of a colour as one trace with gaps: a thousand traces would be slow.
  function runs(members, name) {
    const trace = { x: [], y: [], raw: [], text: [] };
    for (const run of members) {
      const curve = line(run, name);
      if (!curve) continue;
      curve.x.forEach((x, place) => {
        trace.x.push(x);
        trace.y.push(curve.y[place]);
        trace.raw.push(curve.raw[place]);
        trace.text.push(`${run.name}<br>epoch ${curve.epochs[place]}`);
      });
      for (const list of [trace.x, trace.y, trace.raw]) list.push(null);
      trace.text.push("");
    }
    return trace;
  }

  // Return the mean curve of the finished runs, at the epochs that all of them have.
  function means(members, name) {
    const lines = members.filter((run) => run.finished).map((run) => line(run, name)).filter(Boolean);
    const sums = new Map();
    for (const { epochs, x, raw, y } of lines) {
      epochs.forEach((epoch, place) => {
        const [count, ...before] = sums.get(epoch) || [0, 0, 0, 0];
        sums.set(epoch, [count + 1, ...[x, raw, y].map((list, at) => before[at] + list[place])]);
      });
    }
    const common = [...sums].filter(([, [count]]) => count === lines.length).sort((a, b) => a[0] - b[0]);
    const mean = (at) => common.map(([, each]) => each[at] / each[0]);
    return { x: mean(1), raw: mean(2), y: mean(3), text: common.map(([epoch]) => `mean of ${lines.length}<br>epoch ${epoch}`) };
  }

  function traces(shown, metric) {
    const [group, mean, made] = [data.groups[value("group")], value("what") === "means", []];
    group.labels.forEach((label, level) => {
      const members = shown.filter((place) => group.of[place] === level).map((place) => data.runs[place]);
      stages().forEach((stage) => {
        const { x, y, raw, text } = (mean ? means : runs)(members, `${stage}/${metric}`);
        if (!x.length) return;
        const look = {
          type: "scatter",
          mode: new Set(x).size < 4 ? "lines+markers" : "lines", // null, the gap between two runs, counts as one value
          legendgroup: String(level),
          line: { color: colour(group, level), width: mean ? 2.5 : 1.3, dash: stage === "train" ? "dot" : "solid" },
        };
        const opacity = mean || shown.length < 5 ? 1 : Math.max(0.25, 0.8 - shown.length / 500);
        const smooth = Number(value("smooth")) > 0;
        if (smooth) made.push({ ...look, x, y: raw, opacity: opacity / 4, hoverinfo: "skip", showlegend: false });
        made.push({
          ...look, x, y, text, opacity, name: label,
          showlegend: !made.some((each) => each.showlegend && each.legendgroup === look.legendgroup),
          hovertemplate: `%{text}, ${plain(`${stage}/${metric}`)} %{y}${smooth ? " (smoothed)" : ""}<extra></extra>`,
        });
      });
    });
    return made;
  }

  // Return the axis of a metric, converted to the scale that the user selected.
  function valueAxis(axis) {
    const made = structuredClone(axis);
    const [type, wanted] = [made.type || "linear", value("scale") || made.type || "linear"];
    if (type === wanted) return made;
    const ends = made.range?.map((end) => (wanted === "log" ? Math.log10(end) : 10 ** end));
    return { ...made, type: wanted, exponentformat: "power", range: ends?.every(Number.isFinite) ? ends : undefined };
  }

  let marked = false;
  function figure() {
    marked = false;
    const axes = data.axes[set()];
    for (const option of form.elements.metric.options) option.disabled = !(option.value in axes);
    if (form.elements.metric.selectedOptions[0].disabled) form.elements.metric.value = Object.keys(axes)[0];
    const { axis, beyond } = axes[value("metric")];
    const shown = found().filter((place) => !unchecked.has(place));
    const all = data.runs.filter((run) => run.data === set());
    const last = all.reduce((most, run) => Math.max(most, ...Object.values(run.lines).map(([at]) => data.epochs[at].at(-1))), 0);
    const time = value("over") === "time";
    document.getElementById("curves-beyond").textContent = beyond;
    document.getElementById("curves-count").textContent = `${shown.length} of ${all.length} shown`;
    document.getElementById("curves-time").hidden = !time;
    form.elements.smoothness.value = Number(value("smooth")).toFixed(2);
    return {
      data: traces(shown, value("metric")),
      layout: {
        xaxis: { title: { text: time ? "seconds of training" : "epoch" }, zeroline: false, ...(last <= 12 && !time && { dtick: 1 }) },
        yaxis: valueAxis(axis),
        showlegend: true,
        legend: {
          title: { text: data.groups[value("group")].name },
          itemsizing: "constant",
          ...(element.clientWidth < 640 && { orientation: "h", y: -0.2 }),
        },
      },
    };
  }

  // List the runs that match the search, each with a checkbox to show or hide it.
  const list = document.getElementById("curves-runs");
  const text = (name) => new DOMParser().parseFromString(name, "text/html").body.textContent;
  function fill() {
    if (!list.closest("details").open) return;
    list.replaceChildren(...found().map((place) => {
      const [label, box] = [document.createElement("label"), document.createElement("input")];
      box.type = "checkbox";
      box.checked = !unchecked.has(place);
      box.addEventListener("change", () => unchecked[box.checked ? "delete" : "add"](place));
      label.append(box, ` ${text(data.runs[place].name)}`);
      return label;
    }));
  }
  list.closest("details").addEventListener("toggle", fill);
  for (const button of all("[data-check]", form)) {
    button.addEventListener("click", () => {
      found().forEach((place) => unchecked[button.dataset.check === "all" ? "delete" : "add"](place));
      fill();
      draw(element);
    });
  }

  // Highlight the curve that is clicked.
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
  let waiting = 0;
  form.addEventListener("input", ({ target }) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => draw(element), target.type === "search" || target.type === "range" ? 120 : 0);
    if (["find", "data"].includes(target.name)) fill();
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const ready = setInterval(() => {
    if (!element.on) return;
    clearInterval(ready);
    element.on("plotly_click", ({ points }) => mark(points[0]));
    element.on("plotly_doubleclick", unmark);
  }, 200);
}
