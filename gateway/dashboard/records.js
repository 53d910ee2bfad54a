// records: the answer of an export, cut into the lines of its requests, so that one that breaks goes on without a line lost, doubled or torn.
//
// A request may have several lines (FOCUS: up to three charges), with its id in the first field of each. They are passed on when the next id has come, or the
// clean end; what a break cuts off is dropped and comes again behind the last id that was passed on. A line ends where RFC 4180 says: within quotes a line end
// is text. Each answer but JSON lines begins with a line of names, which is passed on once.

const QUOTE = 34, END = 10, LEAD = '{"id":"'.length, ID = 36, HELD_MAX = 4 << 20;
const UUID = /^[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$/;

// Asking again mends none of these.
const wrong = text => Object.assign(new Error(text), {final: true});
function join(a, b) { const c = new Uint8Array(a.length + b.length); c.set(a); c.set(b, a.length); return c; }
const same = (a, b) => a.length === b.length && a.every((byte, i) => byte === b[i]);

// One answer. state, of all answers of an export: head, the line of names that was written; last, the id behind which to go on; rows and bytes written. write takes bytes.
export function records(json, state, write) {
  const lead = json ? LEAD : 0;
  let held = new Uint8Array(0), at = 0, group = -1, lines = 0, quoted = false, headed = json; // held: not written yet; at: where its last line begins; group: where the lines of the last id do
  const ofGroup = i => { for (let k = lead; k <= lead + ID; k++) if (held[i + k] !== held[group + k]) return false; return true; };
  const idAt = i => { const id = String.fromCharCode(...held.subarray(i + lead, i + lead + ID)); if (!UUID.test(id)) throw wrong("The server's answer is no export."); return id; };

  async function pass(from, to, last, more) {
    if (to > from) await write(held.subarray(from, to));
    if (last >= 0) state.last = idAt(last);
    state.bytes += to - from;
    state.rows += more;
    held = held.slice(to);
    at -= to;
    group = group < 0 ? -1 : group - to;
  }

  // A line of names that is not the first: only if it is the same, for else the columns below it are others.
  function takeHead(end) {
    const head = held.slice(at, end), first = !state.head;
    headed = true;
    if (!first && !same(head, state.head)) throw wrong("The columns are others than before it broke: the gateway was changed meanwhile.");
    state.head = head;
    return first ? at : end;
  }

  async function take(piece) {
    let i = held.length, from = 0, last = -1, whole = 0;
    held = join(held, piece);
    for (; i < held.length; i++) {
      if (held[i] === QUOTE && !json) quoted = !quoted;
      if (held[i] !== END || quoted) continue;
      if (!headed) from = takeHead(i + 1);
      else if (group >= 0 && ofGroup(at)) lines++;
      else { if (group >= 0) last = group; group = at; whole += lines; lines = 1; }
      at = i + 1;
    }
    await pass(from, group < 0 ? at : group, last, whole);
    if (held.length > HELD_MAX) throw wrong("A line of the server's answer is too long.");
  }

  async function end() {
    if (at < held.length || !headed) throw new Error("The answer ended within a line.");
    await pass(0, at, group, lines);
  }
  return {take, end};
}
