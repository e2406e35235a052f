// The harness on Dawn, the WebGPU of Chromium, without a browser around it: as a page would have it.
//
//     node check.mjs [FILTER]

import { create, globals } from "webgpu";

// A page has a window, whose navigator has the GPU; wgpu looks for that.
Object.assign(globalThis, globals);
globalThis.Window = class Window {};
const gpu = create((process.env.DAWN_FLAGS ?? "").split(",").filter(Boolean));
Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });

const { check } = await import("./pkg/linear_attention_web.js");
try {
  console.log(await check(process.argv[2] ?? "", (line) => console.log(line)));
  process.exit(0);
} catch (error) {
  console.error(`error: ${error}`);
  process.exit(1);
}
