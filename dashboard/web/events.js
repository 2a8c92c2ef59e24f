// Every event, whatever its type.

import { cell, el } from "./dom.js";
import { severity, time } from "./format.js";
import { sessionLink } from "./links.js";
import { Listing } from "./listing.js";

function summary(event, body) {
  const words = Object.entries(body).map(([name, value]) => `${name}=${typeof value === "object" ? JSON.stringify(value) : value}`);
  const text = cell(words.join("  "), "mono faint-ish");
  const session = sessionLink(event);
  return session ? el("span", {}, session, " ", text) : text;
}

new Listing({
  label: "Events",
  fixed: {},
  filters: ["id", "domain", "severity", "text"],
  columns: [
    ["Time", (event) => time(event.timestamp), "when"],
    ["Severity", (event) => severity(event.severity), "narrow"],
    ["Event", (event) => cell(event.event_id, "mono strong"), "name"],
    ["Domain", (event) => cell(event.domain ?? "–"), "name"],
    ["Details", summary, "wide"],
    ["Sensor", (event) => cell(event.sensor, "faint"), "name"],
  ],
  empty: ["There are no events yet.", "Everything that the honeynet does and sees is an event; honeynet up starts it."],
});
