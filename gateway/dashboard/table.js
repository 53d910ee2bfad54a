// table: rows of an answer. A column says how a cell looks (show) and what it is (value: for sorting and CSV); hidden ones are in the CSV only, noCsv ones never. room: the table must have that much of it (mid, min: parts.css). Long lists are never loaded whole: paged()
// asks for one page by cursor, and the cursor stands in the address.

import {get} from "./api.js";
import {button, h} from "./dom.js";
import {panel} from "./panel.js";
import * as route from "./route.js";

const PAGE = 50;

const valueOf = (column, row) => column.value ? column.value(row) : row[column.key];

function heading(column, sorted, onsort) {
  const props = {scope: "col", class: [column.num ? "num" : "", column.room || ""].join(" ").trim() || null, title: column.title};
  if (!onsort || column.fixed) return h("th", props, column.label);
  if (sorted && sorted.key === column.key) props["aria-sort"] = sorted.down ? "descending" : "ascending";
  return h("th", props, h("button.sort", {type: "button", onclick: () => onsort(column)}, column.label));
}

function cellOf(column, row, first) {
  const shown = column.show ? column.show(row) : valueOf(column, row);
  const props = {class: [column.num ? "num" : "", column.class || "", column.room || ""].join(" ").trim() || null, title: column.class === "clip" ? shown : null};
  return first ? h("th", {scope: "row", ...props}, shown ?? "–") : h("td", props, shown ?? "–");
}

const order = (a, b) => a === b ? 0 : a === null || a === undefined ? 1 : b === null || b === undefined ? -1 : a < b ? -1 : 1;

// foot: a row like the others, for sums. sort: {key, down} of the start; clicking a heading sorts what is here.
export function table({columns: all, rows, caption, foot, sort, sortable = true}) {
  const columns = all.filter(c => !c.hidden);
  const at = h("div.scroll", {tabindex: "0", role: "region", "aria-label": caption});
  let by = sort || null;
  const paint = () => {
    const list = by ? [...rows].sort((a, b) => { const c = columns.find(x => x.key === by.key), x = valueOf(c, a), y = valueOf(c, b), o = order(x, y); return x === null || x === undefined || y === null || y === undefined ? o : by.down ? -o : o; }) : rows;
    const onsort = sortable ? column => { by = {key: column.key, down: by && by.key === column.key ? !by.down : !!column.num}; paint(); at.querySelector(`[aria-sort] button`)?.focus(); } : null;
    at.replaceChildren(h("table", null, h("caption.only-read", null, caption), h("thead", null, h("tr", null, columns.map(c => heading(c, by, onsort)))),
      h("tbody", null, list.map(row => h("tr", null, columns.map((c, i) => cellOf(c, row, i === 0))))), foot && h("tfoot", null, h("tr", null, columns.map((c, i) => c.key in foot ? cellOf(c, foot, i === 0) : h("td"))))));
  };
  paint();
  return at;
}

// Money is in nano-units in files, which are for programs and sums; the heading says so.
const headOf = c => c.key?.endsWith("_nano") && !c.label.endsWith("nano") ? c.label + ", nano" : c.label;
export const asCsv = (columns, rows) => {
  const some = columns.filter(c => !c.noCsv);
  return {head: some.map(headOf), rows: rows.map(row => some.map(c => valueOf(c, row)))};
};

// A panel with one page of a list and the ways to the next and the one before. id tells the cursors of several lists of a page apart. most: where more than
// a page is not to be had. sorts: the server's own orders, as columns' keys.
// Lists that only go on have a way back to their start; the browser knows the pages between.
export function onward(d, id, shown) {
  const {params} = route.read(), after = params["after" + id], go = more => route.set({["after" + id]: undefined, ...more}, {keepPlace: true});
  if (!d.has_more && !after) return null;
  return h("nav.pager", {"aria-label": "Pages"}, h("span.grow", null, `${shown} shown`), after ? [button("First", () => go({}), {kind: "quiet small"}), button("Previous", () => history.back(), {kind: "small", id: "previous" + id})] : null, button("Next", () => go({["after" + id]: d.last_id}), {kind: "small", disabled: !d.has_more, id: "next" + id}));
}

export function paged({title, note, path, query = {}, columns, id = "", page, tools, width, empty, newest = false, forward = false, rows = d => d.data, limit = PAGE, onload, load}) {
  const {params} = route.read(), after = params["after" + id], before = params["before" + id];
  const place = more => route.set({["after" + id]: undefined, ["before" + id]: undefined, ...more}, {keepPlace: true});
  const pager = d => {
    if (forward) return onward(d, id, rows(d).length);
    const next = before ? true : d.has_more, back = before ? d.has_more : !!after;
    if (!next && !back) return null;
    return h("nav.pager", {"aria-label": "Pages of " + title}, h("span.grow", null, `${rows(d).length} shown`),
      back && (after || before) ? button("First", () => place({}), {kind: "quiet small"}) : null,
      button(newest ? "Newer" : "Previous", () => place({["before" + id]: d.first_id}), {kind: "small", disabled: !back || d.first_id === null, id: "previous" + id}),
      button(newest ? "Older" : "Next", () => place({["after" + id]: d.last_id}), {kind: "small", disabled: !next || d.last_id === null, id: "next" + id}));
  };
  return panel({title, note, width, tools, page, flush: true,
    load: async signal => { const q = {limit, after, before, ...query}; const d = await (load ? load(q, signal) : get(path, q, signal)); onload?.(d); return d; },
    empty: d => rows(d).length === 0 && (after || before ? "There is nothing further here." : empty || true),
    csv: d => asCsv(columns, rows(d)),
    draw: d => [table({columns, rows: rows(d), caption: title, sortable: false}), pager(d)]});
}

export function facts(pairs) {
  return h("dl.facts", null, pairs.filter(Boolean).map(([name, value]) => [h("dt", null, name), h("dd", null, value ?? "–")]));
}
