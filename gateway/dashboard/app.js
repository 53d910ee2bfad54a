// app: the frame of all pages, and how one page gives way to the next. A page is a function of the address: page({page, path, params}) -> {title, tools, body}.
// When the address changes the page is drawn anew; what had the focus has it again, and what the old page had going (questions, streams, charts) is ended.

import {ApiError, enter, isAdmin, kept, leave, session} from "./api.js";
import {repaint} from "./charts.js";
import {button, fill, h, icon, say} from "./dom.js";
import {help, listen} from "./keyboard.js";
import {login} from "./login.js";
import {PAGES, shownTo} from "./pages.js";
import {failure, toast} from "./panel.js";
import * as route from "./route.js";

const app = document.getElementById("app");
const parts = {};
let now = null;

// What a page has going; ended with it.
function makePage() {
  const stop = new AbortController(), closers = [], reloaders = [];
  return {signal: stop.signal, onclose: f => closers.push(f), onreload: f => reloaders.push(f), reload: () => reloaders.forEach(f => f()), close: () => { stop.abort(); closers.forEach(f => f()); }};
}

// --- theme ---

const theme = () => document.dispatchEvent(new Event("weft:choose"));
document.addEventListener("weft:theme", repaint);

// --- the frame ---

function nav(here) {
  const pages = shownTo(session).filter(p => !p.hidden), groups = [...new Set(pages.map(p => p.group))];
  return groups.map(g => h("div", null, h("h2", null, g), h("ul", null, pages.filter(p => p.group === g).map(p =>
    h("li", null, h("a", {href: route.href(p.path), "aria-current": p.path === here ? "page" : null}, icon(p.icon), p.label))))));
}

function drawer(open) {
  parts.side.classList.toggle("open", open);
  parts.menu.setAttribute("aria-expanded", String(open));
  document.querySelector(".veil")?.remove();
  if (open) { document.body.append(h("button.veil", {type: "button", "aria-label": "Close the navigation", onclick: () => drawer(false)})); parts.side.querySelector("a")?.focus(); }
}

function frame() {
  parts.nav = h("nav.nav", {"aria-label": "Pages"});
  parts.title = h("h1", {id: "title"});
  parts.tools = h("div.tools");
  parts.main = h("main", {id: "main", tabindex: "-1"});
  parts.menu = button("", () => drawer(!parts.side.classList.contains("open")), {kind: "quiet menu", iconName: "menu", "aria-label": "Navigation", "aria-expanded": "false"});
  parts.side = h("aside.side", {id: "side"}, h("a.brand", {href: "#/"}, h("img", {src: "dashboard/weft.svg", alt: ""}), "Weft", h("span", {title: session.name}, isAdmin() ? "operator" : session.name || "tenant")), parts.nav,
    h("div.side-foot", null, h("div.row", null, button("", theme, {kind: "quiet small", iconName: "sun", "aria-label": "Light or dark", title: "Light or dark  ( t )", id: "theme"}), button("", help, {kind: "quiet small", iconName: "help", "aria-label": "Keyboard", title: "Keyboard  ( ? )"}),
      button("Leave", () => out(), {kind: "quiet small", iconName: "leave", id: "leave"})), h("a", {href: "docs", target: "_blank", rel: "noopener"}, "API reference")));
  fill(app, h("div.frame", null, parts.side, h("div.main", null, h("header.bar", null, parts.menu, parts.title, parts.tools), parts.main)));
}

// --- pages ---

const remember = () => { const a = document.activeElement; return a && a.id && a !== parts.main ? {id: a.id, from: a.selectionStart, to: a.selectionEnd} : null; };
function restore(was) {
  const a = was && document.getElementById(was.id);
  if (!a) return;
  a.focus({preventScroll: true});
  if (typeof was.from === "number" && a.setSelectionRange && a.type !== "number") try { a.setSelectionRange(was.from, was.to); } catch { /* this kind has none */ }
}

const away = () => { throw new ApiError(0, {error: {message: "The page could not be fetched: the gateway is not there, or its dashboard was taken away."}}, ""); };

async function show() {
  if (!isAdmin() && route.read().params.tenant) return route.set({tenant: undefined}, {quiet: true}); // an operator's link; a tenant sees its own
  const {path, params} = route.read(), known = shownTo(session), name = path[0] || known[0].path, found = known.find(p => p.path === name), same = now && now.path.join("/") === path.join("/"), was = remember(), top = same ? scrollY : 0;
  now?.page.close();
  const page = makePage(), mine = now = {page, path};
  parts.main.setAttribute("aria-busy", "true");
  document.querySelectorAll("dialog").forEach(d => d.remove());
  drawer(false);
  fill(parts.nav, nav(found ? found.in || found.path : ""));
  let made;
  try {
    if (!found) made = absent(name);
    else made = (await import(found.from).catch(away)).default({page, path: path.slice(1), params});
  } catch (e) {
    console.error(e);
    made = {title: found ? found.label : "Weft", body: failure(e, show)};
  }
  if (now !== mine) return page.close();
  fill(parts.title, made.up ? [h("a", {href: route.href(made.up[0])}, made.up[1]), " / "] : null, made.title);
  fill(parts.tools, made.tools || []);
  fill(parts.main, made.body);
  parts.main.setAttribute("aria-busy", "false");
  document.title = `${typeof made.title === "string" ? made.title : name} · Weft`;
  if (same) { restore(was); scrollTo(0, top); } else { scrollTo(0, 0); if (was) parts.main.focus({preventScroll: true}); say(document.title); }
}

function absent(name) {
  const exists = PAGES.some(p => p.path === name);
  return {title: "Not here", body: h("div.message", null, h("strong", null, exists ? "This page is not for this key" : "There is no such page"), h("span", null, exists ? "It belongs to the other kind of key, or this key lacks the role for it." : "The link may be old."), h("a", {href: "#/"}, "To the first page"))};
}

// --- coming and going ---

function begin() {
  session.onend = () => { out("This key is not valid any more: it was revoked, or it has expired."); };
  frame();
  listen(shownTo(session).filter(p => !p.hidden), {reload: () => now?.page.reload(), theme});
  show();
}

function out(why) {
  if (!session.role && !why) return;
  now?.page.close();
  now = null;
  listen([], {});
  leave();
  document.querySelectorAll("dialog, .veil").forEach(d => d.remove());
  login(app, {why: typeof why === "string" ? why : "", enter: async (key, keep) => { await enter(key, keep); begin(); }});
}

document.addEventListener("keydown", e => { if (e.key === "Escape" && parts.side?.classList.contains("open")) { drawer(false); parts.menu.focus(); } });
addEventListener("hashchange", () => { if (session.role) show(); });
document.getElementById("skip").addEventListener("click", e => { e.preventDefault(); (parts.main?.isConnected ? parts.main : app.querySelector("input"))?.focus(); });
addEventListener("unhandledrejection", e => { if (e.reason instanceof ApiError) { e.preventDefault(); toast(e.reason.message, "bad"); } else if (e.reason?.name === "AbortError") e.preventDefault(); });

const before = kept();
if (before) enter(before, true).then(begin, e => { session.role = ""; out(e.status === 401 ? "The kept key is not valid any more." : e.message); });
else login(app, {enter: async (key, keep) => { await enter(key, keep); begin(); }});
