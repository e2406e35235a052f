// A panel's worker: it calls the library, one call after the other.

import init, { Computer, Speed, Writer, check, groups } from "./linear_attention_web.js";

let computer;
let speed;
let writer;

const say = (event, detail) => self.postMessage({ event, detail });

const methods = {
  async open({ kind, module }) {
    await init({ module_or_path: module });
    computer = kind === "gpu"
      ? await Computer.gpu((message) => say("lost", message))
      : Computer.cpu();
  },

  lose: () => computer.lose(),

  groups: ({ filter }) => JSON.parse(groups(computer, filter)),

  check: ({ filter }) => check(computer, filter, (row) => say("row", JSON.parse(row))),

  // Tensors of T tokens, in place of those before.
  prepare({ tokens }) {
    speed?.free();
    speed = undefined;
    speed = new Speed(computer, tokens);
  },

  errors: async () => JSON.parse(await speed.errors()),

  // Milliseconds of a call: the median of samples that take long enough for the clock.
  async time({ kind }) {
    const run = async (times) => {
      const begin = performance.now();
      await speed[kind](times);
      return (performance.now() - begin) / times;
    };
    await run(1); // compiles
    const once = await run(1);
    if (once > 500) return once;
    const times = Math.min(100, Math.max(1, Math.round(40 / once)));
    const samples = [await run(times), await run(times), await run(times)];
    return samples.sort((a, b) => a - b)[1];
  },

  load({ model }) {
    writer = new Writer(computer, new Uint8Array(model));
    return JSON.parse(writer.memory());
  },

  begin: ({ prompt, seed, temperature }) => writer.begin(prompt, seed, temperature),
  fork: ({ number, seed }) => writer.fork(number, seed),
  end: ({ number }) => writer.end(number),
  pause: ({ number }) => writer.pause(number),
  resume: ({ bytes }) => writer.resume(bytes),
  text: ({ number }) => writer.text(number),

  // Steps for some milliseconds, all of them in one batch, until one of them has reached its end.
  async write({ ends }) {
    const numbers = Uint32Array.from(Object.keys(ends), Number);
    const begin = performance.now();
    let texts;
    do {
      await writer.step(numbers);
      texts = Object.fromEntries([...numbers].map((number) => [number, writer.text(number)]));
    } while (
      performance.now() - begin < 15 && [...numbers].every((n) => texts[n].length < ends[n])
    );
    return { texts, ms: performance.now() - begin };
  },
};

// A call of the library must end before the next begins.
let last = Promise.resolve();
self.onmessage = ({ data: { id, method, args } }) => {
  last = last.then(async () => {
    try {
      self.postMessage({ id, result: await methods[method](args) });
    } catch (error) {
      self.postMessage({ id, error: error?.message ?? String(error) });
    }
  });
};
