// A worker that has the library, and calls of it as promises.

// Compiled once, for all workers.
let compiled;
const compile = () => {
  compiled ??= fetch("linear_attention_web_bg.wasm").then(async (response) => {
    if (!response.ok) throw new Error(`linear_attention_web_bg.wasm: ${response.status}`);
    // A server may not know the type of a .wasm file; this does not ask for it.
    return WebAssembly.compile(await response.arrayBuffer());
  });
  return compiled;
};

export class Remote extends EventTarget {
  // kind: "gpu" or "cpu". `lost` events say that the device was lost; all calls fail then.
  static async open(kind) {
    const module = await compile();
    const remote = new Remote();
    await remote.call("open", { kind, module });
    return remote;
  }

  #worker = new Worker("worker.js", { type: "module" });
  #calls = new Map();
  #next = 0;

  constructor() {
    super();
    this.#worker.onmessage = ({ data }) => {
      if (data.event) {
        this.dispatchEvent(new CustomEvent(data.event, { detail: data.detail }));
        return;
      }
      const { resolve, reject } = this.#calls.get(data.id);
      this.#calls.delete(data.id);
      if ("error" in data) reject(new Error(data.error));
      else resolve(data.result);
    };
    this.#worker.onerror = (event) => {
      event.preventDefault();
      this.close(event.message || "The worker failed.");
    };
  }

  call(method, args = {}) {
    if (!this.#worker) return Promise.reject(new Error("It was stopped."));
    const id = this.#next++;
    this.#worker.postMessage({ id, method, args });
    return new Promise((resolve, reject) => this.#calls.set(id, { resolve, reject }));
  }

  // Ends the worker in whatever it does; calls that wait fail.
  close(reason = "It was stopped.") {
    this.#worker?.terminate();
    this.#worker = null;
    for (const { reject } of this.#calls.values()) reject(new Error(reason));
    this.#calls.clear();
  }
}
