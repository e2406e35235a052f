// The harness on Dawn, the WebGPU of Chromium, without a browser around it: as a page would have it.
//
//     node check.mjs [FILTER]

import { create, globals } from "webgpu";

// A page has a window, whose navigator has the GPU; wgpu looks for that.
Object.assign(globalThis, globals);
globalThis.Window = class Window {};
const gpu = create((process.env.DAWN_FLAGS ?? "").split(",").filter(Boolean));
Object.defineProperty(globalThis, "navigator", { value: { gpu }, configurable: true });

// The number of objects that the device gives before it refuses one; null refuses none. A browser
// refuses a buffer later, by an error, and throws where a queue has no memory for a copy; it throws
// at once where there is no memory to map, and of that there is none here.
let left = null;
const isRefused = () => left !== null && left-- === 0 && ((left = null), true);
const { createBuffer } = GPUDevice.prototype;
GPUDevice.prototype.createBuffer = function (descriptor) {
  if (descriptor.mappedAtCreation) throw new RangeError("no memory to map");
  return createBuffer.call(this, isRefused() ? { ...descriptor, size: 2 ** 50 } : descriptor);
};
const { writeBuffer } = GPUQueue.prototype;
GPUQueue.prototype.writeBuffer = function (...args) {
  if (isRefused()) throw new RangeError("no memory for a copy");
  return writeBuffer.apply(this, args);
};
const refuse = (number) => {
  const wasRefused = left === null;
  left = number < 0 ? null : number;
  return wasRefused;
};

const { check, without_memory: withoutMemory } = await import("./pkg/linear_attention_dawn.js");
try {
  console.log(await withoutMemory(refuse));
  console.log(await check(process.argv[2] ?? "", (line) => console.log(line)));
  process.exit(0);
} catch (error) {
  console.error(`error: ${error}`);
  process.exit(1);
}
