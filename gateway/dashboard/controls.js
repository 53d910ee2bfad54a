// controls: what stands in the bar above a page and asks for time, comparison, grouping and tenant. All of it lives in the address (route.js).

import {isAdmin} from "./api.js";
import {button, field, h, select} from "./dom.js";
import {ask} from "./dialog.js";
import * as fmt from "./format.js";
import * as route from "./route.js";

export const toLocal = unix => new Date(unix * 1000).toISOString().slice(0, 16);
export const fromLocal = text => Date.parse(text + ":00Z") / 1000;

async function askRange(t) {
  const from = h("input", {type: "datetime-local", value: toLocal(t.start), required: true, name: "from"}), to = h("input", {type: "datetime-local", value: toLocal(t.end), required: true, name: "to"});
  const chosen = await ask({title: "Own time range", text: "In UTC; the end is not part of it.", verb: "Show", fields: [h("div.two", null, field("From", from), field("To", to))],
    submit: () => { const a = fromLocal(from.value), b = fromLocal(to.value); if (!(b > a)) throw new Error("The end must be after the start."); return {a, b}; }});
  if (chosen) route.set({range: "own", from: chosen.a, to: chosen.b});
  return !!chosen;
}

export function range(params) {
  const t = route.times(params), options = Object.entries(route.RANGES).map(([word, [label]]) => [word, word === "own" && t.name === "own" ? `${fmt.date(t.start)} ${fmt.clock(t.start)} – ${fmt.date(t.end)} ${fmt.clock(t.end)}` : label]);
  if (t.name === "own") options.push(["other", "Other range"]);
  const choose = async word => {
    if (word !== "own" && word !== "other") return route.set({range: word, from: undefined, to: undefined});
    if (!await askRange(t)) at.value = t.name;
  };
  const at = select(options, t.name, choose, {"aria-label": "Time range, UTC", id: "range", title: "Time range, UTC  ( [ and ] )"});
  return at;
}

export const compare = params => button("Compare", () => route.set({compare: params.compare ? undefined : "1"}, {keepPlace: true}), {"aria-pressed": String(!!params.compare), id: "compare", title: "Beside the same time before it  ( c )"});

// The operator's: only one tenant's. Typed, not listed: there may be thousands.
export function tenant(params) {
  if (!isAdmin()) return null;
  const input = h("input", {type: "search", value: params.tenant || "", placeholder: "All tenants", "aria-label": "Only this tenant", id: "tenant", size: 14, autocomplete: "off", spellcheck: "false",
    onchange: () => route.set({tenant: input.value.trim().toLowerCase() || undefined}), onsearch: () => route.set({tenant: input.value.trim().toLowerCase() || undefined})});
  return input;
}

// One of several, as a row of buttons.
export function choice(label, options, value, onchoose) {
  return h("div.group", {role: "group", "aria-label": label}, options.map(([word, text]) => button(text, () => onchoose(word), {"aria-pressed": String(word === value), id: `${label}-${word}`.toLowerCase().replace(/[^a-z0-9-]+/g, "-")})));
}

export const by = (name, label, options, value, more) => h("label.row.tiny.soft", null, label, select(options, value, v => route.set({[name]: v}), {id: name, ...more}));

// A field of a filter that is put into the address when it was changed.
export function filter(name, label, params, {placeholder = "", options, type = "search"} = {}) {
  const control = options ? select(options, params[name] || "", v => route.set({[name]: v || undefined}), {id: "f-" + name})
    : h("input", {type, value: params[name] || "", placeholder, id: "f-" + name, autocomplete: "off", spellcheck: "false", onchange: e => route.set({[name]: e.target.value.trim() || undefined}), onsearch: e => route.set({[name]: e.target.value.trim() || undefined})});
  return field(label, control);
}

export const standard = params => [tenant(params), range(params), compare(params)];

// A number with its change against the period before. better: "less" where a rise is bad news, "more" where it is good, none else.
export function stat(label, value, {unit, under, change, better, width = ""} = {}) {
  const kind = change === null || change === undefined || !better || Math.abs(change) < 0.005 ? "flat" : (change > 0) === (better === "less") ? "up" : "down";
  return h("div.stat" + (width ? "." + width : ""), null, h("div.label", null, label), h("div.value", null, value, unit && h("small", null, unit)),
    h("div.under", null, change !== undefined && h("span." + kind, {title: "Against the period before"}, fmt.change(change)), [under].flat().map(u => u && h("span", null, u))));
}
