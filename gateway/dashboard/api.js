// api: the gateway's API as pages use it. One session: a key, kept in this module's memory (and in the tab's session storage where its owner asked
// for that), the API that answers here, and what the key may do. Every request carries the bearer; nothing else identifies anybody.
//
// Which role this is, is found by asking: the admin listener answers /admin/v1/whoami, the public one /v1/whoami; the answer names what the key may do, so pages
// that it may not ask for are not offered.

import {setCurrency} from "./format.js";

const ROOT = new URL("..", import.meta.url);
const KEPT = "weft.key";
const GET_MS = 30000;

export class ApiError extends Error {
  constructor(status, body, path) {
    const e = body && typeof body.error === "object" && body.error ? body.error : {};
    super(e.message || (status ? `The server answered ${status}.` : "The server did not answer."));
    Object.assign(this, {status, code: e.code || "", param: e.param || "", path});
  }
}

export const session = {key: "", role: "", base: "", name: "", id: "", can: new Set(), onend: () => {}};

function url(path, query) {
  const u = new URL(path.startsWith("/") ? path.slice(1) : session.base + "/" + path, ROOT);
  for (const [name, value] of Object.entries(query || {})) if (value !== null && value !== undefined && value !== "") u.searchParams.set(name, value);
  return u;
}

// -> Response, or an ApiError. A key that is not valid any more ends the session, wherever it is noticed.
export async function ask(method, path, {query, json, body, headers, signal, timeout = GET_MS} = {}) {
  const signals = [signal, timeout && AbortSignal.timeout(timeout)].filter(Boolean);
  const head = {Authorization: "Bearer " + session.key, ...headers};
  if (json !== undefined) head["Content-Type"] = "application/json";
  let r;
  try {
    r = await fetch(url(path, query), {method, headers: head, body: json !== undefined ? JSON.stringify(json) : body, signal: signals.length ? AbortSignal.any(signals) : undefined, credentials: "omit", cache: "no-store", redirect: "error"});
  } catch (e) {
    if (signal && signal.aborted) throw e;
    throw new ApiError(0, {error: {message: e.name === "TimeoutError" ? "The server took too long to answer." : "The server could not be reached."}}, path);
  }
  if (r.ok) return r;
  const error = new ApiError(r.status, await r.json().catch(() => null), path);
  if (r.status === 401 && session.role) session.onend(error);
  throw error;
}

export async function get(path, query, signal) {
  return (await ask("GET", path, {query, signal})).json();
}

// Changes; POST is told apart from its repetition by a name of its own, so a broken connection can be tried again without harm.
export async function change(method, path, json, {revision, once = true, timeout} = {}) {
  const headers = {};
  if (revision !== undefined) headers["If-Match"] = `"${revision}"`;
  if (method === "POST" && once) headers["Idempotency-Key"] = crypto.randomUUID ? crypto.randomUUID() : Array.from(crypto.getRandomValues(new Uint32Array(4)), n => n.toString(16)).join("-");
  const r = await ask(method, path, {json, headers, timeout});
  return r.json();
}

// --- who ---

const publicId = key => (/^wf[ta]_([0-9A-Za-z]{12})_/.exec(key) || [])[1] || "";

// Asks one of the two APIs whose key this is; -> its answer, or the status of the refusal.
async function askWho(base) {
  session.base = base;
  try {
    return await get("whoami");
  } catch (e) {
    if (!(e instanceof ApiError) || !e.status) throw e;
    return e.status;
  }
}

const WRONG = {wfa: "This is an operator's key. The operators' dashboard is on the admin listener.", wft: "This is a tenant's key. The tenants' dashboard is on the public listener."};

// Throws an ApiError whose message can be shown at the login. The kind of key says which API to ask first: a question in vain would be an error on the console.
export async function enter(key, keep) {
  leave();
  session.key = key.trim();
  session.id = publicId(session.key);
  const who = await askWho(session.key.startsWith("wfa_") ? "admin/v1" : "v1");
  if (typeof who === "number") {
    const kind = session.key.slice(0, 3);
    leave();
    throw new ApiError(401, {error: {message: (who === 404 && WRONG[kind]) || (who === 401 ? "This key is not valid here." : `The server answered ${who}.`)}}, "");
  }
  session.can = new Set(who.scopes);
  Object.assign(session, {role: who.tenant === null ? "admin" : "tenant", name: who.tenant ?? "operator"});
  setCurrency(who.currency);
  if (keep) sessionStorage.setItem(KEPT, session.key);
}

export function leave() {
  Object.assign(session, {key: "", role: "", base: "", name: "", id: ""});
  session.can = new Set();
  try { sessionStorage.removeItem(KEPT); } catch { /* forbidden: then nothing is there */ }
}

export function kept() {
  try { return sessionStorage.getItem(KEPT) || ""; } catch { return ""; }
}

export const isAdmin = () => session.role === "admin";
export const may = scope => session.can.has(scope);
export const mayWrite = () => may("write");
