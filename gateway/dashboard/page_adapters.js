// adapters: versions with their state, where they are, how they are used and what their loads cost; the long tail and the idle ones. Ten thousand are fine: the
// server sorts, filters and gives one page.

import {get, isAdmin, may, mayWrite} from "./api.js";
import {choice, filter, range, tenant} from "./controls.js";
import {h, tag} from "./dom.js";
import * as fmt from "./format.js";
import {frame} from "./panel.js";
import {liftButton, stateCell, whyOf} from "./quarantine.js";
import * as route from "./route.js";
import {paged} from "./table.js";

const STATES = ["", "ready", "validating", "uploading", "failed", "archived", "quarantined", "deleting"];
const SORTS = [["name", "Name"], ["last_used", "Last used"], ["requests", "Requests"], ["bytes", "Bytes"], ["cold", "Cold loads"]];
const IDLE = [["", "any"], ["1", "a day"], ["7", "a week"], ["30", "30 days"], ["90", "90 days"]];

export const adapterPath = r => isAdmin() ? ["adapter", r.tenant, r.adapter] : ["adapter", r.adapter];

export function residency(r) {
  const at = (r.resident || []).map(x => typeof x === "string" ? x : x.engine);
  return at.length ? h("span", {title: at.join(", ")}, tag(at.length === 1 ? at[0] : `${at.length} engines`, "good"), r.pinned ? " pinned" : "") : r.pinned ? "pinned" : fmt.NONE;
}

export function adapterColumns(withTenant) {
  return [
    {key: "adapter", label: "Adapter", class: "nowrap", value: r => r.adapter + (r.version ? "@" + r.version : ""), show: r => h("a", {href: route.href(adapterPath(r))}, r.adapter + (r.version ? "@" + r.version : ""))},
    withTenant && {key: "tenant", label: "Tenant", show: r => h("a", {href: route.href(["tenant", r.tenant])}, r.tenant)},
    {key: "state", label: "State", show: stateCell}, {key: "changed_at", label: "State since", hidden: true, value: r => r.changed_at ? fmt.moment(r.changed_at) : null}, {key: "why", label: "Why", hidden: true, value: whyOf},
    {key: "resident", label: "Resident", value: r => (r.resident || []).map(x => typeof x === "string" ? x : x.engine).join(" "), show: residency, class: "nowrap"},
    {key: "kind", label: "Kind", show: r => `${r.kind} ${r.rank}`, class: "nowrap"}, {key: "rank", label: "Rank", hidden: true}, {key: "bytes", label: "Bytes", num: true, show: r => fmt.bytes(r.bytes)},
    {key: "requests", label: "Requests", num: true, show: r => fmt.compact(r.requests)}, {key: "tokens", label: "Tokens", num: true, show: r => fmt.compact(r.tokens)}, {key: "cost_nano", label: "Cost", num: true, show: r => fmt.money(r.cost_nano)},
    {key: "errors", label: "Errors", hidden: true},
    {key: "cold", label: "Cold loads", num: true, show: r => r.cold ? `${fmt.compact(r.cold)} × ${fmt.ms(r.load_ms_avg)}` : "0", title: "Requests that waited for it to be loaded, and how long on average"}, {key: "load_ms_avg", label: "Load, ms", hidden: true},
    {key: "cold_share", label: "In TTFT", num: true, show: r => fmt.percent(r.cold_share), title: "Share of the time to the first token that was loading"},
    {key: "evictions", label: "Evicted", num: true, show: r => fmt.compact(r.evictions), title: "How often it left one of the present engines since the gateway's start"},
    {key: "last_used", label: "Last used", num: true, value: r => r.last_used ? fmt.moment(r.last_used) : null, show: r => h("span", {title: fmt.moment(r.last_used)}, fmt.ago(r.last_used))},
    {key: "aliases", label: "Aliases", value: r => (r.aliases || []).join(" "), show: r => (r.aliases || []).join(", ") || fmt.NONE, class: ""},
  ].filter(Boolean);
}

// Of those that need somebody: why, instead of how they serve, which is in the CSV as ever.
function heldColumns(withTenant, reload) {
  const main = ["adapter", "tenant", "state", "kind", "bytes", "requests", "last_used"], shown = {changed_at: {label: "Since (UTC)", class: "nowrap"}, why: {class: "wide"}};
  const all = adapterColumns(withTenant).map(c => shown[c.key] ? {...c, ...shown[c.key], hidden: false} : c.key === "state" ? {...c, show: r => tag(r.state, fmt.stateKind(r.state))} : main.includes(c.key) ? c : {...c, hidden: true});
  return reload ? [...all, {key: "lift", label: "", noCsv: true, fixed: true, show: r => r.state === "quarantined" ? liftButton(r, reload) : ""}] : all;
}

// A key that may upload but not see usage gets the list of its adapters, without what the statistics know.
async function ask({limit, after, before, ...query}, signal) {
  if (isAdmin() || may("usage")) return get("stats/adapters", {limit, after, ...query}, signal);
  const d = await get("adapters", {limit, after, before}, signal);
  return {...d, data: d.data.map(a => ({...a, adapter: a.name, last_used: a.last_used_at}))};
}

export default function adapters({page, params}) {
  const t = route.times(params), sort = SORTS.some(([w]) => w === params.sort) ? params.sort : "name";
  const held = ["quarantined", "failed"].includes(params.state), lift = params.state === "quarantined" && isAdmin() && mayWrite();
  const list = paged({page, title: "Adapters", note: params.idle_days ? `not used for ${params.idle_days} days` : "versions", path: "stats/adapters", forward: may("usage") || isAdmin(), load: ask, columns: held ? heldColumns(isAdmin() && !params.tenant, lift && (() => list.reload({still: true}))) : adapterColumns(isAdmin() && !params.tenant),
    query: {q: params.q, state: params.state, idle_days: params.idle_days, sort, tenant: params.tenant, start_time: t.start, end_time: t.end}, empty: params.q || params.state || params.idle_days ? "No adapter fits." : "There is no adapter yet."});
  return {title: "Adapters", tools: [tenant(params), range(params), !isAdmin() && may("adapters") ? h("a.button.first", {href: route.href("upload"), id: "upload"}, "Upload") : null], body: h("div.grid", null,
    frame({title: "", flush: true}, h("div.filters", null, filter("q", "Name has", params), filter("state", "State", params, {options: STATES.map(s => [s, s || "any"])}), filter("idle_days", "Not used for", params, {options: IDLE}),
      h("div.field", null, h("span", null, "Order"), choice("Order", SORTS, sort, v => route.set({sort: v === "name" ? undefined : v}))))),
    list)};
}
