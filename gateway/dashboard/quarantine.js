// quarantine: what took engines down, or gave values that are not finite, and is therefore refused: versions of adapters, which are lifted by a new self-test, and
// single requests, of which nothing is known but a digest. Why, since when, and what can be done about it, on whichever page.

import {ask, change, isAdmin, may, mayWrite} from "./api.js";
import {button, h, tag} from "./dom.js";
import {confirm} from "./dialog.js";
import * as fmt from "./format.js";
import {toast} from "./panel.js";
import * as route from "./route.js";
import {paged} from "./table.js";

const WHY = {engine_lost: "engines lost", adapter_fault: "not finite"}; // of these two the detail says it all
const shortWhy = v => WHY[v.failure.code] ?? fmt.words(v.failure.code);
export const whyOf = v => !v.failure ? "" : v.failure.code in WHY ? v.failure.detail : `${fmt.words(v.failure.code)}: ${v.failure.detail}`;

// What engines were lost with its tenant does not restore.
export const onlyOperator = v => v.failure?.code === "engine_lost";

// A version's state; below it, where it is one that asks for somebody, since when and why.
export function stateCell(v) {
  const shown = tag(v.state, fmt.stateKind(v.state));
  return v.failure ? h("div", {title: `${fmt.moment(v.changed_at)}: ${whyOf(v)}`}, shown, h("div.tiny.soft.nowrap", null, fmt.ago(v.changed_at)), h("div.tiny.soft", null, shortWhy(v))) : shown;
}

// The operator's: a tenant restores its own beside its other versions.
export async function liftVersion({tenant, adapter, version}, done) {
  const name = `${tenant}/${adapter}@${version}`, at = `tenants/${encodeURIComponent(tenant)}/adapters/${encodeURIComponent(adapter)}/versions/${version}/restore`;
  if (!await confirm(`Lift the quarantine of ${name}?`, "It is tested anew, and serves when that went well. If engines are lost with it again it is back here after two.", "Lift", () => change("POST", at, undefined, {once: false, timeout: 120000}))) return;
  toast(`${name} is being tested.`);
  done();
}

export const liftButton = (v, done) => button("Lift", () => liftVersion(v, done), {kind: "small", id: `lift-${v.adapter}-${v.version}`, "aria-label": `Lift the quarantine of ${v.adapter}, version ${v.version}`});

// Above an adapter's versions: one for each that is in quarantine.
export function notice(v, {tenant, name, reload}) {
  const todo = isAdmin() ? "Lifted, it is tested anew first. If the same comes back, its owner has to upload another version."
    : onlyOperator(v) ? "Upload a new version of other bytes. If you think that this one is sound, ask the operator, who alone can lift it: the engines' logs say what they ended of."
    : "Upload a new version, or restore this one, which is tested anew first. If you think that it is sound, ask the operator: the engines' logs say what they ended of.";
  return h("div.verdict.bad", {role: "note", "aria-label": `Version ${v.version} is in quarantine`}, h("strong", null, `@${v.version} is in quarantine since ${fmt.moment(v.changed_at)} UTC`), h("span", null, `${fmt.ago(v.changed_at)}. Why: ${whyOf(v)}. Its requests are refused (422).`), h("span", null, todo),
    h("div.row", null, isAdmin() ? mayWrite() && liftButton({tenant, adapter: name, version: v.version}, reload) : may("adapters") && h("a.button.small", {href: route.href("upload")}, "Upload a new version")));
}

// --- requests ---

async function liftRequest(r, done) {
  if (!await confirm("Let this request be served again?", `${r.crashes} engines were lost with it. It begins anew: if it is as bad as before, two more will be.`, "Lift", () => ask("DELETE", "quarantine/" + encodeURIComponent(r.id)).then(x => x.json()))) return;
  toast("It is served again.");
  done();
}

const columns = (withTenant, reload) => [
  {key: "created_at", label: "Since (UTC)", value: r => fmt.moment(r.created_at), class: "nowrap"}, {key: "expires_at", label: "Until (UTC)", value: r => fmt.moment(r.expires_at), show: r => h("span", {title: fmt.ago(r.expires_at)}, fmt.moment(r.expires_at)), class: "nowrap", room: "mid"},
  withTenant && {key: "tenant", label: "Tenant", class: "clip short", room: "min", show: r => h("a", {href: route.href(["tenant", r.tenant])}, r.tenant)}, {key: "model", label: "Model", value: r => r.scope === "tenant" ? "all its requests" : r.model, class: "clip", room: "mid"}, {key: "adapter", label: "Adapter", value: r => r.adapter, show: r => r.adapter ?? fmt.NONE, class: "clip", room: "min"},
  {key: "crashes", label: "Engines lost", num: true, room: "mid"}, {key: "id", label: "Digest", room: "mid", show: r => h("span.mono.tiny", null, r.id)},
  (isAdmin() ? mayWrite() : may("adapters")) && {key: "act", label: "", noCsv: true, fixed: true, show: r => r.scope === "tenant" && !isAdmin() ? "" : button("Lift", () => liftRequest(r, reload), {kind: "small", id: "lift-" + r.id, "aria-label": "Lift the quarantine of request " + r.id})},
].filter(Boolean);

// Those that are refused now. Most of the time there are none, and no panel.
export function requestsPanel(page, params) {
  if (!isAdmin() && !may("adapters")) return null;
  const reload = () => node.reload({still: true});
  const node = paged({page, title: "Requests in quarantine", note: "engines were lost with them; what they asked is not kept", id: "held", path: "quarantine", query: {tenant: isAdmin() ? params.tenant : undefined}, columns: columns(isAdmin() && !params.tenant, reload),
    empty: "None is refused.", onload: d => { node.hidden = !d.data.length && !params.afterheld && !params.beforeheld; }});
  node.hidden = true;
  return node;
}

// How many, as a line with links; the same nodes for as long as the page stands, so that the keyboard stays where it is.
export function countLine() {
  const adapters = h("a", {id: "held-adapters"}), requests = h("a", {id: "held-requests"}), node = h("p.verdict.bad", {hidden: true, role: "note", "aria-label": "Quarantine"}, h("span.row", null, h("span", null, "In quarantine:"), adapters, requests));
  const show = (at, n, word, href) => { at.hidden = !n; at.href = href; const text = n === 1 ? `1 ${word}` : `${fmt.int(n)} ${word}s`; if (at.textContent !== text) at.textContent = text; };
  return {node, set(v) {
    if (!v) return;
    show(adapters, v.adapters, "adapter", route.href("adapters", {state: "quarantined"}));
    show(requests, v.requests, "request", route.href("errors"));
    node.hidden = !v.adapters && !v.requests;
  }};
}
