// File integrity: what changed on the decoys' disks, seen from outside, and a check at once.

import { get } from "./api.js";
import { cell, el, replace } from "./dom.js";
import { attribute, severity, time } from "./format.js";
import { Jobs } from "./jobs.js";
import { Listing } from "./listing.js";

const DOMAINS_MS = 10000;

function change(event, body) {
  if (event.event_id !== "fim.change") return el("span", { class: "severity info" }, "check");
  const kinds = { added: "notice", removed: "error", changed: "warning" };
  return el("span", { class: `severity ${kinds[body.change] ?? "info"}` }, cell(body.change ?? "?"));
}

function path(event, body) {
  if (event.event_id !== "fim.change") {
    const found = body.added + body.removed + body.changed;
    const text = found ? `${body.added} added, ${body.removed} removed, ${body.changed} changed` : "as in the baseline";
    return el("span", { class: "faint" }, `${body.entries ?? "?"} files looked at: ${text}`);
  }
  return cell(body.path, "mono strong");
}

function attributes(event, body) {
  if (event.event_id !== "fim.change") return "";
  if (!Array.isArray(body.attributes)) {
    return cell([body.kind, body.mode, body.uid !== undefined ? `uid ${body.uid}` : null, body.size !== undefined ? `${body.size} B` : null].filter(Boolean).join(" · "), "faint");
  }
  const short = (value) => (value === null || value === undefined ? "–" : typeof value === "object" ? JSON.stringify(value) : String(value)).slice(0, 40);
  return el("div", { class: "changes" }, body.attributes.slice(0, 6).map((one) =>
    el("div", {}, cell(attribute(one.attribute), "faint"), " ", cell(short(one.before), "mono"), el("span", { class: "faint" }, " → "), cell(short(one.after), "mono"))));
}

const buttons = el("div", { class: "buttons" });
const jobs = new Jobs(["fim-check"], { changed: () => paint() });
let domains = [];

function paint() {
  const running = new Set((jobs.jobs ?? []).filter((job) => job.stage === "running").map((job) => job.subject));
  replace(buttons, domains.length === 0
    ? el("span", { class: "faint" }, "No domain runs: honeynet up starts the decoys.")
    : domains.map((domain) => el("button", {
        type: "button", disabled: running.has(domain.name), "data-check": domain.name,
        onclick: () => jobs.begin(`/api/domains/${encodeURIComponent(domain.name)}/fim-check`),
      }, "Check ", cell(domain.name), " now")));
}

async function look() {
  const house = await get("/api/overview").catch(() => null);
  const names = JSON.stringify(house?.domains.map((domain) => domain.name));
  if (house && names !== JSON.stringify(domains.map((domain) => domain.name))) {
    domains = house.domains;
    paint();
  }
}

document.getElementById("main").append(el("section", { class: "panel row" }, el("h2", {}, "Check a disk"), buttons), jobs.box);
paint();
look();
setInterval(look, DOMAINS_MS);

new Listing({
  label: "File changes",
  fixed: { type: "fim" },
  filters: ["domain", "severity", "text"],
  columns: [
    ["Time", (event) => time(event.timestamp), "when"],
    ["Severity", (event) => severity(event.severity), "narrow"],
    ["Domain", (event) => cell(event.domain ?? "–"), "name"],
    ["Change", change, "narrow"],
    ["Path", path, "wide"],
    ["Before → after", attributes, "wide"],
  ],
  empty: ["No check has found anything yet.", "Press a button above: the domain stands still for a moment while its disk's changes are copied, then it is compared with its baseline."],
});
