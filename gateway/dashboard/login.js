// login: a key is typed here, asked once whether it is one, and kept in memory. Not a form of the browser's: no password manager should store an API key
// under this host's name unless its owner wants that, and nothing is ever sent but as a bearer.

import {button, fill, h} from "./dom.js";

export function login(app, {why = "", enter}) {
  document.title = "Weft";
  const key = h("input", {type: "password", id: "key", name: "weft-key", autocomplete: "off", spellcheck: "false", required: true, placeholder: "wft_… or wfa_…"});
  const keep = h("input", {type: "checkbox", id: "keep"}), fault = h("p.fault", {role: "alert", id: "fault", hidden: !why}, why), go = button("Open", null, {kind: "first", id: "open"});
  go.type = "submit";
  const submit = async e => {
    e.preventDefault();
    if (!key.value.trim()) { fault.hidden = false; fault.textContent = "Type a key."; key.focus(); return; }
    go.disabled = true;
    fault.hidden = true;
    try { await enter(key.value, keep.checked); } catch (error) {
      fault.hidden = false;
      fault.textContent = error.message;
      key.select();
    } finally { go.disabled = false; }
  };
  fill(app, h("div.login", null, h("form", {onsubmit: submit}, h("img", {src: "dashboard/weft.svg", alt: ""}), h("div", null, h("h1", null, "Weft"), h("p", null, "Usage, adapters and limits, with the key of a tenant or of an operator.")),
    h("label.field", null, h("span", null, "Key"), key), h("label.check", null, keep, h("span", null, "Keep it in this tab until the tab is closed")), fault, go,
    h("p", null, "The key stays in this page's memory and is sent to this server only. No cookie is set."))));
  key.focus();
}
