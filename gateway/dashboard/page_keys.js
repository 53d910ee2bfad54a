// keys: who may call. A key's text is shown once, when it is made or renewed, and is nowhere in this page's memory afterwards.

import {ask as request, change, isAdmin, may, mayWrite, session} from "./api.js";
import {button, field, h, select, tag} from "./dom.js";
import {ask, confirm, showSecret} from "./dialog.js";
import * as fmt from "./format.js";
import {toast} from "./panel.js";
import {paged} from "./table.js";

const ROLES = {tenant: [["inference", "Inference: asks models"], ["writer", "Writer: uploads adapters, sets aliases"], ["billing", "Billing: reads usage and cost"], ["admin", "Admin: all of these, and keys"]], admin: [["viewer", "Viewer: reads everything, changes nothing"], ["admin", "Admin: changes everything"], ["backup", "Backup: a standby follows with it, and gets all there is"]]};
const GRACE = [["86400", "a day"], ["3600", "an hour"], ["604800", "a week"], ["0", "none: the old one ends now"]];

function state(k) {
  const now = Date.now() / 1000;
  return k.revoked_at ? ["revoked", "bad"] : k.expires_at && k.expires_at <= now ? ["expired", "warn"] : k.replaced_by ? ["being replaced", "warn"] : ["valid", "good"];
}

async function create({path, roles}, reload) {
  const name = h("input", {maxlength: 100, autocomplete: "off", placeholder: "production"}), end = h("input", {type: "date"}), boxes = ROLES[roles].map(([word, label], i) => [h("input", {type: "checkbox", value: word, checked: i === 0}), label]);
  const made = await ask({title: "New key", verb: "Make", fields: [field("Name", name, "For people."), h("fieldset.stack.bare", null, h("legend.strong", null, "Roles"), boxes.map(([box, label]) => h("label.check", null, box, label))), field("Valid until (UTC)", end, "Left out: until it is revoked.")], submit: () => {
    const chosen = boxes.filter(([b]) => b.checked).map(([b]) => b.value);
    if (!chosen.length) throw new Error("Choose at least one role.");
    return change("POST", path, {...(name.value.trim() ? {name: name.value.trim()} : {}), roles: chosen, ...(end.value ? {expires_at: Date.parse(end.value + "T00:00:00Z") / 1000} : {})});
  }});
  if (!made) return;
  await showSecret("Your new key", "It is shown this once and stored nowhere. Keep it where its program finds it.", made.key);
  reload();
}

async function rotate(k, one, reload) {
  const grace = select(GRACE, "86400");
  const made = await ask({title: `Renew ${k.name || k.id}`, text: "The new key has the same rights and limits. Both work until the grace is over.", verb: "Renew", fields: [field("The old one works for another", grace)], submit: () => change("POST", `${one}/${k.id}/rotate`, {grace_s: Number(grace.value)}, {revision: k.revision})});
  if (!made) return;
  await showSecret("The new key", "It is shown this once. The old one works until its grace is over.", made.key);
  reload();
}

async function revoke(k, one, reload) {
  const own = k.id === session.id ? " It is the key that you opened this page with." : "";
  if (await confirm(`Revoke ${k.name || k.id}?`, "From now on every request with it is refused, for good." + own, "Revoke", () => request("DELETE", `${one}/${k.id}`, {headers: {"If-Match": `"${k.revision}"`}}).then(r => r.json()))) { toast("It is revoked."); reload(); }
}

// path: where they are listed and made; one: where single ones are; roles: tenant or admin.
export function keysPanel(page, {path, one, roles, write, title = "Keys"}) {
  const at = {path, one, roles}, reload = () => node.reload();
  const columns = [
    {key: "name", label: "Name", value: k => k.name || k.redacted, show: k => k.name || h("span.soft", null, "unnamed")}, {key: "id", label: "Public id", class: "mono", show: k => [k.id, k.id === session.id && [" ", tag("this key", "info")]]}, {key: "state", label: "State", value: k => state(k)[0], show: k => tag(...state(k))}, {key: "rights", label: "May", value: k => k.roles.length ? k.roles.join(", ") : k.scopes.join(", ")},
    {key: "last_used_at", label: "Last used", num: true, value: k => k.last_used_at && fmt.moment(k.last_used_at), show: k => fmt.ago(k.last_used_at)}, {key: "created_at", label: "Made (UTC)", value: k => fmt.date(k.created_at), class: "nowrap"}, {key: "expires_at", label: "Until (UTC)", value: k => k.expires_at ? fmt.date(k.expires_at) : null, show: k => k.expires_at ? fmt.date(k.expires_at) : "no end", class: "nowrap"}, {key: "created_by", label: "By", class: "mono"},
    write && {key: "acts", label: "", noCsv: true, value: () => "", class: "nowrap", show: k => k.revoked_at ? "" : h("div.row", null, roles === "tenant" && !k.replaced_by ? button("Renew", () => rotate(k, one, reload), {kind: "small"}) : null, button("Revoke", () => revoke(k, one, reload), {kind: "small danger"}))},
  ].filter(Boolean);
  const node = paged({page, title, path, columns, id: "k", tools: write ? [button("New key", () => create(at, reload), {kind: "small first", id: "new-key"})] : [], empty: "There is no key yet."});
  return node;
}

export default function keys({page}) {
  return {title: isAdmin() ? "Operators' keys" : "Keys", body: h("div.grid", null, isAdmin() ? keysPanel(page, {path: "admin-keys", one: "admin-keys", roles: "admin", write: mayWrite(), title: "Operators' keys"}) : keysPanel(page, {path: "keys", one: "keys", roles: "tenant", write: may("keys")}))};
}
