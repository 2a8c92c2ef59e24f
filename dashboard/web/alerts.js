// Alerts as they come: what matched, who sent it to whom, and what was done.

import { cell, el } from "./dom.js";
import { severity, time } from "./format.js";
import { address, sessionLink } from "./links.js";
import { Listing } from "./listing.js";

export function endpoints(event) {
  if (!event.src_ip) return el("span", { class: "faint" }, "–");
  const end = (name, port) => el("span", { class: "end" }, name, port ? el("span", { class: "faint mono" }, `:${port}`) : null);
  return el("div", { class: "endpoints" }, el("span"), end(address(event.src_ip), event.src_port),
    el("span", { class: "faint" }, "→ "), end(cell(event.dest_ip ?? "–", "mono"), event.dest_port));
}

export function signature(event, body) {
  const more = [body.category, body.signature_id ? `sid ${body.signature_id}` : null].filter(Boolean).join(" · ");
  const session = sessionLink(event);
  const second = more || session ? el("span", {}, more ? cell(more, "faint") : null, more && session ? " " : null, session) : null;
  return el("div", { class: "two" }, cell(body.signature ?? event.event_id, "strong"), second);
}

new Listing({
  label: "Alerts",
  fixed: { type: "alert" },
  filters: ["domain", "severity", "text"],
  columns: [
    ["Time", (event) => time(event.timestamp), "when"],
    ["Severity", (event) => severity(event.severity), "narrow"],
    ["Domain", (event) => cell(event.domain ?? "–"), "name"],
    ["Alert", signature, "wide"],
    ["From → to", endpoints, "flow"],
    ["Action", (event, body) => cell(body.action ?? "–"), "narrow"],
  ],
  empty: ["No alerts yet.", "They appear here by themselves when a rule matches. The commands that honeynet up prints at its end make some."],
});
