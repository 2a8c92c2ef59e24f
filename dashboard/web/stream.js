// Events as they come. A page that nobody looks at lets its connection go and asks for what it missed when it is looked at again:
// browsers give one host six connections in all.

import { queryOf, get } from "./api.js";

const RETRY_MS = 3000;

function pulse(state, text) {
  const element = document.getElementById("pulse");
  element.className = `pulse ${state}`;
  element.textContent = text;
}

export class Stream {
  // `parameters` as for /api/events; `row` is called with each event, `missed` when the list must be read anew.
  constructor(parameters, { lastId = null, row, missed }) {
    this.parameters = parameters;
    this.lastId = lastId;
    this.row = row;
    this.missed = missed;
    this.visibility = () => (document.hidden ? this.close("asleep", "asleep") : this.open());
    document.addEventListener("visibilitychange", this.visibility);
    this.open();
  }

  open() {
    this.close("waiting", "connecting");
    const query = queryOf({ ...this.parameters, after_id: this.lastId });
    const source = new EventSource(`/api/live?${query}`);
    this.source = source;
    source.onopen = () => pulse("live", "live");
    source.addEventListener("row", (message) => {
      const event = JSON.parse(message.data);
      this.lastId = event.id;
      this.row(event);
    });
    source.addEventListener("missed", () => this.missed());
    source.onerror = () => {
      pulse("waiting", "reconnecting");
      if (source.readyState !== EventSource.CLOSED) return;
      // Refused: by a session that has ended, which this finds out, or by a dashboard that is busy.
      this.retry = setTimeout(() => get("/api/jobs").then(() => this.open(), () => this.open()), RETRY_MS);
    };
  }

  close(state = "", text = "") {
    clearTimeout(this.retry);
    this.source?.close();
    this.source = null;
    pulse(state, text);
  }

  end() {
    document.removeEventListener("visibilitychange", this.visibility);
    this.close("", "paused");
  }
}
