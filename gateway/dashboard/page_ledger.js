// ledger: is what is billed what was served. Open admissions, the sums against the rows they were made from, the engines' own counts beside the gateway's, where the
// months lie, and what leaves the house: webhooks, scheduled exports, backups.

import {get} from "./api.js";
import {stat} from "./controls.js";
import {button, h, tag} from "./dom.js";
import * as fmt from "./format.js";
import {frame, message, panel, toast} from "./panel.js";
import {asCsv, facts, table} from "./table.js";

const MONTHS = [{key: "month", label: "Month", value: m => m.month}, {key: "rows", label: "Rows", num: true, show: m => fmt.int(m.rows)}, {key: "place", label: "Where", show: m => tag(m.place, m.place === "database" ? "info" : "good")}];
const HOOKS = [{key: "name", label: "Webhook"}, {key: "tenant", label: "Tenant", show: w => w.tenant || "all"}, {key: "lag", label: "Not yet sent", num: true, show: w => fmt.int(w.lag)}, {key: "state", label: "State", show: w => tag(w.state, fmt.stateKind(w.state))}];
const PLANS = [{key: "name", label: "Schedule"}, {key: "behind_s", label: "Behind", num: true, show: s => s.behind_s ? fmt.span(s.behind_s) : "up to date"}, {key: "last_error", label: "Last error", show: s => s.last_error || fmt.NONE, class: "wide"}];
const RATIO_OFF = 0.001;
const ENGINES = [{key: "name", label: "Engine"}, ...[["requests_gateway", "Requests, gateway"], ["requests_engine", "Requests, engine"], ["tokens_gateway", "Tokens, gateway"], ["tokens_engine", "Tokens, engine"]].map(([key, label]) => ({key, label, num: true, show: e => fmt.int(e[key])})),
  {key: "ratio", label: "Ratio", num: true, show: e => e.ratio === null || e.ratio === undefined ? fmt.NONE : tag(e.ratio.toFixed(4), Math.abs(e.ratio - 1) <= RATIO_OFF ? "good" : "warn")}];

const part = (title, columns, rows, empty, width) => frame({title, width, flush: true}, rows && rows.length ? table({columns, rows, caption: title}) : message(empty));

function top(d) {
  const v = d.last_verify;
  return h("div.stats", null,
    stat("Can write", d.writable ? "yes" : "no", {under: d.queue ? `${fmt.int(d.queue)} changes wait` : "nothing waits"}),
    stat("Open admissions", fmt.int(d.open_admissions), {under: d.oldest_admission_s !== null && d.oldest_admission_s !== undefined ? "oldest " + fmt.span(d.oldest_admission_s) : null}),
    stat("Settled", fmt.compact(d.settled), {under: d.retried ? `${fmt.int(d.retried)} tried again` : "none tried again"}),
    stat("Sums against rows", v ? (v.bad ? `${fmt.int(v.bad)} wrong` : "equal") : "unchecked", {under: v ? [`${fmt.compact(v.rows)} rows`, fmt.ago(v.t)] : null}),
    stat("Final before", d.final_before ? fmt.clock(d.final_before, true) : fmt.NONE, {under: d.final_before ? fmt.date(d.final_before) : null}),
    stat("Database", fmt.bytes(d.database_bytes), {under: `log ${fmt.bytes(d.wal_bytes)}`}));
}

async function verify(page, e) {
  const b = e.target;
  b.disabled = true;
  toast("Every row is being read; this may take a while.");
  try {
    const d = await get("ledger", {verify: 1}, page.signal);
    toast(d.verify.bad_buckets ? `${fmt.int(d.verify.bad_buckets)} sums differ from their rows.` : `All sums equal their ${fmt.int(d.verify.rows)} rows.`, d.verify.bad_buckets ? "bad" : "");
    page.reload();
  } catch (error) { if (!page.signal.aborted) toast(error.message, "bad"); } finally { b.disabled = false; }
}

function backup(d) {
  if (!d.backups || !d.backups.last) return message("No backup yet", "weft backup create makes one while the gateway runs.");
  const b = d.backups, last = typeof b.last === "object" ? b.last : {name: b.last};
  return facts([["Last", typeof last.name === "number" ? fmt.moment(last.name) : last.name ?? fmt.NONE], ["Age", fmt.span(b.age_s)], last.bytes !== undefined && ["Size", fmt.bytes(last.bytes)]]);
}

export default function ledger({page}) {
  return {title: "Ledger health", tools: [button("Compare sums with rows", e => verify(page, e), {id: "verify"})], body: h("div.grid", null,
    panel({page, title: "Ledger", width: "bare", note: "as it is now", load: signal => get("ledger/health", {}, signal), csv: d => asCsv(ENGINES, d.engines || []), name: "ledger engines",
      draw: d => [h("div.grid", null, frame({title: ""}, top(d)),
        part("Engines' own counts", ENGINES, d.engines, "No engine counts for itself."), part("Webhooks", HOOKS, d.webhooks, "No webhook is set.", "w6"), part("Scheduled exports", PLANS, d.schedules, "No export is scheduled.", "w6"),
        part("Months", MONTHS, d.months, "No usage yet.", "w6"), frame({title: "Backups", width: "w6"}, backup(d)))]}))};
}
