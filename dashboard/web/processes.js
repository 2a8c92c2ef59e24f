// The processes of a session as a tree. Three colours, each with its word: was there before, ran, still runs.

import { cell, el, replace } from "./dom.js";
import { commandLine } from "./format.js";

const NODES_MAX = 1500;
const DEPTH_MAX = 24;

const STATES = {
  before: ["before", "was there before the session"],
  ran: ["ran", "ran in the session"],
  runs: ["runs", "still runs"],
};

function stateOf(process, opened) {
  if (!process.began || Date.parse(process.began) < opened) return "before";
  return process.ended ? "ran" : "runs";
}

// Each process below the last one that had its parent's number and began before it; those whose parent is not known below the
// service. A parent always stands before its children, so whatever the numbers say there is no ring.
function forest(session) {
  const opened = Date.parse(session.opened);
  const root = { process: { pid: session.pid, exe: session.service, argv: [] }, state: "before", children: [], depth: 0 };
  const began = (process) => Date.parse(process.began) || 0;
  const sorted = [...session.processes].sort((a, b) => began(a) - began(b));
  const known = new Map();
  if (session.pid !== null) known.set(session.pid, root);
  for (const process of sorted.slice(0, NODES_MAX)) {
    const parent = known.get(process.ppid) ?? root;
    const node = { process, state: stateOf(process, opened), children: [], depth: Math.min(DEPTH_MAX, parent.depth + 1) };
    parent.children.push(node);
    if (process.pid !== null) known.set(process.pid, node);
  }
  return { root, more: Math.max(0, sorted.length - NODES_MAX) };
}

function line({ process, state, depth }) {
  const [word, title] = STATES[state];
  const text = commandLine(process) || process.exe || "?";
  const uid = process.uid === null || process.uid === undefined ? null : process.uid === 0 ? "root" : `uid ${process.uid}`;
  const status = process.status ? `status ${process.status}` : null;
  // A program that calls itself something else is worth a look.
  const base = (path) => String(path ?? "").split("/").at(-1).replace(/^-/, "");
  const real = process.exe && process.argv?.length && base(process.exe) !== base(process.argv[0]) ? process.exe : null;
  const element = el("li", { class: `process ${state}` },
    el("span", { class: "pid mono" }, String(process.pid ?? "?")),
    el("span", { class: "process-name" }, cell(text, "mono"), real ? [" ", cell(real, "faint")] : null),
    el("span", { class: "faint" }, [uid, status].filter(Boolean).join(" · ")),
    el("span", { class: `state ${state}`, title }, word));
  element.style.setProperty("--depth", depth);
  return element;
}

export class Processes {
  constructor() {
    this.list = el("ol", { class: "tree" });
    this.more = el("p", { class: "faint hint", hidden: true });
    const legend = Object.entries(STATES).map(([name, [word, title]]) => el("span", {}, el("span", { class: `state ${name}` }, word), ` ${title}`));
    this.box = el("section", { class: "panel" }, el("h2", {}, "Processes"), this.list, this.more, el("p", { class: "legend faint" }, legend));
  }

  update(session) {
    const { root, more } = forest(session);
    const lines = [];
    // A stack instead of a call for each level: the tree may be as deep as it has nodes.
    const stack = [root];
    while (stack.length) {
      const node = stack.pop();
      lines.push(line(node));
      stack.push(...node.children.toReversed());
    }
    replace(this.list, lines);
    const left = more + (session.more?.processes ?? 0);
    this.more.hidden = left === 0;
    this.more.textContent = `${left} more are not shown.`;
  }
}
