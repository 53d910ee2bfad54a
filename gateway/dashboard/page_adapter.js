// adapter: one adapter with its versions: their states, what they are made of, where they are resident, and what can be done with them. Aliases that lead here are
// listed beside; changing one is the alias's own page.

import {ask, change, get, isAdmin, may, session} from "./api.js";
import {compare, range} from "./controls.js";
import {button, h, tag} from "./dom.js";
import {confirm, details} from "./dialog.js";
import * as fmt from "./format.js";
import {frame, panel, toast} from "./panel.js";
import {notice, onlyOperator, stateCell} from "./quarantine.js";
import * as route from "./route.js";
import {scoresPanel} from "./scores.js";
import {seriesPanel} from "./series.js";
import {asCsv, facts, table} from "./table.js";
import {adapterColumns, residency} from "./page_adapters.js";

export const adapterApi = (tenant, name) => (isAdmin() ? `tenants/${encodeURIComponent(tenant)}/` : "") + "adapters/" + encodeURIComponent(name);

const CHARTS = [["Requests", "none", "requests"], ["Failed requests", "none", "errors"], ["Tokens by version", "version", "tokens"], ["Cost by version", "version", "cost_nano"]]; // of this adapter, by the day

const SURE = {lift: ["Restore", "It is in quarantine: it is tested anew, and serves when that went well. If engines are lost with it again it is back here after two."], archive: ["Archive", "It serves no more and leaves the engines; its bytes stay, and it can be restored."], delete: ["Delete", "It is removed for good once requests in flight have ended."]};

async function act(api, v, what, reload) {
  const at = `${api}/versions/${v.version}`, run = () => what === "delete" ? ask("DELETE", at).then(r => r.json()) : change("POST", `${at}/${what}`, undefined, {once: false, timeout: 120000});
  const sure = SURE[what === "restore" && v.state === "quarantined" ? "lift" : what];
  if (sure) { if (!await confirm(`${sure[0]} ${v.name ?? ""}@${v.version}?`, sure[1], sure[0], run)) return; } else try { await run(); } catch (e) { return toast(e.message, "bad"); }
  toast(`Version ${v.version}: ${what === "warm" ? "loaded" : what === "pin" ? "pinned" : what === "unpin" ? "not pinned any more" : what === "restore" ? "is being tested" : what + "d"}.`);
  reload();
}

const ACTS = {ready: v => [v.pinned ? "unpin" : "pin", "warm", "archive"], archived: () => ["restore", "delete"], quarantined: v => onlyOperator(v) ? ["delete"] : ["restore", "delete"], failed: () => ["delete"]};

function more(v) {
  details(`${v.name ?? ""}@${v.version}`, v.failure && h("p.fault", null, `${fmt.words(v.failure.code)}${v.failure.tensor ? " · " + v.failure.tensor : ""}: ${v.failure.detail}`), facts([
    ["State", tag(v.state, fmt.stateKind(v.state))], v.reason && ["Why", v.reason], ["Kind", v.kind], ["Rank", v.rank], ["Scale", v.scale], ["Base", v.base], ["Modules", (v.modules || []).join(", ")], ["Bytes", fmt.bytes(v.bytes)], ["Digest", h("span.mono.tiny", null, v.digest)], ["SHA-256 of the weights", h("span.mono.tiny", null, v.file_sha256)],
    ["Largest error of the self-test", v.max_error === null ? fmt.NONE : v.max_error.toPrecision(3)], ["Made", fmt.moment(v.created_at)], ["Changed", fmt.moment(v.changed_at)]]));
}

const columns = (api, write, reload) => [
  {key: "version", label: "Version", value: v => v.version, show: v => button("@" + v.version, () => more(v), {kind: "quiet small", id: "version-" + v.version})},
  {key: "state", label: "State", show: stateCell}, {key: "resident", label: "Resident", fixed: true, show: v => residency({resident: (v.residency || []).filter(r => r.resident), pinned: v.pinned}), value: v => (v.residency || []).filter(r => r.resident).map(r => r.engine).join(" ")},
  {key: "kind", label: "Kind"}, {key: "rank", label: "Rank", num: true}, {key: "bytes", label: "Bytes", num: true, show: v => fmt.bytes(v.bytes)}, {key: "max_error", label: "Self-test", num: true, show: v => v.max_error === null ? fmt.NONE : v.max_error.toPrecision(2), title: "Largest relative error"},
  {key: "requests", label: "Requests", num: true, show: v => fmt.compact(v.requests)}, {key: "last_used_at", label: "Last used", num: true, value: v => v.last_used_at && fmt.moment(v.last_used_at), show: v => fmt.ago(v.last_used_at)}, {key: "created_at", label: "Made (UTC)", value: v => fmt.date(v.created_at), class: "nowrap"},
  write && {key: "acts", label: "", noCsv: true, fixed: true, value: () => "", class: "nowrap", show: v => h("div.row", null, (ACTS[v.state]?.(v) || []).map(what => button(what[0].toUpperCase() + what.slice(1), () => act(api, v, what, reload), {kind: what === "delete" ? "small danger" : "small", "aria-label": `${what} version ${v.version}`})))},
].filter(Boolean);

const held = d => d.versions.filter(v => v.state === "quarantined");

function versions(page, api, tenant, name) {
  return panel({page, title: name, flush: true, load: signal => get(api, {}, signal), csv: d => asCsv(columns(api, false), d.versions), name: name + " versions",
    draw: (d, {reload}) => [d.description ? h("div.panel-body", null, h("p.soft", null, d.description)) : null, held(d).length ? h("div.panel-body.stack", null, held(d).map(v => notice(v, {tenant, name, reload}))) : null, table({columns: columns(api, !isAdmin() && may("adapters"), reload), rows: d.versions, caption: `Versions of ${name}`})]});
}

// Its rows in the list of all, which are the first of those whose names begin so.
async function allOf(tenant, name, query, signal) {
  const data = [];
  for (let after, own; ; ) {
    const d = await get("stats/adapters", {...query, tenant, q: `${tenant ?? session.name}/${name}`, limit: 100, after}, signal);
    data.push(...(own = d.data.filter(r => r.adapter === name)));
    if (!d.has_more || own.length < d.data.length) return {data};
    after = d.last_id;
  }
}

// What the statistics know beside: cold loads and aliases, also where the adapter's own route is not this key's.
function use(page, params, name) {
  const t = route.times(params), tenant = params.tenant, cols = adapterColumns(false).filter(c => !["rank", "kind", "bytes", "state", "resident"].includes(c.key));
  return panel({page, title: "Use and cold loads", flush: true, load: signal => allOf(tenant, name, {start_time: t.start, end_time: t.end}, signal), empty: d => !d.data.length, csv: d => asCsv(cols, d.data),
    draw: d => { const names = [...new Set(d.data.flatMap(r => r.aliases || []))]; return [table({columns: cols, rows: d.data, caption: "Use of " + name}), names.length ? h("p.pager", null, "Aliases that lead here: ", names.map((n, i) => [i ? ", " : "", h("a", {href: route.href(isAdmin() ? ["alias", tenant, n] : ["alias", n])}, n)])) : null]; }});
}

export default function adapter({page, path, params: given}) {
  const [tenant, name] = isAdmin() ? path : [undefined, path[0]], params = {...given, tenant}, api = adapterApi(tenant, name);
  const about = isAdmin() ? {title: `${tenant} / ${name}`} : {title: name};
  if (!name) return {title: "Adapter", body: frame({title: ""}, "The link names no adapter.")};
  return {...about, up: ["adapters", "Adapters"], tools: [range(given), compare(given), !isAdmin() && may("inference") ? h("a.button", {href: route.href("try", {a: name})}, "Try") : null], body: h("div.grid", null,
    versions(page, api, tenant, name), (isAdmin() || may("usage")) && [use(page, params, name),
    scoresPanel({page, params: given, adapter: name, tenant}), CHARTS.map(([title, by, measure]) => seriesPanel({page, params, title, by, measure, adapter: name, width: "w6"}))])};
}
