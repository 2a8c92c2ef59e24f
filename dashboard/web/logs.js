// The decoys' own syslog. Whoever is root in a decoy can write any line: this is what the guest says, no more.

import { cell, el } from "./dom.js";
import { time } from "./format.js";
import { Listing } from "./listing.js";

function program(event, body) {
  return el("span", {}, cell(body.app_name ?? "–", "mono"), body.procid ? cell(`[${body.procid}]`, "mono faint") : null);
}

new Listing({
  label: "Guest logs",
  fixed: { id: "guest.log" },
  filters: ["domain", "text"],
  columns: [
    ["Time", (event) => time(event.timestamp), "when"],
    ["Domain", (event) => cell(event.domain ?? "–"), "name"],
    ["Facility", (event, body) => cell([body.facility, body.severity].filter(Boolean).join(".") || "–", "faint"), "narrow"],
    ["Program", program, "name"],
    ["Message", (event, body) => cell(body.msg, "mono"), "wide"],
  ],
  empty: ["No decoy has logged anything yet.", "Lines appear here when a decoy sends syslog to the honeynet's gateway: port 601 over TCP, 514 over UDP."],
});
