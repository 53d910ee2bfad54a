// tenants: all of them by name, page by page, found by how they begin; and who used most. Thousands are fine: the server is asked for one page of its index.

import {change, get, mayWrite} from "./api.js";
import {choice, range} from "./controls.js";
import {NAME, button, field, h, select, tag} from "./dom.js";
import {ask} from "./dialog.js";
import * as fmt from "./format.js";
import {frame, toast} from "./panel.js";
import * as route from "./route.js";
import {topPanel} from "./series.js";
import {paged} from "./table.js";

const COLUMNS = [
  {key: "name", label: "Tenant", show: t => h("a", {href: route.href(["tenant", t.name])}, t.name), value: t => t.name},
  {key: "disabled", label: "State", value: t => t.disabled ? "disabled" : "enabled", show: t => tag(t.disabled ? "disabled" : "enabled", t.disabled ? "bad" : "good")},
  {key: "class", label: "Class", show: t => t.class}, {key: "weight", label: "Weight", num: true}, {key: "private", label: "Private", value: t => t.private ? "yes" : "no"},
  {key: "deadline_ms", label: "First token within", num: true, show: t => fmt.ms(t.deadline_ms)}, {key: "created_at", label: "Since (UTC)", value: t => fmt.date(t.created_at), class: "nowrap"}, {key: "id", label: "Id", class: "mono nowrap"},
];

// The name that stands right before all that begin with these letters, in the order of bytes.
const before = start => start.slice(0, -1) + String.fromCharCode(start.charCodeAt(start.length - 1) - 1) + "~";

// One more than is shown says whether the next begins so, too.
async function search(q, start, signal) {
  const d = await get("tenants", start ? {limit: q.limit + 1, after: q.after || (q.before ? undefined : before(start)), before: q.before} : q, signal);
  if (!start) return d;
  const all = d.data.filter(t => t.name.startsWith(start)), data = q.before ? all.slice(-q.limit) : all.slice(0, q.limit);
  return {...d, data, has_more: all.length > data.length, first_id: data[0]?.name ?? null, last_id: data.at(-1)?.name ?? null};
}

export const tenantFields = t => {
  const weight = h("input", {type: "number", name: "weight", min: "0.01", max: "100", step: "any", value: t?.weight ?? 1, required: true}), cls = select(["interactive", "normal", "batch"], t?.class ?? "normal", null, {name: "class"});
  const priv = h("input", {type: "checkbox", name: "private", checked: !!t?.private}), deadline = h("input", {type: "number", name: "deadline", min: "1", max: "86400000", value: t?.deadline_ms ?? "", placeholder: "none"});
  return {fields: [h("div.two", null, field("Weight", weight, "Its share of the engines beside others that wait."), field("Class", cls, "Whose turn comes first.")), field("First token within, ms", deadline, "What can't be served in time is refused at once."), h("label.check", null, priv, "Private: its requests never leave local engines")],
    read: () => ({weight: Number(weight.value), class: cls.value, private: priv.checked, deadline_ms: deadline.value ? Number(deadline.value) : null})};
};

async function create() {
  const name = h("input", {name: "name", required: true, pattern: NAME, autocomplete: "off", spellcheck: "false"}), more = tenantFields();
  const made = await ask({title: "New tenant", verb: "Create", fields: [field("Name", name, "Small letters, digits, . _ and -"), more.fields], submit: () => change("POST", "tenants", {name: name.value.trim(), ...more.read()})});
  if (made) { toast(`Tenant ${made.name} is there.`); route.go(["tenant", made.name]); }
}

export default function tenants({page, params}) {
  const view = params.view === "top" ? "top" : "all", start = (params.q || "").toLowerCase();
  const find = h("input", {type: "search", id: "q", value: params.q || "", placeholder: "Begins with…", "aria-label": "Tenants whose names begin with", autocomplete: "off", spellcheck: "false", oninput: e => { clearTimeout(wait); wait = setTimeout(() => route.set({q: e.target.value.trim() || undefined}, {quiet: true}), 250); }});
  let wait;
  page.onclose(() => clearTimeout(wait));
  const body = view === "top" ? topPanel({page, params: {...params, tenant: undefined}, title: "Tenants by use", by: "tenant", sort: params.sort || "tokens", limit: 100})
    : paged({page, title: "Tenants", note: start ? `beginning with “${start}”` : "by name", columns: COLUMNS, load: (q, signal) => search(q, start, signal), empty: start ? "No tenant's name begins so." : "There is no tenant yet."});
  return {title: "Tenants", tools: [view === "top" ? range(params) : null, choice("Tenants", [["all", "All"], ["top", "By use"]], view, v => route.set({view: v === "all" ? undefined : v})), mayWrite() && button("New tenant", create, {kind: "first", id: "new"})],
    body: h("div.grid", null, view === "all" && frame({title: ""}, h("div.row", null, find)), body)};
}
