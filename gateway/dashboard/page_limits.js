// limits: what may be used, what is used of it, when it will be spent at this pace; and changing it, for the operator. Budgets are UTC days and months.

import {change, get, isAdmin, may, mayWrite} from "./api.js";
import {timeChart} from "./charts.js";
import {choice, standard} from "./controls.js";
import {button, field, h, tag} from "./dom.js";
import {ask} from "./dialog.js";
import * as fmt from "./format.js";
import {frame, message, panel, toast} from "./panel.js";
import * as route from "./route.js";
import {list} from "./series.js";
import {asCsv, onward, table} from "./table.js";
import {refused} from "./page_errors.js";

const WORDS = Object.keys(fmt.LIMITS), SOFT = ["tokens_per_day", "tokens_per_month", "cost_per_day", "cost_per_month"], CHARTS_MAX = 4;
const money = word => word.startsWith("cost_");

function meter(used, held, hard, soft) {
  if (!hard) return null;
  const width = v => Math.min(100, 100 * v / hard).toFixed(1) + "%", a = h("i"), b = h("i.held");
  b.style.width = width(used + held);
  a.style.width = width(used);
  return h("div.meter" + (used >= hard ? ".bad" : (soft && used >= soft) || used >= hard * 0.9 ? ".warn" : ""), {"aria-hidden": "true"}, b, a);
}

// --- limits of one subject ---

function rows(d) {
  return WORDS.filter(w => d.limits[w] !== null && d.limits[w] !== undefined || d.used[w]).map(w => ({word: w, limit: d.limits[w] ?? null, soft: d.limits[w + "_soft"] ?? null, used: d.used[w] ?? null, held: d.used.reserved ? (w.startsWith("tokens_per_") && w !== "tokens_per_minute" ? d.used.reserved.tokens : money(w) ? d.used.reserved.cost : 0) : 0}));
}

const LIMIT_COLUMNS = [
  {key: "word", label: "Limit", value: r => fmt.LIMITS[r.word][0]}, {key: "used", label: "Used", num: true, show: r => r.used === null ? fmt.NONE : fmt.LIMITS[r.word][1](r.used)}, {key: "held", label: "Held", num: true, show: r => r.held ? fmt.LIMITS[r.word][1](r.held) : fmt.NONE, title: "By requests under way"},
  {key: "limit", label: "Allowed", num: true, show: r => r.limit === null ? "no limit" : fmt.LIMITS[r.word][1](r.limit)}, {key: "soft", label: "Tell at", num: true, show: r => r.soft === null ? fmt.NONE : fmt.LIMITS[r.word][1](r.soft)}, {key: "share", label: "", noCsv: true, value: () => "", show: r => meter(r.used ?? 0, r.held, r.limit, r.soft) || ""},
];

const input = (word, value) => h("input", {type: "number", min: 0, step: "any", name: word, value: value === null || value === undefined ? "" : money(word) ? value / 1e9 : value, placeholder: "no limit"});
const number = at => at.value === "" ? null : money(at.name) ? Math.round(Number(at.value) * 1e9) : Math.round(Number(at.value));

async function edit(path, title, d, reload) {
  const all = [], make = (word, label) => { const at = input(word, d.limits[word]); all.push(at); return field(label, at); };
  const done = await ask({title, wide: true, text: `In force for the next request. What is empty has no limit. Money in ${fmt.currencyCode()}.`, fields: [h("h3", null, "Rates and storage"), h("div.two", null, WORDS.filter(w => !SOFT.includes(w)).map(w => make(w, fmt.LIMITS[w][0] + (w === "adapter_bytes" ? "" : "")))), h("h3", null, "Budgets: refused beyond, told at"), h("div.two", null, SOFT.flatMap(w => [make(w, fmt.LIMITS[w][0]), make(w + "_soft", "told at")]))],
    submit: () => change("PUT", path, Object.fromEntries(all.map(at => [at.name, number(at)]).filter(([, v]) => v !== null)), d.revision ? {revision: d.revision} : {})});
  if (done) { toast("The limits are in force."); reload(); }
}

export function limitsPanel(page, {path, title, write, of = d => d, width = ""}) {
  return panel({page, title, width, flush: true, load: async signal => of(await get(path, {}, signal)), csv: d => asCsv(LIMIT_COLUMNS, rows(d)),
    draw: (d, {reload, own}) => { own.replaceChildren(...(write ? [button("Change", () => edit(path, title, d, reload), {kind: "small", id: "edit-limits"})] : [])); const r = rows(d); return r.length ? table({columns: LIMIT_COLUMNS, rows: r, caption: title, sortable: false}) : message("No limits", "Nothing is used of any, either."); }});
}

// --- budgets ---

const subject = b => [b.subject.tenant, b.subject.key && "key " + b.subject.key, b.subject.adapter && "adapter " + b.subject.adapter].filter(Boolean).join(", ");
const axis = b => money(b.limit) ? fmt.money : fmt.compact;
const show = b => fmt.LIMITS[b.limit]?.[1] ?? fmt.int;

const BUDGET_COLUMNS = [
  {key: "subject", label: "Whose", value: subject, show: b => isAdmin() && b.subject.tenant ? h("a", {href: route.href(["tenant", b.subject.tenant], {view: "limits"})}, subject(b)) : subject(b) || "your tenant"}, {key: "limit", label: "Budget", value: b => fmt.LIMITS[b.limit]?.[0] ?? fmt.words(b.limit)},
  {key: "state", label: "State", show: b => tag(b.state === "ok" ? "within" : b.state === "soft" ? "told" : "spent", fmt.stateKind(b.state))}, {key: "used", label: "Used", num: true, show: b => show(b)(b.used)}, {key: "hard", label: "Allowed", num: true, show: b => b.hard === null ? fmt.NONE : show(b)(b.hard)}, {key: "meter", label: "", noCsv: true, fixed: true, value: () => "", show: b => meter(b.used, b.reserved || 0, b.hard ?? b.soft, b.soft) || ""},
  {key: "forecast", label: "At the end, at this pace", num: true, show: b => show(b)(b.forecast)}, {key: "exhausted_at", label: "Spent by (UTC)", value: b => b.exhausted_at ? fmt.moment(b.exhausted_at) : null, show: b => b.exhausted_at ? h("span", {title: fmt.moment(b.exhausted_at)}, fmt.day(b.exhausted_at), " ", fmt.clock(b.exhausted_at)) : "not in this period", class: "nowrap"},
];

// What is used so far, its way on at this pace, and the two lines that it must not cross.
function burn(b) {
  const points = [...b.series.points], n = points.length, step = n > 1 ? points[1] - points[0] : b.period === "day" ? 3600 : 86400;
  while (points.length < 400 && points.at(-1) + step < b.end_time) points.push(points.at(-1) + step);
  const line = v => v === null || v === undefined ? null : points.map(() => v), values = points.map((_, i) => i < n ? b.series.values[i] : null), last = b.series.values.at(-1) ?? 0, ahead = points.length - n;
  const way = b.forecast === null || b.forecast === undefined || !ahead ? null : points.map((_, i) => i < n - 1 ? null : last + (b.forecast - last) * (i - n + 1) / ahead);
  return timeChart({points, series: [{name: "Used", values, colour: 0}, way && {name: "At this pace", values: way, faint: true}, b.soft !== null && {name: "Told at", values: line(b.soft), colour: 4}, b.hard !== null && {name: "Allowed", values: line(b.hard), colour: 6}].filter(Boolean)}, {step, kind: "line", label: `${subject(b)} ${fmt.LIMITS[b.limit]?.[0] ?? b.limit}`, show: axis(b), size: "short", sum: false});
}

export function budgetsPanel(page, params) {
  return panel({page, title: "Budgets", note: "of the running day and month", flush: true, load: signal => get("stats/budgets", {tenant: params.tenant, limit: 100, after: params.afterb}, signal), empty: d => list(d).length === 0 && "No budget is set.", csv: d => asCsv(BUDGET_COLUMNS, list(d)),
    draw: d => {
      const order = {hard: 0, soft: 1, ok: 2}, all = [...list(d)].sort((a, b) => order[a.state] - order[b.state] || (b.hard ? b.used / b.hard : 0) - (a.hard ? a.used / a.hard : 0)), charts = all.slice(0, CHARTS_MAX).filter(b => b.series?.points?.length).map(b => [b, burn(b)]);
      return {node: [h("div.panel-body", null, h("div.charts", null, charts.map(([b, c]) => h("figure.stack.tight", null, h("figcaption", null, h("span.strong", null, fmt.LIMITS[b.limit]?.[0] ?? fmt.words(b.limit)), " ", h("span.soft", null, subject(b))), c.node)))), table({columns: BUDGET_COLUMNS, rows: all, caption: "Budgets"}), onward(d, "b", all.length)], start: () => charts.forEach(([, c]) => c.start()), close: () => charts.forEach(([, c]) => c.close())};
    }});
}

// --- the page ---

function operators(page, params) {
  if (!params.tenant) return frame({title: "Change limits"}, message("Of whom?", "Type a tenant above, or choose one from the list of budgets; keys and adapters have limits of their own, too.", "", h("a", {href: route.href("tenants")}, "All tenants")));
  const of = params.of || "tenant", id = params.id || "", name = encodeURIComponent(params.tenant);
  const paths = {tenant: [`tenants/${name}/limits`, params.tenant], key: [id && `keys/${encodeURIComponent(id)}/limits`, "key " + id], adapter: [id && `tenants/${name}/adapters/${encodeURIComponent(id)}/limits`, `${params.tenant} / ${id}`]}[of] || [];
  const which = h("input", {type: "search", id: "subject", value: id, placeholder: of === "key" ? "public id" : "name", "aria-label": of === "key" ? "Key" : "Adapter", onchange: e => route.set({id: e.target.value.trim() || undefined})});
  return [h("div.row", null, choice("Limits of", [["tenant", "The tenant"], ["key", "One of its keys"], ["adapter", "One of its adapters"]], of, v => route.set({of: v === "tenant" ? undefined : v, id: undefined})), of === "tenant" ? null : which),
    paths[0] ? limitsPanel(page, {path: paths[0], title: "Limits of " + paths[1], write: mayWrite()}) : frame({title: "Limits"}, message(of === "key" ? "Which key?" : "Which adapter?"))];
}

export default function limits({page, params}) {
  const own = () => [limitsPanel(page, {path: "limits", title: "Your tenant's limits", of: d => d.tenant, width: "w6"}), limitsPanel(page, {path: "limits", title: "This key's limits", of: d => d.key, width: "w6"})], usage = isAdmin() || may("usage");
  return {title: "Limits and budgets", tools: isAdmin() ? standard(params).slice(0, 2) : standard(params).slice(1, 2), body: h("div.grid", null, isAdmin() ? operators(page, params) : own(), usage && [budgetsPanel(page, params), refused(page, params, "w12")])};
}
