// usage: one measure over time by any grouping, beside the time before it, with the list of who used it. Minutes and hours are kept by tenant and state; other
// groupings are days, and the page says so.

import {isAdmin} from "./api.js";
import {by, standard, stat} from "./controls.js";
import {h} from "./dom.js";
import * as fmt from "./format.js";
import {get} from "./api.js";
import {panel} from "./panel.js";
import * as route from "./route.js";
import {comparedNote, groups, GROUPS, seriesPanel, topPanel} from "./series.js";

const SORTS = [["tokens", "Tokens"], ["requests", "Requests"], ["output_tokens", "Output tokens"], ["cost_nano", "Cost"], ["errors", "Errors"]];

function totals(page, params) {
  const t = route.times(params), {word} = route.interval(t, "none");
  const one = (measure, signal) => get("stats/series", {...route.timeQuery(t, word), interval: word, by: "none", measure, compare: "true", tenant: params.tenant}, signal);
  const NAMES = ["cost_nano", "requests", "input_tokens", "output_tokens", "errors"];
  return panel({page, title: "In this time", note: "beside the time before", load: async signal => Promise.all(NAMES.map(m => one(m, signal))),
    csv: d => ({head: ["Measure", "Total", "Compared", "Time before"], rows: d.map((x, i) => [NAMES[i], x.total, x.compared_total, x.previous_total])}),
    draw: d => [h("div.stats", null, d.map((x, i) => { const [label, show] = fmt.MEASURES[NAMES[i]], now = x.compared_total, was = x.previous_total; return stat(label, show(x.total), was === null ? {} : {change: was ? now / was - 1 : now ? Infinity : 0, better: NAMES[i] === "errors" ? "less" : undefined, under: `was ${show(was)}` + (x.compared.end_time < x.end_time ? `, then ${show(now)}` : "")}); })),
      h("p.tiny.soft", null, comparedNote(d[0].compared, d[0].interval_s))]});
}

export default function usage({page, params}) {
  const group = groups(params).some(([word]) => word === params.by) ? params.by : isAdmin() && !params.tenant ? "tenant" : "adapter", measure = fmt.MEASURES[params.measure] ? params.measure : "tokens", sort = SORTS.some(([w]) => w === params.sort) ? params.sort : "tokens";
  const {word} = route.interval(route.times(params), group), listed = group === "none" || group === "state" ? "adapter" : group;
  return {title: "Usage and cost", tools: standard(params), body: h("div.grid", null,
    totals(page, params),
    h("div.row", null, by("measure", "Measure", Object.entries(fmt.MEASURES).map(([w, [l]]) => [w, l]), measure), by("by", "by", groups(params), group), h("span.tiny.soft", null, word === "1d" && !route.FINE.includes(group) ? "Kept by days (UTC)." : `In buckets of ${word.replace("1", "one ").replace("m", "minute").replace("h", "hour").replace("d", "day")}.`)),
    seriesPanel({page, params, title: fmt.MEASURES[measure][0] + (group === "none" ? "" : " by " + GROUPS[group].toLowerCase()), by: group, measure, size: "tall"}),
    topPanel({page, params, title: `Top ${GROUPS[listed].toLowerCase()}s`, by: listed, sort, limit: 50, tools: [by("sort", "by", SORTS, sort)]}))};
}
