// Everything of a session in one line of time: logins, typed lines, commands, files, connections, samples, and the events around it.

import { cell, el, foreign, replace } from "./dom.js";
import { bytes, commandLine, detailsOf } from "./format.js";
import { client } from "./links.js";

const ROWS_MAX = 4000;

// Kind, its word, the colour of its word.
const KINDS = [
  ["login", "login", "warning"], ["typed", "typed", "good"], ["ran", "ran", "notice"], ["file", "file", "info"],
  ["net", "network", "info"], ["sample", "sample", "warning"], ["alert", "alert", "error"], ["flow", "flow", "info"], ["note", "event", "info"],
];

const known = (value) => value !== null && value !== undefined && value !== "";
const facts = (...words) => {
  const shown = words.filter(known);
  return shown.length ? el("span", { class: "faint facts-of" }, shown.map((word, n) => [n ? " · " : "", typeof word === "string" ? foreign(word, { limit: 200 }) : word]).flat()) : null;
};
const by = (one) => facts(one.exe, known(one.pid) ? `pid ${one.pid}` : null);

const login = (one) => [
  el("span", {}, el("span", { class: "faint" }, "user "), cell(one.user ?? "–", "mono strong"),
    known(one.password) ? [el("span", { class: "faint" }, "  password "), cell(one.password, "mono strong")] : null,
    el("span", { class: `severity ${one.success ? "warning" : "info"} after` }, one.success ? "got in" : "failed")),
  facts(one.service, one.method),
];
const typed = (one) => [cell(one.text || "⏎", "mono strong"), facts(known(one.tty) ? `tty ${one.tty}` : null)];
const ran = (one) => [
  cell(commandLine(one) || one.exe || "?", "mono"),
  facts(one.exe, known(one.pid) ? `pid ${one.pid}` : null, known(one.uid) ? (one.uid === 0 ? "root" : `uid ${one.uid}`) : null,
    known(one.cwd) ? `in ${one.cwd}` : null, one.status ? `status ${one.status}` : null),
];
const file = (one) => [
  el("span", {}, el("span", { class: "faint" }, cell(one.what ?? "?"), " "), cell(one.path ?? "?", "mono"), known(one.to) ? [el("span", { class: "faint" }, " → "), cell(one.to, "mono")] : null),
  by(one),
];
const net = (one) => [
  el("span", {}, el("span", { class: "faint" }, "to "), cell(one.address ?? "?", "mono"), known(one.port) ? el("span", { class: "mono" }, `:${one.port}`) : null),
  facts(one.exe, known(one.pid) ? `pid ${one.pid}` : null, one.result ? `result ${one.result}` : null),
];
const sample = (one) => [
  el("span", {}, cell(one.path ?? "?", "mono"), el("span", { class: "faint" }, `  ${bytes(one.bytes)}`)),
  facts(one.how, one.sha256 ? `sha256 ${String(one.sha256).slice(0, 16)}…` : null),
];

function ofEvent(event, session) {
  const body = detailsOf(event) ?? {};
  const at = Date.parse(event.timestamp);
  const key = `event ${event.id}`;
  const other = event.session === session.id || event.src_port === session.src_port ? null : "another connection";
  const ends = event.src_ip ? `${event.src_ip}:${event.src_port ?? ""} → ${event.dest_ip ?? "?"}:${event.dest_port ?? ""}` : null;
  if (event.event_type === "alert") {
    return { at, key, kind: "alert", nodes: () => [cell(body.signature ?? event.event_id, "strong"), facts(body.category, body.action, ends, other)] };
  }
  if (event.event_type === "flow") {
    const sent = body.bytes_toserver ?? body.bytes_to_server, got = body.bytes_toclient ?? body.bytes_to_client;
    const sizes = Number.isFinite(sent) && Number.isFinite(got) ? `${bytes(sent)} in, ${bytes(got)} out` : null;
    return { at, key, kind: "flow", nodes: () => [el("span", {}, cell(ends ?? "flow", "mono")), facts(event.proto, body.state, sizes, other)] };
  }
  if (event.event_id === "relay.accepted") {
    return { at, key, kind: "note", nodes: () => [el("span", {}, "came by a published port from ", client(body.client_ip), el("span", { class: "mono faint" }, `:${body.client_port ?? "?"}`)), facts(event.event_id)] };
  }
  const words = Object.entries(body).slice(0, 8).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`);
  return { at, key, kind: "note", nodes: () => [cell(event.event_id, "mono strong"), facts(words.join("  "), ends)] };
}

// Entries in their order. `tty` is the terminal on which an entry can be seen, where it is known.
export function entries(session, events) {
  const list = (kind, items, time, nodes, tty = () => undefined) => items.filter((one) => known(one[time])).map((one) =>
    ({ kind, at: Date.parse(one[time]), key: kind + JSON.stringify(one), tty: tty(one), nodes: () => nodes(one) }));
  const all = [
    list("login", session.logins, "time", login), list("typed", session.inputs, "time", typed, (one) => one.tty),
    list("ran", session.processes, "began", ran), list("file", session.files, "time", file), list("net", session.connections, "time", net),
    list("sample", session.samples, "time", sample), events.map((event) => ofEvent(event, session)),
  ].flat();
  return all.sort((a, b) => a.at - b.at);
}

function offset(ms) {
  const s = Math.max(0, ms) / 1000;
  const minutes = Math.floor(s / 60), hours = Math.floor(minutes / 60);
  const seconds = (s % 60).toFixed(1).padStart(4, "0");
  return `${ms < 0 ? "−" : ""}${hours ? `${hours}:${String(minutes % 60).padStart(2, "0")}` : minutes}:${seconds}`;
}

export class Timeline {
  // `seek` is called with a moment (ms since the epoch) and a terminal's number.
  constructor(seek) {
    this.seek = seek;
    this.rows = new Map();
    this.shown = [];
    this.hidden = new Set();
    this.list = el("ol", { class: "timeline", "aria-label": "Timeline" });
    this.chips = el("div", { class: "chips" });
    this.more = el("p", { class: "faint hint", hidden: true });
    this.nothing = el("div", { class: "empty" }, el("p", {}, "Nothing happened yet."));
    this.box = el("section", { class: "panel" }, el("div", { class: "timeline-head" }, el("h2", {}, "Timeline"), this.chips), this.list, this.nothing, this.more);
    this.list.addEventListener("keydown", (press) => this.key(press));
  }

  update(session, events, { more = 0 } = {}) {
    this.opened = Date.parse(session.opened);
    const all = entries(session, events);
    this.shown = all.slice(0, ROWS_MAX);
    const keys = new Set();
    let before = null;
    for (const entry of this.shown) {
      // Two of the same kind may say the same.
      while (keys.has(entry.key)) entry.key += "'";
      keys.add(entry.key);
      let row = this.rows.get(entry.key);
      if (!row) this.rows.set(entry.key, (row = this.row(entry)));
      const place = before ? before.nextSibling : this.list.firstChild;
      if (place !== row) this.list.insertBefore(row, place);
      before = row;
    }
    for (const [key, row] of this.rows) {
      if (keys.has(key)) continue;
      row.remove();
      this.rows.delete(key);
    }
    if (!this.list.querySelector('[tabindex="0"]')) this.list.firstElementChild?.setAttribute("tabindex", "0");
    this.nothing.hidden = all.length !== 0;
    const left = more + all.length - this.shown.length;
    this.more.hidden = left === 0;
    this.more.textContent = `${left} more are not shown.`;
    this.count();
  }

  count() {
    const counts = Map.groupBy(this.shown, (entry) => entry.kind);
    replace(this.chips, KINDS.filter(([kind]) => counts.has(kind)).map(([kind, word, colour]) =>
      el("button", { type: "button", class: "chip", "aria-pressed": String(!this.hidden.has(kind)), onclick: () => this.toggle(kind) },
        el("span", { class: `severity ${colour}` }, word), ` ${counts.get(kind).length}`)));
  }

  toggle(kind) {
    if (!this.hidden.delete(kind)) this.hidden.add(kind);
    for (const row of this.list.children) row.hidden = this.hidden.has(row.dataset.kind);
    this.count();
  }

  row(entry) {
    const [, word, colour] = KINDS.find(([kind]) => kind === entry.kind);
    const go = () => this.seek(entry.at, entry.tty);
    const row = el("li", { tabindex: "-1", "data-kind": entry.kind, "data-at": entry.at, hidden: this.hidden.has(entry.kind) },
      el("time", { class: "offset mono", title: new Date(entry.at).toISOString() }, offset(entry.at - this.opened)),
      el("span", { class: "kind" }, el("span", { class: `severity ${colour}` }, word)),
      el("div", { class: "what" }, entry.nodes()));
    row.addEventListener("click", () => { if (getSelection().isCollapsed) go(); });
    row.addEventListener("keydown", (press) => { if (press.key === "Enter" && press.target === row) go(); });
    return row;
  }

  key(press) {
    const down = press.key === "ArrowDown" || press.key === "j", up = press.key === "ArrowUp" || press.key === "k";
    if (!down && !up) return;
    let row = press.target.closest("li");
    do row = down ? row?.nextElementSibling : row?.previousElementSibling; while (row?.hidden);
    if (!row) return;
    press.preventDefault();
    this.list.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
    row.tabIndex = 0;
    row.focus();
  }

  // Marks the last entry that the player has reached.
  mark(at) {
    let now = null;
    if (at !== null) for (const row of this.list.children) if (Number(row.dataset.at) <= at) now = row; else break;
    if (now === this.now) return;
    this.now?.removeAttribute("aria-current");
    now?.setAttribute("aria-current", "step");
    this.now = now;
  }
}
