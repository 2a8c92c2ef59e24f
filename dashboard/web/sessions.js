// Sessions of intruders, newest first. The first page is looked at again and again; older ones are asked for.

import { failed, get, queryOf } from "./api.js";
import { cell, el, replace } from "./dom.js";
import { duration, keepTimesFresh, time } from "./format.js";
import { address, domain } from "./links.js";

const LOOK_MS = 4000;
const TYPING_MS = 300;
const PAGE_ROWS = 50;
const ROWS_MAX = 2000;

const start = new URLSearchParams(location.search);
const inputs = Object.fromEntries([["domain", "Domain", "domain"], ["address", "Source address", "source address"]].map(([name, label, placeholder]) =>
  [name, el("input", { type: "search", class: name === "address" ? "src_ip" : name, "aria-label": label, placeholder, maxlength: "64", spellcheck: "false", autocomplete: "off", value: start.get(name) ?? "", oninput: typed })]));
const count = el("span", { class: "faint count" });
const body = el("tbody");
const COLUMNS = [["Opened", "when"], ["", "narrow"], ["Duration", "number"], ["Domain", "name"], ["From", "name"], ["Service", "name"], ["Logged in as", "wide"], ["Commands", "number"], ["Samples", "number"], ["Alerts", "number"]];
const table = el("div", { class: "scroll" }, el("table", { class: "sessions", "aria-label": "Sessions" },
  el("thead", {}, el("tr", {}, COLUMNS.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))), body));
const nothing = el("div", { class: "empty", hidden: true });
const older = el("button", { type: "button", hidden: true, onclick: more }, "Older");

document.getElementById("main").append(
  el("form", { class: "filters", role: "search", onsubmit: (press) => press.preventDefault() }, Object.values(inputs), el("span", { class: "spacer" }), count),
  table, nothing, el("p", { class: "more" }, older));

let typing = null, asked = null, first = [], rest = [], next = null, atLeast = false, seen = "";

const chosen = () => Object.fromEntries(Object.entries(inputs).map(([name, input]) => [name, input.value.trim()]));

function typed() {
  clearTimeout(typing);
  typing = setTimeout(() => {
    [rest, next, seen] = [[], null, ""];
    const query = queryOf(chosen());
    history.replaceState(null, "", query ? `?${query}` : location.pathname);
    load();
  }, TYPING_MS);
}

async function load() {
  const mine = (asked = Symbol("question"));
  try {
    const page = await get("/api/sessions", { ...chosen(), limit: PAGE_ROWS });
    if (mine !== asked) return;
    first = page.sessions;
    atLeast = page.alerts_at_least;
    if (rest.length === 0) next = page.next_before;
    paint();
  } catch (error) {
    if (mine !== asked) return;
    replace(nothing, el("p", {}, cell(error.message)));
    nothing.hidden = false;
  }
}

async function more() {
  older.disabled = true;
  try {
    const page = await get("/api/sessions", { ...chosen(), limit: PAGE_ROWS, before: next });
    rest.push(...page.sessions);
    next = rest.length < ROWS_MAX ? page.next_before : null;
    paint();
  } catch (error) {
    failed(error);
  }
  older.disabled = false;
}

function paint() {
  const ids = new Set(first.map((one) => one.id));
  const all = [...first, ...rest.filter((one) => !ids.has(one.id))];
  const text = JSON.stringify([all, atLeast]);
  // Durations of those that live go on by themselves.
  if (text !== seen || all.some((one) => one.live)) {
    const focused = body.contains(document.activeElement) ? document.activeElement.closest("tr")?.dataset.session : null;
    replace(body, all.map(row));
    if (focused) body.querySelector(`[data-session="${focused}"] a`)?.focus();
  }
  seen = text;
  count.textContent = all.length === 0 ? "" : `${all.length}${next ? "+" : ""} shown`;
  table.hidden = all.length === 0;
  older.hidden = !next;
  nothing.hidden = all.length !== 0;
  if (all.length !== 0) return;
  const filtered = Object.values(chosen()).some((value) => value !== "");
  replace(nothing, filtered ? el("p", {}, next ? "None of the newest sessions fits these filters." : "No session fits these filters.") : [el("p", {}, "Nobody has come yet."), el("p", {}, "Each connection from outside that a program of a decoy takes is a session: it appears here by itself.")]);
}

function number(value, strong = "") {
  return value ? el("span", { class: strong }, value.toLocaleString("en")) : el("span", { class: "faint" }, value === null || value === undefined ? "–" : "0");
}

function who(one) {
  const failures = one.logins_failed ? el("span", { class: "faint" }, ` ${one.logins_failed} failed`) : null;
  return el("span", {}, one.user === null ? el("span", { class: "faint" }, "–") : cell(one.user, "mono strong"), failures);
}

function row(one) {
  const href = `/sessions/${one.id}`;
  const opened = el("a", { class: "quiet-link", href }, one.opened ? time(one.opened) : el("span", { class: "mono" }, one.id));
  const to = one.closed ? Date.parse(one.closed) : Date.now();
  const state = one.error ? el("span", { class: "severity error" }, "damaged") : one.live ? el("span", { class: "severity good live-now" }, "live") : el("span", { class: "severity info" }, "closed");
  const cells = one.error
    ? [opened, state, el("span"), cell("–"), cell("–"), cell("–"), cell(one.error, "faint"), el("span"), el("span"), el("span")]
    : [opened, state, one.opened ? duration((to - Date.parse(one.opened)) / 1000) : "–", one.domain ? domain(one.domain) : cell("–"),
      el("span", {}, address(one.src_ip), one.src_port ? el("span", { class: "mono faint" }, `:${one.src_port}`) : null),
      cell((one.service ?? "–").split("/").at(-1), "mono"), who(one), number(one.commands), number(one.samples, "strong"),
      el("span", {}, number(one.alerts, "strong"), atLeast && one.alerts !== null ? el("span", { class: "faint" }, "+") : null)];
  const line = el("tr", { "data-session": one.id, class: one.samples || one.alerts ? "is-warning" : "" }, COLUMNS.map(([name, kind], n) => el("td", { class: kind, "data-name": name }, cells[n])));
  line.addEventListener("click", (press) => {
    if (!press.target.closest("a") && getSelection().isCollapsed) location.assign(href);
  });
  return line;
}

keepTimesFresh();
load();
setInterval(() => { if (!document.hidden) load(); }, LOOK_MS);
