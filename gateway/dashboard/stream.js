// stream: server-sent events read from fetch, because EventSource can't send a bearer. Used for what is going on now, and for answers of models.
//
// live(): one stream for the whole page, begun again with growing pauses when it breaks, closed while nobody looks at the tab. Where the server has
// no stream (404), it asks every few seconds instead, so the page needs no second way of showing things.

import {ApiError, ask, get} from "./api.js";

const AGAIN_MS = [1000, 2000, 4000, 8000, 15000], POLL_MS = 5000, SILENT_MS = 8000, LINE_MAX = 1 << 20;

// Calls on(name, data) for each event until the stream ends. Lines that begin with a colon are comments.
export async function events(response, on) {
  const reader = response.body.getReader(), decoder = new TextDecoder();
  let text = "";
  for (;;) {
    const {done, value} = await reader.read();
    if (done) return;
    text += decoder.decode(value, {stream: true});
    if (text.length > LINE_MAX) { await reader.cancel(); throw new ApiError(0, {error: {message: "An event of the stream is too long."}}); }
    const whole = text.split(/\r?\n\r?\n/);
    text = whole.pop();
    for (const one of whole) {
      let name = "message";
      const data = [];
      for (const line of one.split(/\r?\n/)) {
        if (line.startsWith("event:")) name = line.slice(6).trim();
        else if (line.startsWith("data:")) data.push(line.slice(5).replace(/^ /, ""));
      }
      if (data.length) on(name, data.join("\n"));
    }
  }
}

function pause(ms, signal) {
  return new Promise(done => { const t = setTimeout(done, ms); signal.addEventListener("abort", () => { clearTimeout(t); done(); }, {once: true}); });
}

function visible(signal) {
  return new Promise(done => {
    if (!document.hidden || signal.aborted) return done();
    const look = () => { if (!document.hidden) { document.removeEventListener("visibilitychange", look); done(); } };
    document.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", done, {once: true});
  });
}

// One connection, until it breaks, falls silent (a server that hangs or a network that is gone closes nothing; it sends each second), the tab is hidden or signal ends it.
async function listen({query, onnow, onevent, onstate}, signal) {
  const stop = new AbortController(), end = () => stop.abort(), hide = () => document.hidden && end();
  let silent = setTimeout(end, SILENT_MS);
  signal.addEventListener("abort", end, {once: true});
  document.addEventListener("visibilitychange", hide);
  try {
    const r = await ask("GET", "live", {query, signal: stop.signal, timeout: 0, headers: {Accept: "text/event-stream"}});
    onstate("live");
    await events(r, (name, data) => {
      clearTimeout(silent);
      silent = setTimeout(end, SILENT_MS);
      if (name === "now") onnow(JSON.parse(data));
      else if (name === "event" && onevent) onevent(JSON.parse(data));
    });
  } finally {
    clearTimeout(silent);
    stop.abort();
    signal.removeEventListener("abort", end);
    document.removeEventListener("visibilitychange", hide);
  }
}

async function poll({query, onnow, onstate}, signal) {
  while (!signal.aborted) {
    await visible(signal);
    if (signal.aborted) return;
    onnow(await get("now", query, signal));
    onstate("polled");
    await pause(POLL_MS, signal);
  }
}

// Runs until signal; onstate gets live, polled, waiting, or an ApiError that asking again can't mend.
export async function live(what, signal) {
  for (let tries = 0; !signal.aborted; tries++) {
    await visible(signal);
    try {
      await listen({...what, onnow: v => { tries = 0; what.onnow(v); }}, signal);
    } catch (e) {
      if (signal.aborted) return;
      if (e instanceof ApiError && [404, 405, 503].includes(e.status)) {
        try { await poll(what, signal); } catch (worse) { if (signal.aborted) return; if (worse instanceof ApiError && worse.status && worse.status < 500) return what.onstate(worse); }
      } else if (e instanceof ApiError && [401, 403].includes(e.status)) return what.onstate(e);
    }
    if (signal.aborted) return;
    if (!document.hidden) what.onstate("waiting");
    await pause(AGAIN_MS[Math.min(tries, AGAIN_MS.length - 1)], signal);
  }
}
