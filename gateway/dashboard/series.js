// series: panels that several pages have: usage over time, and the top of a list with its change. What is asked follows from the address.

import {get, isAdmin} from "./api.js";
import {seriesCsv, timeChart} from "./charts.js";
import {h} from "./dom.js";
import * as fmt from "./format.js";
import {panel} from "./panel.js";
import * as route from "./route.js";
import {asCsv, table} from "./table.js";

export const GROUPS = {none: "All together", tenant: "Tenant", key: "Key", adapter: "Adapter", version: "Version", model: "Model", base: "Base", endpoint: "Endpoint", state: "State"};
export const groups = params => Object.entries(GROUPS).filter(([word]) => word !== "tenant" || (isAdmin() && !params.tenant)); // one tenant is not told apart by tenant
const BASE = "(base)"; // requests without an adapter, which have no page
const UUID = /^[0-9a-f]{8}-/; // a tenant's own id is for programs; a key's public id is what people know it by
export const list = d => Array.isArray(d) ? d : d.data || [];

export const nameOf = r => r.name === "" || r.name === null || r.name === undefined ? r.id || "(none)" : r.id && r.id !== r.name && !UUID.test(r.id) ? `${r.name} (${r.id})` : r.tenant && isAdmin() && r.tenant !== r.name ? r.tenant + " / " + r.name : r.name;

// What an answer holds, as a chart takes it.
export function chartData(d, label) {
  const series = d.series.map((s, i) => ({...s, name: d.by === "none" || (d.by === undefined && d.series.length === 1) ? label : fmt.words(nameOf(s)), colour: i}));
  if (d.other && d.other.total) series.push({...d.other, name: "All others", other: true});
  if (d.previous) series.push({name: "The time before", values: d.points.map((_, i) => d.previous[i] ?? null), total: d.previous.length === d.points.length ? d.previous_total : null, faint: true});
  return {points: d.points, series};
}

// What a change is of: the part of the time that is over, and as much before it. A day of ten hours is held against no whole one.
export function comparedNote(c, step) {
  if (!c) return "Nothing of this time is over yet, so no change is told.";
  if (step >= 86400) return `Change: the days that are over, ${c.end_time - c.start_time > 86400 ? fmt.day(c.start_time) + " to " : ""}${fmt.day(c.end_time - 1)}, against as many before.`;
  return `Change: ${fmt.point(c.start_time, step, true)} to ${fmt.point(c.end_time, step, true)} UTC, against as long before.`;
}

export function seriesPanel({page, params, title, by = "none", measure = "requests", kind = "area", width = "", size, note, top = 8, adapter}) {
  const t = route.times(params), {word, step} = route.interval(t, adapter ? "adapter" : by), [label, show] = fmt.MEASURES[measure];
  return panel({page, title, note, width, name: `${title} ${by} ${measure}`,
    load: signal => get("stats/series", {...route.timeQuery(t, word), interval: word, by, measure, top, compare: params.compare ? "true" : "false", tenant: params.tenant, adapter}, signal),
    empty: d => d.points.length === 0 || !d.series.length ? "No usage in this time." : false,
    csv: d => seriesCsv(chartData(d, label), step, measure),
    draw: d => { const data = chartData(d, label), several = data.series.filter(s => !s.faint).length > 1; return timeChart(data, {step, kind: kind === "area" && step >= 86400 && d.points.length <= 45 ? "bar" : kind, stacked: several, show, label: title, size}); }});
}

const LINKS = {tenant: r => ["tenant", r.name], adapter: r => isAdmin() ? ["adapter", r.tenant, r.name] : ["adapter", r.name]};

export function topColumns(by, sort) {
  const link = LINKS[by];
  return [
    {key: "name", label: GROUPS[by], value: nameOf, show: r => link && r.name && r.name !== BASE && (by !== "adapter" || !isAdmin() || r.tenant) ? h("a", {href: route.href(link(r))}, nameOf(r)) : nameOf(r)},
    {key: "share", label: "Share", fixed: true, value: r => r.share, show: r => share(r.share), class: "nowrap"},
    {key: "change", label: "Change", num: true, value: r => r.change, show: r => fmt.change(r.change), title: "Of the days that are over against as many before, of what is sorted by"},
    {key: "requests", label: "Requests", num: true, show: r => fmt.compact(r.requests)},
    {key: "errors", label: "Errors", num: true, show: r => fmt.compact(r.errors)},
    {key: "aborts", label: "Aborts", num: true, show: r => fmt.compact(r.aborts)},
    {key: "input_tokens", label: "Input", num: true, show: r => fmt.compact(r.input_tokens)},
    {key: "cached_tokens", label: "Cached", num: true, show: r => fmt.compact(r.cached_tokens)},
    {key: "output_tokens", label: "Output", num: true, show: r => fmt.compact(r.output_tokens)},
    {key: "cost_nano", label: "Cost", num: true, show: r => fmt.money(r.cost_nano)},
  ].map(c => ({...c, sorted: c.key === sort}));
}

export function share(v) {
  if (v === null || v === undefined) return fmt.NONE;
  const bar = h("i");
  bar.style.width = Math.min(100, v * 100).toFixed(1) + "%";
  return [h("span.share", {"aria-hidden": "true"}, bar), fmt.percent(v, v < 0.1 ? 1 : 0)];
}

export function topPanel({page, params, title, by, sort = "tokens", limit = 10, width = "", few = false, tools}) {
  const t = route.times(params), all = topColumns(by, sort), columns = few ? all.filter(c => ["name", "share", "change", "requests", "cost_nano"].includes(c.key)) : all;
  return panel({page, title, width, tools, flush: true, name: title, note: route.wholeDays(t, fmt.day),
    load: signal => get("stats/top", {start_time: t.start, end_time: t.end, by, sort, limit, tenant: params.tenant}, signal),
    empty: d => list(d).length === 0 && "No usage in this time.",
    csv: d => asCsv(all, list(d)),
    draw: d => [table({columns, rows: list(d), caption: title}), h("p.pager", null, comparedNote(d.compared, 86400))]});
}
