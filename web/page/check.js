// The harness, case by case.

import { Panel } from "./panel.js";

export class CheckPanel extends Panel {
  constructor(describe) {
    super("check", () => this.run());
    this.describe = describe;
    this.find("[data-run]").onclick = () => this.run();
    this.find("[data-stop]").onclick = () => this.close("Stopped.");
  }

  async run(filter = new URLSearchParams(location.search).get("case") ?? "") {
    await this.close();
    this.show(true);
    const rows = [];
    try {
      this.say("Starting …");
      const remote = await this.remote();
      this.reset(await remote.call("groups", { filter }));
      remote.addEventListener("row", ({ detail }) => {
        rows.push(detail);
        this.add(detail);
      });
      const seed = await remote.call("check", { filter });
      const failed = rows.filter((row) => !row.passed).length;
      if (rows.length === 0) throw new Error(`There is no case with “${filter}” in its name.`);
      for (const group of this.groups.values()) this.update(group, true);
      this.find("#progress").value = 1;
      this.say(failed === 0
        ? `All ${rows.length} comparisons passed.`
        : `${failed} of ${rows.length} comparisons failed.`);
      this.status.classList.toggle("bad", failed > 0);
      this.offer(rows, seed);
    } catch (error) {
      this.fail(error);
    }
    this.show(false);
  }

  show(isRunning) {
    this.find("[data-run]").disabled = isRunning;
    this.find("[data-stop]").hidden = !isRunning;
    if (isRunning) {
      this.find("#report").hidden = true;
      this.find("#report-note").hidden = true;
    }
  }

  reset(counts) {
    this.find("#failures").replaceChildren();
    this.cases = new Set();
    this.total = counts.reduce((sum, [, count]) => sum + count, 0);
    this.groups = new Map();
    const body = this.find("#groups tbody");
    body.replaceChildren();
    for (const [name, count] of counts) {
      const row = body.insertRow();
      const head = document.createElement("th");
      head.scope = "row";
      head.textContent = name;
      row.append(head);
      const cells = [row.insertCell(), row.insertCell(), row.insertCell()];
      const group = { count, cells, cases: new Set(), passed: 0, all: 0, largest: 0 };
      this.groups.set(name, group);
      this.update(group, false);
    }
    this.find("#groups").hidden = false;
    const progress = this.find("#progress");
    progress.hidden = false;
    progress.value = 0;
  }

  add(row) {
    const group = this.groups.get(row.group);
    this.cases.add(row.case);
    group.cases.add(row.case);
    group.all += 1;
    group.passed += row.passed ? 1 : 0;
    // JSON has no infinity.
    group.largest = Math.max(group.largest, row.ratio ?? Infinity);
    this.update(group, false);
    this.find("#progress").value = (this.cases.size - 1) / this.total;
    this.say(`Case ${this.cases.size} of ${this.total}: ${row.case}`);
    if (!row.passed) {
      const item = document.createElement("li");
      const what = row.message || `error ${row.error}, allowed ${row.bound}`;
      item.textContent = `${row.case}, ${row.stage}, ${row.tensor}: ${what}`;
      this.find("#failures").append(item);
    }
  }

  update(group, isDone) {
    const [cases, passed, largest] = group.cells;
    // The last case that was seen may have more comparisons to come.
    cases.textContent = `${group.cases.size} of ${group.count}`;
    passed.textContent = group.all ? `${group.passed} of ${group.all}` : "–";
    passed.className = group.passed < group.all ? "bad" : isDone || group.all ? "good" : "";
    if (group.all) {
      const meter = document.createElement("meter");
      Object.assign(meter, { min: 0, max: 1, high: 0.9, optimum: 0, value: group.largest });
      meter.textContent = group.largest.toFixed(2);
      largest.replaceChildren(meter, `${Math.round(100 * group.largest)} %`);
    } else {
      largest.textContent = "–";
    }
  }

  // The report as the program's `check --json` writes it.
  offer(rows, seed) {
    const report = {
      adapters: [{
        adapter: this.describe(),
        driver: navigator.userAgent,
        backend: this.kind === "gpu" ? "webgpu" : "cpu",
        checked: true,
        default_limits: false,
        date: new Date().toISOString().slice(0, 10),
        seed,
        rows,
      }],
    };
    const link = this.find("#report");
    URL.revokeObjectURL(link.href);
    const text = JSON.stringify(report, null, 2);
    link.href = URL.createObjectURL(new Blob([text], { type: "application/json" }));
    link.hidden = false;
    this.find("#report-note").hidden = false;
  }
}
