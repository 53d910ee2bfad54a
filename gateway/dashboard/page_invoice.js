// invoice: a month as it is billed, line by line, from the same sums as everything else; final when nothing can be added any more.

import {get, isAdmin} from "./api.js";
import {tenant, stat} from "./controls.js";
import {h, select} from "./dom.js";
import * as fmt from "./format.js";
import {panel} from "./panel.js";
import * as route from "./route.js";
import {list} from "./series.js";
import {asCsv, table} from "./table.js";

const MONTHS_BACK = 24;

function months() {
  const d = new Date(), at = i => { const x = new Date(Date.UTC(d.getUTCFullYear(), d.getUTCMonth() - i, 1)); return x.toISOString().slice(0, 7); };
  return Array.from({length: MONTHS_BACK}, (_, i) => at(i));
}

const LINES = [
  {key: "base", label: "Base"}, {key: "adapter", label: "Adapter", show: l => l.adapter || fmt.NONE}, {key: "line_item", label: "What"}, {key: "tokens", label: "Tokens", num: true, show: l => fmt.int(l.tokens)},
  {key: "unit_price_nano", label: "Each 1M", num: true, value: l => l.unit_price_nano === null || l.unit_price_nano === undefined ? null : l.unit_price_nano / 1e3, show: l => l.unit_price_nano === null || l.unit_price_nano === undefined ? "changed" : fmt.money(l.unit_price_nano * 1e6), title: "Price of a million tokens; “changed” where it did in this month"}, {key: "amount_nano", label: "Amount", num: true, show: l => h("span", {title: fmt.money(l.amount_nano, true)}, fmt.money(l.amount_nano, 4))},
];
const ADJUSTMENTS = [{key: "id", label: "Adjustment", class: "mono"}, {key: "adjusts", label: "Of request", class: "mono"}, {key: "created_at", label: "Booked (UTC)", value: a => fmt.moment(a.created_at)}, {key: "reason", label: "Why", class: "wide"}, {key: "amount_nano", label: "Amount", num: true, value: a => a.amount_nano ?? a.cost_nano, show: a => fmt.money(a.amount_nano ?? a.cost_nano, true)}];

function one(d) {
  fmt.setCurrency(d.currency);
  return [h("div.stats", null, stat("Total", fmt.money(d.total_nano)), stat("Requests", fmt.int(d.requests)), state(d)),
    table({columns: LINES, rows: d.lines, caption: `Invoice of ${d.tenant}, ${d.month}`, foot: {base: "Total", amount_nano: d.total_nano, tokens: d.lines.reduce((n, l) => n + (l.tokens || 0), 0)}}),
    d.adjustments && d.adjustments.length ? table({columns: ADJUSTMENTS, rows: d.adjustments, caption: "Adjustments"}) : null];
}

const ALL = [
  {key: "tenant", label: "Tenant", show: i => i.sum ? i.tenant : h("a", {href: route.href("invoice", {tenant: i.tenant, month: route.read().params.month})}, i.tenant)}, {key: "requests", label: "Requests", num: true, show: i => fmt.int(i.requests)}, {key: "input_tokens", label: "Input", num: true, show: i => fmt.int(i.input_tokens)},
  {key: "cached_tokens", label: "Cached", num: true, show: i => fmt.int(i.cached_tokens)}, {key: "output_tokens", label: "Output", num: true, show: i => fmt.int(i.output_tokens)}, {key: "total_nano", label: "Total", num: true, show: i => h("span", {title: fmt.money(i.total_nano, true)}, fmt.money(i.total_nano, 4))},
];

// A month that is not over is running; one that is over is final once no request of it can still be open.
const OVER = {true: ["final", "nothing can be added"], false: ["running", "more can be added"]};
const state = d => { const [word, under] = OVER[!!d.final]; return stat("State", word, {under}); };

function every(d) {
  const rows = list(d), sum = key => rows.reduce((n, r) => n + r[key], 0);
  fmt.setCurrency(d.currency);
  return [h("div.stats", null, stat("Total", fmt.money(d.total_nano), {under: `${fmt.int(rows.length)} tenants`}), stat("Requests", fmt.int(sum("requests"))), state(d)),
    table({columns: ALL, rows, caption: "Invoices of all tenants", sort: {key: "total_nano", down: true}, foot: {sum: true, tenant: "Total", ...Object.fromEntries(["requests", "input_tokens", "cached_tokens", "output_tokens", "total_nano"].map(k => [k, sum(k)]))}})];
}

export default function invoice({page, params}) {
  const all = months(), month = /^\d{4}-\d{2}$/.test(params.month || "") ? params.month : all[0], many = isAdmin() && !params.tenant;
  const choose = select(all.includes(month) ? all.map(m => [m, fmt.month(m)]) : [[month, fmt.month(month)], ...all.map(m => [m, fmt.month(m)])], month, v => route.set({month: v}), {"aria-label": "Month", id: "month"});
  return {title: "Invoices", tools: [tenant(params), choose], body: h("div.grid", null,
    panel({page, title: many ? `All tenants, ${fmt.month(month)}` : `${params.tenant || "Your tenant"}, ${fmt.month(month)}`, flush: true, load: signal => get("invoice", {month, tenant: params.tenant}, signal), name: `invoice ${month} ${params.tenant || ""}`,
      empty: d => many ? list(d).length === 0 && "Nobody used anything in this month." : d.lines.length === 0 && !d.adjustments?.length && "Nothing was used in this month.",
      csv: d => many ? asCsv(ALL, list(d)) : asCsv(LINES.map(c => c.key === "unit_price_nano" ? {...c, label: "Unit price, nano", value: l => l.unit_price_nano} : c), d.lines),
      draw: d => many ? every(d) : one(d)}))};
}
