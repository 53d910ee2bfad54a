// events: what happened to tenants, versions, aliases, budgets and engines. The API tells oldest first, since programs follow it; people want the newest first, so
// the list is asked from its end and turned round.

import {get, isAdmin} from "./api.js";
import {tenant} from "./controls.js";
import {h, tag, time} from "./dom.js";
import * as fmt from "./format.js";
import * as route from "./route.js";
import {paged} from "./table.js";

const LAST = "999999999999999";
const KINDS = [[/failed|hard|quarantined|ejected|failing|conflict|full/, "bad"], [/soft|draining|aborted|paused|archived/, "warn"], [/ready|enabled|ended|joined|lifted/, "good"]];
export const eventKind = type => (KINDS.find(([words]) => words.test(type)) || [0, ""])[1];

const detail = e => Object.entries(e.detail || {}).filter(([, v]) => v !== null && typeof v !== "object").map(([k, v]) => `${fmt.words(k)}: ${v}`).join(", ");

export function eventRow(e) {
  return h("li", null, h("div.row", null, tag(e.type, eventKind(e.type)), h("span.soft.tiny", null, time(e.created_at, fmt.day(e.created_at) + " " + fmt.clock(e.created_at, true), fmt.local(e.created_at)))), h("div", null, [e.tenant, e.target].filter(Boolean).join(" / ")));
}

// The API's pages, from the end on.
export async function newestFirst(path, {after, before, ...rest}, signal) {
  const d = await get(path, {...rest, before: after || (before ? undefined : LAST), after: before}, signal);
  return {...d, data: [...d.data].reverse(), first_id: d.last_id, last_id: d.first_id};
}

export default function events({page, params}) {
  return {title: "Events", tools: [tenant(params)], body: h("div.grid", null,
    paged({page, title: "Events", note: "newest first", newest: true, path: "events", query: {tenant: params.tenant}, empty: "Nothing has happened yet.",
      load: async (q, signal) => newestFirst("events", q, signal),
      columns: [
        {key: "created_at", label: "Time (UTC)", value: e => fmt.moment(e.created_at), class: "nowrap"}, {key: "type", label: "What", show: e => tag(e.type, eventKind(e.type))},
        isAdmin() && {key: "tenant", label: "Tenant", show: e => e.tenant ? h("a", {href: route.href(["tenant", e.tenant])}, e.tenant) : fmt.NONE}, {key: "target", label: "To what", value: e => e.target}, {key: "detail", label: "More", value: detail, class: "wide"}, {key: "seq", label: "No.", num: true},
      ].filter(Boolean)}))};
}
