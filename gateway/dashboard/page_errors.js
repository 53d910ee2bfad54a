// errors: what did not complete and why, what was refused before it began, what aborted answers were billed, and how long requests took.

import {get, isAdmin} from "./api.js";
import {seriesCsv, timeChart} from "./charts.js";
import {by, standard, stat} from "./controls.js";
import {h} from "./dom.js";
import * as fmt from "./format.js";
import {heatmap, latencyColumns} from "./heat.js";
import {panel} from "./panel.js";
import {requestsPanel} from "./quarantine.js";
import * as route from "./route.js";
import {seriesPanel} from "./series.js";
import {asCsv, paged} from "./table.js";
import {requestColumns} from "./page_requests.js";

const KINDS = [["ttft", "first token"], ["duration", "whole answer"], ["tpot", "per token"]];

function latency(page, params, kind) {
  const t = route.times(params), title = "How long: " + KINDS.find(k => k[0] === kind)[1];
  return panel({page, title, tools: [by("kind", "of the", KINDS, kind)], name: "latency " + kind,
    load: signal => get("stats/latency", {...route.timeQuery(t, "1h"), kind, tenant: params.tenant}, signal),
    empty: d => (!d.points.length || !d.total || !d.total.n) && "No request in this time.",
    csv: d => asCsv(latencyColumns(d), d.percentiles),
    draw: d => { const map = heatmap(d, {label: title}), before = d.previous && d.previous.n ? d.previous : null; return {...map, node: [h("div.stats", null, ["p50", "p90", "p99"].map(p => stat(p, fmt.ms(d.total[p]), {change: before ? d.total[p] / before[p] - 1 : undefined, better: "less", under: before ? "was " + fmt.ms(before[p]) : null})), stat("Requests", fmt.compact(d.total.n))), map.node]}; }});
}

function aborts(page, params) {
  const t = route.times(params), {word, step} = route.interval(t, "adapter").word === "1d" && t.end - t.start <= 7 * 86400 ? {word: "1h", step: 3600} : {word: "1d", step: 86400};
  const data = d => ({points: d.points, series: [{name: "Delivered, billed", values: d.output_tokens, total: d.totals?.output_tokens}, {name: "Produced beyond that, not billed", values: d.produced_tokens.map((v, i) => Math.max(0, v - d.output_tokens[i])), total: d.totals ? Math.max(0, d.totals.produced_tokens - d.totals.output_tokens) : undefined}]});
  return panel({page, title: "Aborted answers", note: "tokens that clients did not wait for", width: "w6",
    load: signal => get("stats/aborts", {...route.timeQuery(t, word), interval: word, tenant: params.tenant}, signal),
    empty: d => !d.requests.some(n => n) && "Nobody left in mid-answer.",
    csv: d => seriesCsv({points: d.points, series: [{name: "Requests", values: d.requests}, {name: "Output tokens", values: d.output_tokens}, {name: "Produced tokens", values: d.produced_tokens}, {name: "Cost, nano", values: d.cost_nano}]}, step),
    draw: d => { const chart = timeChart(data(d), {step, kind: "bar", stacked: true, label: "Tokens of aborted answers"}); return {...chart, node: [h("div.stats", null, stat("Aborted", fmt.compact(d.totals.requests)), stat("Billed", fmt.money(d.totals.cost_nano), {under: fmt.compact(d.totals.output_tokens) + " tokens"}), stat("Not billed", fmt.compact(Math.max(0, d.totals.produced_tokens - d.totals.output_tokens)), {under: "tokens produced in vain"})), chart.node]}; }});
}

export function refused(page, params, width = "w6") {
  const t = route.times(params), word = t.end - t.start <= 7 * 86400 ? "1h" : "1d", step = word === "1h" ? 3600 : 86400, name = s => `${fmt.words(s.kind)}${s.scope ? " · " + fmt.words(s.scope) : ""}`;
  const data = d => ({points: d.points, series: d.series.map(s => ({...s, name: name(s)}))});
  return panel({page, title: "Refused (429) by limit", width, load: signal => get("stats/refused", {...route.timeQuery(t, word), interval: word, tenant: params.tenant}, signal),
    empty: d => !d.total && "Nothing was refused in this time.", csv: d => seriesCsv(data(d), step),
    draw: d => timeChart(data(d), {step, kind: "bar", stacked: true, label: "Requests refused by limit"})});
}

export default function errors({page, params}) {
  const kind = KINDS.some(k => k[0] === params.kind) ? params.kind : "ttft", t = route.times(params);
  return {title: "Errors and latency", tools: standard(params), body: h("div.grid", null,
    requestsPanel(page, params), seriesPanel({page, params, title: "Requests that failed", measure: "errors", kind: "bar", width: "w6"}), refused(page, params), latency(page, params, kind), aborts(page, params),
    seriesPanel({page, params, title: "Requests by how they ended", by: "state", measure: "requests", width: "w6"}),
    paged({page, title: "Last failures", note: "newest first, kept 40 days", path: "stats/errors", query: {start_time: t.start, end_time: t.end, tenant: params.tenant}, columns: requestColumns(isAdmin() && !params.tenant), newest: true, empty: "Every request of this time has completed."}))};
}
