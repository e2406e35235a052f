// The parts that all panels have: a worker when it is first needed, a line that says how it goes,
// and a way back from a lost device.

import { Remote } from "./remote.js";

export class Panel {
  // `retry` runs after the reader has asked for it.
  constructor(id, retry) {
    this.element = document.getElementById(id);
    this.kind = "cpu";
    this.retry = retry;
    this.status = this.element.querySelector(".status");
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  // The worker, which is started where there is none.
  async remote() {
    if (!this.opened) {
      const opened = Remote.open(this.kind);
      this.opened = opened;
      try {
        const remote = await opened;
        remote.addEventListener("lost", ({ detail }) => this.lose(remote, detail));
      } catch (error) {
        if (this.opened === opened) this.opened = undefined;
        throw error;
      }
    }
    return this.opened;
  }

  // Ends the worker, and what it does.
  async close(reason) {
    const opened = this.opened;
    this.opened = undefined;
    try {
      (await opened)?.close(reason);
    } catch {
      // It had not opened.
    }
  }

  async lose(remote, message) {
    if (!this.opened || (await this.opened) !== remote) return;
    await this.close(message);
    this.fail(message);
  }

  say(text) {
    this.status.classList.remove("bad");
    this.status.textContent = text;
  }

  fail(error) {
    this.status.classList.add("bad");
    const button = document.createElement("button");
    button.textContent = "Try again";
    button.onclick = () => this.retry();
    this.status.replaceChildren(error.message ?? error, button);
  }
}
