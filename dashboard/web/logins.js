// Logins on decoys, and attempts, as the decoys' own logs tell them.

import { cell, el } from "./dom.js";
import { time } from "./format.js";
import { address, sessionLink } from "./links.js";
import { Listing } from "./listing.js";

function outcome(event, body) {
  const [kind, word] = event.event_id === "guest.login" ? ["warning", "got in"] : ["notice", "failed"];
  const count = body.count > 1 ? ` ×${body.count}` : "";
  return el("span", { class: `severity ${kind}` }, word + count);
}

new Listing({
  label: "Logins",
  fixed: { id: "guest.login,guest.login_failed" },
  filters: ["domain", "src_ip", "text"],
  columns: [
    ["Time", (event) => time(event.timestamp), "when"],
    ["Outcome", outcome, "narrow"],
    ["Domain", (event) => cell(event.domain ?? "–"), "name"],
    ["User", (event, body) => el("span", {}, cell(body.user, "mono strong"), body.invalid_user ? el("span", { class: "faint" }, " no such user") : null), "wide"],
    ["By", (event, body) => cell([body.service, body.method].filter(Boolean).join(" · ")), "name"],
    ["From", (event, body) => el("span", {}, address(body.src_ip ?? event.src_ip), " ", sessionLink(event)), "flow"],
  ],
  empty: ["Nobody tried to log in yet.", "Decoys that send their syslog to the honeynet's gateway show their logins here."],
});
