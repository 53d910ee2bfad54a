// exports: every usage row of a time as a file: CSV and JSON lines for programs, FOCUS for tools of cloud costs. Where the browser can write files, rows go to the
// disk as they come; else they are gathered first, up to a bound. One that breaks goes on behind the last request whose lines are all there (?after=).

import {ask, change, isAdmin, may, mayWrite} from "./api.js";
import {tenant, range} from "./controls.js";
import {ask as question} from "./dialog.js";
import {NAME, button, field, h, select, tag} from "./dom.js";
import {save} from "./csv.js";
import * as fmt from "./format.js";
import {frame, panel, toast} from "./panel.js";
import {records} from "./records.js";
import * as route from "./route.js";
import {paged} from "./table.js";

const FORMATS = {csv: ["CSV", "text/csv", "csv", "All columns of the ledger, RFC 4180; cells that a spreadsheet would run are quoted."], jsonl: ["JSON lines", "application/x-ndjson", "jsonl", "One object a line, as the request explorer shows it."], focus: ["FOCUS 1.2", "text/csv", "focus.csv", "The FinOps Foundation's columns; tokens are the pricing unit."]};
const TRIES = 5, AGAIN_MS = 1500, MEMORY_MAX = 512 << 20, SPEAK_MS = 250, BUSY = [429, 502, 503, 504];

// Where rows go: a file of the disk, or memory.
async function sink(name, type) {
  if (globalThis.showSaveFilePicker && isSecureContext && !navigator.webdriver) {
    const file = await (await showSaveFilePicker({suggestedName: name})).createWritable();
    return {write: b => file.write(b), end: () => file.close(), drop: () => file.abort()};
  }
  const parts = [];
  let size = 0;
  return {write: b => { size += b.length; if (size > MEMORY_MAX) throw new Error(`More than ${fmt.bytes(MEMORY_MAX)}: use weft export, which writes to the disk.`); parts.push(b); }, end: () => save(name, new Blob(parts, {type}), type), drop: () => {}};
}

// Passes an answer on as it comes, to its end. What it breaks off within is not passed on (records.js).
async function pump(body, format, state, write, stop) {
  const reader = body.getReader(), lines = records(format === "jsonl", state, write);
  const leave = () => { reader.cancel().catch(() => { /* it is broken already */ }); };
  stop.addEventListener("abort", leave, {once: true});
  try {
    for (let got; !(got = await reader.read()).done; state.say()) await lines.take(got.value);
    if (!stop.aborted) await lines.end();
  } finally {
    stop.removeEventListener("abort", leave);
    leave();
  }
}

// A break is mended by asking for what is behind the last request that is whole; so is a server that is busy or begins anew, once an answer had begun. Only tries in a row
// that brought nothing are counted.
async function download({format, query, status, bar, stop}) {
  const [label, type, ending] = FORMATS[format], state = {rows: 0, bytes: 0, last: "", head: null, spoken: 0, say: () => { if (performance.now() - state.spoken < SPEAK_MS) return; state.spoken = performance.now(); status.textContent = `${fmt.int(state.rows)} lines, ${fmt.bytes(state.bytes)}`; }};
  const out = await sink(`weft-usage-${fmt.date(query.start_time)}-${fmt.date(query.end_time)}.${ending}`, type), write = async b => { try { await out.write(b); } catch (e) { throw Object.assign(e, {final: true}); } };
  let began = false;
  bar.hidden = false;
  try {
    for (let tries = 0; ; tries++) {
      const before = state.rows;
      try {
        const r = await ask("GET", "exports/usage", {query: {...query, format, after: state.last}, signal: stop, timeout: 0});
        began = true;
        await pump(r.body, format, state, write, stop);
        break;
      } catch (e) {
        if (state.rows > before) tries = 0;
        if (stop.aborted || e.final || (e.status && !BUSY.includes(e.status)) || !began || tries >= TRIES) throw e;
        status.textContent = `Broken after ${fmt.int(state.rows)} lines; going on behind the last request.`;
        await new Promise(done => setTimeout(done, AGAIN_MS * (tries + 1)));
      }
    }
    if (stop.aborted) throw new DOMException("stopped", "AbortError");
    await out.end();
    status.textContent = `${label}: ${fmt.int(state.rows)} lines, ${fmt.bytes(state.bytes)}.`;
    toast("The export is complete.");
  } catch (e) {
    out.drop();
    if (e.name !== "AbortError") throw e;
    status.textContent = "Stopped.";
  } finally { bar.hidden = true; }
}

// --- schedules: the gateway writes files by itself ---

const PLANS = [{key: "name", label: "Schedule"}, {key: "format", label: "Format"}, {key: "every", label: "Every"}, {key: "tenant", label: "Tenant", value: s => s.tenant ?? "all"}, {key: "state", label: "State", show: s => tag(s.state, fmt.stateKind(s.state))}, {key: "files", label: "Files", num: true, show: s => fmt.int(s.files)},
  {key: "done_until", label: "Written until (UTC)", value: s => s.done_until ? fmt.moment(s.done_until) : null, class: "nowrap"}, {key: "behind_s", label: "Behind", num: true, show: s => s.behind_s ? fmt.span(s.behind_s) : "up to date"}, {key: "last_error", label: "Last error", show: s => s.last_error || fmt.NONE}];

async function plan(reload) {
  const name = h("input", {required: true, pattern: NAME, autocomplete: "off"}), format = select(Object.entries(FORMATS).map(([w, [l]]) => [w, l]), "focus"), every = select(["hour", "day", "month"], "day"), whose = h("input", {autocomplete: "off", placeholder: "all"});
  const done = await question({title: "New schedule", text: "A file for each period once it is final, in the folder of exports.", verb: "Create", fields: [field("Name", name), h("div.two", null, field("Format", format), field("Every", every)), field("Tenant", whose)], submit: () => change("POST", "export-schedules", {name: name.value.trim(), format: format.value, every: every.value, ...(whose.value.trim() ? {tenant: whose.value.trim()} : {})})});
  if (done) { toast("It writes its first file when the period is over."); reload(); }
}

const schedules = page => {
  const node = paged({page, title: "Schedules", note: "written by the gateway itself", id: "s", path: "export-schedules", columns: PLANS, empty: "None yet.", tools: mayWrite() ? [button("New schedule", () => plan(() => node.reload()), {kind: "small"})] : []});
  return node;
};

export default function exports({page, params}) {
  const t = route.times(params), format = select(Object.entries(FORMATS).map(([w, [l]]) => [w, l]), FORMATS[params.format] ? params.format : "csv", v => route.set({format: v}), {id: "format"}), status = h("p.soft", {role: "status", id: "export-status"}), fresh = h("input", {type: "checkbox", id: "fresh"}), bar = h("progress", {hidden: true, "aria-label": "Export"}), fault = h("p.fault", {role: "alert", hidden: true});
  let stop = null;
  const go = button("Download", async () => {
    if (stop) { stop.abort(); return; }
    stop = new AbortController();
    page.signal.addEventListener("abort", () => stop?.abort(), {once: true});
    go.textContent = "Stop";
    fault.hidden = true;
    try { await download({format: format.value, query: {start_time: t.start, end_time: t.end, tenant: params.tenant, all: fresh.checked ? "true" : undefined}, status, bar, stop: stop.signal}); } catch (e) {
      if (e.name !== "AbortError") { fault.hidden = false; fault.textContent = e.status === 404 ? "This gateway offers no exports." : e.message; }
    } finally { stop = null; go.textContent = "Download"; }
  }, {kind: "first", id: "download"});
  const when = unix => fmt.date(unix) + "T" + fmt.clock(unix, true) + "Z", command = ["weft export usage." + FORMATS[format.value][2], `--format ${format.value}`, isAdmin() ? (params.tenant ? `--tenant ${params.tenant}` : "--all") : "", `--since ${when(t.start)} --until ${when(t.end)}`].filter(Boolean).join(" ");
  return {title: "Exports", tools: [tenant(params), range(params)], body: h("div.grid", null,
    frame({title: "Usage rows", width: "w7", note: `${fmt.moment(t.start)} to ${fmt.moment(t.end)} UTC`}, h("div.stack", null, h("div.row", null, field("Format", format), h("p.soft.grow", null, FORMATS[format.value][3])), h("label.check", null, fresh, "Also the newest rows, of which earlier ones may still be missing (a request is final a minute after it began)"), h("div.row", null, go, bar), status, fault)),
    frame({title: "By command", width: "w5"}, h("div.stack", null, h("p.soft", null, "For large ones, and for programs: it resumes by itself and writes to the disk as rows come."), h("pre.json", null, command), !isAdmin() && !may("usage") ? h("p.fault", null, "This key lacks the role billing.") : null)), isAdmin() && schedules(page))};
}
