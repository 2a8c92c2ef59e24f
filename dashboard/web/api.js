// The API: JSON in, JSON out, and a login page when the session has ended.

import { el } from "./dom.js";

const NOTICE_MS = 8000;

function toLogin() {
  location.assign(`/login?next=${encodeURIComponent(location.pathname)}`);
}

async function answer(response) {
  if (response.status === 401) {
    toLogin();
    throw new Error("the session has ended");
  }
  if (response.status === 204) return null;
  const body = await response.json().catch(() => null);
  if (!response.ok) throw new Error(body?.error ?? `the dashboard answered ${response.status}`);
  return body;
}

export async function get(path, parameters = {}) {
  const query = queryOf(parameters);
  return answer(await fetch(query ? `${path}?${query}` : path, { headers: { accept: "application/json" } }));
}

// The same unless it is still the one with this tag; then there is no body.
export async function getIfNew(path, tag) {
  const headers = { accept: "application/json", ...(tag ? { "if-none-match": tag } : {}) };
  const response = await fetch(path, { headers, cache: "no-store" });
  return response.status === 304 ? { tag, body: null } : { tag: response.headers.get("etag"), body: await answer(response) };
}

export async function post(path, body) {
  const headers = { "x-honeynet": "1", "content-type": "application/json" };
  return answer(await fetch(path, { method: "POST", headers, body: JSON.stringify(body ?? {}) }));
}

export function queryOf(parameters) {
  const query = new URLSearchParams();
  for (const [name, value] of Object.entries(parameters)) {
    if (value !== "" && value !== null && value !== undefined) query.set(name, value);
  }
  return query.toString();
}

// Tells something that the reader should know now and need not know later.
export function notice(text, kind = "") {
  const box = el("p", { class: `told ${kind}`, role: kind === "bad" ? "alert" : "status" }, text);
  document.getElementById("notices").append(box);
  setTimeout(() => box.remove(), NOTICE_MS);
}

export function failed(error) {
  notice(error.message, "bad");
}

// The menu scrolls where it has no room.
document.querySelector("nav [aria-current]")?.scrollIntoView({ block: "nearest", inline: "center" });

document.getElementById("logout").addEventListener("click", async () => {
  try {
    await post("/api/logout");
  } finally {
    location.assign("/login");
  }
});
