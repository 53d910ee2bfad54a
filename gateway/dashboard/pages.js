// pages: the table of all pages: where they stand in the navigation, for whom, and who draws them. A page's module is fetched when it is first opened.

const ANY = null;

// role: who sees it; scope: what a tenant's key needs for it. key: g and this letter.
export const PAGES = [
  {path: "overview", label: "Overview", icon: "overview", group: "Now", key: "o", scope: "usage", from: "./page_overview.js"},
  {path: "usage", label: "Usage and cost", icon: "usage", group: "Now", key: "u", scope: "usage", from: "./page_usage.js"},
  {path: "errors", label: "Errors and latency", icon: "errors", group: "Now", key: "e", scope: "usage", from: "./page_errors.js"},
  {path: "requests", label: "Requests", icon: "requests", group: "Now", key: "r", scope: "usage", from: "./page_requests.js"},
  {path: "tenants", label: "Tenants", icon: "tenants", group: "Serving", key: "t", role: "admin", from: "./page_tenants.js"},
  {path: "adapters", label: "Adapters", icon: "adapters", group: "Serving", key: "a", scope: "adapters", from: "./page_adapters.js"},
  {path: "upload", label: "Upload", icon: "upload", group: "Serving", key: "p", role: "tenant", scope: "adapters", from: "./page_upload.js"},
  {path: "aliases", label: "Aliases", icon: "aliases", group: "Serving", key: "i", scope: "adapters", from: "./page_aliases.js"},
  {path: "canary", label: "Canary", icon: "canary", group: "Serving", key: "c", scope: "usage", from: "./page_canary.js"},
  {path: "try", label: "Try side by side", icon: "try", group: "Serving", key: "y", role: "tenant", scope: "inference", from: "./page_try.js"},
  {path: "engines", label: "Engines", icon: "engines", group: "Serving", key: "n", role: "admin", from: "./page_engines.js"},
  {path: "limits", label: "Limits, budgets", icon: "limits", group: "Money", key: "l", from: "./page_limits.js"},
  {path: "invoice", label: "Invoices", icon: "invoice", group: "Money", key: "v", scope: "usage", from: "./page_invoice.js"},
  {path: "exports", label: "Exports", icon: "exports", group: "Money", key: "x", scope: "usage", from: "./page_exports.js"},
  {path: "webhooks", label: "Webhooks", icon: "webhooks", group: "Record", key: "w", scope: "keys", from: "./page_webhooks.js"},
  {path: "keys", label: "Keys", icon: "keys", group: "Record", key: "k", from: "./page_keys.js"},
  {path: "events", label: "Events", icon: "events", group: "Record", key: "s", scope: "usage", from: "./page_events.js"},
  {path: "audit", label: "Audit", icon: "audit", group: "Record", key: "d", role: "admin", from: "./page_audit.js"},
  {path: "ledger", label: "Ledger health", icon: "ledger", group: "Record", key: "h", role: "admin", from: "./page_ledger.js"},
  {path: "tenant", label: "Tenant", role: "admin", hidden: true, in: "tenants", from: "./page_tenant.js"},
  {path: "adapter", label: "Adapter", scope: "adapters", hidden: true, in: "adapters", from: "./page_adapter.js"},
  {path: "alias", label: "Alias", scope: "adapters", hidden: true, in: "aliases", from: "./page_alias.js"},
  {path: "request", label: "Request", scope: "usage", hidden: true, in: "requests", from: "./page_request.js"},
];

// What this session's navigation holds: a tenant's page that its key may not ask for is not offered.
export function shownTo(session) {
  return PAGES.filter(p => (p.role ?? ANY) === ANY || p.role === session.role).filter(p => session.role !== "tenant" || !p.scope || session.can.has(p.scope)).filter(p => p.path !== "keys" || session.role === "admin" || session.can.has("keys"));
}
