// What takes long: begun with a button, then looked at until it ends.

import { failed, get, notice, post } from "./api.js";
import { el, foreign, replace } from "./dom.js";
import { bytes, duration, time } from "./format.js";

const LOOK_MS = 1000;
const SHOWN_MAX = 6;

const WORDS = { pull: "Case", snapshot: "Snapshot", "fim-check": "File check", verify: "Verification", "snapshot-verify": "Verification", diff: "Comparison", restore: "Clone" };

function outcome(job) {
  const answer = job.answer ?? {};
  if (job.stage === "failed") return el("span", { class: "severity error" }, "failed");
  if (job.stage === "running") return el("span", { class: "running" }, el("span", { class: "spinner", "aria-hidden": "true" }), "running");
  const bad = (job.kind === "verify" && !answer.intact) || (job.kind === "fim-check" && !answer.clean);
  const words = { verify: bad ? "not intact" : "intact", "fim-check": bad ? "changed" : "clean", pull: "written", snapshot: "taken", "snapshot-verify": "whole", diff: "compared", restore: "runs" };
  return el("span", { class: `severity ${bad ? "warning" : "good"}` }, words[job.kind]);
}

function said(job) {
  const answer = job.answer ?? {};
  if (job.stage === "failed") return foreign(answer.error);
  if (job.stage === "running") {
    const seconds = (Date.now() - new Date(job.begun).getTime()) / 1000;
    const progress = job.progress;
    if (!progress) return el("span", {}, duration(seconds));
    return el("span", { class: "progress" }, el("progress", { max: progress.total, value: progress.done }), ` ${bytes(progress.done)} of ${bytes(progress.total)}`);
  }
  if (job.kind === "pull") return foreign(answer.case, { className: "mono" });
  if (job.kind === "snapshot") return el("span", {}, foreign(answer.id, { className: "mono" }), ` ${answer.kind}, stood ${answer.pause_ms?.toFixed(1)} ms`);
  if (job.kind === "snapshot-verify") return el("span", {}, answer.chain === 1 ? "as it was written" : `as it was written, with the ${answer.chain - 1} that it lies over`);
  if (job.kind === "restore") return el("span", {}, foreign(answer.name, { className: "strong" }), answer.address ? ` at ${answer.address}` : "");
  if (job.kind === "diff") {
    const count = (part) => part.added.count + part.removed.count;
    const files = answer.diff.files.reduce((sum, disk) => sum + count(disk) + disk.changed.count, 0);
    return el("span", {}, `${count(answer.diff.processes)} processes, ${count(answer.diff.sockets)} sockets, ${count(answer.diff.modules)} modules, ${files} files`);
  }
  if (job.kind === "verify") return foreign(answer.intact ? `${answer.items} items as they were written` : answer.problems.join("; "));
  return el("span", {}, `${answer.added} added, ${answer.removed} removed, ${answer.changed} changed` + (answer.unreadable ? `, ${answer.unreadable} unreadable` : ""));
}

export class Jobs {
  // `kinds` that this page shows; `ended` is called for each that ended while the page was open.
  constructor(kinds, { ended = () => {}, changed = () => {} } = {}) {
    Object.assign(this, { kinds, ended, changed });
    this.known = new Map();
    this.body = el("tbody");
    this.box = el("section", { class: "jobs", hidden: true, "aria-label": "Jobs" }, el("h3", {}, "Under way, and done lately"), el("table", {}, this.body));
    this.look();
  }

  async begin(path, body) {
    try {
      // It may have ended before it is looked at for the first time.
      const { job } = await post(path, body);
      this.known.set(job, "running");
    } catch (error) {
      failed(error);
      return false;
    }
    await this.look();
    return true;
  }

  async look() {
    clearTimeout(this.timer);
    let running = false;
    try {
      const { jobs } = await get("/api/jobs");
      const mine = jobs.filter((job) => this.kinds.includes(job.kind));
      for (const job of mine) {
        if (this.known.get(job.id) === "running" && job.stage !== "running") this.end(job);
        this.known.set(job.id, job.stage);
      }
      this.jobs = mine;
      running = mine.some((job) => job.stage === "running");
      this.show(mine.slice(0, SHOWN_MAX));
      this.changed(mine);
    } catch {
      running = true;
    }
    if (running) this.timer = setTimeout(() => this.look(), LOOK_MS);
  }

  end(job) {
    const word = `${WORDS[job.kind]} of ${job.subject}`;
    if (job.stage === "failed") notice(`${word} failed: ${job.answer.error}`, "bad");
    else notice(`${word} is done.`);
    this.ended(job);
  }

  show(jobs) {
    this.box.hidden = jobs.length === 0;
    replace(this.body, jobs.map((job) => el("tr", { "data-job": job.id, "data-stage": job.stage },
      el("td", { class: "when" }, time(job.begun)),
      el("td", { class: "name" }, WORDS[job.kind], " of ", foreign(job.subject, { className: "strong" })),
      el("td", { class: "narrow" }, outcome(job)),
      el("td", { class: "wide" }, said(job)))));
  }
}
