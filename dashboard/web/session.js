// One session: what its terminals showed, everything that was done in it in one line of time, its processes, credentials and samples.

import { failed, get, getIfNew } from "./api.js";
import { cell, el, foreign, replace } from "./dom.js";
import { bytes, duration, keepTimesFresh, time } from "./format.js";
import { address, client as clientLink, domain } from "./links.js";
import { Terminals } from "./player.js";
import { Processes } from "./processes.js";
import { Timeline } from "./timeline.js";

const LOOK_MS = 2000;
const EVENTS_MS = 6000;
const MARK_MS = 250;
const ROWS_MAX = 500;
const EVENTS_MAX = 500;
// What the network saw is told some moments before and after.
const BEFORE_MS = 2000;
const AFTER_MS = 10000;
// Of the intruder's address; and of the decoy, whoever caused it.
const OF_ADDRESS = "alert.rule,flow.end,relay.accepted";
const OF_DOMAIN = "containment.verdict,fim.change,integrity.changed,integrity.hidden,integrity.credentials,trace.dropped,domain.crashed,case.created";

const id = location.pathname.split("/")[2];
const path = `/api/sessions/${id}`;
const main = document.getElementById("main");
const title = main.querySelector("h1");
const wrong = el("p", { class: "note bad", role: "alert", hidden: true });
const facts = el("dl", { class: "panel session-facts" });
const lasted = el("span");
const terminals = new Terminals(id);
const timeline = new Timeline((at, number) => terminals.seek(at, number).catch(failed));
const processes = new Processes();
const logins = el("tbody");
const samples = el("div");
const more = { logins: el("p", { class: "faint hint" }), samples: el("p", { class: "faint hint" }) };
const noTerminal = el("p", { class: "note", hidden: true }, "This session had no terminal: what was run in it is below.");

const credentials = el("section", { class: "panel", hidden: true }, el("h2", {}, "Credentials"),
  el("div", { class: "scroll" }, el("table", { class: "credentials", "aria-label": "Credentials" },
    el("thead", {}, el("tr", {}, ["User", "Password", "At", ""].map((name) => el("th", { scope: "col" }, name)))), logins)), more.logins);
const kept = el("section", { class: "panel", hidden: true }, el("h2", {}, "Samples"), samples, more.samples);
const page = el("div", { hidden: true }, facts, el("div", { class: "columns session-columns" },
  el("div", {}, terminals.box, noTerminal, timeline.box), el("div", {}, credentials, kept, processes.box)));
main.append(wrong, page);

let session = null, tag = null, events = [], client = null, eventsAt = 0;

function fact(name, value) {
  return value === null || value === undefined ? [] : [el("div", {}, el("dt", {}, name), el("dd", {}, value))];
}

function tick() {
  const end = session.closed ? Date.parse(session.closed) : Date.now();
  lasted.textContent = session.opened ? duration((end - Date.parse(session.opened)) / 1000) : "–";
}

function paintFacts() {
  const user = session.logins.find((one) => one.success)?.user;
  const query = (key, value) => `?${key}=${encodeURIComponent(value)}`;
  const name = session.domain;
  replace(title, "Session ", el("span", { class: "mono faint id" }, id), session.live ? el("span", { class: "severity good live-now" }, "live") : el("span", { class: "severity info" }, "closed"));
  replace(facts,
    fact("Opened", session.opened ? time(session.opened) : null),
    fact("Duration", lasted),
    fact("Domain", name ? [domain(name), el("div", { class: "links" }, el("a", { href: `/sessions${query("domain", name)}` }, "sessions"), el("a", { href: `/evidence${query("domain", name)}` }, "cases"), el("a", { href: `/events${query("domain", name)}` }, "events"))] : null),
    fact("From", session.src_ip ? [address(session.src_ip), el("span", { class: "mono faint" }, `:${session.src_port ?? "?"}`), client ? el("div", { class: "links" }, "relayed for ", clientLink(client)) : null] : null),
    fact("Service", session.service ? [cell(session.service, "mono"), session.pid ? el("span", { class: "faint" }, ` pid ${session.pid}`) : null] : null),
    fact("Logged in as", user ? cell(user, "mono strong") : el("span", { class: "faint" }, session.logins.length ? "nobody" : "–")),
    fact("Commands", String(session.processes.length + (session.more?.processes ?? 0))),
    fact("Samples", String(session.samples.length + (session.more?.samples ?? 0))),
    fact("Alerts", String(events.filter((event) => event.event_type === "alert").length)),
    session.truncated ? fact("Note", el("span", { class: "severity warning", title: "the observer has limits" }, "truncated")) : []);
}

function tellMore(box, list, left) {
  const count = Math.max(0, list.length - ROWS_MAX) + (left ?? 0);
  box.hidden = count === 0;
  box.textContent = `${count} more are not shown.`;
}

function paintLogins() {
  credentials.hidden = session.logins.length === 0;
  replace(logins, session.logins.slice(0, ROWS_MAX).map((one) => el("tr", { title: one.time },
    el("td", {}, cell(one.user ?? "–", "mono strong")), el("td", {}, one.password === null ? el("span", { class: "faint" }, "–") : cell(one.password, "mono strong")),
    el("td", {}, cell([one.service, one.method].filter(Boolean).join(" ") || "–", "faint")), el("td", { class: "narrow" }, el("span", { class: `severity ${one.success ? "warning" : "info"}` }, one.success ? "got in" : "failed")))));
  tellMore(more.logins, session.logins, session.more?.logins);
}

function sample(one) {
  const hash = /^[0-9a-f]{64}$/.test(one.sha256 ?? "") ? one.sha256 : null;
  const words = [bytes(one.bytes), one.how, one.truncated ? "truncated" : null].filter(Boolean).join(" · ");
  return el("div", { class: "sample" },
    el("div", {}, cell(one.path ?? "?", "mono strong"), el("div", { class: "faint" }, foreign(words)), el("div", { class: "mono hash faint" }, foreign(one.sha256 ?? "–"))),
    hash ? el("a", { class: "button download", href: `/api/samples/${hash}`, download: hash, title: "hostile: handle with care" }, "Download") : null);
}

function paintSamples() {
  kept.hidden = session.samples.length === 0;
  replace(samples, session.samples.slice(0, ROWS_MAX).map(sample));
  tellMore(more.samples, session.samples, session.more?.samples);
}

function paint() {
  tick();
  const left = Object.values(session.more ?? {}).reduce((sum, count) => sum + count, 0);
  paintFacts();
  paintLogins();
  paintSamples();
  processes.update(session);
  timeline.update(session, events, { more: left });
  noTerminal.hidden = session.tty.length !== 0;
  page.hidden = false;
}

// What the network and the watchers saw meanwhile. The session is worth showing without it.
async function around() {
  if (!session?.opened || !session.domain) return;
  const at = (text, ms) => new Date(Date.parse(text) + ms).toISOString();
  const window = { domain: session.domain, since: at(session.opened, -BEFORE_MS), until: session.closed ? at(session.closed, AFTER_MS) : null, limit: EVENTS_MAX };
  const asked = [get("/api/events", { ...window, id: OF_DOMAIN })];
  if (session.src_ip) asked.push(get("/api/events", { ...window, id: OF_ADDRESS, src_ip: session.src_ip }));
  const pages = await Promise.all(asked.map((one) => one.catch(() => ({ events: [] }))));
  const mine = pages.flatMap((one) => one.events).filter((event) => !event.session || event.session === id);
  // By a published port everybody comes from the gateway: another port is another client.
  events = mine.filter((event) => event.event_id !== "relay.accepted" || event.src_port === session.src_port);
  client = events.find((event) => event.event_id === "relay.accepted")?.relay?.client_ip ?? null;
}

async function look() {
  if (document.hidden && session) return;
  try {
    const answer = await getIfNew(path, tag);
    const due = Date.now() - eventsAt >= EVENTS_MS && (session?.live !== false || Date.now() - Date.parse(session.closed) < 60000);
    wrong.hidden = true;
    if (answer.body) {
      tag = answer.tag;
      session = answer.body;
      paint();
    }
    if (due || eventsAt === 0) {
      eventsAt = Date.now();
      const before = JSON.stringify(events);
      await around();
      if (JSON.stringify(events) !== before) paint();
    }
    await terminals.update(session);
  } catch (error) {
    wrong.hidden = false;
    replace(wrong, foreign(error.message));
  }
}

// One look at a time, and none any more once a session is over and its last events are in.
async function run() {
  for (;;) {
    await look();
    if (session && !session.live && Date.now() - Date.parse(session.closed) > 60000) return;
    if (session) tick();
    await new Promise((resolve) => setTimeout(resolve, LOOK_MS));
  }
}

setInterval(() => timeline.mark(terminals.now()), MARK_MS);
keepTimesFresh();
run();
