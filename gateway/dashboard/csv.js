// csv: what is shown, as a file. RFC 4180; and a cell that a spreadsheet would take for a formula (it begins with = + - @, a tab or a return, and is
// not a number) gets a quote in front, for names are chosen by strangers (OWASP: CSV injection).

const FORMULA = /^[=+\-@\t\r]/;

export function cell(value) {
  if (value === null || value === undefined) return "";
  if (typeof value === "number") return Number.isFinite(value) ? String(value) : "";
  let text = String(value);
  if (FORMULA.test(text)) text = "'" + text;
  return /[",\r\n']/.test(text) ? '"' + text.replaceAll('"', '""') + '"' : text;
}

export const csv = (head, rows) => [head, ...rows].map(row => row.map(cell).join(",")).join("\r\n") + "\r\n";

export function save(name, parts, type) {
  const url = URL.createObjectURL(parts instanceof Blob ? parts : new Blob([parts].flat(), {type}));
  const a = document.createElement("a");
  a.href = url;
  a.download = name;
  document.body.append(a);
  a.click();
  a.remove();
  setTimeout(() => URL.revokeObjectURL(url), 60000);
}

export function saveCsv(name, {head, rows}) {
  save("weft-" + name.toLowerCase().replace(/[^a-z0-9]+/g, "-").replace(/^-|-$/g, "") + ".csv", csv(head, rows), "text/csv;charset=utf-8");
}
