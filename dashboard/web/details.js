// One event, whole: beside the list, or over it where there is no room.

import { failed, get, notice } from "./api.js";
import { el, foreign, replace } from "./dom.js";
import { attribute, detailsOf, severity, time } from "./format.js";
import { address, sessionLink } from "./links.js";

function fact(name, value) {
  return value === null ? [] : [el("dt", {}, name), el("dd", {}, value)];
}

function flow(event) {
  if (!event.src_ip || !event.dest_ip) return null;
  const end = (ip, port) => (port ? `${ip.includes(":") ? `[${ip}]` : ip}:${port}` : ip);
  return foreign(`${end(event.src_ip, event.src_port)} → ${end(event.dest_ip, event.dest_port)} ${event.proto ?? ""}`);
}

// What a FIM change says of each attribute.
function attributes(body) {
  if (!Array.isArray(body?.attributes)) return null;
  const rows = body.attributes.map((change) =>
    el("tr", {}, el("th", { scope: "row" }, foreign(attribute(change.attribute))),
      el("td", {}, foreign(value(change.before))), el("td", {}, foreign(value(change.after)))));
  return el("table", { class: "attributes" },
    el("thead", {}, el("tr", {}, ["attribute", "before", "after"].map((name) => el("th", { scope: "col" }, name)))),
    el("tbody", {}, rows));
}

function value(of) {
  return of === null || of === undefined ? "–" : typeof of === "object" ? JSON.stringify(of) : String(of);
}

export class Details {
  constructor() {
    this.body = el("div", { class: "details-body" });
    const close = el("button", { type: "button", class: "quiet", onclick: () => this.hide() }, "Close");
    this.box = el("aside", { class: "details", hidden: true, "aria-label": "Event", tabindex: "-1" },
      el("div", { class: "details-head" }, el("h2", {}, "Event"), el("span", { class: "spacer" }), close), this.body);
    document.addEventListener("keydown", (press) => {
      if (press.key === "Escape" && !this.box.hidden) this.hide();
    });
  }

  hide() {
    this.box.hidden = true;
    document.body.classList.remove("with-details");
    this.row?.setAttribute("aria-selected", "false");
    this.row?.focus();
    this.row = null;
  }

  show(event, row) {
    this.row?.setAttribute("aria-selected", "false");
    this.row = row;
    row.setAttribute("aria-selected", "true");
    this.box.hidden = false;
    document.body.classList.add("with-details");
    const body = detailsOf(event);
    const journal = el("dd", { class: "faint" }, "…");
    const text = JSON.stringify(event, null, 2);
    const copy = el("button", { type: "button", onclick: () => this.copy(text) }, "Copy JSON");
    replace(this.body,
      el("p", { class: "details-title" }, severity(event.severity), " ", foreign(event.event_id, { className: "mono" })),
      el("dl", {},
        fact("time", time(event.timestamp)),
        fact("domain", event.domain ? foreign(event.domain) : null),
        fact("sensor", foreign(event.sensor)),
        fact("flow", flow(event)),
        fact("session", event.session ? sessionLink(event, event.session) ?? foreign(event.session) : null),
        fact("source", event.src_ip ? el("span", {}, "sessions of ", address(event.src_ip)) : null),
        el("dt", {}, "journal"), journal),
      attributes(body),
      body?.diff ? el("pre", { class: "diff" }, foreign(body.diff, { lines: true })) : null,
      el("pre", { class: "json", tabindex: "0", "aria-label": "Event as JSON" }, foreign(text, { lines: true })),
      el("p", {}, copy));
    get(`/api/events/${event.id}`).then((found) =>
      replace(journal, `#${found.id} `, el("span", { class: "mono hash", title: found.journal_hash }, found.journal_hash.slice(0, 16)), "…"),
    failed);
  }

  copy(text) {
    navigator.clipboard.writeText(text).then(() => notice("Copied."), () => notice("The browser does not allow it.", "bad"));
  }
}

