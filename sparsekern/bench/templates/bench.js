"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const get = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const NONE = "–"; // what a cell shows where the data has no number

// ---- small helpers; text goes in as text, never as markup

function make(tag, attributes = {}, ...children) {
  const svg = ["svg", "g", "path", "line", "text", "circle"].includes(tag);
  const element = svg ? document.createElementNS(SVG, tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

const percent = (share) => `${Number((100 * share).toPrecision(4))} %`;
const micros = (time) => time.toLocaleString("en", { minimumFractionDigits: 1, maximumFractionDigits: 1 });
const times = (ratio) => `${ratio[0].toFixed(2)}x`;
const interval = (ratio) => `${ratio[1].toFixed(2)} to ${ratio[2].toFixed(2)}`;
const unique = (values) => [...new Set(values.filter((value) => value !== undefined))];

// ---- filters

const FILTERS = ["op", "dtype", "block", "sparsity"];

function fillSelect(select, values, words, all) {
  const options = values.map((value) => make("option", { value }, words(value)));
  select.replaceChildren(...(all ? [make("option", { value: "" }, "all")] : []), ...options);
}

function passes(row) {
  const wanted = FILTERS.every((name) => !get(name).value || String(row[name]) === get(name).value);
  const text = [row.op, row.sizes, row.dtype, row.block, row.kernel, row.best_dense].join(" ").toLowerCase();
  return wanted && get("contains").value.toLowerCase().split(/\s+/).every((word) => text.includes(word));
}

// ---- the table

const COMMON = ["op", "dtype", "threads"]; // columns only where they differ
const agree = (key) => COMMON.includes(key) && unique(data.rows.map((row) => row[key])).length === 1;
const COLUMNS = [
  { key: "op", text: (row) => row.op, left: true },
  { key: "sizes", label: "problem", text: (row) => row.sizes, left: true },
  { key: "dtype", text: (row) => row.dtype, left: true },
  { key: "block", text: (row) => row.block, left: true },
  { key: "sparsity", text: (row) => row.sparsity !== undefined && percent(row.sparsity) },
  { key: "threads", text: (row) => row.threads !== undefined && String(row.threads) },
  { key: "best", label: "against best dense", ratio: true, title: (row) => row.best_dense && `best dense: ${row.best_dense}` },
  { key: "eager", label: "against torch", ratio: true },
  { key: "share", label: "of the limit", text: (row) => row.share !== undefined && `${(100 * row.share).toFixed(0)} %` },
  { key: "kernel", text: (row) => row.kernel, left: true },
  ...data.providers.map((name) => ({
    key: `time ${name}`,
    label: `${name} µs`,
    value: (row) => row.times[name]?.[0],
    text: (row) => (row.times[name] ? micros(row.times[name][0]) : name in row.refusals && "refuses"),
    title: (row) => (row.times[name] ? `${micros(row.times[name][1])} to ${micros(row.times[name][2])} µs` : row.refusals[name]),
  })),
].filter((column) => !agree(column.key));

let shown = []; // those of the columns that a row that passes has something in
let order = { key: null, down: false };

function valueOf(column, row) {
  if (column.ratio) return row[column.key]?.[0];
  return column.value ? column.value(row) : row[column.key];
}

function sorted(rows) {
  const column = COLUMNS.find(({ key }) => key === order.key);
  if (!column) return rows;
  const compare = (a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true }));
  return [...rows].sort((one, other) => {
    const [a, b] = [valueOf(column, one), valueOf(column, other)];
    if (a === undefined || b === undefined) return (a === undefined) - (b === undefined); // the unknown comes last
    return order.down ? compare(b, a) : compare(a, b);
  });
}

function drawHead(rows) {
  shown = COLUMNS.filter((column) => rows.some((row) => valueOf(column, row) !== undefined));
  const cells = shown.map((column) => {
    const button = make("button", { type: "button" }, column.label ?? column.key);
    button.addEventListener("click", () => {
      order = { key: column.key, down: order.key === column.key && !order.down };
      for (const head of get("table").tHead.rows[0].cells) head.setAttribute("aria-sort", "none");
      button.parentElement.setAttribute("aria-sort", order.down ? "descending" : "ascending");
      drawBody(data.rows.filter(passes));
    });
    const sort = order.key !== column.key ? "none" : order.down ? "descending" : "ascending";
    return make("th", { scope: "col", "aria-sort": sort, "data-key": column.key, class: column.left ? "text" : "" }, button);
  });
  get("table").tHead.replaceChildren(make("tr", {}, ...cells));
}

function cell(column, row) {
  const place = make("td", column.left ? { class: "text" } : {});
  const title = column.title?.(row);
  if (title) place.title = title;
  if (column.ratio && row[column.key]) {
    const [, low, high] = row[column.key];
    const kind = low > 1 ? "good" : high < 1 ? "bad" : "";
    place.append(make("span", { class: kind }, times(row[column.key])), " ", make("small", {}, interval(row[column.key])));
  } else {
    place.append((!column.ratio && column.text(row)) || NONE);
  }
  return place;
}

function drawBody(rows) {
  get("table").tBodies[0].replaceChildren(
    ...sorted(rows).map((row) => make("tr", {}, ...shown.map((column) => cell(column, row)))),
  );
  get("count").textContent = `${rows.length} of ${data.rows.length} problems`;
  const reasons = new Map();
  for (const row of rows)
    for (const [name, reason] of Object.entries(row.refusals)) {
      const text = `${name} refuses: ${reason}`;
      reasons.set(text, (reasons.get(text) ?? 0) + 1);
    }
  const lines = [...reasons].map(([text, count]) => make("li", {}, `${text} (${count} of ${rows.length})`));
  get("refusals").replaceChildren(...(lines.length ? [make("ul", {}, ...lines)] : []));
}

// ---- the plots

const PLOTS = [
  { key: "best", title: "Speed-up over the best dense", of: (row) => row.best, short: times, even: 1 },
  { key: "eager", title: "Speed-up over eager torch", of: (row) => row.eager, short: times, even: 1 },
  {
    key: "share",
    title: "Share of the physical limit",
    of: (row) => row.share !== undefined && [row.share, row.share, row.share],
    short: (v) => `${(100 * v[0]).toFixed(1)} %`,
  },
];
const DASHES = ["", "7 4", "2 3", "9 3 2 3", "5 2", "1 2"];
const MARKERS = [ // drawn around (0, 0)
  "M-5,0a5,5 0 1,0 10,0a5,5 0 1,0 -10,0z", "M-4.5,-4.5h9v9h-9z", "M0,-6l5.5,10h-11z",
  "M0,-6l6,6l-6,6l-6,-6z", "M0,6l5.5,-10h-11z", "M-5,-2h3v-3h4v3h3v4h-3v3h-4v-3h-3z",
];
const HEIGHT = 280, LEFT = 46, RIGHT = 12, TOP = 10, BOTTOM = 44;
let WIDTH = 0; // of a picture in CSS pixels: letters are then as large as they say
const product = (row) => [row.op, row.sizes, row.dtype, row.threads && `${row.threads} thread(s)`].filter(Boolean).join(", ");
const stretched = (sparsity) => -Math.log(Math.max(1 - sparsity, 1e-4)); // each step: the same share of the rest

function ticks(top) {
  const step = [0.05, 0.1, 0.2, 0.25, 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500].find((size) => top / size <= 6) ?? top / 5;
  return Array.from({ length: Math.floor(top / step + 1e-9) + 1 }, (_, index) => index * step);
}

function scales(rows, plot) {
  const xs = rows.map((row) => stretched(row.sparsity));
  const [low, high] = [Math.min(...xs), Math.max(...xs)];
  const pad = high > low ? 0.06 * (high - low) : 1;
  const top = 1.06 * Math.max(plot.even ?? 0, ...rows.map((row) => plot.of(row)[2]));
  return {
    x: (sparsity) => LEFT + ((stretched(sparsity) - low + pad) / (high - low + 2 * pad)) * (WIDTH - LEFT - RIGHT),
    y: (value) => HEIGHT - BOTTOM - (value / top) * (HEIGHT - BOTTOM - TOP),
    top,
  };
}

function axes(rows, plot, { x, y, top }) {
  const label = (value) => (plot.even ? `${Number(value.toPrecision(3))}x` : `${Math.round(100 * value)} %`);
  const parts = ticks(top).flatMap((value) => [
    make("line", { class: "grid", x1: LEFT, x2: WIDTH - RIGHT, y1: y(value), y2: y(value), "data-value": value }),
    make("text", { x: LEFT - 8, y: y(value) + 4, "text-anchor": "end" }, label(value)),
  ]);
  if (plot.even) parts.push(make("line", { class: "even", x1: LEFT, x2: WIDTH - RIGHT, y1: y(1), y2: y(1) }));
  let last = -Infinity;
  for (const sparsity of unique(rows.map((row) => row.sparsity)).sort((a, b) => a - b)) {
    if (x(sparsity) - last < 44) continue; // labels must not run into each other
    last = x(sparsity);
    parts.push(make("text", { x: last, y: HEIGHT - BOTTOM + 18, "text-anchor": "middle" }, percent(sparsity)));
  }
  parts.push(make("text", { x: (LEFT + WIDTH) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "sparsity"));
  return parts;
}

function series(rows, index, plot, { x, y }) {
  const group = make("g", { style: `--colour: var(--s${index % 6})` });
  const d = rows.map((row, at) => `${at ? "L" : "M"}${x(row.sparsity)},${y(plot.of(row)[0])}`).join("");
  group.append(make("path", { class: "line", d, "stroke-dasharray": DASHES[index % 6] }));
  for (const row of rows) {
    const value = plot.of(row);
    const [cx, cy] = [x(row.sparsity), y(value[0])];
    const text = `${row.block ? `block ${row.block}, ` : ""}${percent(row.sparsity)} zeros\n${plot.short(value)}${plot.even ? ` (${interval(value)})` : ""}`;
    group.append(make("line", { class: "whisker", x1: cx, x2: cx, y1: y(value[1]), y2: y(value[2]) }));
    const facts = { "data-block": row.block ?? "", "data-sparsity": row.sparsity, "data-value": value[0] };
    group.append(make("path", { class: "point", d: MARKERS[index % 6], transform: `translate(${cx} ${cy})`, ...facts }));
    const hit = make("circle", { class: "hit", cx, cy, r: 14 });
    hit.addEventListener("pointerenter", () => showTip(text, hit));
    hit.addEventListener("pointerleave", () => (get("tip").hidden = true));
    group.append(hit);
  }
  return group;
}

function showTip(text, at) {
  const tip = get("tip"), box = at.getBoundingClientRect();
  tip.textContent = text;
  tip.hidden = false;
  const left = Math.min(box.right + 6, innerWidth - tip.offsetWidth - 8);
  tip.style.left = `${Math.max(8, left)}px`;
  tip.style.top = `${Math.max(8, box.top - tip.offsetHeight - 4)}px`;
}

function numbers(blocks, known, plot) {
  const sparsities = unique(known.map((row) => row.sparsity)).sort((a, b) => a - b);
  const head = make("tr", {}, make("th", { scope: "col", class: "text" }, "sparsity"), ...blocks.map(([block]) => make("th", { scope: "col" }, block || "all")));
  const lines = sparsities.map((sparsity) => {
    const cells = blocks.map(([, rows]) => {
      const row = rows.find((one) => one.sparsity === sparsity);
      const value = row && plot.of(row);
      return make("td", {}, ...(value ? [plot.short(value), " ", make("small", {}, plot.even ? interval(value) : "")] : [NONE]));
    });
    return make("tr", {}, make("th", { scope: "row", class: "text" }, percent(sparsity)), ...cells);
  });
  const table = make("table", {}, make("thead", {}, head), make("tbody", {}, ...lines));
  return make("div", { class: "numbers scroll", role: "region", tabindex: "0", "aria-label": `${plot.title}: the numbers` }, table);
}

function drawPlot(rows, plot) {
  const known = rows.filter((row) => plot.of(row)).sort((a, b) => a.sparsity - b.sparsity);
  if (!known.length) return null;
  const scale = scales(known, plot);
  const blocks = [...Map.groupBy(known, (row) => row.block ?? "")];
  const legend = blocks.map(([block], index) => {
    const key = make("svg", { viewBox: "-14 -6 28 12", "aria-hidden": "true", style: `--colour: var(--s${index % 6})` });
    key.append(make("path", { class: "line", d: "M-14,0H14", "stroke-dasharray": DASHES[index % 6] }));
    key.append(make("path", { class: "point", d: MARKERS[index % 6] }));
    return make("li", {}, key, block ? `block ${block}` : "all");
  });
  const picture = make("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": `${plot.title} over sparsity; the numbers stand beside it` });
  picture.append(...axes(known, plot, scale), ...blocks.map(([, of], index) => series(of, index, plot, scale)));
  const figure = make("div", {}, make("h3", {}, plot.title), make("ul", { class: "legend" }, ...legend), picture);
  return make("div", { class: "plot card", "data-plot": plot.key }, figure, numbers(blocks, known, plot));
}

function drawPlots() {
  get("tip").hidden = true;
  const [whole, gap, edge] = [get("plots").clientWidth, 18, 30], columns = Math.min(3, Math.max(1, Math.floor((whole + gap) / (360 + gap))));
  WIDTH = Math.max(240, (whole - gap * (columns - 1)) / columns - edge); // a window may have no size yet
  const rows = data.rows.filter((row) => passes(row) && row.sparsity !== undefined && product(row) === get("product").value);
  const drawn = PLOTS.map((plot) => drawPlot(rows, plot)).filter(Boolean);
  get("plots").replaceChildren(...(drawn.length ? drawn : [make("p", { class: "soft" }, "Nothing to plot: no speed-up passes the filter.")]));
}

// ---- all together

function redraw() {
  const rows = data.rows.filter(passes);
  const products = unique(rows.filter((row) => row.sparsity !== undefined).map(product)), before = get("product").value;
  fillSelect(get("product"), products, String, false);
  if (products.includes(before)) get("product").value = before;
  drawHead(rows);
  drawBody(rows);
  drawPlots();
}

function headline() {
  const known = data.rows.filter((row) => row.best);
  const won = known.filter((row) => row.best[1] > 1).length;
  const faster = known.length ? `sparsekern is faster than the best dense in ${won} of ${known.length}` : "none with a dense rival";
  return `${data.rows.length} problem${data.rows.length === 1 ? "" : "s"} timed: ${faster}`;
}

get("headline").textContent = headline();
get("origin").textContent = [data.origin, ...COMMON.filter(agree).map((key) => `${key} ${data.rows[0][key]}`)].join(", ");
get("facts").replaceChildren(...Object.entries(data.facts).flatMap(([name, value]) => [make("dt", {}, name.replaceAll("_", " ")), make("dd", {}, value)]));
for (const name of FILTERS) {
  const values = unique(data.rows.map((row) => row[name]));
  values.sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true })));
  fillSelect(get(name), values, name === "sparsity" ? (value) => percent(value) : String, true);
  get(name).closest("label").hidden = values.length < 2;
  get(name).addEventListener("change", redraw);
}
get("contains").addEventListener("input", redraw);
get("product").addEventListener("change", drawPlots);
addEventListener("resize", drawPlots);
for (const form of document.forms) form.addEventListener("submit", (event) => event.preventDefault());
redraw();
