// engines: what serves, how full it is and how fast a step takes; drained before work on a machine, enabled after it.

import {change, get, mayWrite} from "./api.js";
import {button, h, tag} from "./dom.js";
import {confirm, details} from "./dialog.js";
import * as fmt from "./format.js";
import {message, panel, toast} from "./panel.js";
import {list} from "./series.js";
import {asCsv, facts} from "./table.js";

const ACTS = {drain: ["Drain", "It gets nothing new; requests that it has end there. It stays so until it is enabled."], disable: ["Disable", "It gets nothing new, and a base that only disabled engines have is refused (404)."]};

async function act(engine, what, reload) {
  const run = () => change("POST", `engines/${encodeURIComponent(engine.name)}/${what}`, undefined);
  if (ACTS[what]) { if (!await confirm(`${ACTS[what][0]} ${engine.name}?`, ACTS[what][1], ACTS[what][0], run)) return; } else await run();
  toast(what === "enable" ? `${engine.name} gets requests again.` : `${engine.name} gets no new requests.`);
  reload();
}

function meter(label, used, total, show = fmt.int, warn = 0.85) {
  const share = total ? Math.min(1, used / total) : 0, bar = h("i");
  bar.style.width = (share * 100).toFixed(1) + "%";
  return h("div.stack.tight", null, h("div.row.apart.tiny.one", null, h("span.soft", null, label), h("span", null, total ? `${show(used)} of ${show(total)}` : show(used))), h("div.meter" + (share >= 0.98 ? ".bad" : share >= warn ? ".warn" : ""), {"aria-hidden": "true"}, bar));
}

function meters(e) {
  const s = e.status;
  return h("div.three", null, meter("Requests here", s.in_flight, e.capacity),
    s.slots ? meter(s.slots.loading ? `Slots, ${s.slots.loading} loading` : "Slots for adapters", s.slots.resident, s.slots.max, fmt.int, 1.01) : meter("Adapters held", s.adapters, 0),
    s.pages ? meter("Pages", s.pages.used, s.pages.total) : meter("Context memory", Math.round((s.kv_used || 0) * 100), 100, v => v + " %"));
}

function status(e) {
  const s = e.status;
  return h("div.two", null,
    facts([["Computes", `${fmt.int(s.running)} requests, ${fmt.int(s.waiting)} wait`], s.steps && s.steps.count ? ["A step", `${fmt.ms(s.steps.p50_ms)}, p99 ${fmt.ms(s.steps.p99_ms)}`] : null, ["Share it gets", fmt.percent(s.weight, 0)], s.device && ["Device", [s.device.name || s.device.backend, s.device.ranks > 1 ? ` × ${s.device.ranks}` : null, s.device.memory ? `, ${fmt.bytes(s.device.memory)}` : null]]]),
    facts([["Requests so far", fmt.int(s.requests)], ["Lost, refused", `${fmt.int(s.lost)}, ${fmt.int(s.refused)}`], ["Ejected", fmt.int(s.ejections) + (s.ejections === 1 ? " time" : " times")], ["Adapters evicted", fmt.int(s.evictions)], ["Where", e.url || "started here"]]));
}

function card(e, reload) {
  const off = e.state !== "enabled";
  return h("article.panel.w6", {"aria-label": e.name}, h("header", null, h("h2", null, e.name), tag(e.status.state, fmt.stateKind(e.status.state)), off && tag(e.status.drained ? e.state + ", empty" : e.state, "warn"), h("p", null, `${e.kind} · ${e.base}`),
    h("div.panel-tools", null, button("Settings", () => details(e.name, h("pre.json", null, JSON.stringify({...e, status: undefined}, null, 2))), {kind: "quiet small"}), mayWrite() && (off ? button("Enable", () => act(e, "enable", reload), {kind: "small", id: "enable-" + e.name}) : [button("Drain", () => act(e, "drain", reload), {kind: "small", id: "drain-" + e.name}), button("Disable", () => act(e, "disable", reload), {kind: "small danger"})]))),
  h("div.panel-body.stack", null, e.status.why && h("p.fault", null, e.status.why), meters(e), status(e)));
}

const COLUMNS = [["name", e => e.name], ["state", e => e.state], ["status", e => e.status.state], ["kind", e => e.kind], ["base", e => e.base], ["capacity", e => e.capacity], ["in_flight", e => e.status.in_flight], ["running", e => e.status.running], ["waiting", e => e.status.waiting], ["kv_used", e => e.status.kv_used], ["adapters", e => e.status.adapters], ["requests", e => e.status.requests], ["lost", e => e.status.lost], ["ejections", e => e.status.ejections], ["evictions", e => e.status.evictions]].map(([label, value]) => ({key: label, label, value}));

export default function engines({page}) {
  const one = panel({page, title: "Engines", width: "bare", note: "asked again every 5 s", load: signal => get("engines", {limit: 100}, signal), csv: d => asCsv(COLUMNS, list(d)),
    empty: d => list(d).length === 0 && "weft engine add puts one in.",
    draw: (d, {reload}) => h("div.grid", null, list(d).map(e => card(e, reload)), d.has_more && message("There are more than 100", "weft engine list shows all."))});
  const timer = setInterval(() => { if (!document.hidden && !document.querySelector("dialog[open]") && !one.contains(document.activeElement)) one.reload({still: true}); }, 5000);
  page.onclose(() => clearInterval(timer));
  return {title: "Engines", body: h("div.grid.bare", null, one)};
}
