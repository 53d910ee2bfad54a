// keyboard: one key for what one does often, none while somebody types. The list below is what works and what the help shows.

import {h} from "./dom.js";
import {details} from "./dialog.js";
import * as route from "./route.js";

const GO_MS = 1200;
let waiting = 0, pages = [], acts = {};

const typing = e => e.target.closest && e.target.closest("input, select, textarea, [contenteditable]");

function step(by) {
  const names = Object.keys(route.RANGES).filter(n => route.RANGES[n][1]), at = names.indexOf(route.times(route.read().params).name);
  route.set({range: names[Math.min(names.length - 1, Math.max(0, (at < 0 ? 2 : at) + by))], from: undefined, to: undefined});
}

const KEYS = {
  "?": ["This help", () => help()],
  "/": ["Search or filter", () => document.querySelector("main input[type=search], .bar input[type=search]")?.focus()],
  r: ["Ask again", () => acts.reload()],
  t: ["Light or dark", () => acts.theme()],
  c: ["Compare with the time before", () => document.getElementById("compare")?.click()],
  "[": ["Shorter time", () => step(-1)],
  "]": ["Longer time", () => step(1)],
  n: ["Next page of a list", () => document.querySelector(".pager button[id^=next]:not(:disabled)")?.click()],
  p: ["Page before", () => document.querySelector(".pager button[id^=previous]:not(:disabled)")?.click()],
};

export function help() {
  if (document.querySelector("dialog[open]")) return;
  const line = (keys, text) => h("div", null, h("span", null, text), h("span", null, keys.map(k => h("kbd", null, k))));
  details("Keyboard", h("div.keys", {id: "help"}, Object.entries(KEYS).map(([key, [text]]) => line([key], text)), pages.filter(p => p.key).map(p => line(["g", p.key], p.label))));
}

function press(e) {
  if (e.ctrlKey || e.metaKey || e.altKey || e.isComposing) return;
  if (typing(e)) { if (e.key === "Escape") e.target.blur(); return; }
  if (document.querySelector("dialog[open]")) return;
  if (waiting && Date.now() - waiting < GO_MS) {
    const to = pages.find(p => p.key === e.key);
    waiting = 0;
    if (to) { e.preventDefault(); route.go(to.path); return; }
  }
  if (e.key === "g") { waiting = Date.now(); return; }
  if (KEYS[e.key]) { e.preventDefault(); KEYS[e.key][1](); }
}

// pages: [{key, path, label}]; acts: {reload, theme}.
export function listen(which, what) {
  pages = which;
  acts = what;
}
document.addEventListener("keydown", e => { if (acts.reload) press(e); });
