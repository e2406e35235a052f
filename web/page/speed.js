// Time over T, of linear and of softmax attention.

import { Panel } from "./panel.js";
import { plot } from "./plot.js";

// A call that would take longer is left out, so that no device is asked for seconds at once.
const LONGEST_MS = 1500;
const LENGTHS = [256, 512, 1024, 2048, 4096, 8192, 16384, 32768, 65536];

export class SpeedPanel extends Panel {
  constructor() {
    super("speed", () => this.run());
    this.find("[data-run]").onclick = () => this.run();
  }

  async run() {
    const button = this.find("[data-run]");
    button.disabled = true;
    try {
      await this.measure(await this.remote());
    } catch (error) {
      this.fail(error);
    }
    button.disabled = false;
  }

  async measure(remote) {
    this.say("Comparing both with 64-bit floats …");
    await remote.call("prepare", { tokens: LENGTHS[0] });
    const errors = await remote.call("errors");
    for (const [kind, error] of Object.entries(errors)) {
      if (!(error < 1e-4)) throw new Error(`The result of ${kind} attention is wrong by ${error}.`);
    }
    const body = this.find("#times tbody");
    body.replaceChildren();
    this.find("#times").hidden = false;
    const points = [];
    for (const tokens of LENGTHS) {
      const before = points.at(-1);
      const is = (kind, growth) => !before || growth * (before[kind] ?? Infinity) < LONGEST_MS;
      if (!is("linear", 2.5)) break;
      this.say(`Measuring ${tokens.toLocaleString("en")} tokens …`);
      try {
        await remote.call("prepare", { tokens });
      } catch (error) {
        // Longer tensors than the device binds.
        if (points.length < 2) throw error;
        break;
      }
      const point = { tokens, linear: await remote.call("time", { kind: "linear" }) };
      if (is("softmax", 4.5)) point.softmax = await remote.call("time", { kind: "softmax" });
      points.push(point);
      this.add(body, point);
      this.draw(points);
    }
    const [linear, softmax] = [errors.linear, errors.softmax].map((x) => x.toExponential(0));
    const seconds = LONGEST_MS / 1000;
    this.say(
      `Done. Calls of more than ${seconds} s are left out. Errors against 64-bit floats: ` +
        `linear ${linear}, softmax ${softmax} of the largest output.`,
    );
  }

  add(body, { tokens, linear, softmax }) {
    const row = body.insertRow();
    const cells = [
      tokens.toLocaleString("en"),
      digits(linear),
      softmax === undefined ? "left out" : digits(softmax),
      softmax === undefined ? "–" : `${digits(softmax / linear)} ×`,
      Math.round((1000 * tokens) / linear).toLocaleString("en"),
    ];
    for (const text of cells) row.insertCell().textContent = text;
  }

  draw(points) {
    const figure = this.find("#plot");
    const both = points.filter((point) => point.softmax !== undefined).at(-1);
    const caption = document.createElement("figcaption");
    const times = both.softmax / both.linear;
    caption.textContent = times >= 1
      ? `At ${both.tokens.toLocaleString("en")} tokens linear attention is ${digits(times)} times as fast.`
      : `At ${both.tokens.toLocaleString("en")} tokens softmax attention is still ${digits(1 / times)} times as fast.`;
    figure.replaceChildren(caption, plot(points));
    figure.hidden = false;
  }
}

// Three digits, as far as they say something.
function digits(x) {
  return x >= 100 ? Math.round(x).toLocaleString("en") : x.toPrecision(x >= 10 ? 3 : 2);
}
