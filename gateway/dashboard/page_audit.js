// audit: every change, who made it and from where, newest first; each row's hash covers the row before, and the chain can be walked from here.

import {get} from "./api.js";
import {button, h, tag} from "./dom.js";
import {details} from "./dialog.js";
import * as fmt from "./format.js";
import {toast} from "./panel.js";
import {facts, paged} from "./table.js";

const json = v => v === null || v === undefined ? h("p.soft", null, "nothing") : h("pre.json", null, JSON.stringify(v, null, 2));

// The members that differ, in words.
export function difference(row) {
  const a = row.before || {}, b = row.after || {};
  const names = [...new Set([...Object.keys(a), ...Object.keys(b)])].filter(n => JSON.stringify(a[n]) !== JSON.stringify(b[n]) && n !== "revision");
  const brief = v => v === undefined ? "none" : typeof v === "object" && v !== null ? "…" : String(v);
  return names.slice(0, 4).map(n => row.before && row.after ? `${fmt.words(n)} ${brief(a[n])} → ${brief(b[n])}` : `${fmt.words(n)} ${brief(b[n] ?? a[n])}`).join(", ") + (names.length > 4 ? ", …" : "");
}

const open = row => details(`Change ${row.seq}: ${row.action}`, facts([["Time", fmt.moment(row.created_at) + " UTC"], ["By", row.actor], ["From", row.ip], ["Request", h("span.mono", null, row.request_id)], ["Target", row.target], ["Hash", h("span.mono", null, row.hash)]]), h("div.two", null, h("div.stack", null, h("h3", null, "Before"), json(row.before)), h("div.stack", null, h("h3", null, "After"), json(row.after))));

async function verify(e) {
  const b = e.target;
  b.disabled = true;
  try {
    const r = await get("audit/verify");
    toast(r.valid ? `The chain is whole: ${fmt.int(r.rows)} rows. Last hash ${r.hash.slice(0, 16)}…` : `Row ${r.first_bad} is not what it was when it was written.`, r.valid ? "" : "bad");
  } catch (error) { toast(error.message, "bad"); } finally { b.disabled = false; }
}

export default function audit({page}) {
  return {title: "Audit", tools: [button("Walk the chain", verify, {id: "verify"})], body: h("div.grid", null,
    paged({page, title: "Changes", note: "newest first", newest: true, path: "audit", columns: [
      {key: "created_at", label: "Time (UTC)", value: r => fmt.moment(r.created_at), class: "nowrap"}, {key: "action", label: "What", show: r => tag(r.action)}, {key: "target", label: "To what", class: "wide"}, {key: "change", label: "Change", value: difference, class: "wide"},
      {key: "actor", label: "By", class: "mono"}, {key: "ip", label: "From", class: "mono"}, {key: "seq", label: "No.", num: true, show: r => button(String(r.seq), () => open(r), {kind: "small quiet", "aria-label": `Change ${r.seq} in full`})},
    ]}))};
}
