// Snapshots of each domain along time: what each is, what it lies over, and what can be done with it.

import { failed, get, notice } from "./api.js";
import { cell, el, foreign, replace } from "./dom.js";
import { bytes, keepTimesFresh, time } from "./format.js";
import { Jobs } from "./jobs.js";

const LOOK_MS = 10000;

const domain = el("select", { id: "domain", required: true });
const kind = el("select", { id: "kind" }, el("option", { value: "" }, "full"), el("option", { value: "diff" }, "diff: what differs from the last one"));
const reason = el("input", { id: "reason", type: "text", maxlength: "500", placeholder: "why: it goes into the manifest", autocomplete: "off" });
const take = el("button", { type: "submit", class: "main", id: "take" }, "Take a snapshot");
const form = el("form", { class: "panel row", id: "snapshot" }, el("h2", {}, "New snapshot"),
  el("label", { for: "domain" }, "Domain", domain), el("label", { for: "kind" }, "Kind", kind),
  el("label", { for: "reason", class: "grow" }, "Reason", reason), take);
const hint = el("p", { class: "faint hint" }, "The domain stands still for some milliseconds. A snapshot can be compared, pulled into a case, and gone on from beside the domain.");
const compare = el("button", { type: "button", id: "compare", disabled: true, onclick: differ }, "Compare the two that are marked");
const marked = el("span", { class: "faint", id: "marked" }, "Mark two snapshots to compare them.");
const bar = el("p", { class: "filters", hidden: true }, compare, marked);
const difference = el("section", { class: "panel difference", id: "difference", hidden: true, "aria-label": "Difference" });
const timelines = el("div", { id: "timelines" });
const nothing = el("div", { class: "empty", hidden: true }, el("p", {}, "There are no snapshots yet."),
  el("p", {}, "Take one above, or type: honeynet snapshot NAME --reason WHY. Pools and [[snapshot]] rules of honeynet.toml take some by themselves."));

const jobs = new Jobs(["snapshot", "snapshot-verify", "diff", "restore", "pull"], { ended, changed: verdicts });
document.getElementById("main").append(form, hint, jobs.box, bar, difference, timelines, nothing);

// Marked for a comparison, the one that was marked first in front.
let chosen = [];
let shown = "", all = [];

form.addEventListener("submit", async (press) => {
  press.preventDefault();
  if (!domain.value) return;
  take.disabled = true;
  const begun = await jobs.begin(`/api/domains/${encodeURIComponent(domain.value)}/snapshot`, { reason: reason.value, diff: kind.value === "diff" });
  if (begun) reason.value = "";
  take.disabled = false;
});

function ended(job) {
  if (job.kind === "diff" && job.stage === "done") show(job.answer);
  load();
}

async function domains() {
  const house = await get("/api/overview").catch(() => null);
  const names = (house?.domains ?? []).map((one) => one.name);
  if (names.join("\n") === [...domain.options].map((option) => option.value).join("\n") && domain.options.length) return;
  const before = domain.value;
  replace(domain, names.length ? names.map((name) => el("option", { value: name }, name)) : el("option", { value: "" }, "no domain runs"));
  if (names.includes(before)) domain.value = before;
  take.disabled = names.length === 0;
}

async function load() {
  try {
    const { snapshots } = await get("/api/snapshots");
    const text = JSON.stringify(snapshots);
    if (text === shown) return;
    [shown, all] = [text, snapshots];
    paint();
  } catch (error) {
    failed(error);
  }
}

const place = (one) => `${one.domain}/${one.id}`;
const path = (one) => `/api/snapshots/${encodeURIComponent(one.domain)}/${encodeURIComponent(one.id)}`;

function paint() {
  nothing.hidden = all.length !== 0;
  bar.hidden = all.length < 2;
  chosen = chosen.filter((id) => all.some((one) => place(one) === id));
  const names = [...new Set(all.map((one) => one.domain))];
  replace(timelines, names.map((name) => timeline(name, all.filter((one) => one.domain === name).reverse())));
  mark();
  verdicts();
}

// How far a snapshot is from the full one that it lies over; those that lie over each other are drawn as one line.
function depth(one, snapshots) {
  let steps = 0;
  for (let at = one; at?.parent && steps < 16; steps += 1) at = snapshots.find((other) => other.id === at.parent);
  return steps;
}

function timeline(name, snapshots) {
  const total = snapshots.reduce((sum, one) => sum + one.bytes, 0);
  return el("section", { class: "panel timeline-of", "data-domain": name },
    el("h2", {}, cell(name), el("span", { class: "aside faint" }, `${snapshots.length} snapshot${snapshots.length === 1 ? "" : "s"}, ${bytes(total)} on disk`)),
    el("ol", { class: "moments" }, snapshots.map((one) => moment(one, depth(one, snapshots)))));
}

function moment(one, steps) {
  const mark = el("input", { type: "checkbox", class: "mark", "aria-label": `mark ${one.id}`, disabled: Boolean(one.error) });
  mark.addEventListener("change", () => choose(place(one), mark.checked));
  const button = (word, act) => el("button", { type: "button", class: word.toLowerCase().replaceAll(" ", "-"), onclick: act }, word);
  const facts = one.error ? [el("span", { class: "severity error" }, "damaged"), foreign(one.error, { className: "faint", limit: 300 })] : [
    el("span", { class: `severity ${one.kind === "full" ? "notice" : "info"}` }, one.kind),
    el("span", { class: "size" }, bytes(one.bytes)),
    el("span", { class: "faint" }, one.parent ? `over ${one.parent}` : `${one.memory_mib} MiB of memory`),
    el("span", { class: "faint" }, `stood ${one.pause_ms.toFixed(1)} ms`)];
  const taken = one.taken ? time(one.taken) : el("span", { class: "faint" }, "–");
  return el("li", { class: `moment ${one.kind ?? ""} depth-${Math.min(steps, 6)}`, "data-snapshot": place(one) },
    el("span", { class: "when" }, mark, taken),
    el("span", { class: "what" }, el("span", { class: "mono" }, cell(one.id)), facts,
      el("span", { class: "why" }, one.reason ? cell(one.reason) : null), el("span", { class: "verdict" })),
    el("span", { class: "actions" },
      button("Verify", () => jobs.begin(`${path(one)}/verify`)),
      button("Pull", () => jobs.begin(`${path(one)}/pull`, { reason: one.reason })),
      button("Restore as clone", () => ask(one))));
}

function choose(id, is) {
  chosen = chosen.filter((other) => other !== id);
  if (is) chosen = [...chosen, id].slice(-2);
  mark();
}

function mark() {
  for (const line of timelines.querySelectorAll("[data-snapshot]")) {
    const is = chosen.includes(line.dataset.snapshot);
    line.classList.toggle("chosen", is);
    line.querySelector(".mark").checked = is;
  }
  compare.disabled = chosen.length !== 2;
  marked.textContent = chosen.length === 2 ? "" : chosen.length === 1 ? "Mark one more." : "Mark two snapshots to compare them.";
}

// The older one is what was before.
async function differ() {
  const [before, after] = [...chosen].sort((one, other) => (one.split("/")[1] < other.split("/")[1] ? -1 : 1));
  if (await jobs.begin("/api/snapshots/diff", { before, after })) notice("The two are compared; what differs appears here.");
}

function list(title, added, removed) {
  const lines = (sign, part) => part.lines.map((line) => el("li", { class: sign === "+" ? "added" : "removed" }, el("span", { class: "sign" }, sign), foreign(typeof line === "string" ? line : line.path ?? JSON.stringify(line), { limit: 600, className: "mono" }),
    ...(line.attributes ?? []).map((one) => el("span", { class: "faint" }, ` ${one.attribute}`))));
  const left = added.count + removed.count - added.lines.length - removed.lines.length;
  const shown = [...lines("+", added), ...lines("−", removed)];
  return el("section", {}, el("h3", {}, title, el("span", { class: "faint" }, ` ${added.count} added, ${removed.count} removed`)),
    shown.length ? el("ul", { class: "lines" }, shown) : el("p", { class: "faint" }, "Nothing differs."),
    left ? el("p", { class: "faint" }, `${left} more: honeynet snapshot-diff shows all.`) : null);
}

function changed(disk) {
  const lines = disk.changed.lines.map((one) => el("li", { class: "changed" }, el("span", { class: "sign" }, "~"), foreign(one.path ?? JSON.stringify(one), { limit: 600, className: "mono" })));
  return lines.length ? el("section", {}, el("h3", {}, `Files of ${disk.vdev} that changed`, el("span", { class: "faint" }, ` ${disk.changed.count}`)), el("ul", { class: "lines" }, lines)) : null;
}

function show({ before, after, diff }) {
  difference.hidden = false;
  replace(difference,
    el("h2", {}, el("span", {}, "From ", cell(before, "mono"), " to ", cell(after, "mono")), el("button", { type: "button", class: "quiet", onclick: () => { difference.hidden = true; } }, "Close")),
    el("div", { class: "difference-body" },
      list("Processes", diff.processes.added, diff.processes.removed), list("Sockets", diff.sockets.added, diff.sockets.removed),
      list("Modules", diff.modules.added, diff.modules.removed),
      diff.files.flatMap((disk) => [list(`Files of ${disk.vdev}`, disk.added, disk.removed), changed(disk)]),
      diff.notes.map((note) => el("p", { class: "note" }, cell(note)))));
  difference.scrollIntoView({ block: "start" });
}

// The name is asked for where the snapshot stands.
function ask(one) {
  const line = [...timelines.querySelectorAll("[data-snapshot]")].find((other) => other.dataset.snapshot === place(one));
  if (line.querySelector("form")) return;
  const name = el("input", { type: "text", maxlength: "64", required: true, pattern: "[A-Za-z0-9][A-Za-z0-9._\\-]*", class: "clone-name", "aria-label": "Name of the clone" });
  name.value = `${one.domain}-${one.id.slice(-6)}`;
  const box = el("form", { class: "clone-form" }, el("label", {}, "Name of the clone", name), el("button", { type: "submit", class: "main" }, "Restore"),
    el("button", { type: "button", onclick: () => box.remove() }, "Cancel"));
  box.addEventListener("submit", async (press) => {
    press.preventDefault();
    if (await jobs.begin(`${path(one)}/restore`, { name: name.value })) box.remove();
  });
  line.append(box);
  name.focus();
  name.select();
}

// The newest verification of each snapshot.
function verdicts() {
  const newest = new Map();
  for (const job of jobs?.jobs ?? []) {
    if (job.kind === "snapshot-verify" && !newest.has(job.subject)) newest.set(job.subject, job);
  }
  for (const line of timelines.querySelectorAll("[data-snapshot]")) {
    const job = newest.get(line.dataset.snapshot);
    if (!job) continue;
    line.querySelector(".verify").disabled = job.stage === "running";
    const verdict = { running: el("span", { class: "running" }, el("span", { class: "spinner", "aria-hidden": "true" }), "verifying"),
      done: el("span", { class: "severity good" }, "whole"), failed: el("span", { class: "severity error", title: job.answer?.error }, "not whole") }[job.stage];
    replace(line.querySelector(".verdict"), verdict);
  }
}

keepTimesFresh();
domains();
load();
setInterval(() => { domains(); load(); }, LOOK_MS);
