// tenant: one tenant as its operator sees it: what it uses, its adapters, its keys and its limits; made smaller, larger, or shut out from here.

import {change, get, mayWrite} from "./api.js";
import {choice, compare, range, stat} from "./controls.js";
import {button, h, tag} from "./dom.js";
import {ask, confirm} from "./dialog.js";
import * as fmt from "./format.js";
import {panel, toast} from "./panel.js";
import * as route from "./route.js";
import {seriesPanel, topPanel} from "./series.js";
import {facts, paged} from "./table.js";
import {adapterColumns} from "./page_adapters.js";
import {keysPanel} from "./page_keys.js";
import {budgetsPanel, limitsPanel} from "./page_limits.js";
import {tenantFields} from "./page_tenants.js";

const VIEWS = [["use", "Use"], ["adapters", "Adapters"], ["keys", "Keys"], ["limits", "Limits"]];

async function edit(t, reload) {
  const form = tenantFields(t);
  const done = await ask({title: `Change ${t.name}`, text: "In force for the next request.", fields: form.fields, submit: () => change("PATCH", "tenants/" + t.name, form.read(), {revision: t.revision})});
  if (done) { toast(`${t.name} is changed.`); reload(); }
}

async function shut(t, reload) {
  const run = () => change("PATCH", "tenants/" + t.name, {disabled: !t.disabled}, {revision: t.revision});
  const done = t.disabled ? await ask({title: `Enable ${t.name}?`, text: "Its keys work again.", verb: "Enable", submit: run}) : await confirm(`Disable ${t.name}?`, "All its keys are refused from now on, as if they didn't exist. Nothing is deleted.", "Disable", run);
  if (done) { toast(t.disabled ? `${t.name} is enabled.` : `${t.name} is disabled.`); reload(); }
}

function about(page, name) {
  return panel({page, title: name, load: signal => get("tenants/" + encodeURIComponent(name), {}, signal),
    draw: (t, {reload, own}) => {
      own.replaceChildren(...(mayWrite() ? [button("Change", () => edit(t, reload), {kind: "small", id: "edit"}), button(t.disabled ? "Enable" : "Disable", () => shut(t, reload), {kind: t.disabled ? "small" : "small danger", id: "shut"})] : []));
      return h("div.two", null, facts([["State", tag(t.disabled ? "disabled" : "enabled", t.disabled ? "bad" : "good")], ["Class", t.class], ["Weight", t.weight]]), facts([["Private", t.private ? "yes" : "no"], ["First token within", t.deadline_ms ? fmt.ms(t.deadline_ms) : "no limit"], ["Since", fmt.date(t.created_at)], ["Id", h("span.mono.tiny", null, t.id)]]));
    }});
}

function sums(page, params, name) {
  const t = route.times(params);
  return panel({page, title: "In this time", note: route.wholeDays(t, fmt.day), load: signal => get("stats/top", {start_time: t.start, end_time: t.end, by: "base", tenant: name, limit: 100, sort: "tokens"}, signal),
    draw: d => { const sum = k => d.data.reduce((n, r) => n + (r[k] || 0), 0); return h("div.stats", null, stat("Cost", fmt.money(sum("cost_nano"))), stat("Requests", fmt.compact(sum("requests"))), stat("Input tokens", fmt.compact(sum("input_tokens"))), stat("Output tokens", fmt.compact(sum("output_tokens"))), stat("Errors", fmt.compact(sum("errors")))); }});
}

const VIEW = {
  use: (page, params, name) => [sums(page, params, name), seriesPanel({page, params, title: "Requests by how they ended", by: "state", measure: "requests", width: "w6"}), seriesPanel({page, params, title: "Cost", measure: "cost_nano", width: "w6"}), topPanel({page, params, title: "Adapters", by: "adapter", few: true, width: "w6"}), topPanel({page, params, title: "Keys", by: "key", few: true, width: "w6"})],
  adapters: (page, params, name) => paged({page, title: "Adapters", forward: true, path: "stats/adapters", query: {tenant: name, sort: "name"}, columns: adapterColumns(false), empty: "It has none."}),
  keys: (page, params, name) => keysPanel(page, {path: `tenants/${name}/keys`, one: "keys", roles: "tenant", write: mayWrite()}),
  limits: (page, params, name) => [limitsPanel(page, {path: `tenants/${name}/limits`, title: "Limits", write: mayWrite()}), budgetsPanel(page, params)],
};

export default function tenant({page, path, params: given}) {
  const name = path[0] || "", params = {...given, tenant: name}, view = VIEW[given.view] ? given.view : "use";
  return {title: name, up: ["tenants", "Tenants"], tools: [choice("Parts", VIEWS, view, v => route.set({view: v === "use" ? undefined : v})), view === "use" ? [range(given), compare(given)] : null],
    body: h("div.grid", null, about(page, name), VIEW[view](page, params, name))};
}
