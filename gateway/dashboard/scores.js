// scores: what sampled answers were worth, by version: the mean over time, and each rule's beside it (docs/EVALUATION.md). On the pages of an alias and of an adapter.

import {get} from "./api.js";
import {seriesCsv, timeChart} from "./charts.js";
import {h} from "./dom.js";
import * as fmt from "./format.js";
import {panel} from "./panel.js";
import * as route from "./route.js";
import {share} from "./series.js";
import {table} from "./table.js";

export const score = v => v === null || v === undefined ? fmt.NONE : v.toFixed(3);
const versionOf = g => g.adapter ? `${g.adapter}@${g.version}` : g.base;
const raw = g => g.kind === "retrieval" && g.rule !== "retrieval"; // as the client's retrieval scores: on a scale of its own

// One line for each version: of the rules' and groundedness's mean, or the judge's where there is no other.
function lines(d, several) {
  const of = rule => d.data.filter(g => g.rule === rule), found = of("overall").length ? of("overall") : of("judge");
  return {points: d.points, series: found.slice(0, 8).map((g, i) => ({name: versionOf(g) + (several ? ` by ${g.alias}` : ""), values: g.series, colour: i}))};
}

const columns = several => [
  {key: "version", label: "Version", value: versionOf, class: "nowrap"}, several && {key: "alias", label: "Alias"}, {key: "rule", label: "Score"}, {key: "kind", label: "Kind", value: g => fmt.words(g.kind)},
  {key: "scored", label: "Answers", num: true, show: g => fmt.compact(g.scored)}, {key: "mean", label: "Mean", num: true, show: g => score(g.mean)}, {key: "deviation", label: "Deviation", num: true, show: g => score(g.deviation)},
  {key: "pass_rate", label: "Enough", value: g => g.pass_rate, show: g => raw(g) ? fmt.NONE : share(g.pass_rate), class: "nowrap"}, {key: "failed", label: "Not enough", num: true, show: g => raw(g) ? fmt.NONE : fmt.compact(g.failed)}, {key: "not_scored", label: "Not scored", num: true, show: g => fmt.compact(g.not_scored), title: "The rule had nothing to say of these answers"},
].filter(Boolean);

export function scoresPanel({page, params, alias, adapter, tenant}) {
  const t = route.times(params), daily = route.interval(t).word === "1d", word = daily ? "1d" : "1h", step = daily ? 86400 : 3600, several = !alias; // sums are kept by the hour
  return panel({page, title: "Scores of sampled answers", name: `scores ${alias || adapter}`, flush: true,
    load: signal => get("evaluations/summary", {...route.timeQuery(t, word), interval: word, alias, adapter, tenant}, signal),
    empty: d => d.data.length ? false : "No answer was evaluated in this time: none was sampled, or the alias has no evaluation.",
    csv: d => seriesCsv(lines(d, several), step),
    draw: d => {
      const chart = timeChart(lines(d, several), {step, kind: "line", show: score, label: "Mean score by version", y: 1, sum: false});
      return {...chart, node: [h("div.panel-body", null, chart.node), table({caption: "Scores by version and rule", columns: columns(several), rows: d.data})]};
    }});
}
