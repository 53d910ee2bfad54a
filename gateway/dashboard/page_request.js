// request: one request with its times, counts, price and what was adjusted later.

import {get} from "./api.js";
import {h, tag} from "./dom.js";
import * as fmt from "./format.js";
import {panel} from "./panel.js";
import * as route from "./route.js";
import {list} from "./series.js";
import {facts, table} from "./table.js";
import {first, took} from "./page_requests.js";

function timeline(r) {
  const whole = took(r) || 1, lane = (name, from, to, kind) => {
    const bar = h("i" + (kind ? "." + kind : ""));
    bar.style.left = (100 * from / whole).toFixed(2) + "%";
    bar.style.width = Math.max(0.3, 100 * (to - from) / whole).toFixed(2) + "%";
    return h("div.lane", null, h("span.soft", null, name), h("div.track", null, bar), h("span.num", null, fmt.ms(to - from)));
  };
  const f = first(r);
  return h("div.timeline", null, lane("Until the first token", 0, f ?? whole), f !== null && lane("Answer", f, whole, "b"), r.load_us ? lane("of that: adapter loaded", 0, r.load_us / 1000) : null);
}

function shown(r) {
  return h("div.grid", null,
    h("div.w6", null, facts([["State", tag(fmt.words(r.state), fmt.stateKind(r.state))], ["Status", r.http_status], ["Finish", r.finish_reason || fmt.NONE], r.tenant && ["Tenant", h("a", {href: route.href(["tenant", r.tenant])}, r.tenant)], ["Key", h("span.mono", null, r.api_key_id)], ["Model asked for", r.model], r.alias && ["Alias", r.alias], ["Answered by", r.adapter ? `${r.adapter}@${r.version} on ${r.base}` : r.base], ["Endpoint", r.endpoint + (r.stream ? ", streamed" : "")], ["Engine", r.engine || fmt.NONE], ["Attempt", r.attempt], ["Cold", r.cold ? "yes: the adapter was loaded for it" : "no"]])),
    h("div.w6", null, facts([["Began", fmt.moment(r.created_at) + " UTC"], ["Input tokens", `${fmt.int(r.input_tokens)}, of these cached ${fmt.int(r.input_cached_tokens)}`], r.policy_before_tokens && ["Prompt policy", `${fmt.int(r.policy_before_tokens)} tokens before, ${fmt.int(r.policy_after_tokens)} after`], r.route && ["Route", `${r.route.model} (${r.route.way}, by ${r.route.reason}); need ${r.route.need.toFixed(2)}${r.route.probe ? `; asked in vain: ${r.route.probe}` : ""}`], ["Output tokens", fmt.int(r.output_tokens)], ["Produced", fmt.int(r.produced_tokens) + (r.produced_tokens > r.output_tokens ? " (what was not delivered is not billed)" : "")], ["Counted by", fmt.words(r.count_source)], ["Cost", fmt.money(r.cost_nano, true)], took(r) && r.output_tokens > 1 && first(r) !== null && ["Per token", fmt.ms((took(r) - first(r)) / (r.output_tokens - 1))]])),
    h("div", null, timeline(r)));
}

export default function request({page, path}) {
  const id = path[0] || "";
  return {title: id.slice(0, 13) + "…", up: ["requests", "Requests"], body: h("div.grid", null,
    panel({page, title: id, load: signal => get("usage/requests/" + encodeURIComponent(id), {}, signal),
      draw: r => [shown(r), list(r.adjustments || []).length ? [h("h3.apart", null, "Adjusted later"), table({caption: "Adjustments of this request", rows: list(r.adjustments), columns: [{key: "id", label: "Id"}, {key: "created_at", label: "Booked", value: a => fmt.moment(a.created_at)}, {key: "reason", label: "Why"}, {key: "cost_nano", label: "Amount", num: true, show: a => fmt.money(a.cost_nano, true)}]})] : null]}))};
}
