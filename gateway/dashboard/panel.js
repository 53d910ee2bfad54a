// panel: one question to the server and how its answer is shown. Each loads by itself, shows bones while it waits, and says in words what is wrong where
// nothing can be shown: not offered here (404), not with this key (403), not now (5xx), nothing there. One that fails takes no other with it.
//
//   panel({title, note, width, load: signal => data, draw: (data, tools) => node, empty: data => false or text, csv: data => {head, rows}, tools: [nodes]})
//
// draw may give {node, table} where node is a chart: then the table is its alternative, behind a switch. Answers of the same question are kept for
// the page, so going back shows the old one, dimmed, until the new one is here.

import {ApiError} from "./api.js";
import {saveCsv} from "./csv.js";
import {button, fill, h, say} from "./dom.js";

const bones = () => h("div.bones", {"aria-hidden": "true"}, h("i"), h("i"), h("i"), h("i"));

export function message(title, text, kind, action) {
  return h("div.message" + (kind ? "." + kind : ""), {role: kind === "bad" ? "alert" : null}, h("strong", null, title), text && h("span", null, text), action);
}

const WORDS = {
  403: ["Your key may not see this", "It lacks the role that this needs; whoever made the key can give it one that has it."],
  404: ["Not offered here", "This gateway has no such data, or the object is gone."],
  405: ["Not offered here", "This gateway can't do that yet."],
  429: ["Too many questions", "The server asks for a pause; try again in a moment."],
};

export function failure(e, again) {
  const known = e instanceof ApiError ? WORDS[e.status] : null;
  const title = known ? known[0] : e instanceof ApiError && e.status >= 500 ? "The server can't answer this now" : e instanceof ApiError && e.status === 0 ? "No connection" : "This could not be shown";
  const detail = known && e.status !== 429 ? known[1] + (e.code && e.status === 404 && e.message ? " " + e.message : "") : e.message;
  return message(title, detail, e.status === 403 || e.status === 404 || e.status === 405 ? "" : "bad", again && e.status !== 403 && button("Try again", again, {kind: "small"}));
}

export function panel({title, note, width = "", load, draw, empty, csv, name, tools = [], flush = false, page}) {
  const body = h("div.panel-body" + (flush ? ".flush" : "")), csvButton = csv && button("CSV", () => saveCsv(name || title, csv(shown)), {kind: "quiet small", disabled: true, "aria-label": `Save “${title}” as CSV`});
  const asTable = button("Table", () => { tabular = !tabular; paint(); }, {kind: "quiet small", "aria-pressed": "false", "aria-label": `Show “${title}” as a table`, hidden: true});
  const own = h("span.row"), head = h("header", null, h("h2", null, title), note && h("p", null, note), h("div.panel-tools", null, own, tools, asTable, csvButton));
  const node = h("section.panel" + (width ? "." + width : ""), {"aria-label": title, "aria-busy": "true"}, head, body);
  let shown, parts, tabular = false;

  function paint() {
    parts?.close?.();
    parts = null;
    const nothing = empty && empty(shown);
    const drawn = nothing ? message(nothing === true ? "Nothing here yet." : nothing) : draw(shown, {reload: run, own});
    const pair = drawn && !(drawn instanceof Node) && !Array.isArray(drawn) ? drawn : {node: drawn};
    parts = pair;
    asTable.hidden = !pair.table;
    asTable.setAttribute("aria-pressed", String(tabular));
    fill(body, tabular && pair.table ? pair.table() : pair.node);
    body.classList.toggle("flush", flush || (tabular && !!pair.table));
    if (!(tabular && pair.table)) pair.start?.();
    if (csvButton) csvButton.disabled = !!nothing;
  }

  async function run({still = false} = {}) {
    if (shown === undefined) fill(body, bones());
    else if (!still) body.classList.add("busy");
    node.setAttribute("aria-busy", "true");
    try {
      shown = await load(page.signal);
      if (page.signal.aborted) return;
      paint();
    } catch (e) {
      if (page.signal.aborted) return;
      if (!(e instanceof ApiError)) console.error(e);
      parts?.close?.();
      parts = null;
      shown = undefined;
      asTable.hidden = true;
      if (csvButton) csvButton.disabled = true;
      fill(body, failure(e, () => run()));
    } finally {
      body.classList.remove("busy");
      node.setAttribute("aria-busy", "false");
    }
  }
  page.onclose(() => parts?.close?.());
  page.onreload(() => run({still: true}));
  run();
  return Object.assign(node, {reload: run});
}

// What needs no question: the frame alone.
export function frame({title, note, width = "", tools = [], flush = false}, ...children) {
  return h("section.panel" + (width ? "." + width : ""), {"aria-label": title}, title && h("header", null, h("h2", null, title), note && h("p", null, note), tools.length ? h("div.panel-tools", null, tools) : null), h("div.panel-body" + (flush ? ".flush" : ""), null, children));
}

let toasts;
export function toast(text, kind) {
  if (!toasts || !toasts.isConnected) document.body.append(toasts = h("div.toasts"));
  const one = h("div.toast" + (kind ? "." + kind : ""), {role: kind === "bad" ? "alert" : null}, text);
  if (kind !== "bad") say(text);
  toasts.append(one);
  setTimeout(() => one.remove(), kind === "bad" ? 9000 : 4000);
}
