// dom: elements from code. The only way in which anything comes onto a page, and all of it goes through textContent and properties: a name that
// a tenant chose is text wherever it is shown. Markup from strings does not exist here, and the page's policy would refuse it.

const SVG = "http://www.w3.org/2000/svg";

// h("p.soft", {title: "x", onclick: f, data: {id: 1}}, "text", node, [more], null)
export function h(what, props, ...children) {
  const [tag, ...classes] = what.split(".");
  const node = document.createElement(tag || "div");
  if (classes.length) node.className = classes.join(" ");
  for (const [name, value] of Object.entries(props || {})) set(node, name, value);
  add(node, children);
  return node;
}

function set(node, name, value) {
  if (value === null || value === undefined || value === false) return;
  if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
  else if (name === "class") node.className = [node.className, value].filter(Boolean).join(" ");
  else if (name === "data") Object.assign(node.dataset, value);
  else if (name === "value" || name === "checked" || name === "selected" || name === "disabled") node[name] = value;
  else node.setAttribute(name, value === true ? "" : String(value));
}

export function add(node, children) {
  for (const child of [children].flat(Infinity)) {
    if (child === null || child === undefined || child === false) continue;
    node.append(child instanceof Node ? child : document.createTextNode(String(child)));
  }
  return node;
}

export const fill = (node, ...children) => add((node.replaceChildren(), node), children);

function shape(tag, props, ...children) {
  const node = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(props)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

const ICONS = { // strokes on 16 x 16
  overview: "M2 2h5v6H2zM9 2h5v3H9zM9 7h5v7H9zM2 10h5v4H2z", usage: "M2 14h12M4 11V8M8 11V3M12 11V6", tenants: "M6 7a2.5 2.5 0 1 0 0-5 2.500 2.500 0 0 0 0 5zM1.500 14c0-3 2-4.500 4.500-4.500s4.500 1.500 4.500 4.500M11 7a2 2 0 1 0-1-3.800M11.500 9.600c1.900.3 3 1.700 3 4.400",
  adapters: "M8 1.500 14 5 8 8.500 2 5zM2 8l6 3.500L14 8M2 11l6 3.500 6-3.500", canary: "M2 13 6 8l3 3 5-7M11 4h3v3", engines: "M4 4h8v8H4zM6.500 1v3M9.500 1v3M6.500 12v3M9.500 12v3M1 6.500h3M1 9.500h3M12 6.500h3M12 9.500h3",
  limits: "M2 12a6 6 0 1 1 12 0M8 12l3-5", errors: "M8 2 15 14H1zM8 6.500v3.500M8 12v.2", requests: "M2 4h12M2 8h12M2 12h7", exports: "M8 2v8M5 7l3 3 3-3M2 13h12", audit: "M3 2h7l3 3v9H3zM5.500 8l1.700 1.700L10.500 6.500", events: "M8 2v1M3.500 11h9L11 9V6.500a3 3 0 0 0-6 0V9zM6.700 13.500h2.600",
  ledger: "M2 8h3l2-5 2.500 10L11.500 8H14", upload: "M8 11V3M5 6l3-3 3 3M2 13h12", aliases: "M2 8h4l3-4h5M6 8l3 4h5M12 2l2 2-2 2M12 10l2 2-2 2", try: "M2 3h12v8H8l-3 3v-3H2z", keys: "M10.500 9a3.500 3.500 0 1 0-3.300-2.300L2 12v2h2.500v-1.500H6V11h1.500l1-1.200c.6.200 1.200.2 2 .2zM11 5v.1", invoice: "M3 2h10v12l-2-1.300L9 14l-1-1-1 1-2-1.300L3 14zM5.500 5.500h5M5.500 8.500h5",
  webhooks: "M8 5.500a2 2 0 1 0-1.800-1.100L4 10M5 12a2 2 0 1 1-2-2M5 12h6.500M13 10a2 2 0 1 1-1.500 2M11.500 9.800 9 4.800",
  menu: "M2 4h12M2 8h12M2 12h12", sun: "M8 11a3 3 0 1 0 0-6 3 3 0 0 0 0 6zM8 1v1.500M8 13.500V15M1 8h1.500M13.500 8H15M3 3l1 1M12 12l1 1M13 3l-1 1M4 12l-1 1", leave: "M6 2H3v12h3M10 5l3 3-3 3M13 8H6", help: "M8 15A7 7 0 1 0 8 1a7 7 0 0 0 0 14zM6 6a2 2 0 1 1 2.600 1.900c-.4.200-.6.500-.6 1.100M8 11.500v.1", table: "M2 3h12v10H2zM2 7h12M7 3v10", close: "M3 3l10 10M13 3 3 13", link: "M6.500 9.500l3-3M7 4.500 9 2.500a3 3 0 0 1 4.500 4.500l-2 2M9 11.500l-2 2A3 3 0 0 1 2.500 9l2-2",
};

export function icon(name) {
  return shape("svg", {viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true", fill: "none", stroke: "currentColor", "stroke-width": 1.5, "stroke-linecap": "round", "stroke-linejoin": "round"},
    shape("path", {d: ICONS[name] || ""}));
}

// The sample of a line in a legend: colour and dashes.
export function swatch(colour, dash, filled) {
  const at = filled ? shape("rect", {x: 6, y: 0, width: 12, height: 10, rx: 2, fill: colour}) : shape("line", {x1: 1, y1: 5, x2: 23, y2: 5, stroke: colour, "stroke-width": 3, "stroke-dasharray": (dash || []).map(d => d * 1.200).join(" ")});
  return shape("svg", {viewBox: "0 0 24 10", "aria-hidden": "true"}, at);
}

export function button(label, onclick, {kind = "", iconName, ...props} = {}) {
  return h("button.button" + (kind ? "." + kind.split(" ").join(".") : ""), {type: "button", onclick, ...props}, iconName && icon(iconName), label);
}

export function field(label, control, note) {
  return h("label.field", null, h("span", null, label), control, note && h("small", null, note));
}

// options: words or [value, label].
export function select(options, value, onchange, props) {
  const list = options.map(o => Array.isArray(o) ? o : [o, o]);
  return h("select", {onchange: e => onchange && onchange(e.target.value), ...props},
    list.map(([v, label]) => h("option", {value: v, selected: String(v) === String(value)}, label)));
}

export const NAME = "[a-z0-9][a-z0-9._\\-]{0,63}"; // of tenants, adapters, aliases; as the attribute pattern takes it
export const tag = (text, kind) => h("span.tag" + (kind ? "." + kind : ""), null, text);
export const time = (unix, text, title) => h("time", {datetime: new Date(unix * 1000).toISOString(), title}, text);

// Tells people who can't see the page; politely, so nothing is interrupted.
export function say(text) {
  let at = document.getElementById("said");
  if (!at) document.body.append(at = h("div.only-read", {id: "said", role: "status", "aria-live": "polite"}));
  at.textContent = text;
}
