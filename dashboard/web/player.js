// The terminals of a session: each cast as a recording that can be played and sought in, or live as it is written.

import { failed } from "./api.js";
import { Cast, Timing } from "./cast.js";
import { el, replace } from "./dom.js";
import { bytes } from "./format.js";

const TTYS_MAX = 32;
// What is done at a moment is seen on the terminal a little later.
const SEEN_S = 0.2;

// Output as it comes: the player asks its source to play, and gets events by `dispatch`.
function liveSource(cast) {
  let send = () => {};
  const give = (events) => {
    for (const [, code, data] of events) {
      if (code === "o") send("output", data);
      else if (code === "i") send("input", { data });
      else if (code === "r") send("resize", size(data));
    }
  };
  const source = ({ dispatch }) => ({
    play() {
      send = dispatch;
      dispatch("play");
      dispatch("reset", { size: { cols: cast.columns, rows: cast.rows } });
      give(cast.events.filter((event) => event[1] !== "i"));
      dispatch("playing");
      return true;
    },
    stop() { send = () => {}; },
    getTiming: () => ({ time: null, rate: 0, sampledAt: performance.timeOrigin + performance.now() }),
  });
  return { source, give };
}

function size(text) {
  const [cols, rows] = text.split("x").map(Number);
  return { cols, rows };
}

export class Terminals {
  constructor(id) {
    this.id = id;
    this.casts = [];
    this.chosen = null;
    this.tabs = el("div", { class: "tabs", role: "group", "aria-label": "Terminals" });
    this.follow = el("button", { type: "button", id: "follow", onclick: () => this.mode(this.live ? "replay" : "live") });
    this.skip = el("input", { type: "checkbox", id: "skip", checked: true, onchange: () => this.show({ at: this.now() }) });
    this.download = el("a", { class: "button", download: "" }, "Cast");
    this.screen = el("div", { class: "screen" });
    this.note = el("p", { class: "faint hint", hidden: true });
    this.box = el("section", { class: "panel terminal", hidden: true },
      el("div", { class: "terminal-head" }, el("h2", {}, "Terminal"), this.tabs, el("span", { class: "spacer" }),
        el("label", { class: "check", for: "skip" }, this.skip, "Skip pauses"), this.follow, this.download),
      this.screen, this.note);
  }

  // The session as it is now.
  async update(session) {
    this.opened = Date.parse(session.opened);
    const first = this.casts.length === 0;
    const numbers = session.tty.slice(0, TTYS_MAX).map((tty, n) => numberOf(this.id, tty.name) ?? n + 1);
    for (const number of numbers) {
      if (!this.casts.some((cast) => cast.number === number)) this.casts.push(new Cast(this.id, number));
    }
    const ended = this.alive && !session.live;
    this.alive = session.live;
    if (this.casts.length === 0) return;
    this.box.hidden = false;
    if (first) {
      this.live = session.live;
      await this.choose(this.casts[0]);
      return;
    }
    this.paint();
    await this.grow();
    if (ended && this.live) this.mode("replay", { end: true });
  }

  // Reads on; what is new is shown at once when the page follows.
  async grow() {
    if (!this.chosen) return;
    const empty = this.chosen.events.length === 0;
    const events = await this.chosen.read().catch(() => []);
    if (events.length === 0) return;
    if (empty) this.show({});
    else if (this.live) this.feed?.give(events);
  }

  async choose(cast, options = {}) {
    this.chosen = cast;
    this.paint();
    if (cast.events.length === 0 || this.alive) await cast.read().catch(failed);
    if (this.chosen === cast) await this.show(options);
  }

  mode(word, options = {}) {
    this.live = word === "live";
    this.paint();
    return this.show(options);
  }

  paint() {
    replace(this.tabs, this.casts.length < 2 ? null : this.casts.map((cast) =>
      el("button", { type: "button", "aria-pressed": String(cast === this.chosen), onclick: () => this.choose(cast) }, `tty ${cast.number}`)));
    this.follow.hidden = !this.alive;
    this.follow.textContent = this.live ? "Replay" : "Follow live";
    this.skip.parentElement.hidden = Boolean(this.live);
    this.download.href = this.chosen?.path ?? "";
  }

  // Makes the player anew: live, or as a recording that stands `at` a moment (ms since the epoch), or at its end.
  async show({ at = null, end = false }) {
    this.player?.dispose();
    this.player = this.feed = null;
    const cast = this.chosen;
    this.tell();
    if (cast.events.length === 0) {
      replace(this.screen, el("p", { class: "nothing" }, this.alive ? "Nothing has been shown yet." : "Nothing was shown."));
      return;
    }
    replace(this.screen);
    const look = { fit: "both", theme: "honeynet", terminalFontFamily: "var(--mono)", cursorMode: "steady" };
    if (this.live) {
      this.feed = liveSource(cast);
      this.player = AsciinemaPlayer.create(this.feed.source, this.screen, { ...look, autoPlay: true, cols: cast.columns, rows: cast.rows, controls: false });
      return;
    }
    this.timing = new Timing(cast.events, this.skip.checked);
    const events = cast.events.map(([, code, data], n) => [this.timing.played[n] * 1000, code, data]);
    const startAt = end ? this.timing.duration : at === null ? 0 : this.place(at);
    const source = { data: { cols: cast.columns, rows: cast.rows, events }, parser: (recording) => recording };
    // What is shown before it is played: that moment, with the last event in it, or a glance at the beginning.
    const poster = `npt:${startAt ? startAt + 0.01 : Math.min(this.timing.duration, 2)}`;
    this.player = AsciinemaPlayer.create(source, this.screen, { ...look, keystrokeOverlay: true, startAt, poster, preload: true, controls: true });
  }

  tell() {
    const { cut, damaged } = this.chosen;
    const words = [cut ? `only the first ${bytes(this.chosen.bytes)} are played` : null, damaged ? `${damaged} damaged lines were left out` : null];
    this.note.textContent = words.filter(Boolean).join("; ");
    this.note.hidden = this.note.textContent === "";
  }

  place(at) {
    const began = this.chosen.began ?? this.opened;
    return Math.min(this.timing.duration, Math.max(0, this.timing.toPlayed((at - began) / 1000 + SEEN_S)));
  }

  // The moment that the player shows (ms since the epoch), or null.
  now() {
    if (!this.player || this.live || !this.timing) return null;
    const played = this.player.getCurrentTime();
    const began = this.chosen.began ?? this.opened;
    return typeof played === "number" ? began + this.timing.toReal(played) * 1000 : null;
  }

  // Sets the player to a moment, on the terminal with this number or the one that is shown.
  async seek(at, number) {
    if (this.casts.length === 0) return;
    const cast = this.casts.find((one) => one.number === number) ?? this.chosen;
    if (cast !== this.chosen || this.live) {
      this.live = false;
      await this.choose(cast, { at });
    } else {
      await this.player?.seek(this.place(at));
    }
    this.box.scrollIntoView({ block: "nearest" });
  }
}

// The terminal's number in a cast's name, "ID-N.cast".
function numberOf(id, name) {
  const found = /^([0-9a-f]{16})-(\d{1,6})\.cast$/.exec(name ?? "");
  return found && found[1] === id ? Number(found[2]) : null;
}
