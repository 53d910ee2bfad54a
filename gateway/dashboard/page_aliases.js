// aliases: the names that clients call, and what each leads to.

import {change, isAdmin, may, mayWrite} from "./api.js";
import {tenant} from "./controls.js";
import {NAME, button, field, h, tag} from "./dom.js";
import {ask} from "./dialog.js";
import * as fmt from "./format.js";
import {frame, message, toast} from "./panel.js";
import * as route from "./route.js";
import {paged} from "./table.js";

export const aliasApi = (owner, name) => (isAdmin() ? `tenants/${encodeURIComponent(owner)}/` : "") + "aliases" + (name ? "/" + encodeURIComponent(name) : "");
export const targetName = t => t.base ? t.base + " (base)" : t.adapter + (t.version ? "@" + t.version : "");
export const mayAlias = () => isAdmin() ? mayWrite() : may("adapters");

export function shares(alias) {
  const sum = alias.targets.reduce((n, t) => n + (t.weight ?? 1), 0);
  return alias.targets.map(t => alias.policy === "fallback" ? null : sum ? (t.weight ?? 1) / sum : 0);
}

const leads = a => a.targets.map((t, i) => (a.policy === "fallback" ? `${i + 1}. ` : `${fmt.percent(shares(a)[i], 0)} `) + targetName(t)).join(", ");

async function create(owner) {
  const name = h("input", {required: true, pattern: NAME, autocomplete: "off", spellcheck: "false"}), target = h("input", {required: true, autocomplete: "off", spellcheck: "false", placeholder: "name or name@version"});
  const made = await ask({title: "New alias", text: "It decides from now on what its name leads to, also where an adapter has that name.", verb: "Create", fields: [field("Name", name, "Small letters, digits, . _ and -"), field("Adapter", target)], submit: () => {
    const [adapter, version] = target.value.trim().split("@");
    return change("PUT", aliasApi(owner, name.value.trim()), {targets: [{adapter, ...(version ? {version: Number(version)} : {})}]});
  }});
  if (made) { toast(`Alias ${made.name} is set.`); route.go(isAdmin() ? ["alias", owner, made.name] : ["alias", made.name]); }
}

export default function aliases({page, params}) {
  const owner = params.tenant;
  if (isAdmin() && !owner) return {title: "Aliases", tools: [tenant(params)], body: frame({title: "Aliases"}, message("Whose?", "Names of aliases belong to tenants: type one above.", "", h("a", {href: route.href("tenants")}, "All tenants")))};
  return {title: "Aliases", tools: [tenant(params), mayAlias() && button("New alias", () => create(owner), {kind: "first", id: "new"})], body: h("div.grid", null,
    paged({page, title: "Aliases", path: aliasApi(owner), empty: "There is no alias: names lead to adapters themselves.", columns: [
      {key: "name", label: "Alias", show: a => h("a", {href: route.href(isAdmin() ? ["alias", owner, a.name] : ["alias", a.name])}, a.name)}, {key: "policy", label: "Policy", show: a => tag(a.policy, "info")}, {key: "targets", label: "Leads to", value: leads, class: "wide"},
      {key: "sticky", label: "Sticks to"}, {key: "system_prefix", label: "Prefix", value: a => a.system_prefix ? "yes" : "no"}, {key: "prompt_policy", label: "Prompts", value: a => Object.keys(a.prompt_policy || {}).join(", ") || "as they come"}, {key: "changed_at", label: "Changed (UTC)", value: a => fmt.moment(a.changed_at), class: "nowrap"},
      {key: "canary", label: "", noCsv: true, value: () => "", show: a => a.targets.length > 1 ? h("a", {href: route.href("canary", {alias: a.name})}, "Compare") : ""}]}))};
}
