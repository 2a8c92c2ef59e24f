// Cases: what was pulled, whether it is as it was written, and the file to take away.

import { failed, get } from "./api.js";
import { cell, el, foreign, replace } from "./dom.js";
import { bytes, keepTimesFresh, time } from "./format.js";
import { Jobs } from "./jobs.js";

const LOOK_MS = 10000;

const domain = el("select", { id: "domain", required: true });
const reason = el("input", { id: "reason", type: "text", maxlength: "500", placeholder: "why: it goes into the manifest", autocomplete: "off" });
const pull = el("button", { type: "submit", class: "main", id: "pull" }, "Pull a case");
const form = el("form", { class: "panel row", id: "case" },
  el("h2", {}, "New case"),
  el("label", { for: "domain" }, "Domain", domain),
  el("label", { for: "reason", class: "grow" }, "Reason", reason), pull);
const hint = el("p", { class: "faint hint" }, "Memory and disks are copied while the domain runs; it stands still for some milliseconds, and is told nothing.");
const body = el("tbody");
const list = el("div", { class: "scroll" }, el("table", { class: "cases", "aria-label": "Cases" },
  el("thead", {}, el("tr", {}, [["Case", "wide"], ["Domain", "name"], ["Taken", "when"], ["Reason", "wide"], ["Size", "number"], ["Verdict", "name"], ["", "actions"]]
    .map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))), body));
const nothing = el("div", { class: "empty", hidden: true }, el("p", {}, "There are no cases yet."),
  el("p", {}, "Choose a domain above and pull a case, or type: honeynet pull NAME --reason WHY"));

const jobs = new Jobs(["pull", "verify"], { ended: () => load(), changed: () => verdicts() });
document.getElementById("main").append(form, hint, jobs.box, list, nothing);

form.addEventListener("submit", async (press) => {
  press.preventDefault();
  if (!domain.value) return;
  pull.disabled = true;
  const begun = await jobs.begin(`/api/domains/${encodeURIComponent(domain.value)}/pull`, { reason: reason.value });
  if (begun) reason.value = "";
  pull.disabled = false;
});

// Whoever comes by a link to the cases of one domain sees those.
const wanted = new URLSearchParams(location.search).get("domain");
if (wanted !== null) list.before(el("p", { class: "hint" }, "Cases of ", cell(wanted, "strong"), ". ", el("a", { href: "/evidence" }, "Show all")));

async function domains() {
  const house = await get("/api/overview").catch(() => null);
  const names = (house?.domains ?? []).map((one) => one.name);
  if (names.join("\n") === [...domain.options].map((option) => option.value).join("\n") && domain.options.length) return;
  replace(domain, names.length ? names.map((name) => el("option", { value: name }, name)) : el("option", { value: "" }, "no domain runs"));
  if (names.includes(wanted)) domain.value = wanted;
  pull.disabled = names.length === 0;
}

let shown = "";

async function load() {
  try {
    const answer = await get("/api/cases");
    const cases = answer.cases.filter((one) => wanted === null || one.domain === wanted);
    const text = JSON.stringify(cases);
    if (text === shown) return;
    shown = text;
    replace(body, cases.map(row));
    nothing.hidden = cases.length !== 0;
    list.hidden = cases.length === 0;
    verdicts();
  } catch (error) {
    failed(error);
  }
}

function row(one) {
  const path = `/api/cases/${encodeURIComponent(one.case)}`;
  const items = el("div", { class: "items", hidden: true });
  const open = el("button", { type: "button", class: "link mono", "aria-expanded": "false", onclick: () => toggle(one.case, open, items) }, cell(one.case));
  return el("tr", { "data-case": one.case },
    el("td", { class: "wide", "data-name": "Case" }, open, el("div", { class: "faint" }, `${one.items.length} items`), items),
    el("td", { class: "name", "data-name": "Domain" }, cell(one.domain)),
    el("td", { class: "when", "data-name": "Taken" }, time(one.taken)),
    el("td", { class: "wide", "data-name": "Reason" }, one.notes.length ? one.notes.map((note) => el("div", {}, cell(note))) : el("span", { class: "faint" }, "–")),
    el("td", { class: "number", "data-name": "Size" }, bytes(one.bytes)),
    el("td", { class: "name verdict", "data-name": "Verdict" }, el("span", { class: "faint" }, "not verified")),
    el("td", { class: "actions" },
      el("button", { type: "button", class: "verify", onclick: () => jobs.begin(`${path}/verify`) }, "Verify"),
      el("a", { class: "button download", href: `${path}/tar`, download: `${one.case}.tar` }, "Download")));
}

async function toggle(id, button, box) {
  box.hidden = !box.hidden;
  button.setAttribute("aria-expanded", String(!box.hidden));
  if (box.hidden || box.childElementCount) return;
  try {
    const { manifest, custody, custody_broken_at } = await get(`/api/cases/${encodeURIComponent(id)}`);
    const item = (one) => el("tr", {}, el("td", {}, cell(one.name, "mono"), el("div", { class: "faint" }, cell(one.what))),
      el("td", { class: "number" }, bytes(one.bytes)), el("td", {}, el("code", { class: "hash", title: `SHA-256 ${one.sha256}` }, cell(one.sha256.slice(0, 16)), "…")));
    const line = (one) => el("li", {}, time(one.at), " ", cell(one.who, "strong"), " ", cell(one.action), " ", cell(one.detail, "faint mono"));
    replace(box, el("table", {}, el("tbody", {}, manifest.items.map(item))),
      el("h3", {}, "Custody"), el("ol", {}, custody.map(line)),
      custody_broken_at === null ? null : el("p", { class: "wrong" }, `The log is broken at line ${custody_broken_at}.`));
  } catch (error) {
    failed(error);
  }
}

// The newest verification of each case.
function verdicts() {
  const newest = new Map();
  for (const job of jobs.jobs ?? []) {
    if (job.kind === "verify" && !newest.has(job.subject)) newest.set(job.subject, job);
  }
  for (const line of body.rows) {
    const job = newest.get(line.dataset.case);
    if (!job) continue;
    line.querySelector(".verify").disabled = job.stage === "running";
    replace(line.querySelector(".verdict"), verdict(job));
  }
}

function verdict(job) {
  if (job.stage === "running") return el("span", { class: "running" }, el("span", { class: "spinner", "aria-hidden": "true" }), "verifying");
  if (job.stage === "failed") return el("span", { class: "severity error", title: job.answer.error }, "cannot tell");
  const known = job.answer.signature?.Good !== undefined;
  if (job.answer.intact) return el("div", { class: "two" }, el("span", { class: "severity good" }, "intact"), el("span", { class: "faint" }, known ? "signed by this honeynet" : "signed by a key not known here"));
  return el("div", { class: "two" }, el("span", { class: "severity error" }, "not intact"), job.answer.problems.slice(0, 3).map((problem) => foreign(problem, { className: "faint", limit: 120 })));
}

keepTimesFresh();
domains();
load();
setInterval(() => { domains(); load(); }, LOOK_MS);
