// Pools: which attacker has which clone, since when, and how long he has been silent.

import { failed, get } from "./api.js";
import { cell, el, replace } from "./dom.js";
import { duration } from "./format.js";
import { address } from "./links.js";

const LOOK_MS = 3000;

const pools = el("div", { id: "pools" });
const nothing = el("div", { class: "empty", hidden: true }, el("p", {}, "There is no pool."),
  el("p", {}, "A [decoy.pool] in honeynet.toml gives every source that touches the decoy's address a machine of its own."));
document.getElementById("main").append(pools, nothing);

const COLUMNS = [["Attacker", "name"], ["Clone", "wide"], ["Has it for", "number"], ["Silent for", "number"], ["", "actions"]];

function row(clone) {
  const sessions = el("a", { class: "button", href: `/sessions?domain=${encodeURIComponent(clone.clone)}` }, "Sessions");
  const events = el("a", { class: "button", href: `/events?src_ip=${encodeURIComponent(clone.source)}` }, "Events");
  const cells = [address(clone.source), cell(clone.clone, "mono"), duration(clone.age_s), duration(clone.idle_s), [sessions, events]];
  return el("tr", { "data-source": clone.source }, COLUMNS.map(([name, kind], n) => el("td", { class: kind, "data-name": name }, cells[n])));
}

function fact(name, value) {
  return el("div", {}, el("dt", {}, name), el("dd", {}, value));
}

function pool(one) {
  const table = el("div", { class: "scroll" }, el("table", { "aria-label": `Clones of ${one.pool}` },
    el("thead", {}, el("tr", {}, COLUMNS.map(([name, kind]) => el("th", { scope: "col", class: kind }, name)))), el("tbody", {}, one.clones.map(row))));
  return el("section", { class: "panel pool", "data-pool": one.pool },
    el("h2", {}, cell(one.pool), el("span", { class: "aside faint" }, `${one.taken} of ${one.clones_max} clones taken`)),
    el("dl", { class: "session-facts" },
      fact("Address", cell(one.address ?? "–", "mono")),
      fact("Clones taken", el("span", {}, el("progress", { max: one.clones_max, value: one.taken }), ` ${one.taken} of ${one.clones_max}`)),
      fact("Parked, ready", String(one.parked)),
      fact("Goes when silent for", duration(one.idle_max_s)),
      fact("Without a clone of their own", one.shared ? el("span", { class: "severity warning" }, cell(one.shared)) : "nobody"),
      fact("Goes on from", cell(String(one.snapshot).slice(0, 8), "mono"))),
    one.clones.length ? table : el("p", { class: "hint" }, "No attacker has a clone just now."));
}

let shown = "";

async function load() {
  try {
    const answer = await get("/api/pools");
    nothing.hidden = answer.pools.length !== 0;
    const text = JSON.stringify(answer.pools);
    if (text === shown) return;
    shown = text;
    const focused = document.activeElement?.closest?.("tr")?.dataset.source;
    replace(pools, answer.pools.map(pool));
    if (focused) pools.querySelector(`[data-source="${CSS.escape(focused)}"] a`)?.focus();
  } catch (error) {
    failed(error);
  }
}

load();
setInterval(() => { if (!document.hidden) load(); }, LOOK_MS);
