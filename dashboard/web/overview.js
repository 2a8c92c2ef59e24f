// The house at a glance: domains, services, what happened in a day, and the latest alerts.

import { failed, get, notice, post } from "./api.js";
import { cell, el, foreign, replace } from "./dom.js";
import { duration, keepTimesFresh, severity, sparkline, time } from "./format.js";
import { address } from "./links.js";
import { Jobs } from "./jobs.js";
import { Stream } from "./stream.js";

const LOOK_MS = 3000;
const COUNTS_MS = 15000;
const ALERTS_MAX = 8;
const DAY_MS = 24 * 3600 * 1000;

// xl's letters: running, blocked, paused, shut down, crashed, dying.
const STATES = { running: "good", idle: "good", paused: "notice", "shut down": "info", crashed: "error", dying: "warning" };
const SERVICES = { logsink: "keeps the events", netwatch: "switch and inspector", dashboard: "these pages" };

// Whoever comes by a link to one domain finds it marked.
const wanted = new URLSearchParams(location.search).get("domain");

const main = document.getElementById("main");
const tiles = el("div", { class: "tiles" });
const warning = el("p", { class: "note bad", role: "alert", hidden: true });
const domains = el("tbody");
const domainTable = el("div", { class: "scroll" }, el("table", { class: "domains", "aria-label": "Domains" },
  el("thead", {}, el("tr", {}, [["Name", "name"], ["State", "narrow"], ["CPU", "cpu"], ["Memory", "number"], ["Address", "name"], ["Up for", "number"], ["", "actions"]]
    .map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))), domains));
const noDomains = el("div", { class: "empty", hidden: true }, el("p", {}, "No domain runs."), el("p", {}, "honeynet up builds and starts the decoys of honeynet.toml; honeynet create starts one of your own."));
const services = el("tbody");
const facts = el("dl", { class: "facts" });
const alerts = el("ol", { class: "latest" });
const noAlerts = el("div", { class: "empty", hidden: true }, el("p", {}, "No alerts yet."), el("p", {}, "They appear here by themselves when a rule matches."));
const jobs = new Jobs(["pull", "snapshot", "fim-check"], { changed: () => {} });

main.append(warning, tiles,
  el("section", { class: "panel" }, el("h2", {}, "Domains"), domainTable, noDomains, jobs.box),
  el("div", { class: "columns" },
    el("section", { class: "panel" }, el("h2", {}, "Latest alerts", el("a", { href: "/alerts", class: "aside" }, "all alerts")), alerts, noAlerts),
    el("section", { class: "panel" }, el("h2", {}, "Services"), el("table", { class: "services", "aria-label": "Services" }, services), facts)));

function state(domain) {
  const words = domain.state_words.length ? domain.state_words : ["unknown"];
  return words.map((word) => el("span", { class: `severity ${STATES[word] ?? "info"}`, title: `xl prints ${domain.state}` }, word));
}

async function act(name, word, button) {
  button.disabled = true;
  try {
    await post(`/api/domains/${encodeURIComponent(name)}/${word}`);
    notice(word === "pause" ? `${name} is paused.` : `${name} runs again.`);
  } catch (error) {
    failed(error);
  }
  await look();
}

function row(domain) {
  const paused = domain.state_words.includes("paused");
  const toggle = el("button", { type: "button", onclick: () => act(domain.name, paused ? "unpause" : "pause", toggle) }, paused ? "Unpause" : "Pause");
  const path = `/api/domains/${encodeURIComponent(domain.name)}`;
  const load = domain.cpu_percent === null ? "–" : `${domain.cpu_percent.toFixed(domain.cpu_percent < 10 ? 1 : 0)} %`;
  return el("tr", { "data-domain": domain.name, class: domain.name === wanted ? "wanted" : "" },
    el("td", { class: "name", "data-name": "Name" }, el("a", { class: "quiet-link", href: `/sessions?domain=${encodeURIComponent(domain.name)}`, title: "its sessions" }, cell(domain.name, "strong")), el("span", { class: "faint" }, ` #${domain.domid}`)),
    el("td", { class: "narrow", "data-name": "State" }, state(domain)),
    el("td", { class: "cpu", "data-name": "CPU" }, el("span", { class: "load" }, load), sparkline(domain.cpu_history)),
    el("td", { class: "number", "data-name": "Memory" }, `${domain.mem_mib} MiB`),
    el("td", { class: "name", "data-name": "Address" }, domain.address ? cell(domain.address, "mono") : el("span", { class: "faint" }, "–")),
    el("td", { class: "number", "data-name": "Up for" }, duration(domain.uptime_s)),
    el("td", { class: "actions" }, toggle,
      el("button", { type: "button", onclick: () => jobs.begin(`${path}/fim-check`) }, "Check files"),
      el("a", { class: "button", href: `/evidence?domain=${encodeURIComponent(domain.name)}` }, "Snapshot…")));
}

function service([name, what], running) {
  const found = running.find((one) => one.service === name);
  const more = [what, found ? `pid ${found.pid}` : null, found?.restarts ? `restarted ${found.restarts}×` : null];
  return el("tr", {}, el("td", {}, el("span", { class: "strong" }, name), el("div", { class: "faint" }, more.filter(Boolean).join(" · "))),
    el("td", { class: "narrow" }, el("span", { class: `severity ${found ? "good" : "error"}` }, found ? "runs" : "does not run")));
}

function fact(name, value) {
  return value === undefined || value === null ? [] : [el("dt", {}, name), el("dd", {}, value)];
}

let house = "";

async function look() {
  let now;
  try {
    now = await get("/api/overview");
  } catch (error) {
    now = { error: error.message, domains: [], info: null };
  }
  const text = JSON.stringify(now);
  if (text === house) return;
  house = text;
  warning.hidden = !now.error;
  replace(warning, "The supervisor cannot be asked: ", foreign(now.error), now.at ? [". What is below is of ", time(now.at)] : ". Is the honeynet up?");
  const focused = document.activeElement?.closest("[data-domain]");
  if (!focused || !domains.contains(focused) || focused.querySelector("button:disabled")) replace(domains, now.domains.map(row));
  domainTable.hidden = now.domains.length === 0;
  noDomains.hidden = now.domains.length !== 0 || Boolean(now.error);
  if (!now.info) return;
  replace(services, Object.entries(SERVICES).map((entry) => service(entry, now.info.services ?? [])));
  const available = now.info.memory_available_mib;
  replace(facts, fact("version", foreign(now.info.version)), fact("state", foreign(now.info.state, { className: "mono" })),
    fact("free memory", available ? `${(available / 1024).toFixed(1)} GiB` : null));
  tell("domains", now.domains.filter((one) => one.state_words.some((word) => word === "running" || word === "idle")).length);
}

const TILES = [
  ["domains", "domains run", "#main"], ["session.opened", "sessions in 24 h", "/sessions"], ["alert.rule", "alerts in 24 h", "/alerts"], ["guest.login", "logins in 24 h", "/logins"],
  ["guest.login_failed", "failed logins in 24 h", "/logins"], ["containment.verdict", "refusals in 24 h", "/events?id=containment.verdict"],
  ["fim.change", "file changes in 24 h", "/files"],
];
const numbers = new Map(TILES.map(([id]) => [id, el("span", { class: "figure" }, "–")]));
replace(tiles, TILES.map(([id, words, href]) => el("a", { class: "tile", href, "data-tile": id }, numbers.get(id), el("span", {}, words))));

function tell(id, count) {
  const text = count.toLocaleString("en");
  if (numbers.get(id).textContent !== text) numbers.get(id).textContent = text;
}

async function count() {
  try {
    const since = new Date(Date.now() - DAY_MS).toISOString();
    const { counts } = await get("/api/counts", { since });
    const found = new Map(counts.map((one) => [one.event_id, one.count]));
    for (const [id] of TILES) if (id !== "domains") tell(id, found.get(id) ?? 0);
  } catch {
    // The numbers stay what they were; the list below says what is wrong.
  }
}

function alert(event) {
  const body = event.alert ?? {};
  return el("li", {}, severity(event.severity), time(event.timestamp),
    el("a", { href: `/alerts?text=${encodeURIComponent(String(body.signature ?? "").slice(0, 80))}` }, cell(body.signature ?? event.event_id, "strong")),
    el("span", { class: "faint" }, event.domain ? cell(event.domain) : "", event.src_ip ? [" from ", address(event.src_ip)] : ""));
}

async function latest() {
  let newest = null;
  try {
    const { events } = await get("/api/events", { type: "alert", limit: ALERTS_MAX });
    newest = events[0]?.id ?? null;
    replace(alerts, events.map(alert));
    noAlerts.hidden = events.length !== 0;
  } catch (error) {
    failed(error);
  }
  new Stream({ type: "alert" }, {
    lastId: newest,
    missed: () => {},
    row: (event) => {
      alerts.prepend(alert(event));
      noAlerts.hidden = true;
      while (alerts.childElementCount > ALERTS_MAX) alerts.lastElementChild.remove();
      count();
    },
  });
}

keepTimesFresh();
look();
count();
latest();
setInterval(look, LOOK_MS);
setInterval(count, COUNTS_MS);
