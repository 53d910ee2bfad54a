// requests: single requests, newest first, by filter and cursor, never all of them. No prompt and no answer is stored, so none can be shown.

import {isAdmin} from "./api.js";
import {filter, standard} from "./controls.js";
import {h, tag} from "./dom.js";
import * as fmt from "./format.js";
import {frame} from "./panel.js";
import * as route from "./route.js";
import {paged} from "./table.js";

const FILTERS = ["state", "adapter", "key", "endpoint", "model", "engine", "min_duration_ms"];
const STATES = ["", "completed", "client_abort", "upstream_error", "timeout", "rejected", "gateway_crash"];

export const took = r => r.end_us && r.start_us ? (r.end_us - r.start_us) / 1000 : null;
export const first = r => r.first_us && r.start_us ? (r.first_us - r.start_us) / 1000 : null;

const answeredBy = r => r.adapter ? r.adapter + "@" + r.version : r.base;
const ended = r => h("span", {title: r.http_status ? "HTTP " + r.http_status : undefined}, tag(fmt.words(r.state), fmt.stateKind(r.state)));

// What fits is what tells one request from another; the rest goes first where there is no room, and stands in the CSV and on the request's own page.
export function requestColumns(withTenant) {
  return [
    {key: "id", label: "Began (UTC)", value: r => r.id, noCsv: true, class: "nowrap", show: r => [h("a", {href: route.href(["request", r.id]), title: r.id}, fmt.day(r.created_at), " ", fmt.clock(r.created_at, true)), h("span.thin", null, withTenant && r.tenant ? r.tenant + " / " : "", answeredBy(r))]},
    {key: "request", label: "Request", value: r => r.id, hidden: true},
    {key: "created_at", label: "Time", value: r => fmt.moment(r.created_at), hidden: true},
    withTenant && {key: "tenant", label: "Tenant", value: r => r.tenant ?? null, class: "clip short", room: "min", show: r => r.tenant ? h("a", {href: route.href(["tenant", r.tenant]), title: r.tenant}, r.tenant) : fmt.NONE},
    {key: "model", label: "Model", class: "clip", room: "mid"},
    {key: "adapter", label: "Answered by", value: answeredBy, class: "clip", room: "min"},
    {key: "state", label: "Ended", show: ended},
    {key: "http_status", label: "Status", hidden: true},
    {key: "tokens", label: "Tokens", num: true, noCsv: true, room: "min", title: "Input, and what was delivered; in brackets the prompt before its policy", show: r => `${fmt.int(r.input_tokens)}${r.policy_before_tokens ? ` (${fmt.int(r.policy_before_tokens)})` : ""} → ${fmt.int(r.output_tokens)}`},
    {key: "input_tokens", label: "Input", hidden: true},
    {key: "output_tokens", label: "Output", hidden: true},
    {key: "policy_before_tokens", label: "Prompt before its policy", hidden: true},
    {key: "policy_after_tokens", label: "Prompt after its policy", hidden: true},
    {key: "first_ms", label: "First token", num: true, room: "min", value: first, show: r => fmt.ms(first(r))},
    {key: "load_ms", label: "Loading", num: true, room: "mid", value: r => r.load_us ? r.load_us / 1000 : null, show: r => r.load_us ? fmt.ms(r.load_us / 1000) : r.cold ? "cold" : fmt.NONE, title: "How much of it the request waited for its adapter to be loaded"},
    {key: "took_ms", label: "Took", num: true, value: took, show: r => fmt.ms(took(r))},
    {key: "cost_nano", label: "Cost", num: true, room: "mid", show: r => fmt.money(r.cost_nano)},
    {key: "api_key_id", label: "Key", hidden: true},
  ].filter(Boolean);
}

export default function requests({page, params}) {
  const t = route.times(params), query = Object.fromEntries(FILTERS.map(f => [f, params[f]]));
  return {title: "Requests", tools: standard(params).slice(0, 2), body: h("div.grid", null,
    frame({title: "", flush: true}, h("div.filters", null,
      filter("state", "Ended", params, {options: STATES.map(s => [s, s ? fmt.words(s) : "any way"])}), filter("model", "Model", params), filter("adapter", "Adapter", params), filter("key", "Key", params, {placeholder: "public id"}),
      filter("endpoint", "Endpoint", params, {options: [["", "any"], ["chat/completions", "chat/completions"], ["completions", "completions"]]}), isAdmin() && filter("engine", "Engine", params), filter("min_duration_ms", "Took at least, ms", params, {type: "number"}))),
    paged({page, title: "Requests", note: "newest first", path: "usage/requests", newest: true, columns: requestColumns(isAdmin() && !params.tenant),
      query: {...query, start_time: t.start, end_time: t.end, tenant: params.tenant}, empty: "No request fits."}))};
}
