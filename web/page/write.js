// Conversations with the language model.

import { Panel } from "./panel.js";

export class WritePanel extends Panel {
  constructor() {
    super("write", () => this.restart());
    this.conversations = new Set();
    this.find("#prompt-form").onsubmit = (event) => {
      event.preventDefault();
      this.attempt(() => this.begin());
    };
    this.find("#resume-file").onchange = ({ target }) => {
      const [file] = target.files;
      target.value = "";
      if (file) this.attempt(async () => this.resume(new Uint8Array(await file.arrayBuffer())));
    };
  }

  async attempt(work) {
    try {
      await work();
    } catch (error) {
      this.fail(error);
    }
  }

  // After a lost device: what was paused is still there, and the rest begins again from its prompt.
  async restart() {
    await this.close();
    const lost = [...this.conversations].filter((one) => one.number !== undefined);
    for (const one of lost) one.remove();
    await this.attempt(() => this.begin());
  }

  // The worker, with the model.
  async model() {
    const remote = await this.remote();
    if (this.loaded !== remote) {
      this.say("Loading the model …");
      const response = await fetch("model.safetensors");
      if (!response.ok) throw new Error(`model.safetensors: ${response.status}`);
      const model = await response.arrayBuffer();
      this.memory = await remote.call("load", { model });
      this.loaded = remote;
      this.say(this.kind === "gpu" ? "The first token compiles the shaders …" : "Starting …");
    }
    return remote;
  }

  async begin() {
    const remote = await this.model();
    const number = (id) => Number(this.find(id).value);
    const prompt = this.find("#prompt").value;
    const args = { prompt, seed: number("#seed"), temperature: number("#temperature") };
    const begun = await remote.call("begin", args);
    const text = await remote.call("text", { number: begun });
    this.add(new Conversation(this, begun, text, number("#length")));
  }

  async resume(bytes) {
    const remote = await this.model();
    const number = await remote.call("resume", { bytes });
    const text = await remote.call("text", { number });
    this.add(new Conversation(this, number, text, Number(this.find("#length").value)));
  }

  add(conversation, after) {
    this.conversations.add(conversation);
    if (after) after.element.after(conversation.element);
    else this.find("#conversations").prepend(conversation.element);
    this.attempt(() => this.run());
  }

  // Writes until no conversation is left that runs; all of them are one batch.
  async run() {
    if (this.isRunning) return;
    this.isRunning = true;
    try {
      for (;;) {
        const running = [...this.conversations].filter((one) => one.isRunning);
        if (running.length === 0) break;
        const remote = await this.remote();
        const ends = Object.fromEntries(running.map((one) => [one.number, one.end]));
        const { texts, ms } = await remote.call("write", { ends });
        let written = 0;
        for (const one of running) {
          // It may have been paused or closed in the meantime.
          if (one.number in texts) written += one.show(texts[one.number]);
        }
        this.rate = rate(this.rate, written, ms);
        this.showMemory(running);
        const batch = running.length > 1 ? ` in ${running.length} conversations` : "";
        this.say(`${Math.round(this.rate.perSecond)} tokens/s${batch}`);
      }
    } catch (error) {
      for (const one of this.conversations) one.stop();
      throw error;
    } finally {
      this.isRunning = false;
      this.rate = undefined;
    }
  }

  showMemory(running) {
    const { state, cachePerToken } = this.memory;
    const tokens = Math.max(...running.map((one) => one.text.length));
    const cache = cachePerToken * tokens;
    const most = Math.max(state, cache);
    const show = (name, bytes, note) => {
      const row = this.find(`.memory .${name}`);
      row.querySelector(".bar").style.width = `${(60 * bytes) / most}%`;
      row.querySelector("output").textContent = `${size(bytes)}${note}`;
    };
    show("ours", state, ", always");
    show("theirs", cache, ` after ${tokens.toLocaleString("en")} tokens`);
    this.find(".memory").hidden = false;
  }
}

// Tokens a second over the last second or so.
function rate(before, tokens, ms) {
  const keep = before ? Math.exp(-ms / 1000) : 0;
  const [sum, time] = [keep * (before?.sum ?? 0) + tokens, keep * (before?.time ?? 0) + ms];
  return { sum, time, perSecond: (1000 * sum) / time };
}

function size(bytes) {
  return bytes < 1e6 ? `${(bytes / 1e3).toFixed(1)} kB` : `${(bytes / 1e6).toFixed(2)} MB`;
}

let count = 0;

class Conversation {
  isRunning = true;

  constructor(panel, number, text, length) {
    this.panel = panel;
    this.number = number;
    this.text = text;
    this.prompt = text.length;
    this.length = length;
    this.end = text.length + length;
    this.name = ++count;
    this.element = document.createElement("article");
    this.element.className = "conversation";
    this.element.innerHTML = `
      <header>
        <h3></h3> <span class="facts"></span>
        <div class="buttons">
          <button data-go></button>
          <button data-fork>Fork</button>
          <button data-pause>Pause to a snapshot</button>
          <a data-save class="button" hidden>Save</a>
          <button data-close>Close</button>
        </div>
      </header>
      <pre tabindex="0"></pre>`;
    this.find("h3").textContent = `Conversation ${this.name}`;
    this.find("pre").setAttribute("aria-label", `Text of conversation ${this.name}`);
    this.find("[data-go]").onclick = () => this.go();
    const on = (button, work) => {
      this.find(button).onclick = () => panel.attempt(work);
    };
    on("[data-fork]", () => this.fork());
    on("[data-pause]", () => (this.paused ? this.resume() : this.pause()));
    on("[data-close]", () => this.close());
    this.show(text);
  }

  find(selector) {
    return this.element.querySelector(selector);
  }

  // Shows the text so far; returns how many bytes of it are new.
  show(text) {
    const written = text.length - this.text.length;
    this.text = text;
    if (text.length >= this.end) this.isRunning = false;
    const pre = this.find("pre");
    const isAtEnd = pre.scrollTop + pre.clientHeight >= pre.scrollHeight - 8;
    const [prompt, rest] = [text.subarray(0, this.prompt), text.subarray(this.prompt)];
    const head = document.createElement("b");
    head.textContent = new TextDecoder().decode(prompt);
    pre.replaceChildren(head, new TextDecoder().decode(rest));
    if (isAtEnd) pre.scrollTop = pre.scrollHeight;
    this.update();
    return written;
  }

  update() {
    const tokens = `${this.text.length.toLocaleString("en")} tokens`;
    this.find(".facts").textContent = this.paused
      ? `${tokens}, paused: a snapshot of ${size(this.paused.length)}`
      : tokens;
    this.find("[data-go]").textContent = this.isRunning ? "Stop" : "Go on";
    this.find("[data-go]").disabled = Boolean(this.paused);
    this.find("[data-fork]").disabled = Boolean(this.paused);
    this.find("[data-pause]").textContent = this.paused ? "Resume" : "Pause to a snapshot";
    this.find("[data-save]").hidden = !this.paused;
    this.element.classList.toggle("paused", Boolean(this.paused));
  }

  stop() {
    this.isRunning = false;
    this.update();
  }

  go() {
    if (this.isRunning) return this.stop();
    this.start();
  }

  start() {
    if (this.text.length >= this.end) this.end = this.text.length + this.length;
    this.isRunning = true;
    this.update();
    this.panel.attempt(() => this.panel.run());
  }

  async fork() {
    const remote = await this.panel.model();
    const seed = 1 + Math.floor(Math.random() * 4294967294);
    const number = await remote.call("fork", { number: this.number, seed });
    const fork = new Conversation(this.panel, number, await remote.call("text", { number }), this.length);
    fork.find("h3").textContent += `, a fork of ${this.name}`;
    this.panel.add(fork, this);
  }

  // The state leaves the device; only its bytes are left.
  async pause() {
    this.stop();
    const { number } = this;
    const remote = await this.panel.model();
    const bytes = await remote.call("pause", { number });
    this.text = await remote.call("text", { number });
    this.number = undefined;
    await remote.call("end", { number });
    this.paused = bytes;
    const link = this.find("[data-save]");
    link.href = URL.createObjectURL(new Blob([bytes]));
    link.download = `conversation-${this.name}.bin`;
    this.show(this.text);
    this.panel.say("The conversation has left the device; its bytes are all that is left of it.");
  }

  async resume() {
    const remote = await this.panel.model();
    this.number = await remote.call("resume", { bytes: this.paused });
    this.paused = undefined;
    URL.revokeObjectURL(this.find("[data-save]").href);
    this.start();
  }

  async close() {
    this.stop();
    const { number } = this;
    this.remove();
    if (number !== undefined) await (await this.panel.model()).call("end", { number });
  }

  remove() {
    this.isRunning = false;
    this.number = undefined;
    this.panel.conversations.delete(this);
    this.element.remove();
  }
}
