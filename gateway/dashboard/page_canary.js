// canary: the targets of one alias beside each other: how many requests each had, how they ended, how long they took, what they cost; and whether the difference is more than
// chance. The verdict is the server's, with its reason; with too few requests it says so.

import {get, isAdmin} from "./api.js";
import {field, h, select, tag} from "./dom.js";
import {tenant, stat} from "./controls.js";
import * as fmt from "./format.js";
import {frame, message, panel} from "./panel.js";
import * as route from "./route.js";
import {score} from "./scores.js";
import {list, share} from "./series.js";
import {asCsv, table} from "./table.js";
import {aliasApi} from "./page_aliases.js";

const SPANS = {__proto__: null, "24h": ["Last 24 hours", 86400], "3d": ["Last 3 days", 259200], "7d": ["Last 7 days", 604800], "14d": ["Last 14 days", 1209600]}; // no more are compared
const LETTERS = "ABCDEFGH";
const times = (key, label) => ["p50", "p90", "p99"].map(p => [`${label}, ${p}`, t => t[key]?.[p], fmt.ms]);
const ROWS = [
  ["Requests", t => t.requests, fmt.int], ["Share", t => t.share, v => fmt.percent(v)], ["Weight", t => t.weight, fmt.int], ["Completed", t => t.completed, fmt.int], ["Failed", t => t.error_rate, v => fmt.percent(v, 2)], ["Aborted by the client", t => t.abort_rate, v => fmt.percent(v, 2)],
  ...times("ttft_ms", "First token"), ...times("tpot_ms", "Per token"), ...times("duration_ms", "Whole answer"), ["Output tokens, mean", t => t.output_tokens_avg, fmt.compact], ["Cost, mean", t => t.cost_nano_avg, fmt.money], ["Answers that were scored", t => t.scored || null, fmt.int], ["Score, mean", t => t.score, score],
];

const nameOf = (t, i) => `${LETTERS[i]}: ${t.adapter || t.base || ""}${t.version ? "@" + t.version : ""}`;
const METRIC = {error_rate: ["Failed", v => fmt.percent(v, 2)], abort_rate: ["Aborted", v => fmt.percent(v, 2)], ttft_ms: ["First token", fmt.ms], tpot_ms: ["Per token", fmt.ms], duration_ms: ["Whole answer", fmt.ms], score: ["Score", score]};
const signed = (show, v) => v === null || v === undefined ? fmt.NONE : (v > 0 ? "+" : v < 0 ? "−" : "") + show(Math.abs(v));

function beside(d) {
  return table({caption: `Targets of ${d.alias}`, sortable: false, rows: ROWS.filter(([, of]) => d.targets.some(t => of(t) !== undefined && of(t) !== null)), columns: [{key: "what", label: "", value: r => r[0]},
    ...d.targets.map((t, i) => ({key: "t" + i, label: nameOf(t, i), num: true, value: r => r[1](t), show: r => r[0] === "Share" ? share(r[1](t)) : r[2](r[1](t))}))]});
}

function comparisons(d) {
  const rows = d.comparison || [];
  if (!rows.length) return null;
  return h("section.panel", {"aria-label": "Differences"}, h("header", null, h("h2", null, "Differences"), h("p", null, "what is more than chance would do")), h("div.panel-body.flush", null, table({caption: "Differences between targets", rows, columns: [
    {key: "between", label: "Target", value: c => `${LETTERS[c.between[1]]} against ${LETTERS[c.between[0]]}`, class: "nowrap"}, {key: "metric", label: "Of", value: c => METRIC[c.metric]?.[0] ?? fmt.words(c.metric)}, {key: "difference", label: "Difference", num: true, show: c => signed(METRIC[c.metric]?.[1] ?? fmt.compact, c.difference)},
    {key: "p_value", label: "By chance", num: true, value: c => c.p_value ?? null, show: c => c.p_value !== undefined && c.p_value !== null ? fmt.percent(c.p_value, 2) : Array.isArray(c.interval) ? c.interval.map(v => signed(METRIC[c.metric]?.[1] ?? fmt.compact, v)).join(" to ") : fmt.NONE}, {key: "significant", label: "", value: c => c.significant ? "yes" : "no", show: c => c.significant ? tag("more than chance", "warn") : tag("may be chance")}]})));
}

const VERDICT = {better: ["good", "Better"], worse: ["bad", "Worse"], "no difference": ["", "No difference"], "too few requests": ["info", "Too few requests to say"]};

function shown(d) {
  const [kind, words] = VERDICT[d.verdict] || ["", d.verdict];
  return h("div.stack", null, h("div.verdict" + (kind ? "." + kind : ""), {id: "verdict", role: "status"}, h("strong", null, words), h("span", null, d.reason)),
    h("div.stats", null, d.targets.map((t, i) => stat(nameOf(t, i), fmt.compact(t.requests), {unit: "requests", under: [`${fmt.percent(t.error_rate, 2)} failed`, `first token ${fmt.ms(t.ttft_ms?.p50)}`, t.scored ? `score ${score(t.score)}` : null].filter(Boolean)}))), beside(d), comparisons(d), h("p.soft.tiny", null, `${d.policy}, since ${fmt.moment(d.since)} UTC. `, h("a", {href: route.href(isAdmin() && d.tenant ? ["alias", d.tenant, d.alias] : ["alias", d.alias])}, "Change the weights")));
}

function chooser(page, params) {
  const input = h("input", {type: "search", id: "alias", value: params.alias || "", list: "aliases", autocomplete: "off", spellcheck: "false", placeholder: "prod", onchange: e => route.set({alias: e.target.value.trim() || undefined})}), names = h("datalist", {id: "aliases"});
  if (!isAdmin() || params.tenant) get(aliasApi(params.tenant), {limit: 100}, page.signal).then(d => names.append(...list(d).map(a => h("option", {value: a.name}))), () => { /* names can be typed */ });
  return frame({title: "", flush: true}, h("div.filters", null, field("Alias", input), names));
}

export default function canary({page, params}) {
  const span = SPANS[params.span], now = Math.floor(Date.now() / 1000), whose = !isAdmin() || params.tenant;
  const when = select([["", "Since its last change"], ...Object.entries(SPANS).map(([word, [label]]) => [word, label])], span ? params.span : "", v => route.set({span: v || undefined}), {"aria-label": "Time that is compared", id: "span"});
  return {title: "Canary", tools: [tenant(params), when], body: h("div.grid", null, chooser(page, params),
    !whose ? frame({title: "A against B"}, message("Whose alias?", "Type the tenant above, then its alias.")) : !params.alias ? frame({title: "A against B"}, message("Which alias?", "One with two or more targets; its requests are compared.", "", h("a", {href: route.href("aliases")}, "All aliases")))
      : panel({page, title: params.alias, note: span ? "in the chosen time" : "since its last change, at most a week", load: signal => get("stats/canary", {alias: params.alias, ...(span ? {start_time: now - span[1], end_time: now} : {}), tenant: params.tenant}, signal), csv: d => asCsv([{label: "", value: r => r[0]}, ...d.targets.map((x, i) => ({label: nameOf(x, i), value: r => r[1](x)}))], ROWS), name: "canary " + params.alias, draw: shown}))};
}
