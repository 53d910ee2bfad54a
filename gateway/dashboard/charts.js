// charts: series over time by Chart.js, in the colours and type of the page. Each comes with a legend that can be used by keyboard, a sentence for those
// who hear the page, and its numbers as a table. Lines differ by dashes, too, so colours are never all that tells them apart.

import {h, swatch} from "./dom.js";
import * as fmt from "./format.js";
import {asCsv, table} from "./table.js";

const DASHES = [[], [6, 3], [2, 2], [8, 3, 2, 3], [4, 4], [1, 3], [10, 4], [3, 1]];
const COLOURS = 8;
const alive = new Set();
const value = name => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

export const colour = i => value(i < 0 ? "--c-other" : `--c${i % COLOURS + 1}`);
const clear = (hex, share) => hex + Math.round(share * 255).toString(16).padStart(2, "0");

// The theme changed: what is on the page is drawn anew.
export function repaint() { for (const chart of alive) chart(); }

function scales({step, wide, points, show, stacked, y}) {
  const font = {family: value("--sans"), size: 11}, ink = value("--soft"), grid = value("--line");
  return {
    x: {stacked, border: {display: false}, grid: {display: false, drawBorder: false}, ticks: {color: ink, font, maxRotation: 0, autoSkip: true, autoSkipPadding: 24, callback: (_, i) => fmt.point(points[i], step, wide && i === 0)}},
    y: {stacked, beginAtZero: true, suggestedMax: y, grid: {color: grid, drawBorder: false, drawTicks: false}, ticks: {color: ink, font, padding: 8, maxTicksLimit: 5, callback: v => show(v).replace(/(\.\d*?)0+(?=\D*$)/, "$1").replace(/\.(?=\D*$)/, "")}},
  };
}

const tip = ({points, step, show}) => ({
  backgroundColor: value("--ink"), titleColor: value("--panel"), bodyColor: value("--panel"), footerColor: value("--panel"), titleFont: {family: value("--sans"), size: 12}, bodyFont: {family: value("--sans"), size: 12}, padding: 9, cornerRadius: 6, boxPadding: 4, usePointStyle: true,
  itemSort: (a, b) => b.raw - a.raw, filter: (item, i, all) => item.raw !== null && (item.raw !== 0 || all.length <= 3),
  callbacks: {title: items => items.length ? fmt.point(points[items[0].dataIndex], step, true) + (step < 86400 ? " UTC" : "") : "", label: item => ` ${item.dataset.label}: ${show(item.raw)}`},
});

function dataset(s, i, kind, stacked) {
  const at = colour(s.other ? -1 : s.colour ?? i), filled = kind === "area" || kind === "bar";
  return {label: s.name, data: s.values, hidden: s.hidden, borderColor: s.faint ? value("--ink") : at, backgroundColor: kind === "bar" ? clear(at, 0.85) : clear(at, stacked ? 0.28 : 0.12), borderWidth: s.faint ? 1.5 : kind === "bar" ? 0 : 1.75, borderDash: s.faint ? [3, 3] : stacked || kind === "bar" ? [] : DASHES[i % DASHES.length],
    fill: s.faint ? false : kind === "area" ? (stacked && i > 0 ? "-1" : "origin") : filled, pointRadius: s.values.length === 1 ? 3 : 0, pointHitRadius: 8, tension: 0.25, stack: s.faint ? "before" : "now", type: s.faint ? "line" : kind === "bar" ? "bar" : "line", maxBarThickness: 38, borderRadius: 2, spanGaps: false, order: s.faint ? -1 : 0, cubicInterpolationMode: "monotone"};
}

// data: {points: [unix], series: [{name, values, other?, faint?, link?}]}. kind: line, area or bar. show: number -> text. -> {node, table, start, close} for a panel.
export function timeChart(data, {step, kind = "line", stacked = false, show = fmt.compact, label, size = "", legend = true, y, sum = true}) {
  const points = data.points, wide = points.length > 1 && points.at(-1) - points[0] > 86400, series = data.series.map(s => ({...s}));
  const canvas = h("canvas", {role: "img", "aria-label": sentence(label, series, points, step, show)}), box = h("div.chart" + (size ? "." + size : ""), null, canvas);
  let chart = null;
  const draw = () => {
    chart?.destroy();
    chart = new globalThis.Chart(canvas, {type: kind === "bar" ? "bar" : "line", data: {labels: points, datasets: series.map((s, i) => dataset(s, i, kind, stacked))},
      options: {responsive: true, maintainAspectRatio: false, animation: false, interaction: {mode: "index", intersect: false}, plugins: {legend: {display: false}, tooltip: tip({points, step, show})}, scales: scales({step, wide, points, show, stacked, y})}});
    chart.canvas.setAttribute("aria-label", sentence(label, series, points, step, show));
  };
  const bar = h("div.legend");
  const paintLegend = () => bar.replaceChildren(...series.map((s, i) => h("button", {type: "button", "aria-pressed": String(!s.hidden), title: s.name, onclick: () => { s.hidden = !s.hidden; draw(); paintLegend(); bar.children[i].focus(); }},
    swatch(s.faint ? value("--ink") : colour(s.other ? -1 : s.colour ?? i), s.faint ? [3, 3] : stacked || kind === "bar" ? [] : DASHES[i % DASHES.length], !s.faint && (stacked || kind === "bar")), h("span", null, s.name), sum && s.total !== undefined && s.total !== null ? h("b", null, show(s.total)) : null)));
  const again = () => { if (canvas.isConnected) draw(); paintLegend(); };
  if (legend && series.length > 1) paintLegend();
  return {node: [box, legend && series.length > 1 ? bar : null], table: () => numbers(data, {step, label, show}),
    start: () => { draw(); alive.add(again); }, close: () => { chart?.destroy(); chart = null; alive.delete(again); }};
}

function sentence(label, series, points, step, show) {
  const parts = series.filter(s => !s.faint).slice(0, 4).map(s => { const v = s.values.filter(x => x !== null); return v.length ? `${s.name}: last ${show(v.at(-1))}, highest ${show(Math.max(...v))}` : `${s.name}: no values`; });
  return `${label}. ${points.length} points. ${parts.join("; ")}. The same is there as a table.`;
}

export function seriesColumns(data, step, show) {
  return [{key: "t", label: step >= 86400 ? "Day (UTC)" : "Time (UTC)", value: r => step >= 86400 ? fmt.date(r.t) : fmt.date(r.t) + " " + fmt.clock(r.t), class: "nowrap"},
    ...data.series.map((s, i) => ({key: "v" + i, label: s.name, num: true, value: r => r.v[i], show: r => show(r.v[i])}))];
}
const seriesRows = data => data.points.map((t, i) => ({t, v: data.series.map(s => s.values[i])}));
export const seriesCsv = (data, step, measure = "") => asCsv(seriesColumns(data, step, fmt.compact).map(c => c.key !== "t" && measure.endsWith("_nano") ? {...c, label: c.label + ", nano"} : c), seriesRows(data));

const TABLE_MAX = 400; // rows of a table alternative; all are in the CSV
function numbers(data, {step, label, show}) {
  const rows = seriesRows(data).reverse();
  return [table({columns: seriesColumns(data, step, show), rows: rows.slice(0, TABLE_MAX), caption: label}), rows.length > TABLE_MAX ? h("p.pager", null, `The newest ${TABLE_MAX} of ${rows.length} rows; all are in the CSV.`) : null];
}
