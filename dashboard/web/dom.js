// Elements. Whatever an intruder may have chosen comes into the page as text nodes, never as markup.

// Characters that cannot be seen, or that change how their neighbours are read: C0 and C1 controls, soft hyphen, zero-width ones,
// line and paragraph separators, bidirectional marks, overrides and isolates, fillers, variation selectors, tags (Unicode, "Cf" and others).
const HIDDEN =
  /[\u0000-\u001f\u007f-\u009f\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\uffa0\ufff9-\ufffb\u{e0000}-\u{e0fff}]/u;
const NAMES = { "\n": "⏎", "\t": "⇥", "\r": "␍", "\u0000": "␀", "\u001b": "␛" };

// Longest text that one cell shows; the details show all of it.
export const CELL_CHARACTERS_MAX = 400;

export function el(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "value") element.value = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

export function svg(tag, attributes = {}, ...children) {
  const element = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

function nameOf(character) {
  const code = character.codePointAt(0);
  return NAMES[character] ?? "U+" + code.toString(16).toUpperCase().padStart(4, "0");
}

// Text from outside, hidden characters shown as their names. `lines` keeps line feeds as such.
export function foreign(text, { lines = false, limit = Infinity, className = "" } = {}) {
  const whole = String(text ?? "");
  const shown = whole.length > limit ? whole.slice(0, limit) : whole;
  const box = el("bdi", { class: `foreign ${className}`.trim() });
  let plain = "";
  for (const character of shown) {
    if (!HIDDEN.test(character) || (lines && character === "\n")) {
      plain += character;
      continue;
    }
    box.append(plain, el("span", { class: "hidden-character", title: "a character that cannot be seen" }, nameOf(character)));
    plain = "";
  }
  box.append(plain);
  if (shown.length < whole.length) box.append(el("span", { class: "faint" }, " …"));
  return box;
}

export function cell(text, className) {
  return foreign(text, { limit: CELL_CHARACTERS_MAX, className });
}

export function replace(parent, ...children) {
  parent.replaceChildren(...children.flat().filter((child) => child !== null && child !== undefined));
}
