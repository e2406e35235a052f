// Finds out what the page runs on, and starts the panels.

import { CheckPanel } from "./check.js";
import { SpeedPanel } from "./speed.js";
import { WritePanel } from "./write.js";

const select = document.getElementById("computer");
const note = document.getElementById("computer-note");
const CPU = "CPU engine, in WebAssembly";

const panels = {
  write: new WritePanel(),
  speed: new SpeedPanel(),
  check: new CheckPanel(() => select.selectedOptions[0].textContent),
};

// The GPU's name, or why there is none.
async function findGpu() {
  if (!globalThis.isSecureContext) return { lack: "WebGPU needs https, or localhost" };
  if (!navigator.gpu) return { lack: "this browser has no WebGPU" };
  try {
    const adapter = await navigator.gpu.requestAdapter({ powerPreference: "high-performance" });
    if (!adapter) return { lack: "this browser’s WebGPU has no GPU to give" };
    const { vendor, architecture, description } = adapter.info;
    return { name: description || [vendor, architecture].filter(Boolean).join(" ") || "your GPU" };
  } catch (error) {
    return { lack: `WebGPU failed: ${error.message}` };
  }
}

async function choose(kind) {
  for (const panel of Object.values(panels)) {
    panel.kind = kind;
    await panel.close("It runs on something else now.");
  }
}

const { name, lack } = await findGpu();
const options = name ? [["gpu", `GPU: ${name}`], ["cpu", CPU]] : [["cpu", CPU]];
select.replaceChildren(...options.map(([kind, text]) => new Option(text, kind)));
select.disabled = options.length < 2;
note.textContent = lack ? `No GPU: ${lack}. The CPU engine computes instead, on one core.` : "through WebGPU";
if (new URLSearchParams(location.search).has("cpu")) select.value = "cpu";
const show = () => {
  if (!lack) note.textContent = select.value === "gpu" ? "through WebGPU" : "on one core, without the GPU";
};
select.onchange = () => {
  show();
  choose(select.value);
};
show();
await choose(select.value);

// For the tests, and for whoever opens the console.
globalThis.panels = panels;
document.documentElement.dataset.ready = select.value;
