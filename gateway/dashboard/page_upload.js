// upload: two files dropped onto the page become a version. They go in parts with a name for each byte (Content-Range), so a connection that breaks costs one part, and the
// page goes on from what the server has. What the checks and the engine's self-test say is shown as it is.

import {ask, change, session, ApiError} from "./api.js";
import {NAME, button, field, fill, h, say, tag} from "./dom.js";
import * as fmt from "./format.js";
import {frame} from "./panel.js";
import * as route from "./route.js";
import {facts} from "./table.js";

const PART = 8 << 20, TRIES = 6, AGAIN_MS = 1000, CONFIG_MAX = 1 << 20, SELFTEST_MS = 660000;
const WANTED = {config: "adapter_config.json", weights: "adapter_model.safetensors"};
const ROOT = new URL("../v1/", import.meta.url);

// One request with progress, which fetch does not tell. -> {status, body}
function send(method, path, body, headers, onprogress, signal) {
  return new Promise((done, fail) => {
    const x = new XMLHttpRequest();
    x.open(method, new URL(path, ROOT));
    x.setRequestHeader("Authorization", "Bearer " + session.key);
    for (const [name, value] of Object.entries(headers)) x.setRequestHeader(name, value);
    x.upload.onprogress = e => onprogress(e.loaded);
    x.onload = () => { let v = null; try { v = JSON.parse(x.responseText); } catch { /* shown by its status */ } if (x.status < 300) done(v); else fail(new ApiError(x.status, v, path)); };
    x.onerror = () => fail(new ApiError(0, {error: {message: "The connection broke."}}, path));
    x.onabort = () => fail(new DOMException("stopped", "AbortError"));
    signal.addEventListener("abort", () => x.abort(), {once: true});
    x.send(body);
  });
}

const wait = ms => new Promise(done => setTimeout(done, ms));

// Sends one file from what the server has of it to its end.
async function sendFile(at, kind, file, onbytes, signal) {
  let from = 0;
  for (let tries = 0; from < file.size;) {
    const to = Math.min(file.size, from + PART);
    try {
      const got = await send("PUT", `${at}/${kind}`, file.slice(from, to), {"Content-Type": "application/octet-stream", "Content-Range": `bytes ${from}-${to - 1}/${file.size}`}, n => onbytes(from + n), signal);
      from = Math.max(to, got.files[kind].received);
      tries = 0;
    } catch (e) {
      if (signal.aborted || (e.status && e.status < 500 && e.status !== 429) || ++tries > TRIES) throw e;
      await wait(AGAIN_MS * tries);
      const now = await ask("GET", at, {signal}).then(r => r.json()).catch(e2 => { if (signal.aborted || e2.status === 404 || e2.status === 401) throw e2; return null; }); // it may be away for longer
      from = now ? Math.min(now.files[kind].received, file.size) : from;
    }
    onbytes(from);
  }
}

// All bytes are there. Said again it tells how things stand, so a connection that breaks while the engine tests costs nothing.
async function finish(at, signal) {
  for (let tries = 1; ; tries++) {
    try { return await (await ask("POST", at + "/complete", {query: {wait: "ready"}, signal, timeout: SELFTEST_MS})).json(); } catch (e) {
      if (signal.aborted || e.status || tries > TRIES) throw e;
      await wait(AGAIN_MS * tries);
    }
  }
}

const pathOf = (name, id) => `adapters/${encodeURIComponent(name)}/uploads${id ? "/" + id : ""}`;

async function upload(name, description, files, tell, signal) {
  tell("Opening the upload", 0);
  const open = await change("POST", pathOf(name), description ? {description} : {}), at = pathOf(name, open.id), whole = files.config.size + files.weights.size;
  try {
    await sendFile(at, "config", files.config, n => tell("Sending", n / whole), signal);
    await sendFile(at, "weights", files.weights, n => tell(`Sending ${fmt.bytes(n)} of ${fmt.bytes(files.weights.size)}`, (files.config.size + n) / whole), signal);
    tell("Checking, and the engine's self-test", null);
    return await finish(at, signal);
  } catch (e) {
    if (e.status !== 409) ask("DELETE", at).catch(() => { /* it expires by itself */ });
    throw e;
  }
}

async function check(files, tell, signal) {
  const form = new FormData();
  form.append("config", files.config, WANTED.config);
  form.append("weights", files.weights, WANTED.weights);
  return send("POST", "./adapters:validate", form, {}, n => tell("Sending for a check", n / (files.config.size + files.weights.size)), signal);
}

// --- what came of it ---

const made = v => facts([["Kind", v.kind], ["Rank", v.rank], ["Scale", v.scale], ["Base", v.base], ["Modules", (v.modules || []).join(", ")], ["Bytes", fmt.bytes(v.bytes)], v.parameters && ["Parameters", fmt.int(v.parameters)], v.memory && ["In a device's slot", fmt.bytes(v.memory.device)], v.max_error !== undefined && v.max_error !== null && ["Largest error of the self-test", v.max_error.toPrecision(2)], ["Digest", h("span.mono.tiny", null, v.digest)]]);

function outcome(v) {
  const failed = v.object === "adapter.validation" ? !v.valid : v.state === "failed", why = v.error || v.failure;
  return h("div.stack", {id: "outcome"}, h("div.row", null, tag(v.object === "adapter.validation" ? (v.valid ? "would be taken" : "would be refused") : v.state, failed ? "bad" : "good"), v.name && v.version && !failed ? h("a", {href: route.href(["adapter", v.name])}, `${v.name}@${v.version}`) : null, v.name && !failed ? h("a.button.small", {href: route.href("try", {a: v.name})}, "Try it") : null),
    failed && why ? h("p.fault", {role: "alert"}, `${fmt.words(why.code)}${why.tensor ? " · " + why.tensor : ""}: ${why.detail || why.message || v.reason}`) : null,
    (v.findings || []).map(f => h("p", null, tag(fmt.words(f.code), "warn"), " ", f.message, f.tensor ? ` (${f.tensor})` : "")), v.unused && v.unused.length ? h("p.fault", null, "Tensors that nothing uses: " + v.unused.join(", ")) : null, v.digest ? made(v) : null);
}

function refusal(e) {
  return h("div.stack", {id: "outcome"}, h("div.row", null, tag("refused", "bad"), e.code ? h("span.soft", null, fmt.words(e.code)) : null), h("p.fault", {role: "alert"}, e.message));
}

// --- choosing ---

function sort(list, files) {
  for (const f of list) {
    if (!f.size) return `${f.name} is empty.`;
    if (f.name.endsWith(".json")) files.config = f;
    else if (f.name.endsWith(".safetensors")) files.weights = f;
    else return `${f.name} is neither ${WANTED.config} nor ${WANTED.weights}. Pickles and archives are never read.`;
  }
  if (files.config && files.config.size > CONFIG_MAX) return `${files.config.name} is too large for a configuration.`;
  return "";
}

export default function page_upload({page}) {
  const files = {}, shown = h("div.stack", {"aria-live": "polite"}), name = h("input", {id: "name", required: true, pattern: NAME, maxlength: 64, autocomplete: "off", spellcheck: "false"}), description = h("input", {id: "description", maxlength: 1024, autocomplete: "off"});
  const picker = h("input", {type: "file", multiple: true, id: "files", class: "only-read", accept: ".json,.safetensors", onchange: e => take(e.target.files)}), have = h("div.row", {id: "have"}), fault = h("p.fault", {role: "alert", hidden: true}), bar = h("progress", {max: 1, value: 0, hidden: true, "aria-label": "Upload"}), step = h("p.soft", {role: "status"});
  const drop = h("div.drop", {id: "drop"}, h("strong", null, "Drop the two files of a PEFT adapter here"), h("span", null, `${WANTED.config} and ${WANTED.weights}`), button("Choose files", () => picker.click(), {id: "choose"}), picker, have);
  const send_ = button("Upload", () => run(false), {kind: "first", id: "send", disabled: true}), check_ = button("Check only", () => run(true), {id: "check", disabled: true}), stop_ = button("Stop", () => stop?.abort(), {hidden: true, id: "stop"});
  let stop = null;

  function take(list) {
    const wrong = sort(list, files);
    fault.hidden = !wrong;
    fault.textContent = wrong;
    fill(have, Object.entries(WANTED).map(([kind, wanted]) => files[kind] ? tag(`${files[kind].name}, ${fmt.bytes(files[kind].size)}`, "good") : tag(wanted + " is missing")));
    send_.disabled = check_.disabled = !(files.config && files.weights);
  }
  const tell = (text, share) => { step.textContent = text; bar.hidden = false; if (share === null) bar.removeAttribute("value"); else bar.value = share; };
  const busy = on => { for (const b of [send_, check_]) b.disabled = on || !(files.config && files.weights); stop_.hidden = !on; };

  async function run(only) {
    if (!only && !name.checkValidity()) { fault.hidden = false; fault.textContent = "Name: small letters, digits, . _ and - ; at most 64."; name.focus(); return; }
    fault.hidden = true;
    stop = new AbortController();
    busy(true);
    try {
      const v = only ? await check(files, tell, stop.signal) : await upload(name.value.trim(), description.value.trim(), files, tell, stop.signal);
      fill(shown, frame({title: only ? "What the checks say" : "Your version"}, outcome(v)));
      say(only ? "The check is done." : "The upload is done.");
    } catch (e) { if (e.name !== "AbortError") fill(shown, frame({title: "Not taken"}, refusal(e))); } finally { busy(false); bar.hidden = true; step.textContent = ""; stop = null; }
  }

  for (const kind of ["dragenter", "dragover"]) drop.addEventListener(kind, e => { e.preventDefault(); drop.classList.add("over"); });
  for (const kind of ["dragleave", "drop"]) drop.addEventListener(kind, () => drop.classList.remove("over"));
  drop.addEventListener("drop", e => { e.preventDefault(); take(e.dataTransfer.files); });
  const still = e => e.preventDefault(); // beside the field a file would replace the page
  for (const kind of ["dragover", "drop"]) { addEventListener(kind, still); page.onclose(() => removeEventListener(kind, still)); }
  page.onclose(() => stop?.abort());
  take([]);
  return {title: "Upload", up: ["adapters", "Adapters"], body: h("div.grid", null, frame({title: "Upload a version", note: "the same bytes are the same version"}, h("div.stack", null, drop, h("div.two", null, field("Name", name, "A new one, or an adapter that gets its next version."), field("Description", description)), fault, h("div.row", null, send_, check_, stop_), bar, step)), h("div", null, shown))};
}
