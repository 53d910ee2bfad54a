// webhooks: where usage and events are sent to, how far each receiver is behind, and what can be done about it. The secret that signs is shown once, when it is made or
// renewed, and is nowhere in this page's memory afterwards.

import {ask as request, change, isAdmin, mayWrite} from "./api.js";
import {fromLocal, tenant, toLocal} from "./controls.js";
import {NAME, button, field, h, select, tag} from "./dom.js";
import {ask, confirm, details, showSecret} from "./dialog.js";
import * as fmt from "./format.js";
import {toast} from "./panel.js";
import * as route from "./route.js";
import {facts, paged} from "./table.js";

const GRACE = [["86400", "a day"], ["3600", "an hour"], ["604800", "a week"], ["0", "none: it signs no more now"]];
const WAITING_MAX = 10000, TEST_MS = 20000, ONCE = "It is shown this once. Give it to the receiver: it checks by it that a message is from here and unchanged.";

const at = (w, what) => `webhooks/${w.id}` + (what ? "/" + what : "");
const whose = w => w.tenant ?? "all";
const sends = w => [w.usage && "usage", w.events.length && (w.events.includes("*") ? "all events" : w.events.join(", "))].filter(Boolean).join("; ") || "nothing";
const words = text => text.split(/[\s,]+/).filter(Boolean);

function lag(w) {
  return w.waiting ? `${w.waiting >= WAITING_MAX ? "over " : ""}${fmt.int(w.waiting)}, ${fmt.span(w.waiting_s)}` : "none";
}

function attempt(w) {
  if (w.failures) return h("span", {title: w.last_error}, tag(`${fmt.int(w.failures)} failed`, "bad"), w.last_status && ` ${w.last_status}`);
  return w.last_status ?? fmt.NONE;
}

function again(w) {
  const r = w.redelivery;
  return r && `from ${fmt.moment(r.start_time)} to ${r.end_time === null ? "its resumption" : fmt.moment(r.end_time)} UTC`;
}

// --- making and changing ---

// The fields of both, and what they say. A change leaves the token alone unless one is typed.
function form(w, of) {
  const name = h("input", {name: "name", required: true, pattern: NAME, value: w?.name ?? "", autocomplete: "off", spellcheck: "false"}), url = h("input", {name: "url", type: "url", required: true, maxlength: 2048, value: w?.url ?? "", placeholder: "https://", autocomplete: "off", spellcheck: "false"});
  const owner = !w && isAdmin() ? h("input", {name: "tenant", value: of ?? "", placeholder: "all", autocomplete: "off", spellcheck: "false"}) : null, token = h("input", {name: "authorization", type: "password", maxlength: 1024, autocomplete: "off", placeholder: "Bearer TOKEN"});
  const usage = h("input", {name: "usage", type: "checkbox", checked: w ? w.usage : true}), events = h("input", {name: "events", value: (w?.events ?? []).join(" "), placeholder: "budget. version.failed", autocomplete: "off", spellcheck: "false"});
  return {fields: [h("div.two", null, field("Name", name), owner && field("Tenant", owner)), field("URL", url, "https, at a public address. Redirects are not followed."), h("label.check", null, usage, "Each settled request"), field("Events", events, "Beginnings of their types, with blanks between; * for all; none: no events."),
    field("Authorization", token, w ? "Left out: as it is. It is dropped when the URL changes." : "What the receiver wants in that header. It is kept sealed and shown nowhere.")],
  read: () => ({name: name.value.trim(), url: url.value.trim(), usage: usage.checked, events: words(events.value), ...(owner?.value.trim() ? {tenant: owner.value.trim()} : {}), ...(token.value ? {authorization: token.value} : {})})};
}

async function create(owner, reload) {
  const f = form(null, owner), made = await ask({title: "New webhook", text: "It is sent what is settled, and what happens, from now on.", verb: "Make", fields: f.fields, submit: () => change("POST", "webhooks", f.read())});
  if (!made) return;
  await showSecret("The secret of " + made.name, ONCE, made.secret);
  reload();
}

async function edit(w, reload) {
  const f = form(w), done = await ask({title: `Change ${w.name}`, fields: f.fields, submit: () => change("PATCH", at(w), f.read(), {revision: w.revision})});
  if (done) { toast(`${w.name} is changed.`); reload(); }
}

// --- what is done to one ---

async function test(w, e) {
  const b = e.target;
  b.disabled = true;
  try {
    const d = await change("POST", at(w, "test"), undefined, {once: false, timeout: TEST_MS});
    toast(d.delivered ? `${w.name} took the test: ${d.status}, ${fmt.ms(d.duration_ms)}.` : `${w.name} did not take the test: ${d.error ?? "it answered " + d.status}.`, d.delivered ? "" : "bad");
  } catch (error) { toast(error.message, "bad"); } finally { b.disabled = false; }
}

async function turn(w, what, reload) {
  try { await change("POST", at(w, what), undefined, {revision: w.revision}); toast(what === "pause" ? `${w.name} is sent nothing; what is settled waits.` : `${w.name} is sent what waits, and what it missed.`); } catch (error) { toast(error.message, "bad"); }
  reload();
}

async function redeliver(w, reload) {
  const now = Math.floor(Date.now() / 1000), from = h("input", {name: "from", type: "datetime-local", value: toLocal(now - 86400)}), to = h("input", {name: "to", type: "datetime-local"}), after = h("input", {name: "after", type: "number", min: 0, step: 1});
  const done = await ask({title: `Send again to ${w.name}`, text: "What it may have lost, with the ids that it had; it takes turns with what is new.", verb: "Send", fields: [h("div.two", null, field("From (UTC)", from), field("To (UTC)", to, "Left out: now.")), field("Or events after number", after, "Instead of a time; the number is in the list of events.")], submit: () => {
    const time = {...(from.value ? {start_time: fromLocal(from.value)} : {}), ...(to.value ? {end_time: fromLocal(to.value)} : {})};
    if (!after.value && !from.value) throw new Error("Say from when, or after which event.");
    return change("POST", at(w, "redeliver"), after.value ? {after_event: Number(after.value)} : time, {revision: w.revision});
  }});
  if (done) { toast("It is being sent."); reload(); }
}

async function rotate(w, reload) {
  const grace = select(GRACE, "86400"), made = await ask({title: `A new secret for ${w.name}`, text: "Until the grace is over both sign each message, so the receiver may change in between.", verb: "Renew", fields: [field("The old one signs for another", grace)], submit: () => change("POST", at(w, "rotate"), {grace_s: Number(grace.value)}, {revision: w.revision})});
  if (!made) return;
  await showSecret("The new secret of " + made.name, ONCE, made.secret);
  reload();
}

async function remove(w, reload) {
  if (await confirm(`Remove ${w.name}?`, "What waits for it is dropped; the ledger and exports keep it all.", "Remove", () => request("DELETE", at(w), {headers: {"If-Match": `"${w.revision}"`}}).then(r => r.json()))) { toast(`${w.name} is gone.`); reload(); }
}

const small = (w, label, act, kind = "small") => button(label, act, {kind, "aria-label": `${label}: ${w.name}`});

// What is done seldom stands here, and takes the place of this question.
function more(w, write, reload) {
  const instead = (label, act, kind) => small(w, label, e => { e.target.closest("dialog").close(); act(w, reload); }, kind);
  return details(w.name, w.last_error && h("p.fault", null, w.last_error), facts([
    ["State", tag(w.state, fmt.stateKind(w.state))], ["URL", h("span.mono.tiny", null, w.url)], ["Tenant", whose(w)], ["Sends", sends(w)], ["Not yet sent", lag(w)], w.redelivery && ["Sent again", again(w)],
    ["Taken", `${fmt.int(w.delivered)} events, the last ${fmt.ago(w.last_delivered_at)}`], ["Failed attempts since", fmt.int(w.failures)], w.failing_since && ["Failing since", fmt.moment(w.failing_since)], ["Last answer", w.last_status ?? "none"], ["Made", fmt.moment(w.created_at)], ["Id", h("span.mono.tiny", null, w.id)]]),
    write && h("div.row", null, instead("Send again", redeliver), instead("Change", edit), instead("New secret", rotate), instead("Remove", remove, "small danger")));
}

// --- the list ---

function acts(w, write, reload) {
  const turned = w.state === "enabled" ? ["Pause", "pause"] : ["Resume", "resume"];
  return [write && [small(w, "Test", e => test(w, e)), " ", small(w, turned[0], () => turn(w, turned[1], reload)), " "], small(w, "More", () => more(w, write, reload))];
}

const columns = (write, withTenant, reload) => [
  {key: "name", label: "Webhook", class: "nowrap"}, withTenant && {key: "tenant", label: "Tenant", value: whose, show: w => w.tenant ? h("a", {href: route.href(["tenant", w.tenant])}, w.tenant) : "all"},
  {key: "url", label: "URL", class: "clip"}, {key: "sends", label: "Sends", value: sends}, {key: "state", label: "State", show: w => [tag(w.state, fmt.stateKind(w.state)), w.redelivery && [" ", h("span", {title: again(w)}, tag("sending again", "info"))]], class: "nowrap"},
  {key: "waiting", label: "Not yet sent", num: true, show: lag, title: "Settled requests that it has not taken, and the age of the oldest"}, {key: "waiting_s", label: "Oldest, s", hidden: true}, {key: "attempt", label: "Last answer", value: w => w.last_error ?? w.last_status, show: attempt, class: "nowrap"}, {key: "failures", label: "Failures", hidden: true},
  {key: "delivered", label: "Taken", num: true, show: w => h("span", {title: w.last_delivered_at ? "the last " + fmt.ago(w.last_delivered_at) : null}, fmt.compact(w.delivered))},
  {key: "acts", label: "", noCsv: true, value: () => "", class: "nowrap", show: w => acts(w, write, reload)},
].filter(Boolean);

export default function webhooks({page, params}) {
  const write = !isAdmin() || mayWrite(), reload = () => node.reload();
  const node = paged({page, title: "Webhooks", note: "signed batches of CloudEvents, at least once", path: "webhooks", query: {tenant: params.tenant}, columns: columns(write, isAdmin() && !params.tenant, reload), empty: "Nothing is sent anywhere.", tools: write ? [button("New webhook", () => create(params.tenant, reload), {kind: "small first", id: "new-webhook"})] : []});
  return {title: "Webhooks", tools: [tenant(params)], body: h("div.grid", null, node)};
}
