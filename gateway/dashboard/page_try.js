// try: one question to two models at once, the answers beside each other as they stream in, with what each took. These are requests like any other: they are counted and billed.

import {ask, get} from "./api.js";
import {stat} from "./controls.js";
import {button, field, fill, h} from "./dom.js";
import * as fmt from "./format.js";
import {frame, message} from "./panel.js";
import * as route from "./route.js";
import {events} from "./stream.js";

const TOKENS = 256, TOKENS_MAX = 8192;

async function stream({model, body, side, signal}) {
  const began = performance.now();
  let first = null, pieces = 0, usage = null, done = false;
  const numbers = final => { const now = performance.now(); side.say({first: first === null ? null : first - began, took: now - began, tokens: usage?.completion_tokens ?? pieces, per: first !== null && pieces > 1 ? (now - first) / (pieces - 1) : null, prompt: usage?.prompt_tokens, cached: usage?.prompt_tokens_details?.cached_tokens, final}); };
  side.begin();
  try {
    const r = await ask("POST", "chat/completions", {json: {...body, model, stream: true, stream_options: {include_usage: true}}, signal, timeout: 0});
    side.served(r.headers.get("x-weft-adapter-version"), r.headers.get("x-weft-cold") === "1");
    await events(r, (_, data) => {
      if (data === "[DONE]") { done = true; return; }
      const v = JSON.parse(data);
      if (v.error) throw new Error(v.error.message);
      if (v.usage) usage = v.usage;
      const text = v.choices?.[0]?.delta?.content;
      if (!text) return;
      first ??= performance.now();
      pieces++;
      side.write(text);
      numbers(false);
    });
    if (!done) throw new Error("The answer ended before its end.");
    numbers(true);
    side.end();
  } catch (e) { numbers(true); side.end(e.name === "AbortError" ? "stopped" : e.message); }
}

function column(label, chosen, models, id) {
  const pick = h("input", {list: "models", id, value: chosen, autocomplete: "off", spellcheck: "false", "aria-label": "Model " + label, onchange: e => route.set({[label.toLowerCase()]: e.target.value.trim() || undefined}, {quiet: false})}), text = h("div.answer", {tabindex: "0", id: "answer-" + label.toLowerCase(), "aria-label": "Answer " + label}), nums = h("div.stats"), note = h("div.row.tiny"), fault = h("p.fault", {role: "alert", hidden: true});
  const node = frame({title: label, width: "w6"}, h("div.stack", null, field("Model", pick), text, fault, note, nums));
  const side = {
    begin: () => { text.textContent = ""; text.classList.add("going"); fault.hidden = true; fill(note); fill(nums); },
    served: (version, cold) => fill(note, h("span.soft", null, version ? "answered by " + version : "answered by the base"), cold ? h("span.soft", null, "· loaded for this request") : null),
    write: piece => { const low = text.scrollHeight - text.scrollTop - text.clientHeight < 24; text.append(piece); if (low) text.scrollTop = text.scrollHeight; },
    say: n => fill(nums, stat("First token", fmt.ms(n.first)), stat("Per token", fmt.ms(n.per)), stat("Tokens", fmt.int(n.tokens), {under: n.prompt !== undefined ? `${fmt.int(n.prompt)} in, ${fmt.int(n.cached || 0)} cached` : null}), stat("Took", fmt.ms(n.took))),
    end: why => { text.classList.remove("going"); if (why) { fault.hidden = false; fault.textContent = why; } },
  };
  return {node, side, pick};
}

export default function page_try({page, params}) {
  const names = h("datalist", {id: "models"}), a = column("A", params.a || "", names, "model-a"), b = column("B", params.b || "", names, "model-b");
  const system = h("textarea", {id: "system", rows: 2, placeholder: "System message, or none"}), prompt = h("textarea", {id: "prompt", rows: 4, placeholder: "What both are asked  ( Ctrl + Enter asks )"}), most = h("input", {type: "number", id: "max", min: 1, max: TOKENS_MAX, value: TOKENS}), heat = h("input", {type: "number", id: "temperature", min: 0, max: 2, step: 0.1, value: 0});
  let stop = null;
  const go = button("Ask both", () => stop ? stop.abort() : run(), {kind: "first", id: "ask"});
  async function run() {
    const pairs = [a, b].filter(c => c.pick.value.trim());
    if (!prompt.value.trim() || !pairs.length) { (pairs.length ? prompt : a.pick).focus(); return; }
    stop = new AbortController();
    go.textContent = "Stop";
    const messages = [...(system.value.trim() ? [{role: "system", content: system.value}] : []), {role: "user", content: prompt.value}];
    await Promise.all(pairs.map(c => stream({model: c.pick.value.trim(), side: c.side, signal: stop.signal, body: {messages, max_tokens: Number(most.value) || TOKENS, temperature: Number(heat.value) || 0}})));
    stop = null;
    go.textContent = "Ask both";
  }
  prompt.addEventListener("keydown", e => { if (e.key === "Enter" && (e.ctrlKey || e.metaKey)) { e.preventDefault(); if (!stop) run(); } });
  page.onclose(() => stop?.abort());
  const trouble = h("div");
  get("models", {}, page.signal).then(d => {
    fill(names, d.data.map(m => h("option", {value: m.id}, m.parent ? "adapter of " + m.parent : "base")));
    const own = d.data.find(m => m.parent), base = d.data.find(m => !m.parent && m.id !== own?.id);
    if (!a.pick.value && own) a.pick.value = own.id;
    if (!b.pick.value && base) b.pick.value = (d.data.find(m => m.id === a.pick.value) || {}).parent || base.id;
  }, e => { if (!page.signal.aborted) fill(trouble, message("The models can't be listed", e.message, "bad")); });
  return {title: "Try side by side", body: h("div.grid", null, frame({title: "Question", note: "to both at once; counted and billed as any request"}, h("div.stack", null, trouble, field("Prompt", prompt), field("System message", system), h("div.row.ends", null, field("At most, tokens", most), field("Temperature", heat), h("span.grow"), go))), a.node, b.node, names)};
}
