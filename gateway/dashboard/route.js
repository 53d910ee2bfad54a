// route: the address is the state. #/page/part?name=value holds page, object, time range, grouping, comparison, filters, sorting and place in a list, so
// a link shows to whoever opens it what its sender saw (with their own key), and back and forward work.

const ALWAYS = ["range", "from", "to", "compare", "tenant"]; // go along from page to page
export const RANGES = {__proto__: null, "1h": ["Last hour", 3600], "6h": ["Last 6 hours", 21600], "24h": ["Last 24 hours", 86400], "7d": ["Last 7 days", 604800], "30d": ["Last 30 days", 2592000], "90d": ["Last 90 days", 7776000], today: ["Today"], yesterday: ["Yesterday"], month: ["This month"], "last-month": ["Last month"], own: ["Own range"]};
const DAY = 86400, DEFAULT_RANGE = "24h", POINTS_MAX = 1400;
const MINUTES_KEPT = 7 * DAY, HOURS_KEPT = 400 * DAY; // by the ledger; what is older is not zero but not there

export function read() {
  const [path, query] = location.hash.replace(/^#\/?/, "").split("?");
  return {path: path.split("/").filter(Boolean).map(part => { try { return decodeURIComponent(part); } catch { return part; } }), params: Object.fromEntries(new URLSearchParams(query || ""))};
}

function print(path, params) {
  const query = new URLSearchParams(Object.entries(params).filter(([, v]) => v !== undefined && v !== null && v !== ""));
  query.sort();
  return "#/" + path.map(encodeURIComponent).join("/") + (query.size ? "?" + query : "");
}

const shared = params => Object.fromEntries(Object.entries(params).filter(([name]) => ALWAYS.includes(name)));

// A link to another page that keeps what goes along.
export const href = (path, more) => print([path].flat().map(String), {...shared(read().params), ...more});
export const go = (path, more) => { location.hash = href(path, more); };

// This page with some parameters changed; a change of the question begins its lists anew.
export function set(more, {keepPlace = false, quiet = false} = {}) {
  const {path, params} = read(), next = {...params, ...more};
  if (!keepPlace) for (const name of Object.keys(next)) if (/^(after|before)/.test(name) && !(name in more)) delete next[name];
  const to = print(path, next);
  if (to === location.hash) return;
  if (quiet) { history.replaceState(null, "", to); window.dispatchEvent(new HashChangeEvent("hashchange")); } else location.hash = to;
}

const utcMonth = (now, back) => { const d = new Date(now * 1000); return Date.UTC(d.getUTCFullYear(), d.getUTCMonth() - back, 1) / 1000; };

// The time that is asked about: {name, start, end}, Unix seconds, end exclusive.
export function times(params, now = Math.floor(Date.now() / 1000)) {
  const name = RANGES[params.range] ? params.range : DEFAULT_RANGE, from = Number(params.from), to = Number(params.to);
  if (name === "own" && Number.isFinite(from) && Number.isFinite(to) && from >= 0 && to > from) return {name, start: Math.floor(from), end: Math.floor(to)};
  const midnight = Math.floor(now / DAY) * DAY;
  if (name === "today") return {name, start: midnight, end: now + 1};
  if (name === "yesterday") return {name, start: midnight - DAY, end: midnight};
  if (name === "month") return {name, start: utcMonth(now, 0), end: now + 1};
  if (name === "last-month") return {name, start: utcMonth(now, 1), end: utcMonth(now, 0)};
  const span = (RANGES[name][1] || RANGES[DEFAULT_RANGE][1]);
  return {name: RANGES[name][1] ? name : DEFAULT_RANGE, start: now - span, end: now};
}

const SECONDS = {"1m": 60, "1h": 3600, "1d": 86400};
export const FINE = ["none", "tenant", "state"]; // what minutes and hours are kept by

// The finest buckets that are kept for this grouping, also of the time before it, that fit in an answer and that a chart can show.
export function interval(t, by = "none", now = Date.now() / 1000) {
  const span = t.end - t.start, oldest = now - t.start + span;
  const word = !FINE.includes(by) || span > 16 * DAY || oldest > HOURS_KEPT - DAY ? "1d" : span > 8 * 3600 || span / 60 > POINTS_MAX || oldest > MINUTES_KEPT - 3600 ? "1h" : "1m";
  return {word, step: SECONDS[word]};
}

// What the days of a time are called where it does not begin and end with them; lists that are kept by days show whole ones.
export function wholeDays(t, name, now = Date.now() / 1000) {
  const first = Math.floor(t.start / DAY) * DAY, last = Math.floor((t.end - 1) / DAY) * DAY;
  if (t.start === first && (t.end === last + DAY || t.end >= now - 60)) return undefined;
  return first === last ? `all of ${name(first)}, UTC` : `whole days, UTC: ${name(first)} to ${name(last)}`;
}

// As a query: days are asked for whole, since that is how they are kept.
export function timeQuery(t, word) {
  const step = SECONDS[word] || 60;
  return {start_time: Math.floor(t.start / step) * step, end_time: t.end};
}
