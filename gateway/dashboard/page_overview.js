// overview: what is going on (by the stream, each second), today and this month, and the shape of the chosen time. The numbers are written where they stand:
// nothing is built anew each second but the small chart.

import {isAdmin} from "./api.js";
import {timeChart} from "./charts.js";
import {standard, stat} from "./controls.js";
import {fill, h} from "./dom.js";
import * as fmt from "./format.js";
import {failure, frame, panel} from "./panel.js";
import {countLine} from "./quarantine.js";
import * as route from "./route.js";
import {list, seriesPanel, topPanel} from "./series.js";
import {live} from "./stream.js";
import {table} from "./table.js";
import {eventRow, newestFirst} from "./page_events.js";

const KEEP = 120, EVENTS = 6;

function tiles(v) {
  const per = x => fmt.compact(x);
  return [
    stat("In flight", fmt.int(v.in_flight), {under: v.waiting ? `${fmt.int(v.waiting)} waiting` : "none waiting"}),
    stat("Tokens/s", per(v.tokens_per_s), {under: `${per(v.requests_per_s)} requests/s`}),
    stat("First token, p50", fmt.ms(v.ttft_ms?.p50), {under: `p99 ${fmt.ms(v.ttft_ms?.p99)}`}),
    stat("Per token, p50", fmt.ms(v.tpot_ms?.p50), {under: `p99 ${fmt.ms(v.tpot_ms?.p99)}`}),
    stat("Errors", fmt.int(v.errors), {under: "last minute"}),
    stat("Refused", fmt.int(v.refused), {under: "429, last minute"}),
    v.engines && stat("Engines ready", `${fmt.int(v.engines.ready)}`, {unit: `of ${fmt.int(v.engines.total)}`, under: `${fmt.int(v.engines.running)} running`}),
    v.adapters_resident !== undefined && stat("Resident", fmt.int(v.adapters_resident), {under: "adapters in engines"}),
  ];
}

function sums(title, v) {
  return frame({title, width: "w6"}, h("div.stats", null,
    stat("Cost", fmt.money(v.cost_nano)), stat("Requests", fmt.compact(v.requests), {under: v.errors ? `${fmt.compact(v.errors)} failed` : "none failed"}),
    stat("Input tokens", fmt.compact(v.input_tokens), {under: `${fmt.percent(v.input_tokens ? v.cached_tokens / v.input_tokens : 0, 0)} cached`}), stat("Output tokens", fmt.compact(v.output_tokens))));
}

function minute() {
  const start = Math.floor(Date.now() / 1000), points = Array.from({length: KEEP}, (_, i) => start - KEEP + i), tokens = Array(KEEP).fill(null), flight = Array(KEEP).fill(null);
  const push = v => { points.push(Math.floor(v.time)); tokens.push(v.tokens_per_s); flight.push(v.in_flight); for (const a of [points, tokens, flight]) a.shift(); };
  const chart = (values, name, colour) => timeChart({points, series: [{name, values, colour}]}, {step: 1, kind: "area", label: name + ", the last two minutes", size: "short", show: fmt.compact});
  return {push, charts: () => [chart(tokens, "Tokens per second", 0), chart(flight, "Requests in flight", 2)]};
}

function lists(v) {
  const caption = what => what + " with requests in flight or tokens in the last seconds";
  return [
    frame({title: "Busiest tenants", width: "w5", flush: true}, v.tenants.length ? table({caption: caption("Tenants"), rows: v.tenants, columns: [{key: "tenant", label: "Tenant", show: r => h("a", {href: route.href(["tenant", r.tenant])}, r.tenant)}, {key: "in_flight", label: "In flight", num: true, show: r => fmt.int(r.in_flight)}, {key: "tokens_per_s", label: "Tokens/s", num: true, show: r => fmt.compact(r.tokens_per_s)}]}) : h("div.message", null, "Nobody at the moment.")),
    frame({title: "Busiest adapters", width: "w7", flush: true}, v.adapters.length ? table({caption: caption("Adapters"), rows: v.adapters, columns: [{key: "adapter", label: "Adapter", value: fmt.stack, show: r => h("a", {href: route.href(["adapter", r.tenant, r.adapter])}, fmt.stack(r))}, {key: "in_flight", label: "In flight", num: true, show: r => fmt.int(r.in_flight)}, {key: "tokens_per_s", label: "Tokens/s", num: true, show: r => fmt.compact(r.tokens_per_s)}]}) : h("div.message", null, "None at the moment."))];
}

const STATE = {live: ["good", "live"], polled: ["good", "every 5 s"], waiting: ["warn", "connecting"]};

function liveParts(page, params) {
  const now = h("div.stats", {"aria-label": "Now"}), sign = h("span.live", {id: "live"}), small = h("div.grid"), period = h("div.grid"), busy = h("div.grid"), news = h("div");
  const kept = minute(), held = countLine(), parts = {};
  let drawn = [], last = 0, seen = [];
  const sayState = s => { const [kind, text] = STATE[s] || ["bad", "not available"]; fill(sign, h(`span.dot.${kind}`), text); if (!STATE[s]) { fill(now, failure(s)); for (const x of [held.node, small, period, busy]) x.hidden = true; } };
  const onnow = v => {
    if (page.signal.aborted) return;
    fmt.setCurrency(v.currency);
    fill(now, tiles(v));
    held.set(v.quarantined);
    kept.push(v);
    drawn.forEach(c => c.close());
    drawn = kept.charts();
    fill(small, drawn.map((c, i) => frame({title: i ? "In flight" : "Tokens per second", note: "the last two minutes", width: "w6"}, c.node)));
    drawn.forEach(c => c.start());
    if (v.time - last < 5) return;
    last = v.time;
    fill(period, sums("Today", v.today), sums("This month", v.month));
    if (v.tenants) fill(busy, lists(v));
  };
  const onevents = some => { // by the stream and by the list: what both tell is one
    const all = new Map([...seen, ...some].map(e => [e.seq, e]));
    seen = [...all.values()].sort((a, b) => b.seq - a.seq).slice(0, EVENTS);
    fill(news, seen.length ? h("ul.stack", null, seen.map(eventRow)) : h("div.message", null, "Nothing has happened yet."));
  };
  const onstate = s => { sayState(s); if (s === "live") parts.onlive?.(); };
  fill(now, h("div.bones", null, h("i"), h("i")));
  fill(sign, h("span.dot.warn"), "connecting");
  live({query: {tenant: params.tenant}, onnow, onevent: e => onevents([e]), onstate}, page.signal);
  page.onclose(() => drawn.forEach(c => c.close()));
  return Object.assign(parts, {now, held: held.node, sign, small, period, busy, news, onevents});
}

// What happened while there was no stream is asked for whenever one begins.
function recent(page, params, parts) {
  const node = panel({page, title: "Latest events", width: "w4", tools: [h("a.tiny", {href: route.href("events")}, "All")],
    load: signal => newestFirst("events", {limit: EVENTS, tenant: params.tenant}, signal), draw: d => { parts.onevents(list(d)); return parts.news; }});
  parts.onlive = () => node.reload({still: true});
  return node;
}

export default function overview({page, params}) {
  const p = liveParts(page, params);
  return {title: "Overview", tools: [p.sign, ...standard(params)], body: h("div.stack", null,
    h("section.panel", {"aria-label": "Now"}, h("div.panel-body", null, p.now)), p.held, p.small, p.period,
    h("div.grid", null,
      seriesPanel({page, params, title: "Requests by how they ended", by: "state", measure: "requests", width: "w8", size: "tall"}),
      recent(page, params, p),
      seriesPanel({page, params, title: isAdmin() ? "Tokens by tenant" : "Tokens", by: isAdmin() && !params.tenant ? "tenant" : "none", measure: "tokens", width: "w6"}),
      seriesPanel({page, params, title: "Cost", measure: "cost_nano", width: "w6"}),
      isAdmin() && !params.tenant && topPanel({page, params, title: "Top tenants", by: "tenant", few: true, width: "w6", sort: "tokens"}),
      topPanel({page, params, title: "Top adapters", by: "adapter", few: true, width: isAdmin() && !params.tenant ? "w6" : "w12", sort: "tokens"})),
    isAdmin() && p.busy)};
}
