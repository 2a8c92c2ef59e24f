// One cast (asciicast v2), read as it grows. Every line is foreign: what is no event is left out and counted.

// Bytes and events that a page holds; the rest is in the file, which can be downloaded.
const BYTES_MAX = 64 * 1024 * 1024;
const EVENTS_MAX = 400000;
// A terminal of more cells would cost more memory than any real one needs.
const COLUMNS_MAX = 400;
const ROWS_MAX = 200;
// Pauses are played no longer than this where they are skipped.
const PAUSE_S = 1.5;

const whole = (value, otherwise, max) => (Number.isInteger(value) && value > 0 ? Math.min(value, max) : otherwise);

export class Cast {
  constructor(session, number) {
    Object.assign(this, { path: `/api/sessions/${session}/tty/${number}`, number, bytes: 0, rest: "", header: null, events: [], damaged: 0, cut: false });
    this.decoder = new TextDecoder();
  }

  // Reads what has been written since; answers the new events.
  async read() {
    const known = this.events.length;
    if (this.cut || this.reading) return [];
    this.reading = true;
    try {
      const response = await fetch(`${this.path}?from=${this.bytes}`);
      if (response.status === 404) return [];
      if (!response.ok) throw new Error((await response.json().catch(() => null))?.error ?? `the dashboard answered ${response.status}`);
      const reader = response.body.getReader();
      for (let next = await reader.read(); !next.done; next = await reader.read()) {
        this.bytes += next.value.length;
        this.take(this.decoder.decode(next.value, { stream: true }));
        if (this.bytes < BYTES_MAX && this.events.length < EVENTS_MAX) continue;
        this.cut = true;
        await reader.cancel();
        break;
      }
    } finally {
      this.reading = false;
    }
    return this.events.slice(known);
  }

  take(text) {
    const lines = (this.rest + text).split("\n");
    this.rest = lines.pop();
    for (const line of lines) if (line.trim() !== "") this.line(line);
  }

  line(text) {
    let value = null;
    try {
      value = JSON.parse(text);
    } catch {
      // Counted below, as everything that is no event.
    }
    if (this.header === null && value && typeof value === "object" && !Array.isArray(value)) {
      this.header = { columns: whole(value.width, 80, COLUMNS_MAX), rows: whole(value.height, 24, ROWS_MAX), began: Number.isFinite(value.timestamp) ? value.timestamp * 1000 : null };
      return;
    }
    const event = Array.isArray(value) ? eventOf(value, this.events.at(-1)?.[0] ?? 0) : null;
    if (event) this.events.push(event);
    else this.damaged += 1;
  }

  get columns() { return this.header?.columns ?? 80; }
  get rows() { return this.header?.rows ?? 24; }
  // Milliseconds since the epoch, or null.
  get began() { return this.header?.began ?? null; }
}

// [seconds, "o" | "i" | "r" | "m", text]; time does not go backwards.
function eventOf([time, code, data], last) {
  if (!Number.isFinite(time) || typeof data !== "string") return null;
  const at = Math.max(last, time);
  if (code === "o" || code === "i" || code === "m") return [at, code, data];
  const size = code === "r" ? /^(\d{1,5})x(\d{1,5})$/.exec(data) : null;
  if (!size) return null;
  return [at, "r", `${whole(Number(size[1]), 80, COLUMNS_MAX)}x${whole(Number(size[2]), 24, ROWS_MAX)}`];
}

// When each event is played, with long pauses made short or as they were.
export class Timing {
  constructor(events, skipPauses) {
    this.limit = skipPauses ? PAUSE_S : Infinity;
    this.real = Float64Array.from(events, (event) => event[0]);
    this.played = new Float64Array(this.real.length);
    let before = 0, now = 0;
    this.real.forEach((time, n) => {
      now += Math.min(this.limit, time - before);
      before = time;
      this.played[n] = now;
    });
  }

  get duration() { return this.played.at(-1) ?? 0; }

  // From seconds of the recording to seconds of the player, and back.
  toPlayed(real) { return this.map(real, this.real, this.played); }
  toReal(played) { return this.map(played, this.played, this.real); }

  map(value, from, to) {
    let low = 0, high = from.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (from[middle] <= value) low = middle + 1; else high = middle;
    }
    const n = low - 1;
    const start = n < 0 ? 0 : to[n];
    return Math.max(0, start + Math.min(this.limit, value - (n < 0 ? 0 : from[n])));
  }
}
