// dialog: questions that stand in front of the page. The browser's own <dialog> keeps the focus inside and gives it back; Escape leaves.

import {button, fill, h} from "./dom.js";
import {toast} from "./panel.js";

// Opens; resolves when it is closed.
export function open(content, {wide = false, label} = {}) {
  const node = h("dialog" + (wide ? ".wide" : ""), {"aria-label": label}, content);
  document.body.append(node);
  node.showModal();
  return new Promise(done => node.addEventListener("close", () => { node.remove(); done(node.returnValue); }));
}

const closeOf = node => node.closest("dialog").close();

// A form: fields is a list of nodes; submit(form) does the work and may throw, which is shown in the form. Resolves to what submit gave, or null.
export function ask({title, text, fields = [], verb = "Save", danger = false, wide = false, submit}) {
  let result = null;
  const fault = h("p.fault", {role: "alert", hidden: true});
  const go = button(verb, null, {kind: danger ? "danger" : "first"});
  go.type = "submit";
  const form = h("form", {method: "dialog", novalidate: true, onsubmit: async e => {
    e.preventDefault();
    if (!form.checkValidity()) { const wrong = form.querySelector(":invalid"); fault.hidden = false; fault.textContent = (wrong.closest(".field")?.querySelector("span")?.textContent || "A field") + ": " + wrong.validationMessage; wrong.focus(); return; }
    go.disabled = true;
    fault.hidden = true;
    try { result = (await submit(form)) ?? true; closeOf(form); } catch (error) { fault.hidden = false; fault.textContent = error.message; } finally { go.disabled = false; }
  }}, h("h2", null, title), text && h("p", null, text), fields, fault, h("div.row.end", null, button("Cancel", e => closeOf(e.target)), go));
  return open(form, {wide, label: title}).then(() => result);
}

export const confirm = (title, text, verb, submit) => ask({title, text, verb, danger: true, submit});

// A key's text, this once.
export function showSecret(title, text, secret) {
  const copy = button("Copy", async () => { try { await navigator.clipboard.writeText(secret); toast("Copied."); } catch { getSelection().selectAllChildren(shown); toast("Selected; copy it with the keyboard."); } }, {kind: "first"});
  const shown = h("code", {id: "secret"}, secret);
  return open(h("div.inside", null, h("h2", null, title), h("p", null, text), h("div.secret", null, shown, copy), h("div.row.end", null, button("I have it", e => closeOf(e.target)))), {label: title});
}

export function details(title, ...content) {
  const inside = h("div.inside", null, h("h2", null, title));
  fill(inside, h("h2", null, title), content, h("div.row.end", null, button("Close", e => closeOf(e.target))));
  return open(inside, {wide: true, label: title});
}
