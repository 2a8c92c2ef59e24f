// Links between what was seen and the session in which it was done. A name from outside leads nowhere unless it is one of ours.

import { cell, el } from "./dom.js";

const ID = /^[0-9a-f]{16}$/;
const ADDRESS = /^[0-9a-fA-F.:]{2,45}$/;

// A row under the link opens its own details; the link need not.
const only = (press) => press.stopPropagation();

// Null where the event names no session.
export function sessionLink(event, words = "session") {
  if (typeof event.session !== "string" || !ID.test(event.session)) return null;
  return el("a", { class: "to-session", href: `/sessions/${event.session}`, title: `session ${event.session}`, onclick: only }, words);
}

// An address, leading to its sessions.
export function address(text, className = "mono") {
  if (typeof text !== "string" || !ADDRESS.test(text)) return cell(text ?? "–", className);
  return el("a", { class: "quiet-link", href: `/sessions?address=${encodeURIComponent(text)}`, title: "sessions of this address", onclick: only }, cell(text, className));
}

// The client behind the relay of a published port: sessions know the relay's address, the events know his.
export function client(text) {
  if (typeof text !== "string" || !ADDRESS.test(text)) return cell(text ?? "–", "mono");
  return el("a", { class: "quiet-link", href: `/events?text=${encodeURIComponent(text)}`, title: "events that name this address", onclick: only }, cell(text, "mono"));
}

export function domain(name, className = "strong") {
  return el("a", { class: "quiet-link", href: `/?domain=${encodeURIComponent(name)}`, onclick: only }, cell(name, className));
}
