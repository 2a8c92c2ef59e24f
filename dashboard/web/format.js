// Times, sizes and severities as people read them.

import { el, svg } from "./dom.js";

const SECOND = 1000, MINUTE = 60 * SECOND, HOUR = 60 * MINUTE, DAY = 24 * HOUR;

// The object that holds an event's details: named after its type, but for `domain`, which is the name of a domain.
export function detailsOf(event) {
  return event[event.event_type === "domain" ? "domain_event" : event.event_type];
}

export function ago(ms) {
  if (ms < 2 * SECOND) return "now";
  if (ms < MINUTE) return `${Math.floor(ms / SECOND)} s ago`;
  if (ms < HOUR) return `${Math.floor(ms / MINUTE)} min ago`;
  if (ms < 2 * DAY) return `${Math.floor(ms / HOUR)} h ago`;
  return `${Math.floor(ms / DAY)} d ago`;
}

export function duration(seconds) {
  if (seconds === null || seconds === undefined) return "–";
  const s = Math.floor(seconds);
  if (s < 60) return `${s} s`;
  if (s < 3600) return `${Math.floor(s / 60)} min ${s % 60} s`;
  if (s < 86400) return `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  return `${Math.floor(s / 86400)} d ${Math.floor((s % 86400) / 3600)} h`;
}

export function bytes(count) {
  if (!Number.isFinite(count)) return "–";
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0, value = count;
  while (value >= 1024 && unit < units.length - 1) { value /= 1024; unit += 1; }
  return `${unit === 0 || value >= 100 ? Math.round(value) : value.toFixed(1)} ${units[unit]}`;
}

// The words of a command as one would type them.
export function commandLine(process) {
  const plain = /^[\w@%+=:,./^~-]+$/;
  return (process.argv ?? []).map((word) => (plain.test(word) ? word : `'${word.replaceAll("'", "'\\''")}'`)).join(" ");
}

const two = (n) => String(n).padStart(2, "0");

function clock(date) {
  return `${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
}

function day(date) {
  return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}`;
}

// The moment in the reader's own zone, how long ago that is, and in the title the time as it was written (UTC).
export function time(text) {
  const date = new Date(text);
  if (Number.isNaN(date.getTime())) return el("span", { class: "faint" }, "–");
  const today = day(date) === day(new Date());
  const element = el("time", { datetime: text, title: text },
    today ? null : el("span", { class: "day" }, day(date), " "), clock(date),
    el("span", { class: "ago" }, ago(Date.now() - date.getTime())));
  return element;
}

export function keepTimesFresh() {
  setInterval(() => {
    for (const element of document.querySelectorAll("time[datetime]")) {
      const since = element.querySelector(".ago");
      const text = ago(Date.now() - new Date(element.getAttribute("datetime")).getTime());
      if (since && since.textContent !== text) since.textContent = text;
    }
  }, 5 * SECOND);
}

const SEVERITIES = ["error", "warning", "notice", "info"];

export function severity(word) {
  const known = SEVERITIES.includes(word) ? word : "info";
  return el("span", { class: `severity ${known}` }, known);
}

// AIDE's names of attributes, in words (aide.conf(5)).
const ATTRIBUTES = {
  p: "permissions", ftype: "file type", i: "inode", l: "link target", n: "links", u: "user", g: "group", s: "size", S: "growing size",
  b: "blocks", m: "modified", c: "changed", b3: "content", acl: "access list", xattrs: "extended attributes", caps: "capabilities",
  e2fsattrs: "flags", rdev: "device",
};

export function attribute(name) {
  return Object.hasOwn(ATTRIBUTES, name) ? ATTRIBUTES[name] : name;
}

// A line of the last loads. Its top is a whole processor, or the highest load when that is more.
export function sparkline(values) {
  const width = 96, height = 20;
  const top = Math.max(100, ...values);
  const step = width / Math.max(19, values.length - 1);
  const from = width - step * Math.max(0, values.length - 1);
  const y = (value) => (height - 1.5 - (value / top) * (height - 3)).toFixed(1);
  const points = values.map((value, n) => `${(from + n * step).toFixed(1)},${y(value)}`);
  const picture = svg("svg", { class: "sparkline", viewBox: `0 0 ${width} ${height}`, width, height, role: "img" });
  picture.append(svg("title", {}, "load of the last three minutes"));
  if (points.length > 1) {
    const area = `${from.toFixed(1)},${height} ${points.join(" ")} ${width},${height}`;
    picture.append(svg("polygon", { points: area }), svg("polyline", { points: points.join(" ") }));
  }
  return picture;
}
