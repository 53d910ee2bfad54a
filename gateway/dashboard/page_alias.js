// alias: what one name leads to, changed by weights, and taken back in one step. The change carries the revision that was read (If-Match): somebody else's change in
// between is told, never overwritten.

import {ask as request, change, get, isAdmin, may} from "./api.js";
import {button, field, fill, h, select} from "./dom.js";
import {range} from "./controls.js";
import {confirm} from "./dialog.js";
import * as fmt from "./format.js";
import {message, panel, toast} from "./panel.js";
import * as route from "./route.js";
import {scoresPanel} from "./scores.js";
import {list, share} from "./series.js";
import {aliasApi, mayAlias, targetName} from "./page_aliases.js";

const TARGETS_MAX = 8, WEIGHT_MAX = 1000000;

const asText = t => t.base || (t.adapter || "") + (t.version ? "@" + t.version : "");

const parsed = (area, what) => {
  if (!area.value.trim()) return null;
  try { return JSON.parse(area.value); } catch (error) { throw new SyntaxError(`The ${what} is not JSON: ${error.message}`); }
};

function editor(alias, bases, {owner, reload, write}) {
  const rows = alias.targets.map(t => ({text: asText(t), base: !!t.base, weight: t.weight ?? 1})), where = h("div.stack"), fault = h("p.fault", {role: "alert", hidden: true});
  const policy = select([["weighted", "Weighted: each request goes to one"], ["fallback", "Fallback: in order, the next where one can't serve"]], alias.policy, () => paint(), {id: "policy", disabled: !write});
  const sticky = select([["request", "nothing: each request anew"], ["user", "the request's user"], ["key", "the key"]], alias.sticky, null, {id: "sticky", disabled: !write}), prefix = h("textarea", {id: "prefix", value: alias.system_prefix, maxlength: 16384, disabled: !write, "aria-label": "System prefix"});
  const prompt = h("textarea.mono", {id: "prompt-policy", value: alias.prompt_policy ? JSON.stringify(alias.prompt_policy, null, 1) : "", maxlength: 65536, disabled: !write, spellcheck: "false", placeholder: '{"truncate": {"max_tokens": 2048, "last_turns": 2}}', "aria-label": "Prompt policy"});
  const judged = h("textarea.mono", {id: "evaluation", value: alias.evaluation ? JSON.stringify(alias.evaluation, null, 1) : "", maxlength: 65536, disabled: !write, spellcheck: "false", placeholder: '{"sample": 0.1, "rules": [{"name": "short", "kind": "length", "unit": "words", "max": 100}]}', "aria-label": "Evaluation"});
  const routing = h("textarea.mono", {id: "routing", value: alias.routing ? JSON.stringify(alias.routing, null, 1) : "", maxlength: 4096, disabled: !write, spellcheck: "false", placeholder: '{"error_cost": 3}', "aria-label": "Routing"});
  const capture = h("textarea.mono", {id: "capture", value: alias.capture ? JSON.stringify(alias.capture, null, 1) : "", maxlength: 65536, disabled: !write, spellcheck: "false", placeholder: '{"sample": 0.1, "expires_days": 30}', "aria-label": "Capture"});
  const save = button("Save", null, {kind: "first", id: "save"});
  save.type = "submit";

  function line(row, i, sum) {
    const weight = h("input", {type: "number", min: 0, max: WEIGHT_MAX, value: row.weight, id: `weight-${i}`, "aria-label": `Weight of target ${i + 1}`, disabled: !write, oninput: e => { row.weight = Number(e.target.value); repaintShares(); }});
    return h("div.target", null, h("input", {value: row.text, id: `target-${i}`, "aria-label": `Target ${i + 1}`, list: "targets", placeholder: "name, name@version or base", spellcheck: "false", disabled: !write, oninput: e => { row.text = e.target.value.trim(); }}),
      policy.value === "weighted" ? [weight, h("span.shown", null, share(sum ? row.weight / sum : 0))] : h("span.soft", null, `tried ${["first", "second", "third", "fourth"][i] || "later"}`),
      write && rows.length > 1 ? button("", () => { rows.splice(i, 1); paint(); }, {kind: "quiet small", iconName: "close", "aria-label": `Remove target ${i + 1}`}) : null);
  }
  const total = () => rows.reduce((n, r) => n + (Number(r.weight) || 0), 0);
  const repaintShares = () => where.querySelectorAll(".shown").forEach((at, i) => fill(at, share(total() ? rows[i].weight / total() : 0)));
  const paint = () => fill(where, rows.map((r, i) => line(r, i, total())), write && rows.length < (policy.value === "fallback" ? 4 : TARGETS_MAX) ? h("div", null, button("Add a target", () => { rows.push({text: "", weight: 0}); paint(); document.getElementById(`target-${rows.length - 1}`).focus(); }, {kind: "small", id: "add"})) : null);

  const body = () => ({policy: policy.value, sticky: sticky.value, system_prefix: prefix.value, prompt_policy: parsed(prompt, "prompt policy"), capture: parsed(capture, "capture"), evaluation: parsed(judged, "evaluation"), routing: parsed(routing, "routing"), targets: rows.filter(r => r.text).map(r => { const [name, version] = r.text.split("@"), weight = policy.value === "weighted" ? {weight: r.weight} : {}; return bases.has(r.text) ? {base: r.text, ...weight} : {adapter: name, ...(version ? {version: Number(version)} : {}), ...weight}; })});
  const submit = async e => {
    e.preventDefault();
    save.disabled = true;
    fault.hidden = true;
    try { await change("PUT", aliasApi(owner, alias.name), body(), {revision: alias.revision}); toast(`${alias.name} leads there from now on.`); reload(); } catch (error) {
      fault.hidden = false;
      fault.textContent = error instanceof SyntaxError ? error.message : error.status === 412 ? "Somebody changed it meanwhile. Ask again to see their change; yours was not made." : error.message;
    } finally { save.disabled = false; }
  };
  paint();
  return h("form.stack", {onsubmit: submit}, h("datalist", {id: "targets"}), h("div.two", null, field("Policy", policy), field("Sticks to", sticky)), h("h3", null, "Targets"), where, field("System prefix", prefix, "Stands in front of every request's own system message; a secret may be in it, so the trail keeps only its hash."), field("Prompt policy", prompt, "What is done with prompts before the model reads them, as JSON; empty: nothing."), field("Evaluation", judged, "Which share of answers is judged, and by what, as JSON; empty: none."), field("Routing", routing, "Of a chain of two, the small model and the large one: which is asked, as JSON; empty: in order."), field("Capture", capture, "Which conversations are kept, redacted, for training (docs/DISTILL.md); empty: none. Needs a key of the role admin."), fault, write && h("div.row", null, save));
}

async function offer(node, owner, signal) {
  try {
    const [d, m] = await Promise.all([isAdmin() || may("usage") ? get("stats/adapters", {tenant: owner, state: "ready", limit: 100}, signal) : {data: []}, isAdmin() || !may("inference") ? null : get("models", {}, signal)]);
    const names = [...new Set([...list(d).flatMap(r => [r.adapter, `${r.adapter}@${r.version}`]), ...(m ? m.data.map(x => x.id) : [])])];
    fill(node, names.map(n => h("option", {value: n})));
  } catch { /* names can be typed */ }
}

const basesOf = async (alias, signal) => {
  const known = new Set(alias.targets.map(t => t.base).filter(Boolean));
  if (!isAdmin() && !may("inference")) return known;
  try { for (const x of isAdmin() ? list(await get("engines", {limit: 100}, signal)).map(e => e.base) : (await get("models", {}, signal)).data.filter(m => !m.parent).map(m => m.id)) known.add(x); } catch { /* those that it has are known */ }
  return known;
};

async function rollBack(alias, owner, reload) {
  const done = await confirm(`Roll ${alias.name} back?`, "To what it was before its last change, at once. Done again, it undoes itself.", "Roll back", () => change("POST", aliasApi(owner, alias.name) + "/rollback", undefined));
  if (done) { toast(`${done.name} leads to ${done.targets.map(targetName).join(", ")} again.`); reload(); }
}

async function remove(alias, owner) {
  const path = aliasApi(owner, alias.name);
  if (await confirm(`Delete the alias ${alias.name}?`, "Its name is the adapter's again, where one has it; else requests for it are 404.", "Delete", () => request("DELETE", path, {headers: {"If-Match": `"${alias.revision}"`}}))) { toast(`${alias.name} is gone.`); route.go("aliases"); }
}

export default function alias({page, path, params}) {
  const [owner, name] = isAdmin() ? path : [undefined, path[0]];
  if (!name) return {title: "Alias", body: message("The link names no alias")};
  const scored = isAdmin() || may("usage");
  const main = panel({page, title: name, load: async signal => { const a = await get(aliasApi(owner, name), {}, signal); return {a, bases: await basesOf(a, signal)}; },
    draw: ({a, bases}, {reload, own}) => {
      const write = mayAlias(), form = editor(a, bases, {owner, reload, write});
      fill(own, h("span.soft.tiny", null, `changed ${fmt.moment(a.changed_at)} UTC`), write && [button("Roll back", () => rollBack(a, owner, reload), {kind: "small", id: "rollback", disabled: !a.can_roll_back}), button("Delete", () => remove(a, owner), {kind: "small danger"})]);
      offer(form.querySelector("datalist"), owner, page.signal);
      return form;
    }});
  return {title: owner ? `${owner} / ${name}` : name, up: ["aliases", "Aliases"], tools: [scored && range(params), h("a.button", {href: route.href("canary", {alias: name, ...(owner ? {tenant: owner} : {})})}, "Compare its targets")], body: h("div.grid", null, main, scored && scoresPanel({page, params, alias: name, tenant: owner}))};
}
