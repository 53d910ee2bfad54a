// format: numbers, money, times and words as all pages show them. Times are UTC everywhere, because budgets, days and invoices are; the local
// time stands in the title. A value that is not there is a dash, never a zero.

export const NONE = "–";
const missing = v => v === null || v === undefined || Number.isNaN(v);
const whole = new Intl.NumberFormat("en", {maximumFractionDigits: 0});
const short = new Intl.NumberFormat("en", {notation: "compact", maximumFractionDigits: 1});
const short2 = new Intl.NumberFormat("en", {maximumSignificantDigits: 2});
const three = new Intl.NumberFormat("en", {maximumSignificantDigits: 3});
let currency = "USD";

export function setCurrency(code) { if (/^[A-Z]{3}$/.test(code || "")) currency = code; }
export const currencyCode = () => currency;

export const int = v => missing(v) ? NONE : whole.format(v);
export const compact = v => missing(v) ? NONE : Math.abs(v) < 10000 ? (Number.isInteger(v) ? whole.format(v) : three.format(v)) : short.format(v);
export const percent = (v, digits = 1) => missing(v) ? NONE : v > 0 && v * 100 < 0.5 / 10 ** digits ? `under ${(1 / 10 ** digits).toFixed(digits)} %` : (v * 100).toFixed(Math.abs(v) >= 0.9995 || v === 0 ? 0 : digits) + " %";

// Nano-units: as many digits as the amount needs to say something, two at the least.
export function money(nano, exact) {
  if (missing(nano)) return NONE;
  const v = nano / 1e9, size = Math.abs(v);
  const digits = exact === 4 ? 4 : exact ? 9 : size === 0 || size >= 1 ? 2 : size >= 0.01 ? 4 : 6;
  return new Intl.NumberFormat("en", {style: "currency", currency, minimumFractionDigits: exact === true ? 2 : digits, maximumFractionDigits: digits, notation: !exact && size >= 1e6 ? "compact" : "standard"}).format(v);
}

export function ms(v) {
  if (missing(v)) return NONE;
  if (v < 10) return short2.format(v) + " ms";
  if (v < 1000) return Math.round(v) + " ms";
  if (v < 60000) return (v / 1000).toFixed(v < 10000 ? 2 : 1) + " s";
  return span(v / 1000);
}

export function span(s) {
  if (missing(s)) return NONE;
  if (s < 60) return Math.round(s) + " s";
  if (s < 3600) return Math.round(s / 60) + " min";
  if (s < 172800) return (s / 3600).toFixed(s < 36000 ? 1 : 0) + " h";
  return Math.round(s / 86400) + " days";
}

export function bytes(v) {
  if (missing(v)) return NONE;
  const units = ["B", "kB", "MB", "GB", "TB"];
  let at = 0;
  while (v >= 1000 && at < units.length - 1) { v /= 1000; at++; }
  return (at ? three.format(v) : whole.format(v)) + " " + units[at];
}

export function change(v) {
  if (missing(v)) return NONE;
  if (!Number.isFinite(v) || v > 99) return "new";
  return (v > 0 ? "+" : v < 0 ? "−" : "±") + Math.abs(v * 100).toFixed(Math.abs(v) < 0.1 ? 1 : 0) + " %";
}

const two = n => String(n).padStart(2, "0");
const MONTHS = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];
export function day(unix) { const d = new Date(unix * 1000); return `${d.getUTCDate()} ${MONTHS[d.getUTCMonth()]}`; }
export function date(unix) { if (missing(unix)) return NONE; const d = new Date(unix * 1000); return `${d.getUTCFullYear()}-${two(d.getUTCMonth() + 1)}-${two(d.getUTCDate())}`; }
export function clock(unix, seconds) { const d = new Date(unix * 1000); return `${two(d.getUTCHours())}:${two(d.getUTCMinutes())}${seconds ? ":" + two(d.getUTCSeconds()) : ""}`; }
export const moment = unix => missing(unix) ? NONE : date(unix) + " " + clock(unix, true);
export const local = unix => new Date(unix * 1000).toLocaleString();
export function month(text) { const [y, m] = text.split("-"); return `${MONTHS[m - 1]} ${y}`; }

export function ago(unix, now = Date.now() / 1000) {
  if (missing(unix)) return "never";
  const s = now - unix;
  return s < 5 ? "now" : s < 0 ? "in " + span(-s) : span(s) + " ago";
}

// A point of a series, as an axis shows it.
export function point(unix, step, wide) {
  if (step >= 86400) return day(unix);
  if (step < 60) return clock(unix, true);
  return wide ? day(unix) + " " + clock(unix) : clock(unix);
}

export const LIMITS = { // word of the API -> how people call it, and how its numbers read
  requests_per_minute: ["Requests per minute", int], tokens_per_minute: ["Tokens per minute", int], concurrent_requests: ["Requests at a time", int],
  tokens_per_day: ["Tokens per day", int], tokens_per_month: ["Tokens per month", int], cost_per_day: ["Cost per day", money], cost_per_month: ["Cost per month", money],
  adapters: ["Stored versions", int], adapter_bytes: ["Bytes stored", bytes], adapter_rank: ["Largest rank", int], adapters_pinned: ["Pinned versions", int],
};

export const MEASURES = {__proto__: null, requests: ["Requests", compact], tokens: ["Tokens", compact], input_tokens: ["Input tokens", compact], output_tokens: ["Output tokens", compact], cost_nano: ["Cost", money], errors: ["Errors", compact]};

const STATES = {completed: "good", ready: "good", enabled: "good", ok: "good", client_abort: "warn", validating: "info", uploading: "info", draining: "warn", soft: "warn", suspect: "warn", starting: "info", archived: "", disabled: "", deleting: "", hard: "bad", failed: "bad", failing: "bad",
  quarantined: "bad", upstream_error: "bad", timeout: "bad", rejected: "warn", gateway_crash: "bad", down: "bad", ejected: "bad", conflict: "bad", paused: "warn", active: "good", running: "info", better: "good", worse: "bad"};
export const stateKind = word => STATES[word] ?? "";
export const words = text => String(text ?? "").replaceAll("_", " ");
export const stack = v => (v.tenant ? v.tenant + "/" : "") + v.adapter + (v.version ? "@" + v.version : "");
