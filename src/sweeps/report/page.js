// Helpers for all parts of the page, its plots, figures and commands. page.html wraps all scripts in one function.
const COLOURS = JSON.parse(document.body.dataset.colours); // twelve colours for a light background, and their counterparts for a dark one
const VIRIDIS = ["#440154", "#46327e", "#365c8d", "#277f8e", "#1fa187", "#4ac16d", "#a0da39", "#fde725"];
const [ON_LIGHT, ON_DARK] = [VIRIDIS.slice(0, 6), VIRIDIS.slice(3)]; // the part of the scale that has contrast with the background
const OFFLINE = { showSendToCloud: false, plotlyServerURL: "" }; // no upload to plotly's servers
const CONFIG = { ...OFFLINE, displaylogo: false, responsive: true, modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"] };
const all = (what, within = document) => [...within.querySelectorAll(what)];
const plain = (text) => text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;"); // plotly interprets markup
const read = (element) => JSON.parse(element.textContent);

// The colours of the plots follow the colour scheme of the page: light, dark or print.
const dark = () => matchMedia("screen and (prefers-color-scheme: dark)").matches;
const shade = (colour) => (dark() && COLOURS.dark[COLOURS.light.indexOf(colour)]) || colour;
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

// A plot is drawn when it scrolls into view; all plots are drawn for printing.
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

// Figures and commands
for (const chooser of all("[name=picture]")) {
  chooser.addEventListener("change", () => {
    all(".gallery").forEach((gallery) => { gallery.hidden = gallery.dataset.picture !== chooser.value; });
  });
}
// The slider shows the version of a figure from the chosen epoch, or from the latest one before it.
for (const slider of all("[data-epochs]")) {
  const [epochs, gallery] = [JSON.parse(slider.dataset.epochs), slider.closest(".gallery")];
  slider.addEventListener("input", () => {
    const last = Number(slider.value) === epochs.length;
    const epoch = last ? Infinity : epochs[slider.value];
    slider.nextElementSibling.value = last ? "last" : `${epoch}`;
    for (const figure of all("figure", gallery)) {
      const images = all("img", figure);
      const drawn = images.findLast((image) => (image.dataset.epoch ?? Infinity) <= epoch) || images[0];
      for (const image of images) image.hidden = image !== drawn;
      figure.hidden = images.length === 1 && !last; // it has no earlier version
    }
  });
}
for (const button of all("[data-copy]")) {
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.previousElementSibling.textContent);
    button.textContent = "Copied";
  });
}
