// A list of events: filters, a table that grows at its top, older pages at its end, and the details of one.

import { failed, get, queryOf } from "./api.js";
import { Details } from "./details.js";
import { el, replace } from "./dom.js";
import { detailsOf, keepTimesFresh } from "./format.js";
import { Stream } from "./stream.js";

// Rows that the page holds; the oldest go when new ones come.
const ROWS_MAX = 1000;
const PAGE_ROWS = 100;
const TYPING_MS = 300;

const SEVERITIES = [["", "any severity"], ["error", "error"], ["warning", "warning or worse"], ["notice", "notice or worse"]];

export class Listing {
  // `fixed`: parameters that do not change; `filters`: which of domain, severity, text, id, src_ip; `columns`: [name, event => node, class].
  constructor({ fixed, filters, columns, empty, label }) {
    Object.assign(this, { fixed, columns, empty });
    this.details = new Details();
    this.inputs = {};
    this.count = el("span", { class: "faint count" });
    this.live = el("input", { type: "checkbox", id: "live", checked: true, onchange: () => this.follow() });
    this.body = el("tbody");
    this.older = el("button", { type: "button", onclick: () => this.more() }, "Older");
    this.nothing = el("div", { class: "empty" });
    const head = el("tr", {}, columns.map(([name, , kind]) => el("th", { scope: "col", class: kind }, name)));
    this.table = el("table", { class: "events", "aria-label": label }, el("thead", {}, head), this.body);
    const form = el("form", { class: "filters", role: "search", onsubmit: (press) => press.preventDefault() },
      filters.map((name) => this.filter(name)), el("span", { class: "spacer" }), this.count,
      el("label", { class: "check", for: "live" }, this.live, "Live"));
    const list = el("div", { class: "list" }, el("div", { class: "scroll" }, this.table), this.nothing, el("p", { class: "more" }, this.older));
    document.getElementById("main").append(form, el("div", { class: "split" }, list, this.details.box));
    this.body.addEventListener("keydown", (press) => this.key(press));
    this.body.addEventListener("focusin", (focus) => this.enter(focus.target.closest("tr")));
    keepTimesFresh();
    this.load();
  }

  filter(name) {
    const start = new URLSearchParams(location.search).get(name) ?? "";
    const changed = () => {
      clearTimeout(this.typing);
      this.typing = setTimeout(() => this.load(), TYPING_MS);
    };
    if (name === "severity") {
      const options = SEVERITIES.map(([word, text]) => el("option", { value: word }, text));
      this.inputs[name] = el("select", { "aria-label": "Severity", onchange: changed }, options);
    } else {
      const words = { domain: ["Domain", "domain"], text: ["Text", "text in the event"], id: ["Event id", "event id"], src_ip: ["Source address", "source address"] }[name];
      const attributes = { type: "search", "aria-label": words[0], placeholder: words[1], class: name, maxlength: "200", spellcheck: "false" };
      this.inputs[name] = el("input", { ...attributes, autocomplete: "off", oninput: changed });
    }
    this.inputs[name].value = start;
    return this.inputs[name];
  }

  chosen() {
    return Object.fromEntries(Object.entries(this.inputs).map(([name, input]) => [name, input.value.trim()]));
  }

  parameters() {
    return { ...this.fixed, ...Object.fromEntries(Object.entries(this.chosen()).filter(([, value]) => value !== "")) };
  }

  async load() {
    const query = queryOf(this.chosen());
    history.replaceState(null, "", query ? `?${query}` : location.pathname);
    this.stream?.end();
    const asked = (this.asked = Symbol("question"));
    try {
      const page = await get("/api/events", { ...this.parameters(), limit: PAGE_ROWS });
      if (asked !== this.asked) return;
      replace(this.body, page.events.map((event) => this.row(event)));
      this.newest = page.events[0]?.id ?? null;
      this.next = page.next_before_id;
    } catch (error) {
      if (asked !== this.asked) return;
      replace(this.body);
      this.next = null;
      failed(error);
    }
    this.tell();
    this.follow();
  }

  async more() {
    this.older.disabled = true;
    try {
      const page = await get("/api/events", { ...this.parameters(), limit: PAGE_ROWS, before_id: this.next });
      this.body.append(...page.events.map((event) => this.row(event)));
      this.next = page.next_before_id;
    } catch (error) {
      failed(error);
    }
    this.older.disabled = false;
    this.tell();
  }

  follow() {
    this.stream?.end();
    this.stream = null;
    if (!this.live.checked) return;
    this.stream = new Stream(this.parameters(), {
      lastId: this.newest,
      missed: () => this.load(),
      row: (event) => {
        this.newest = event.id;
        const row = this.row(event);
        row.classList.add("fresh");
        this.body.prepend(row);
        while (this.body.rows.length > ROWS_MAX) {
          this.body.lastElementChild.remove();
          this.next = Number(this.body.lastElementChild.dataset.id);
        }
        this.tell();
      },
    });
  }

  // One row is reached with Tab, the others from it with the arrows.
  enter(row) {
    for (const other of this.body.querySelectorAll('tr[tabindex="0"]')) other.tabIndex = -1;
    if (row) row.tabIndex = 0;
  }

  tell() {
    if (!this.body.querySelector('tr[tabindex="0"]')) this.enter(this.body.rows[0]);
    const rows = this.body.rows.length;
    this.count.textContent = rows === 0 ? "" : `${rows}${this.next ? "+" : ""} shown`;
    this.table.parentElement.hidden = rows === 0;
    this.older.hidden = !this.next;
    this.nothing.hidden = rows !== 0;
    const filtered = Object.values(this.chosen()).some((value) => value !== "");
    const clear = el("button", { type: "button", onclick: () => this.clear() }, "Clear the filters");
    if (rows === 0) replace(this.nothing, filtered ? [el("p", {}, "Nothing fits these filters."), clear] : this.empty.map((text) => el("p", {}, text)));
  }

  clear() {
    for (const input of Object.values(this.inputs)) input.value = "";
    this.load();
  }

  row(event) {
    const cells = this.columns.map(([name, make, kind]) => el("td", { class: kind, "data-name": name }, make(event, detailsOf(event) ?? {})));
    const row = el("tr", { tabindex: "-1", "aria-selected": "false", "data-id": event.id, class: `is-${event.severity}` }, cells);
    row.addEventListener("click", () => {
      if (getSelection().isCollapsed) this.details.show(event, row);
    });
    row.addEventListener("keydown", (press) => {
      if (press.key === "Enter") this.details.show(event, row);
    });
    return row;
  }

  key(press) {
    const steps = { ArrowDown: "nextElementSibling", j: "nextElementSibling", ArrowUp: "previousElementSibling", k: "previousElementSibling" };
    const step = steps[press.key];
    const row = press.target.closest("tr")?.[step];
    if (!step || !row) return;
    press.preventDefault();
    row.focus();
  }
}
